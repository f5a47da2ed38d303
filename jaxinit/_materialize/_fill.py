"""Filling leaves on the host: rows of any leaf, one compiled kernel for each chain.

A row is 4,096 consecutive elements of one leaf (or shard), given by where it starts,
its key and its scalar; one launch computes a few hundred rows, whichever leaves they
belong to. The results are copied into aligned buffers that JAX takes over without a
copy. Above the leaves themselves, only the launches in flight take memory.
"""

from __future__ import annotations

import collections
import concurrent.futures
import dataclasses
import itertools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np

from jaxinit._materialize._kernels import ROW, compiler, scratch
from jaxinit._materialize._steps import Chain

ROWS = 256  # of a launch: 2^20 elements, 4 MB of float32
IN_FLIGHT = 2
_PAGE = 4096
_WORTH_BACKING = 2**20  # bytes of a buffer; a task for fewer costs more than it spares
_PLAIN = 2**62  # a width that no stretch reaches: consecutive elements


@dataclasses.dataclass(frozen=True)
class Stretch:
    """Elements of a leaf to be written one after another.

    Element q of the stretch is element ``start + (q // width) * pitch + q % width`` of
    the leaf: `width` columns of every row of `pitch`.
    """

    start: int
    count: int
    width: int = _PLAIN
    pitch: int = _PLAIN


@dataclasses.dataclass(frozen=True)
class Order:
    """One buffer to fill: a chain, the stretches of it that are wanted, where to."""

    chain: Chain
    leaf_size: int
    stretches: list[Stretch]
    buffer: np.ndarray


def aligned(count: int, dtype: Any) -> np.ndarray:
    """An uninitialised vector that starts on a cache line, as a zero-copy needs."""
    size = count * np.dtype(dtype).itemsize
    raw = np.empty(size + 64, np.uint8)
    offset = -raw.ctypes.data % 64
    return raw[offset : offset + size].view(dtype)


class Filler:
    """Fills buffers, those of one chain together, by one kernel.

    A kernel compiles as soon as the first order for it comes in, while the caller still
    plans, and one at a time: two would take the caller's core. Meanwhile the system is
    made to back the buffers with memory, which for large models costs as much as
    computing what goes there.
    """

    def __init__(self, done: Callable[[int], None] = lambda count: None):
        self._done = done
        self._groups: dict[Any, _Group] = {}
        self._compiler = concurrent.futures.ThreadPoolExecutor(1)
        self._backer = concurrent.futures.ThreadPoolExecutor(1)

    def __enter__(self) -> Filler:
        return self

    def __exit__(self, *_: Any):
        self._compiler.shutdown(cancel_futures=True)
        self._backer.shutdown(cancel_futures=True)

    def add(self, order: Order):
        """Take an order; its buffer must not be touched until `run` is over."""
        if not order.buffer.size:
            return
        strided = any(stretch.width != _PLAIN for stretch in order.stretches)
        name = order.chain.steps, order.buffer.dtype, strided
        group = self._groups.get(name)
        if group is None:
            compile_kernel = compiler(order.chain, strided, ROWS)
            compiling = self._compiler.submit(compile_kernel)
            group = self._groups[name] = _Group(strided, compile_kernel, compiling)
        if order.buffer.nbytes >= _WORTH_BACKING:
            number = len(group.orders)
            group.backed[number] = self._backer.submit(_back, order.buffer)
        group.orders.append(order)

    def run(self):
        """Fill every buffer."""
        groups = list(self._groups.values())
        for group in reversed(groups):
            group.compile_unless_begun()
        for group in groups:
            _launch(group, self._done)


@dataclasses.dataclass
class _Group:
    """The orders of one kernel."""

    strided: bool
    compile_kernel: Callable[[], Callable[..., jax.Array]]  # or find it compiled
    compiling: concurrent.futures.Future
    orders: list[Order] = dataclasses.field(default_factory=list)
    backed: dict[int, concurrent.futures.Future] = dataclasses.field(
        default_factory=dict
    )

    def compile_unless_begun(self):
        """The caller, who has nothing else to do, compiles what is still in line."""
        if self.compiling.cancel():
            self.compile_kernel()

    def kernel(self) -> Callable[..., jax.Array]:
        """The compiled kernel, waited for."""
        if not self.compiling.cancelled():  # or the caller has it already
            concurrent.futures.wait([self.compiling])
        return self.compile_kernel()


def _back(buffer: np.ndarray):
    """Touch every page of a buffer, which then has memory of its own."""
    buffer.view(np.uint8)[::_PAGE] = 0


def _launch(group: _Group, done: Callable[[int], None]):
    rows = _Rows.of(group.orders)
    table = rows.table(group.orders, group.strided)
    kernel = group.kernel()
    # Results are written over results that were copied already, so that no more than
    # these few take memory, and none of it is new.
    free = [scratch(group.orders[0].chain, ROWS) for _ in range(IN_FLIGHT)]
    flights: collections.deque[tuple[int, jax.Array]] = collections.deque()

    def land():
        start, values = flights.popleft()
        done(rows.land(start, values, group))
        free.append(values)

    for start in range(0, len(rows), ROWS):
        part = [_padded(column[start : start + ROWS], ROWS) for column in table]
        if not free:
            land()
        flights.append((start, kernel(free.pop(), *part)))
    while flights:
        land()


