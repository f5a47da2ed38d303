"""How far two arrays are apart, and whether one is the other, turned around."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import jax
import numpy as np


def error_of(one: Any, other: Any) -> tuple[float, float]:
    """The largest difference of two arrays, and over the largest element of the first.

    NaN in the one where it is not in the other is an infinite difference.
    """
    one, other = (_numbers(array) for array in (one, other))
    if np.array_equal(one, other):  # empty ones too
        return 0.0, 0.0
    wide = np.result_type(one, other, np.float64)
    one, other = one.astype(wide), other.astype(wide)
    with np.errstate(all="ignore"):
        same = (one == other) | (np.isnan(one) & np.isnan(other))
        differences = np.where(same, 0.0, np.abs(one - other))
        largest = np.nan_to_num(np.abs(one), nan=0.0, posinf=0.0).max()
    maximum = float(np.where(np.isnan(differences), np.inf, differences).max())
    if maximum == 0:
        return 0.0, 0.0
    return maximum, float(maximum / largest) if largest else float("inf")


def _numbers(array: Any) -> np.ndarray:
    if jax.dtypes.issubdtype(getattr(array, "dtype", None), jax.dtypes.prng_key):
        array = jax.random.key_data(array)
    array = np.asarray(array)
    # bfloat16 and its like are no floats to NumPy.
    return array.astype(np.float32) if array.dtype.kind == "V" else array


def relation(one: Any, other: Any) -> str:
    """In what simple way the second array differs from the first, or ""."""
    one, other = (np.asarray(array) for array in (one, other))
    if one.shape != other.shape or one.size < 2:
        return ""
    if other.min() == other.max():
        return f"all {other.flat[0]:g} in g"
    if one.min() == one.max():
        return f"all {one.flat[0]:g} in f"
    axes = range(one.ndim)
    for pair in combinations(axes, 2):
        swapped = np.swapaxes(one, *pair)
        if swapped.shape == other.shape and np.array_equal(swapped, other):
            return f"that of f with the axes {pair[0]} and {pair[1]} exchanged"
    for count in (1, 2, 3):
        for several in combinations(axes, count):
            if np.array_equal(np.flip(one, several), other):
                listed = ", ".join(map(str, several))
                return f"that of f backwards along the axes {listed}"
    return ""
