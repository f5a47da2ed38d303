"""Numbers about a whole array, wherever its parts lie: here, or with other processes.

NumPy looks at what this process holds, which takes no compiling. An array of which it
holds a part only is reduced where it lies, and each process gets the same result; all
of them must ask, as they must for any computation with it.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from jaxinit._signal._taps import on_any_mesh, sum_of_squares, wide


def is_here(leaf: Any) -> bool:
    """Whether this process holds all of it."""
    return getattr(leaf, "is_fully_addressable", True)


def everywhere(leaves: Iterable[Any]) -> NamedSharding | None:
    """The sharding of a copy on every device of the arrays that span processes.

    None where there are no such arrays.
    """
    for leaf in leaves:
        if is_here(leaf):
            continue
        if not isinstance(leaf.sharding, NamedSharding):
            raise TypeError(
                f"an array that spans several processes has a {leaf.sharding!r}; place "
                "it with jax.sharding.NamedSharding"
            )
        return NamedSharding(leaf.sharding.mesh, PartitionSpec())
    return None


def fetched(function: Callable[..., Any], leaf: Any, *static: Any) -> Any:
    """What a function of an array gives, computed where the array lies, as NumPy's."""
    return jax.device_get(_compiled(function, everywhere([leaf]), static)(leaf))


@functools.lru_cache(maxsize=256)
def _compiled(
    function: Callable[..., Any], sharding: Any, static: tuple[Any, ...]
) -> Any:
    return jax.jit(lambda leaf: function(leaf, *static), out_shardings=sharding)


def squares(leaf: Any, axes: Sequence[int]) -> np.ndarray:
    """The sum of squares of a leaf for each index along the axes.

    Compiling this for every shape would take longer than NumPy takes for all of it.
    """
    if not is_here(leaf):
        return np.asarray(fetched(by_slice, leaf, tuple(axes)), np.float64)
    array = _narrow_widened(leaf)
    others = [axis for axis in range(array.ndim) if axis not in axes]
    layers = tuple(array.shape[axis] for axis in axes)
    rows = np.transpose(array, (*axes, *others)).reshape(math.prod(layers), -1)
    with np.errstate(all="ignore"):
        found = [np.vdot(row, row).real for row in rows]
    return np.reshape(np.asarray(found, np.float64), layers)


def by_slice(leaf: Any, axes: Sequence[int]) -> jax.Array:
    """The sum of squares of a leaf, for each index along the axes, inside of jit."""
    return _by_slice(leaf, axes=tuple(axes))


@on_any_mesh
def _by_slice(leaf: Any, *, axes: tuple[int, ...]) -> jax.Array:
    if not axes:
        return sum_of_squares(leaf)
    others = [axis for axis in range(leaf.ndim) if axis not in axes]
    moved = jnp.transpose(leaf, (*axes, *others))
    return jnp.sum(jnp.square(jnp.abs(wide(moved))), axis=range(len(axes), leaf.ndim))


def rms_of(leaf: Any) -> float:
    """The root mean square."""
    return math.sqrt(float(squares(leaf, ())) / max(np.size(leaf), 1))


def mean_of(leaf: Any) -> float:
    """The mean."""
    if is_here(leaf):
        return float(np.mean(np.asarray(leaf, np.float64)))
    return float(fetched(_mean, leaf))


def not_finite_in(leaf: Any) -> int:
    """How many of its numbers are NaN or infinite."""
    if is_here(leaf):
        return int(np.sum(~np.isfinite(_narrow_widened(leaf))))
    return int(fetched(_not_finite, leaf))


def any_in(leaf: Any) -> bool:
    """Whether one of its numbers is not zero."""
    return bool(np.any(np.asarray(leaf)) if is_here(leaf) else fetched(jnp.any, leaf))


def largest_in(leaf: Any) -> float:
    """The largest absolute value."""
    if is_here(leaf):
        return float(np.max(np.abs(np.asarray(leaf))))
    return float(fetched(_largest, leaf))


def _narrow_widened(leaf: Any) -> np.ndarray:
    array = np.asarray(leaf)
    return array.astype(np.float32) if array.dtype.itemsize < 4 else array


def _mean(leaf: Any) -> Any:
    return jnp.mean(wide(leaf))


def _not_finite(leaf: Any) -> Any:
    return jnp.sum(~jnp.isfinite(leaf))


def _largest(leaf: Any) -> Any:
    return jnp.max(jnp.abs(leaf))
