"""Copying an array whose axes run in another order there, as kernels of torch do.

Columns a power of two apart fall on the same few lines of a cache, which holds none of
them until the next number is asked for: a plain copy of a transposed matrix runs ten
times slower than of one that is not. So some of its columns, which are rows where they
lie in memory, go to a place of their own first, a little further apart than they are
long, and are written from there.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext

import numpy as np

from jaxinit.transfer._steps import Shape, Step

_LINE = 64  # bytes
_LARGE = 1 << 16  # elements
_BLOCK = 1 << 19  # bytes: what a cache holds that is not shared, and malloc keeps
_FEWEST, _MOST = 64, 256  # columns: with fewer, too little is written side by side
_LONG = 1024  # bytes of a column: what is shorter is not worth a place of its own
_WORTH_A_THREAD, _MOST_THREADS = 1 << 21, 4  # bytes


# Gives slices of a last axis, of at most so many columns, for as long as the context
# lasts; each may lie where the one before did.
Columns = Callable[[int], AbstractContextManager[Callable[[int, int], np.ndarray]]]


def copy(values: np.ndarray, found: np.ndarray) -> None:
    """Copy, and cast, an array into one in row-major order."""
    turned = found.ndim > 1 and abs(found.strides[-1]) > _LINE
    if turned and found.size >= _LARGE:
        apart = nullcontext(lambda start, stop: _apart(found[..., start:stop]))
        copy_columns(values, lambda _: apart, found.dtype)
    else:
        with np.errstate(over="ignore", invalid="ignore"):
            np.copyto(values, found, casting="unsafe")


def copy_columns(values: np.ndarray, columns: Columns, dtype: np.dtype) -> None:
    """Copy, and cast, slices of `dtype`: in several threads, each of which opens some.

    Their columns should not lie a power of two apart: see :func:`rows_apart`.
    """
    count = values.shape[-1]
    each = values.size // count * dtype.itemsize
    wide = min(max(_BLOCK // each, _FEWEST), _MOST)
    starts = range(0, count, wide)

    def work(mine: range) -> None:
        # NumPy keeps this for each thread.
        with np.errstate(over="ignore", invalid="ignore"), columns(wide) as slices:
            for start in mine:
                stop = min(start + wide, count)
                np.copyto(values[..., start:stop], slices(start, stop), "unsafe")

    threads = min(_threads(), len(starts)) if values.nbytes >= _WORTH_A_THREAD else 1
    with ThreadPoolExecutor(max(threads - 1, 1)) as pool:
        others = [pool.submit(work, starts[n::threads]) for n in range(1, threads)]
        work(starts[::threads])
        for other in others:
            other.result()


def rows_apart(count: int, size: int, dtype: np.dtype) -> np.ndarray:
    """Room for rows of so many numbers, each a line further than it is long."""
    return np.empty((count, size + _LINE // dtype.itemsize), dtype)[:, :size]


def _threads() -> int:
    """So many cores are ours; memory is not faster for more than a few."""
    if hasattr(os, "sched_getaffinity"):
        return min(len(os.sched_getaffinity(0)), _MOST_THREADS)
    return min(os.cpu_count() or 1, _MOST_THREADS)


def turns_rows(steps: Sequence[Step], shape: Shape, dtype: np.dtype) -> bool:
    """Whether the steps only turn the rows, long ones of a large array, to columns."""
    axes = list(range(len(shape)))
    for step in steps:
        if step.kind == "transpose":
            axes = [axes[axis] for axis in step.numbers]
        elif step.kind != "flip" or axes.index(0) in step.numbers:
            return False
    size = math.prod(shape)
    if len(axes) < 2 or axes[-1] != 0 or size < _LARGE:
        return False
    return size // shape[0] * dtype.itemsize >= _LONG


def _apart(part: np.ndarray) -> np.ndarray:
    """A copy in the same order, its slowest axis stepping by a line more."""
    axes = sorted(range(part.ndim), key=lambda axis: -abs(part.strides[axis]))
    lying = part.transpose(axes)
    room = rows_apart(len(lying), math.prod(lying.shape[1:]), part.dtype)
    apart = room.reshape(lying.shape)  # a view: each row is only written out in axes
    np.copyto(apart, lying)
    return apart.transpose(np.argsort(axes))
