"""Resizing along an axis as a product with a matrix that depends on the sizes alone.

The conventions, and the numbers, are those of `jax.image.resize`. As a matrix of NumPy
they are known while tracing, which the pseudo-inverse of a patch embedding needs, and
an eager call compiles one product.
"""

from __future__ import annotations

from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

Method = Literal["cubic", "linear", "nearest"]
METHODS = ("cubic", "linear", "nearest")


def resizing_matrix(old: int, new: int, method: Method, antialias: bool) -> np.ndarray:
    """(old, new): what each old position gives to each new one, columns summing to 1.

    Positions are the centers of pixels. With antialias the kernel of a smaller result
    is as wide as what it has to average over.
    """
    ratio = old / new
    positions = (np.arange(new) + 0.5) * ratio - 0.5
    if method == "nearest":
        nearest = np.floor((np.arange(new) + 0.5) * ratio).astype(int)
        return (np.arange(old)[:, None] == nearest[None, :]).astype(np.float64)
    width = max(ratio, 1.0) if antialias else 1.0
    distances = np.abs(positions[None, :] - np.arange(old)[:, None]) / width
    weights = _cubic(distances) if method == "cubic" else np.maximum(1 - distances, 0)
    return weights / weights.sum(0, keepdims=True)


def resize_axis(
    values: jax.Array, axis: int, new: int, method: Method, antialias: bool
) -> jax.Array:
    """The values with another length along one axis."""
    matrix = resizing_matrix(values.shape[axis], new, method, antialias)
    made = jnp.tensordot(
        values,
        jnp.asarray(matrix, values.dtype),
        axes=(axis, 0),
        precision=jax.lax.Precision.HIGHEST,
    )
    return jnp.moveaxis(made, -1, axis)


def _cubic(distances: np.ndarray) -> np.ndarray:
    """The kernel of Keys 1981, equation 15, whose parameter is -1/2."""
    x = distances
    near = (1.5 * x - 2.5) * x * x + 1
    far = ((-0.5 * x + 2.5) * x - 4) * x + 2
    return np.where(x <= 1, near, np.where(x < 2, far, 0))
