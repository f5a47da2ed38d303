"""Haar-distributed (semi-)orthogonal weights."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from jaxinit._threefry import fast_key
from jaxinit.initializers._haar import haar
from jaxinit.initializers._initializer import (
    OutSharding,
    Recipe,
    Shape,
    initializer,
    scaled_by,
)
from jaxinit.initializers._options import check_nonnegative, check_rank


@initializer
def orthogonal(
    scale: Any = 1.0,
    column_axis: int = -1,
    dtype: Any = None,
    *,
    method: Literal["qr", "householder"] = "qr",
):
    r"""Draw a uniformly distributed (semi-)orthogonal matrix, times a scale.

    The weight is flattened to a matrix with the columns along `column_axis` and every
    other axis in the rows. The smaller side is orthonormal: with W the flattened
    weight and s the scale,

    .. math:: W^* W = s^2 I \;\text{(tall)}, \qquad W W^* = s^2 I \;\text{(wide)}

    Wide weights (more outputs than inputs) do not keep the second moment of the signal:
    each output has n_in / n_out of it; :func:`scaled_orthogonal` keeps it.

    Args:
      scale: multiplies the matrix.
      column_axis: the axis of the outputs.
      dtype: used where the call gives none. Narrow floats are factored in float32.
      method: ``"qr"`` factors a Gaussian matrix, with the bits of JAX;
        ``"householder"`` draws the reflections of such a factorization directly, which
        gives other numbers of the same distribution, in less time. Real dtypes only.

    Raises:
      ValueError: at once for an unknown method; at the call for a shape of fewer than
        two axes.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> weight = orthogonal()(jax.random.key(0), (64, 32))
      >>> bool(jnp.allclose(weight.T @ weight, jnp.eye(32), atol=1e-5))
      True

    Source: Saxe et al. 2014 (arXiv:1312.6120); Mezzadri 2007 (arXiv:math-ph/0609050)
    for the uniform distribution.
    """
    check_nonnegative("scale", scale)
    if method not in ("qr", "householder"):
        raise ValueError(f"method must be 'qr' or 'householder', got {method!r}")
    check = functools.partial(_check_columns, "orthogonal", column_axis)
    if method == "householder":
        draw = functools.partial(_draw_reflections, scale, column_axis)
        return Recipe(draw, check=check, accepts="floating", shards=False)
    build = functools.partial(jax.nn.initializers.orthogonal, scale, column_axis)
    return Recipe(
        functools.partial(_draw_as_jax_does, build), check=check, shards=False
    )


@initializer
def scaled_orthogonal(scale: Any = 1.0, column_axis: int = -1, dtype: Any = None):
    r"""Draw an orthogonal matrix that keeps the second moment of the signal.

    With Q the (semi-)orthogonal matrix of :func:`orthogonal`, and the weight flattened
    to n_in rows (every axis but `column_axis`) and n_out columns,

    .. math:: w = scale \cdot \max\left(\sqrt{n_{out} / n_{in}},\, 1\right) Q

    Wide weights (n_out ≥ n_in) give every single input the mean square
    scale² · mean(x²); tall ones give that in the mean over directions. For convolutions
    use it as ``delta(scaled_orthogonal())``, at any ratio of the channels.

    Args:
      scale: multiplies the matrix; the gain of the activation before it.
      column_axis: the axis of the outputs.
      dtype: used where the call gives none. Narrow floats are factored in float32.

    Raises:
      ValueError: at the call, for a shape of fewer than two axes.

    Example:
      >>> import jax
      >>> weight = scaled_orthogonal()(jax.random.key(0), (64, 256))
      >>> inputs = jax.random.normal(jax.random.key(1), (64,))
      >>> outputs = inputs @ weight
      >>> round(float((outputs**2).mean() / (inputs**2).mean()), 4)
      1.0

    Source: Martens et al. 2021 (arXiv:2110.01765), "scaled uniform orthogonal".
    """
    check_nonnegative("scale", scale)
    return Recipe(
        functools.partial(_draw_scaled, scale, column_axis),
        check=functools.partial(_check_columns, "scaled_orthogonal", column_axis),
        shards=False,
    )


@initializer
def delta_orthogonal(scale: Any = 1.0, column_axis: int = -1, dtype: Any = None):
    r"""Draw an orthogonal matrix at the spatial centre of a kernel of zeros.

    A convolution with it is, at every position, multiplication by that matrix: it keeps
    the norm of every pixel and of the whole picture. For fewer outputs than inputs, or
    another matrix, see :func:`delta`.

    Args:
      scale: multiplies the matrix.
      column_axis: the axis of the outputs within the matrix (in, out).
      dtype: used where the call gives none. Narrow floats are factored in float32.

    Raises:
      ValueError: at the call, for a shape that is not ``(*spatial, in, out)`` with one
        to three spatial axes and in <= out.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> kernel = delta_orthogonal()(jax.random.key(0), (3, 3, 16, 16))
      >>> bool(jnp.allclose(kernel[1, 1].T @ kernel[1, 1], jnp.eye(16), atol=1e-5))
      True
      >>> float(abs(kernel).sum((2, 3)).at[1, 1].set(0.0).max())
      0.0

    Source: Xiao et al. 2018 (arXiv:1806.05393), algorithm 1.
    """
    check_nonnegative("scale", scale)
    build = functools.partial(jax.nn.initializers.delta_orthogonal, scale, column_axis)
    return Recipe(
        functools.partial(_draw_as_jax_does, build),
        check=_check_kernel,
        shards=False,
    )


def _draw_reflections(
    scale: Any,
    column_axis: int,
    key: Any,
    shape: Shape,
    dtype: np.dtype,
    out_sharding: OutSharding,
) -> jax.Array:
    columns = shape[column_axis]
    rest = tuple(np.delete(np.asarray(shape), column_axis).tolist())
    matrix = haar(key, math.prod(rest), columns, dtype)
    weight = jnp.moveaxis(jnp.reshape(matrix, (*rest, columns)), -1, column_axis)
    return scaled_by(weight, scale)


def _draw_as_jax_does(
    build: Callable[[], Any],
    key: Any,
    shape: Shape,
    dtype: np.dtype,
    out_sharding: OutSharding,
) -> jax.Array:
    return build()(fast_key(key), shape, dtype)


def _draw_scaled(
    scale: Any,
    column_axis: int,
    key: Any,
    shape: Shape,
    dtype: np.dtype,
    out_sharding: OutSharding,
) -> jax.Array:
    n_out = shape[column_axis]
    n_in = math.prod(shape) // n_out
    build = functools.partial(
        jax.nn.initializers.orthogonal,
        scale * math.sqrt(max(n_out / n_in, 1.0)),
        column_axis,
    )
    return _draw_as_jax_does(build, key, shape, dtype, out_sharding)


def _check_columns(name: str, column_axis: int, shape: Shape):
    check_rank(shape, 2, name, "vectors have no orthogonality")
    if not -len(shape) <= column_axis < len(shape):
        raise ValueError(f"column_axis {column_axis} does not exist in shape {shape}")


def _check_kernel(shape: Shape):
    if not 3 <= len(shape) <= 5:
        raise ValueError(
            f"delta_orthogonal needs a shape (*spatial, in, out) of 3 to 5 axes, "
            f"got {shape}"
        )
    if shape[-1] < shape[-2]:
        raise ValueError(
            f"delta_orthogonal needs fan_in <= fan_out, got {shape[-2]} inputs and "
            f"{shape[-1]} outputs in shape {shape}"
        )
