"""What the adapters share: they compute in 32 bits or more and cast once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp


def wide(array: Any) -> jax.Array:
    """The array in float32 or wider; ValueError for one that holds no real numbers."""
    array = jnp.asarray(array)
    if not jnp.issubdtype(array.dtype, jnp.floating):
        raise ValueError(f"an adapter takes floating numbers, got {array.dtype.name}")
    return array if array.dtype.itemsize >= 4 else array.astype(jnp.float32)


def narrow(values: jax.Array, like: Any) -> jax.Array:
    """The values in the dtype of the array that they come from."""
    return values.astype(jnp.asarray(like).dtype)


def require(argument: str, value: Any, choices: Sequence[str]) -> None:
    """Raise ValueError unless the value is one of the choices."""
    if value not in choices:
        known = ", ".join(map(repr, choices))
        raise ValueError(f"{argument} must be one of {known}, got {value!r}")


def check_prefix(prefix: int, length: int) -> None:
    """Raise ValueError unless so many tokens stand before the positions."""
    if not 0 <= prefix <= length:
        raise ValueError(f"prefix must be from 0 to {length}, got {prefix}")
