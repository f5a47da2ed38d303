"""Complex leaves: one array, a real and an imaginary leaf, or a last axis of two."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from jaxinit.groups._setting import Like, widened


def is_complex(kind: Like) -> bool:
    """Whether the leaf itself holds complex numbers."""
    return jnp.issubdtype(kind.dtype, jnp.complexfloating)


def real_dtype(kind: Like) -> Any:
    """The dtype in which the real and the imaginary part are drawn."""
    real = jnp.finfo(kind.dtype).dtype if is_complex(kind) else kind.dtype
    return widened(real)


def complex_dtype(kind: Like) -> Any:
    """The dtype of the complex numbers that such parts make."""
    return jnp.complex128 if real_dtype(kind) == jnp.float64 else jnp.complex64


def normal(key: Any, kind: Like, stddev: float) -> jax.Array:
    """Normal numbers; for a complex leaf with this deviation in each of the parts."""
    dtype = real_dtype(kind)
    scale = jnp.asarray(stddev, dtype)
    if not is_complex(kind):
        return scale * jax.random.normal(key, kind.shape, dtype)
    parts = scale * jax.random.normal(key, (2, *kind.shape), dtype)
    return jax.lax.complex(parts[0], parts[1])
