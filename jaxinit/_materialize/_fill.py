"""Filling leaves on the host: rows of any leaf, one compiled kernel for each chain.

One launch computes a few hundred rows, whichever leaves they belong to. The results are
copied into aligned buffers that JAX takes over without a copy. Above the leaves
themselves, only the launches in flight take memory.
"""

from __future__ import annotations

import collections
import concurrent.futures
import dataclasses
from collections.abc import Callable
from typing import Any, Protocol

import jax
import numpy as np

from jaxinit._materialize._kernels import ROW, compiler, scratch
from jaxinit._materialize._rows import PLAIN, Order, Rows
from jaxinit._materialize._steps import Chain
from jaxinit._memory import back

ROWS = 256  # of a launch: 2^20 elements, 4 MB of float32
IN_FLIGHT = 2
_WORTH_LAUNCHING = 8 * ROWS * ROW  # elements, while more may come
_WORTH_BACKING = 2**20  # bytes of a buffer; a task for fewer costs more than it spares


class Compiling(Protocol):
    """Where kernels compile."""

    def submit(self, compile_kernel: Callable[[], Any]) -> concurrent.futures.Future:
        """Compile a kernel some time."""
        ...


class Filler:
    """Fills buffers, those of one chain together, by one kernel.

    A kernel compiles as soon as the first order for it comes in, while the caller still
    plans, and one at a time: two would take the caller's core. Meanwhile the system is
    made to back the buffers with memory, which for large models costs as much as
    computing what goes there.

    Args:
      compiling: compiles the kernels.
      done: is told how many more elements are there.
    """

    def __init__(
        self,
        compiling: Compiling,
        done: Callable[[int], None] = lambda count: None,
    ):
        self._compiler, self._done = compiling, done
        self._groups: dict[Any, _Group] = {}
        self._backer = concurrent.futures.ThreadPoolExecutor(1)

    def __enter__(self) -> Filler:
        return self

    def __exit__(self, *_: Any):
        self._backer.shutdown(cancel_futures=True)

    def add(self, order: Order):
        """Take an order; its buffer must not be touched until `run` is over.

        Where the kernel of its kind is compiled, filling begins: what computes holds no
        lock of Python's, and the caller goes on.
        """
        if not order.buffer.size:
            return
        strided = any(stretch.width != PLAIN for stretch in order.stretches)
        name = order.chain.steps, order.buffer.dtype, strided
        group = self._groups.get(name)
        if group is None:
            compile_kernel = compiler(order.chain, strided, ROWS)
            compiling = self._compiler.submit(compile_kernel)
            group = _Group(order.chain, strided, compile_kernel, compiling, self._done)
            self._groups[name] = group
        backed = None
        if order.buffer.nbytes >= _WORTH_BACKING:
            backed = self._backer.submit(back, order.buffer)
        group.take(order, backed)
        group.go_on()

    def run(self):
        """Fill every buffer."""
        groups = list(self._groups.values())
        for group in reversed(groups):
            group.compile_unless_begun()
        for group in groups:
            group.finish()


class _Group:
    """The orders of one kernel."""

    def __init__(
        self,
        chain: Chain,
        strided: bool,
        compile_kernel: Callable[[], Callable[..., jax.Array]],
        compiling: concurrent.futures.Future,
        done: Callable[[int], None],
    ):
        self._chain, self._strided = chain, strided
        self._compile_kernel, self._compiling = compile_kernel, compiling
        self._done = done
        self._orders: list[Order] = []  # not launched yet
        self._elements = 0  # of these
        self._backed: dict[Order, concurrent.futures.Future] = {}
        self._batch: _Batch | None = None  # being launched
        self._flights: collections.deque[_Flight] = collections.deque()
        self._free: list[Any] = []  # to write results over

    def take(self, order: Order, backed: concurrent.futures.Future | None):
        """Take an order, whose buffer has memory when `backed` is over."""
        self._orders.append(order)
        self._elements += order.buffer.size
        if backed is not None:
            self._backed[order] = backed

    def compile_unless_begun(self):
        """The caller, who has nothing else to do, compiles what is still in line."""
        if self._compiling.cancel():
            self._compile_kernel()

    def go_on(self):
        """Launch and copy what can be without waiting."""
        if self._compiling.done():
            while self._step(last=False):
                pass

    def finish(self):
        """Launch and copy the rest."""
        if not self._compiling.cancelled():  # or the caller has compiled it
            concurrent.futures.wait([self._compiling])
        while self._step(last=True):
            pass

    def _step(self, last: bool) -> bool:
        """Launch or copy; returns whether there was something to do."""
        enough = self._elements >= (1 if last else _WORTH_LAUNCHING)
        if self._batch is None and enough:
            self._batch = _Batch.of(self._orders, self._strided)
            self._orders, self._elements = [], 0
            # Results are written over results that were copied already, so that no more
            # than these few take memory, and none of it is new.
            while len(self._free) + len(self._flights) < IN_FLIGHT:
                self._free.append(scratch(self._chain, ROWS))
        if self._batch is not None and self._free:
            kernel, over = self._compile_kernel(), self._free.pop()
            self._flights.append(self._batch.launch(kernel, over))
            if self._batch.is_over():
                self._batch = None
            return True
        if self._flights and (last or self._flights[0].values.is_ready()):
            flight = self._flights.popleft()
            self._done(flight.land(self._wait_for_memory))
            self._free.append(flight.values)
            return True
        if not self._flights:
            self._free.clear()
        return False

    def _wait_for_memory(self, order: Order):
        if order in self._backed:
            self._backed[order].result()


@dataclasses.dataclass
class _Batch:
    """Orders that are launched together."""

    orders: list[Order]
    rows: Rows
    table: list[np.ndarray]
    start: int = 0

    @classmethod
    def of(cls, orders: list[Order], strided: bool) -> _Batch:
        rows = Rows.of(orders)
        return cls(orders, rows, rows.table(orders, strided))

    def launch(self, kernel: Callable[..., jax.Array], over: jax.Array) -> _Flight:
        start, self.start = self.start, self.start + ROWS
        part = [_padded(column[start : start + ROWS], ROWS) for column in self.table]
        return _Flight(self, start, kernel(over, *part))

    def is_over(self) -> bool:
        return self.start >= len(self.rows)


@dataclasses.dataclass(frozen=True)
class _Flight:
    """A launch whose results were not copied yet."""

    batch: _Batch
    start: int
    values: Any

    def land(self, ready: Callable[[Order], Any]) -> int:
        return self.batch.rows.land(self.start, self.values, self.batch.orders, ready)


def _padded(column: np.ndarray, height: int) -> np.ndarray:
    missing = height - len(column)
    if not missing:
        return column
    return np.concatenate([column, np.repeat(column[-1:], missing, axis=0)])
