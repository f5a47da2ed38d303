"""Units with equal weights: they compute the same, and are trained the same."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxinit._signal._use import Use
from jaxinit._signal._whole import fetched, is_here

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
    order, form = (*layer_axes, *groups, *outputs, *rows), (*layers, -1, units, weights)
    if not is_here(leaf):
        return _elsewhere(leaf, order, form)
    moved = np.transpose(np.asarray(leaf), order).reshape(form)
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


def _elsewhere(leaf: Any, order: tuple[int, ...], form: tuple[int, ...]) -> np.ndarray:
    """The shares for an array of which other processes hold parts.

    Two numbers made of each unit are fetched. Units that have the same are compared
    weight by weight, where they lie.
    """
    marks, filled = fetched(_marks, leaf, order, form)
    first = np.empty(marks.shape[:-1], np.int32)
    for index in np.ndindex(first.shape[:-1]):
        seen: dict[bytes, int] = {}
        for unit, mark in enumerate(np.ascontiguousarray(marks[index])):
            first[(*index, unit)] = seen.setdefault(mark.tobytes(), unit)
    shares = np.zeros(first.shape[:-1])
    if np.any(first != np.arange(first.shape[-1])):
        packed = first.tobytes()
        shares = fetched(_confirmed, leaf, order, form, packed).astype(np.float64)
    return np.mean(np.where(filled, shares, math.nan), axis=-1)


def _marks(leaf: Any, order: Any, form: Any) -> tuple[jax.Array, jax.Array]:
    """Two numbers for each unit, and for each weight whether it is not all zero."""
    bits = _bits(leaf, order, form)
    place = jnp.arange(1, bits.shape[-1] + 1, dtype=jnp.uint32)
    mixed = bits ^ (bits >> jnp.uint32(15))
    marks = [
        jnp.sum(mixed * (place * jnp.uint32(odd) | jnp.uint32(1)), -1, jnp.uint32)
        for odd in (2654435761, 2246822519)
    ]
    return jnp.stack(marks, axis=-1), jnp.any(bits, axis=(-1, -2))


def _confirmed(leaf: Any, order: Any, form: Any, packed: bytes) -> jax.Array:
    """The share of units that equal the one they are told to be like."""
    bits = _bits(leaf, order, form)
    told = np.frombuffer(packed, np.int32).reshape(bits.shape[:-1])
    others = jnp.take_along_axis(bits, jnp.asarray(told)[..., None], axis=-2)
    copies = jnp.all(bits == others, axis=-1) & (told != np.arange(told.shape[-1]))
    return jnp.mean(copies, axis=-1)


def _bits(leaf: Any, order: Any, form: Any) -> jax.Array:
    """Units as rows of whole numbers, equal where their weights are."""
    rows = jnp.transpose(leaf, order).reshape(form)
    if jnp.iscomplexobj(rows):
        rows = jnp.concatenate([rows.real, rows.imag], axis=-1)
    size = rows.dtype.itemsize
    unsigned = jnp.dtype(f"uint{8 * min(size, 4)}")
    rows = rows + jnp.zeros((), rows.dtype)  # -0 becomes 0
    bits = jax.lax.bitcast_convert_type(rows, unsigned)
    return bits.reshape(*rows.shape[:-1], -1).astype(jnp.uint32)