# ------------------------------------------------------------------------------ rows


@dataclasses.dataclass(frozen=True)
class _Rows:
    """Rows as columns of numbers, one entry each; a piece is a run of full rows.

    Attributes:
      order: which buffer.
      piece: which piece of it; all rows of a piece but the last are full.
      target: where in the buffer.
      count: how many elements of the row are wanted.
      copy: which copy of the chain, with keys of its own.
      base: where the piece starts, within its copy.
      first: the element of the piece that the row starts with.
      width: of the stretch, _PLAIN for consecutive elements.
      pitch: of the stretch.
    """

    order: np.ndarray
    piece: np.ndarray
    target: np.ndarray
    count: np.ndarray
    copy: np.ndarray
    base: np.ndarray
    first: np.ndarray
    width: np.ndarray
    pitch: np.ndarray

    @classmethod
    def of(cls, orders: list[Order]) -> _Rows:
        pieces = []
        for index, order in enumerate(orders):
            length = order.leaf_size // order.chain.copies
            target = 0
            for stretch in order.stretches:
                for part, copy in _within_copies(stretch, length):
                    pieces.append(
                        (index, target, copy, part, part.start - copy * length)
                    )
                    target += part.count
        numbers = [-(-part.count // ROW) for _, _, _, part, _ in pieces]
        piece = np.repeat(np.arange(len(pieces)), numbers)
        ahead = np.concatenate([[0], np.cumsum(numbers, dtype=np.int64)])[:-1]
        first = (np.arange(len(piece)) - ahead[piece]) * ROW if pieces else piece

        def column(values: list[int]) -> np.ndarray:
            return np.array(values, np.int64)[piece]

        total = column([part.count for _, _, _, part, _ in pieces])
        return cls(
            order=column([index for index, *_ in pieces]),
            piece=piece,
            target=column([target for _, target, *_ in pieces]) + first,
            count=np.minimum(total - first, ROW),
            copy=column([copy for _, _, copy, *_ in pieces]),
            base=column([base for *_, base in pieces]),
            first=first,
            width=column([part.width for _, _, _, part, _ in pieces]),
            pitch=column([part.pitch for _, _, _, part, _ in pieces]),
        )

    def __len__(self) -> int:
        return len(self.order)

    def table(self, orders: list[Order], strided: bool) -> list[np.ndarray]:
        """The operands of the kernel, a line for each row."""
        plain = self.width == _PLAIN
        base = (self.base + np.where(plain, self.first, 0)).astype(np.uint64)
        columns = [
            (base >> np.uint64(32)).astype(np.uint32),
            base.astype(np.uint32),
        ]
        if strided:
            columns += [
                np.where(plain, 0, self.first).astype(np.uint32),
                np.where(plain, 2**31 - 1, self.width).astype(np.uint32),
                np.where(plain, 0, self.pitch).astype(np.uint32),
            ]
        chains = [order.chain for order in orders]
        ahead = np.cumsum([0] + [chain.copies for chain in chains])[:-1]
        for index in range(len(chains[0].keys)):
            keys = np.concatenate([chain.keys[index] for chain in chains])
            columns.append(keys[ahead[self.order] + self.copy])
        if chains[0].scalar is not None:
            scalars = [np.asarray(chain.scalar) for chain in chains]
            columns.append(np.stack(scalars)[self.order])
        return columns

    def land(self, start: int, values: jax.Array, group: _Group) -> int:
        """Copy what a launch computed to where it belongs; returns how much it was."""
        # A view that ends with this function: one kept by the array would forbid that
        # it is written over.
        ready: Any = values.block_until_ready()
        result = np.from_dlpack(ready)
        stop = min(start + len(result), len(self))
        cuts = np.flatnonzero(np.diff(self.piece[start:stop])) + 1
        edges = [0, *cuts.tolist(), stop - start]
        for low, high in itertools.pairwise(edges):
            count = (high - low - 1) * ROW + int(self.count[start + high - 1])
            target = int(self.target[start + low])
            order = int(self.order[start + low])
            if order in group.backed:
                group.backed[order].result()
            buffer = group.orders[order].buffer.view(result.dtype)
            buffer[target : target + count] = result[low:high].reshape(-1)[:count]
        return int(self.count[start:stop].sum())


def _within_copies(stretch: Stretch, length: int) -> Iterator[tuple[Stretch, int]]:
    """Cut a stretch where one copy of the chain ends and the next begins."""
    if stretch.width == _PLAIN:
        start, end = stretch.start, stretch.start + stretch.count
        while start < end:
            copy = start // length
            stop = min(end, (copy + 1) * length)
            yield Stretch(start, stop - start), copy
            start = stop
        return
    lines = stretch.count // stretch.width
    last = stretch.start + (lines - 1) * stretch.pitch + stretch.width - 1
    if stretch.start // length == last // length and last - stretch.start < 2**31:
        yield stretch, stretch.start // length
        return
    for line in range(lines):
        start = stretch.start + line * stretch.pitch
        yield from _within_copies(Stretch(start, stretch.width), length)


def _padded(column: np.ndarray, height: int) -> np.ndarray:
    missing = height - len(column)
    if not missing:
        return column
    return np.concatenate([column, np.repeat(column[-1:], missing, axis=0)])
