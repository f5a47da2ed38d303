"""Units with equal weights: they compute the same, and are trained the same."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxinit._signal._use import Use

# Equal units are equal in their first weights; only where these agree are all compared.
_FIRST = 8
# Units of fewer weights than this are equal by chance, at least in 16 bits.
_FEWEST = 4


def duplicate_share(leaf: Any, use: Use, layer_axes: Sequence[int]) -> np.ndarray:
    """For each layer the share of units that equal an earlier one, exactly.

    NaN where a weight has no units to compare: one unit, a few weights each, or it is
    all zero, which is something else.
    """
    shape = tuple(np.shape(leaf))
    layers = tuple(shape[axis] for axis in layer_axes)
    blank = np.full(layers, math.nan)
    outputs = [axis for axis in use.out_axis if axis not in layer_axes]
    groups = [a for a in use.batch_axis if a not in (*layer_axes, *outputs)]
    taken = {*layer_axes, *outputs, *groups}
    rows = [axis for axis in range(len(shape)) if axis not in taken]
    units = math.prod(shape[axis] for axis in outputs)
    weights = math.prod(shape[axis] for axis in rows)
    if not outputs or units < 2 or weights < _FEWEST:
        return blank
    if not getattr(leaf, "is_fully_addressable", True):
        return blank
    array = np.asarray(leaf)
    moved = np.transpose(array, (*layer_axes, *groups, *outputs, *rows))
    moved = moved.reshape((*layers, -1, units, weights))
    shares = np.empty(layers)
    for index in np.ndindex(layers):
        shares[index] = np.mean([_share(matrix) for matrix in moved[index]])
    return shares


def _share(matrix: np.ndarray) -> float:
    """Of the rows of a matrix."""
    first = _distinct(matrix[:, :_FIRST])
    if first == len(matrix):
        return 0.0
    if not np.any(matrix):
        return math.nan
    return 1.0 - _distinct(matrix) / len(matrix)


def _distinct(matrix: np.ndarray) -> int:
    # As bytes: as fast for any type, and NaN equals itself. -0 is made 0 beforehand.
    plain = np.ascontiguousarray(matrix + np.zeros((), matrix.dtype))
    return len({row.tobytes() for row in plain})
