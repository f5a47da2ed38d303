"""Numbers that options have to be, and uniform draws that touch neither end."""

from __future__ import annotations

import math
import operator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

_REAL = (np.integer, np.floating)


def check_number(argument: str, value: Any):
    """Refuse what is not one finite real number; tracers pass unchecked."""
    if isinstance(value, Tracer):
        return
    number = np.asarray(value)
    numeric = any(jnp.issubdtype(number.dtype, kind) for kind in _REAL)
    if number.ndim != 0 or not numeric:
        raise TypeError(f"{argument} must be a real number, got {value!r}")
    if not math.isfinite(number):
        raise ValueError(f"{argument} must be finite, got {value!r}")


def check_positive(argument: str, value: Any):
    """Refuse what is not one finite number above zero; tracers pass unchecked."""
    check_number(argument, value)
    if not isinstance(value, Tracer) and not value > 0:
        raise ValueError(f"{argument} must be positive, got {value!r}")


def check_increasing(**ends: Any):
    """Refuse two options that are not in the order in which they are named."""
    (first, low), (second, high) = ends.items()
    if isinstance(low, Tracer) or isinstance(high, Tracer):
        return
    if not low < high:
        raise ValueError(f"{first} must be below {second}, got {low!r} and {high!r}")


def check_index(argument: str, value: Any, count: int):
    """Refuse what does not index `count` things."""
    try:
        index = operator.index(value)
    except TypeError:
        raise TypeError(f"{argument} must be an integer, got {value!r}") from None
    if not -count <= index < count:
        raise ValueError(f"{argument} {index} does not exist among {count}")


def logarithm(value: Any) -> Any:
    """log in float64 for numbers, in its own dtype for a traced value."""
    return jnp.log(value) if isinstance(value, Tracer) else math.log(value)


def open_uniform(
    key: Any, shape: tuple[int, ...], dtype: np.dtype, out_sharding: Any = None
) -> jax.Array:
    """Uniform draws from the middles of equal steps between 0 and 1, neither included.

    JAX draws multiples of the step from [0, 1); the logarithm of a zero among them
    (one in eight million) would be infinite. Adding half a step is exact.
    """
    half = jnp.asarray(jnp.finfo(dtype).eps / 2, dtype)
    return jax.random.uniform(key, shape, dtype, out_sharding=out_sharding) + half


def repeated_along(
    axis: int, line: Any, shape: tuple[int, ...], dtype: np.dtype
) -> jax.Array:
    """A line of values along one axis, the same at every place of the others."""
    along = [1] * len(shape)
    along[axis] = shape[axis]
    return jnp.broadcast_to(jnp.asarray(line, dtype).reshape(along), shape)
