"""Kernels that are a known linear map: dirac passes its input on, bilinear enlarges."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxinit.initializers._initializer import (
    OutSharding,
    Recipe,
    Shape,
    initializer,
    scaled_by,
)
from jaxinit.initializers._options import check_nonnegative


@initializer
def dirac(scale: Any = 1.0, dtype: Any = None, *, groups: int = 1):
    r"""Pass channel i on to channel i of a convolution, times a scale.

    .. math:: w_{t,i,o} = scale \cdot [t = c] \cdot [o \bmod (out / groups) = i]

    with c the centre (k - 1) // 2 along every spatial axis of size k: the tap that
    ``padding="SAME"`` puts on the pixel itself, for even sizes too. In each group the
    first min(in, out) of its channels pass; the other outputs are zero. A convolution
    inserted into a trained network changes nothing, and is trained from there.

    Args:
      scale: multiplies the kernel.
      dtype: used where the call gives none.
      groups: ``feature_group_count`` of the convolution.

    Raises:
      ValueError: at the call, for a shape that is not ``(*spatial, in / groups, out)``
        with at least one spatial axis and a multiple of `groups` as out.

    Example:
      >>> import jax
      >>> print(dirac()(jax.random.key(0), (3, 2, 2)))
      [[[0. 0.]
        [0. 0.]]
      <BLANKLINE>
       [[1. 0.]
        [0. 1.]]
      <BLANKLINE>
       [[0. 0.]
        [0. 0.]]]

    Source: Zagoruyko & Komodakis 2017 (arXiv:1706.00388), section 3.
    """
    check_nonnegative("scale", scale)
    _check_scalar("scale", scale)
    _check_groups(groups)
    return Recipe(
        functools.partial(_draw_dirac, scale, groups),
        check=functools.partial(_check_kernel, "dirac", groups),
        shards=False,
    )


@initializer
def bilinear(
    dtype: Any = None, *, strides: int | Sequence[int] | None = None, groups: int = 1
):
    r"""Make a transposed convolution enlarge its input by linear interpolation.

    .. math::
        w_{t,i,o} = [o \bmod (out / groups) = i]
        \prod_a \max\left(0,\; 1 - \frac{|t_a - (k_a - 1) / 2|}{s_a}\right)

    over the spatial axes a of sizes k and strides s: bilinear for two axes, trilinear
    for three. Output pixels lie on the lines between the input pixels around them (at
    the rims, where the input ends, they fall to zero). With s the stride of the layer,
    k = 2 s and k = 2 s - 1 are the sizes that hold exactly the interpolation: the
    weights that reach an output sum to 1, since the tents ``1 - |x| / s`` a stride s
    apart do.

    Args:
      dtype: used where the call gives none.
      strides: of the transposed convolution, one for each spatial axis or one for all.
        None reads them from the kernel, as (k + 1) // 2.
      groups: ``feature_group_count`` of the convolution; channels pass as in
        :func:`dirac`.

    Raises:
      ValueError: at the call, for a shape that is not ``(*spatial, in / groups, out)``
        with at least one spatial axis, or that has fewer taps than 2 s - 1.

    Example:
      >>> import jax
      >>> print(bilinear()(jax.random.key(0), (4, 1, 1)).ravel())
      [0.25 0.75 0.75 0.25]

    Source: Long et al. 2015 (arXiv:1411.4038), section 3.3, for the use; the formula is
    the tent of linear interpolation, sampled at the distances of a pixel from the
    centres of the input pixels.
    """
    given = () if strides is None else strides
    for stride in given if isinstance(given, Sequence) else (given,):
        if isinstance(stride, bool) or not isinstance(stride, int) or stride < 1:
            raise ValueError(
                f"strides must be integers of at least 1, or None, got {strides!r}"
            )
    _check_groups(groups)
    return Recipe(
        functools.partial(_draw_bilinear, strides, groups),
        check=functools.partial(_check_taps, strides, groups),
        shards=False,
    )


def centre(shape: Shape) -> tuple[int, ...]:
    """The tap of a kernel (*spatial, in, out) that lies on the pixel itself."""
    return tuple((size - 1) // 2 for size in shape[:-2])


def _check_scalar(argument: str, value: Any):
    if np.ndim(value):
        raise ValueError(f"{argument} must be one number, got shape {np.shape(value)}")


def _check_groups(groups: Any):
    if isinstance(groups, bool) or not isinstance(groups, int) or groups < 1:
        raise ValueError(f"groups must be an integer of at least 1, got {groups!r}")


def _check_kernel(name: str, groups: int, shape: Shape):
    if len(shape) < 3:
        raise ValueError(
            f"{name} needs a shape (*spatial, in, out) of at least 3 axes, got {shape}"
        )
    if shape[-1] % groups:
        raise ValueError(
            f"groups={groups} does not divide the {shape[-1]} outputs of a kernel of "
            f"shape {shape}"
        )


def _check_taps(strides: int | Sequence[int] | None, groups: int, shape: Shape):
    _check_kernel("bilinear", groups, shape)
    for size, stride in zip(shape[:-2], _strides(strides, shape), strict=True):
        if 0 < size < 2 * stride - 1:
            raise ValueError(
                f"bilinear with strides {strides!r} needs {2 * stride - 1} or "
                f"{2 * stride} taps, got {size} in shape {shape}"
            )


def _strides(strides: int | Sequence[int] | None, shape: Shape) -> tuple[int, ...]:
    spatial = shape[:-2]
    if strides is None:
        return tuple((size + 1) // 2 for size in spatial)
    if not isinstance(strides, Sequence):
        return (strides,) * len(spatial)
    if len(strides) != len(spatial):
        raise ValueError(
            f"strides {strides!r} names {len(strides)} axes, but a kernel of shape "
            f"{shape} has {len(spatial)} spatial axes"
        )
    return tuple(strides)


def _passing(groups: int, shape: Shape, dtype: np.dtype) -> jax.Array:
    """1 where an input is the output's own channel: an identity for each group."""
    n_in, n_out = shape[-2:]
    inputs = jax.lax.broadcasted_iota(np.int32, (n_in, n_out), 0)
    outputs = jax.lax.broadcasted_iota(np.int32, (n_in, n_out), 1)
    return (inputs == outputs % (n_out // groups)).astype(dtype)


def _draw_dirac(
    scale: Any,
    groups: int,
    key: Any,
    shape: Shape,
    dtype: np.dtype,
    out_sharding: OutSharding,
) -> jax.Array:
    matrix = scaled_by(_passing(groups, shape, dtype), scale)
    return jnp.zeros(shape, dtype).at[centre(shape)].set(matrix)


def _draw_bilinear(
    strides: int | Sequence[int] | None,
    groups: int,
    key: Any,
    shape: Shape,
    dtype: np.dtype,
    out_sharding: OutSharding,
) -> jax.Array:
    taps = np.ones(())
    for size, stride in zip(shape[:-2], _strides(strides, shape), strict=True):
        distances = np.abs(np.arange(size) - (size - 1) / 2)
        taps = np.multiply.outer(taps, np.maximum(0.0, 1 - distances / stride))
    kernel = jnp.asarray(taps[..., None, None], dtype)  # (*spatial, 1, 1)
    channels = _passing(groups, shape, dtype)
    return kernel * jnp.reshape(channels, (1,) * taps.ndim + channels.shape)
