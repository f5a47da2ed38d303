"""Copying an array whose axes run in another order there, as kernels of torch do.

Columns a power of two apart fall on the same few lines of a cache, which holds none of
them until the next number is asked for: a plain copy of a transposed matrix runs ten
times slower than of one that is not. So some of its columns, which are rows where they
lie in memory, go to a place of their own first, a little further apart than they are
long, and are written from there.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from jaxinit.transfer._steps import Shape, Step

_LINE = 64  # bytes
_LARGE = 1 << 16  # elements
_BLOCK = 1 << 19  # bytes: what a cache holds that is not shared, and malloc keeps
_FEWEST, _MOST = 64, 256  # columns: with fewer, too little is written side by side
_LONG = 1024  # bytes of a column, so that reading a block outweighs opening the file


def copy(values: np.ndarray, found: np.ndarray) -> None:
    """Copy, and cast, an array into one in row-major order."""
    turned = found.ndim > 1 and abs(found.strides[-1]) > _LINE
    if turned and found.size >= _LARGE:
        copy_columns(values, lambda a, b: found[..., a:b], found.dtype)
    else:
        np.copyto(values, found, casting="unsafe")


def copy_columns(
    values: np.ndarray, columns: Callable[[int, int], np.ndarray], dtype: np.dtype
) -> None:
    """Copy, and cast, the slices of the last axis that a function gives, of `dtype`."""
    count = values.shape[-1]
    each = values.size // count * dtype.itemsize
    wide = min(max(_BLOCK // each, _FEWEST), _MOST)
    for start in range(0, count, wide):
        stop = min(start + wide, count)
        part = _apart(columns(start, stop))
        np.copyto(values[..., start:stop], part, casting="unsafe")


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
    size, gap = math.prod(lying.shape[1:]), _LINE // part.itemsize
    room = np.empty((len(lying), size + gap), part.dtype)[:, :size]
    apart = room.reshape(lying.shape)  # a view: each row is only written out in axes
    np.copyto(apart, lying)
    return apart.transpose(np.argsort(axes))
