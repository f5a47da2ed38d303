"""Rows: what one launch of a kernel computes, whichever leaves they belong to.

A row is 4,096 consecutive elements of one leaf (or shard), given by where it starts,
its key and its scalar.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np

from jaxinit._materialize._kernels import ROW
from jaxinit._materialize._steps import Chain

PLAIN = 2**62  # a width that no stretch reaches: consecutive elements


@dataclasses.dataclass(frozen=True)
class Stretch:
    """Elements of a leaf to be written one after another.

    Element q of the stretch is element ``start + (q // width) * pitch + q % width`` of
    the leaf: `width` columns of every row of `pitch`.
    """

    start: int
    count: int
    width: int = PLAIN
    pitch: int = PLAIN


@dataclasses.dataclass(frozen=True, eq=False)
class Order:
    """One buffer to fill: a chain, the stretches of it that are wanted, where to."""

    chain: Chain
    leaf_size: int
    stretches: list[Stretch]
    buffer: np.ndarray


@dataclasses.dataclass(frozen=True)
class Rows:
    """Rows as columns of numbers, one entry each; a piece is a run of full rows.

    Attributes:
      order: which buffer.
      piece: which piece of it; all rows of a piece but the last are full.
      target: where in the buffer.
      count: how many elements of the row are wanted.
      copy: which copy of the chain, with keys of its own.
      base: where the piece starts, within its copy.
      first: the element of the piece that the row starts with.
      width: of the stretch, PLAIN for consecutive elements.
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
    def of(cls, orders: list[Order]) -> Rows:
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
        plain = self.width == PLAIN
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

    def land(
        self,
        start: int,
        values: jax.Array,
        orders: list[Order],
        ready: Callable[[Order], Any],
    ) -> int:
        """Copy what a launch computed to where it belongs; returns how much it was.

        Args:
          start: the row that the launch began with.
          values: what it computed.
          orders: those of the rows.
          ready: is called before the buffer of an order is written to.
        """
        # A view that ends with this function: one kept by the array would forbid that
        # it is written over.
        computed: Any = values.block_until_ready()
        result = np.from_dlpack(computed)
        stop = min(start + len(result), len(self))
        cuts = np.flatnonzero(np.diff(self.piece[start:stop])) + 1
        edges = [0, *cuts.tolist(), stop - start]
        for low, high in itertools.pairwise(edges):
            count = (high - low - 1) * ROW + int(self.count[start + high - 1])
            target = int(self.target[start + low])
            order = orders[self.order[start + low]]
            ready(order)
            buffer = order.buffer.view(result.dtype)
            buffer[target : target + count] = result[low:high].reshape(-1)[:count]
        return int(self.count[start:stop].sum())


def _within_copies(stretch: Stretch, length: int) -> Iterator[tuple[Stretch, int]]:
    """Cut a stretch where one copy of the chain ends and the next begins."""
    if stretch.width == PLAIN:
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
