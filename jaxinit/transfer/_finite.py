"""Is every number finite? Asked of each leaf that is read, so it must cost little."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np

# The bits of the exponent, all set in infinity and NaN, where numpy itself is slow.
_EXPONENTS = {"bfloat16": 0x7F80, "float16": 0x7C00}
_CHUNK = 1 << 20


def is_finite(values: np.ndarray) -> bool:
    """Whether no number is NaN or infinite; true of types that have neither."""
    if values.size == 0 or not jnp.issubdtype(values.dtype, jnp.inexact):
        return True
    if values.dtype.name in ("float32", "float64"):
        # NaN survives minimum and maximum, and no array of booleans is made.
        return bool(np.isfinite(values.min()) and np.isfinite(values.max()))
    flat = values.ravel(order="K")  # in whatever order they lie in memory
    return all(
        _chunk_is_finite(flat[start : start + _CHUNK])
        for start in range(0, flat.size, _CHUNK)
    )


def _chunk_is_finite(chunk: np.ndarray) -> bool:
    mask = _EXPONENTS.get(chunk.dtype.name)
    if mask is None:
        return bool(np.isfinite(chunk).all())
    return not ((chunk.view(np.uint16) & np.uint16(mask)) == mask).any()


def explain(found: np.ndarray, wanted: Any) -> str:
    """What is not finite, in the file or by the cast to the type that was asked for."""
    if (bad := int((~np.isfinite(found)).sum())) > 0:
        return (
            f"{bad} of {found.size} values are NaN or infinite; "
            'repair the file, or read it with nonfinite="allow"'
        )
    largest = float(np.abs(found.astype(np.float64)).max())
    return (
        f"values up to {largest:.3g} overflow in the cast from {found.dtype} to "
        f'{wanted}; ask for a wider dtype, or read it with nonfinite="allow"'
    )
