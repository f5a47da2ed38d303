"""Initializer -> initializer for convolutions: delta, and ICNR for shuffles."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np

from jaxinit.initializers._combinators import Base, check_base, over
from jaxinit.initializers._initializer import (
    Initializer,
    OutSharding,
    Shape,
    drawn,
    initializer,
)
from jaxinit.initializers._options import check_rank
from jaxinit.initializers._structured import centre

ShuffleLayout = Literal["channel_major", "subpixel_major"]


@initializer
def delta(base: Base):
    r"""Put a matrix at the spatial centre of a convolution kernel of zeros.

    With c the centre (k - 1) // 2 along every spatial axis of size k,

    .. math:: w_t = base \;\text{where}\; t = c, \quad 0 \;\text{elsewhere}

    so that the convolution multiplies every pixel by one matrix: what `base` promises
    for a dense layer holds for every pixel. ``delta(orthogonal())`` is
    :func:`delta_orthogonal` for any number of axes and any ratio of the channels,
    ``delta(scaled_orthogonal())`` also keeps the second moment where they grow, and
    ``delta(blocked(orthogonal(), blocks=groups))`` serves grouped convolutions.

    Args:
      base: any initializer; it sees the shape (in, out).

    Raises:
      ValueError: at the call, for a shape that is not ``(*spatial, in, out)`` with at
        least one spatial axis.

    Example:
      >>> import jax
      >>> kernel = delta(jax.nn.initializers.ones)(jax.random.key(0), (3, 3, 1, 1))
      >>> print(kernel[..., 0, 0])
      [[0. 0. 0.]
       [0. 1. 0.]
       [0. 0. 0.]]

    Source: Xiao et al. 2018 (arXiv:1806.05393), algorithm 1.
    """
    check_base("delta", base)
    return over(
        base,
        functools.partial(_draw_delta, base),
        functools.partial(_check_delta, base),
    )


@initializer
def icnr(base: Base, *, scale: int | Sequence[int], layout: ShuffleLayout):
    r"""Start a sub-pixel convolution as a convolution enlarged to nearest neighbours.

    A sub-pixel convolution computes C · ∏r channels and shuffles them into C channels
    on a grid r times as fine. Drawn independently, the ∏r pixels of a cell come from
    unrelated kernels: a checkerboard. So the kernel of C channels is drawn once, and
    each channel is repeated for all pixels of its cell:

    .. math:: w_{\ldots,i,o} = base_{\ldots,i,c(o)}, \qquad
       c(o) = \lfloor o / \textstyle\prod r \rfloor
       \;\text{(channel\_major)}, \quad o \bmod C \;\text{(subpixel\_major)}

    The bias has to be constant over each cell as well, zero for example.

    Args:
      base: any initializer; it sees the kernel ``(*spatial, in, C)``.
      scale: r, one for all spatial axes or one for each. A sequence also serves a dense
        kernel (in, C · ∏r), which has no spatial axes.
      layout: how the shuffle reads the channels: ``"channel_major"`` is (C, ∏r), the
        pixels of a channel side by side (PyTorch's ``pixel_shuffle``);
        ``"subpixel_major"`` is (∏r, C), the channels of a pixel side by side
        (TensorFlow's ``depth_to_space``).

    Raises:
      ValueError: at once for an unknown layout or a scale below 1; at the call for a
        shape whose channels do not fill the cells.

    Example:
      >>> import jax
      >>> init = icnr(he_normal(), scale=2, layout="channel_major")
      >>> kernel = init(jax.random.key(0), (3, 3, 16, 4 * 8))
      >>> bool((kernel[..., 0] == kernel[..., 3]).all())
      True
      >>> bool((kernel[..., 0] == kernel[..., 4]).any())
      False

    Source: Aitken et al. 2017 (arXiv:1707.02937), section 4.
    """
    check_base("icnr", base)
    for size in scale if isinstance(scale, Sequence) else (scale,):
        if isinstance(size, bool) or not isinstance(size, int) or size < 1:
            raise ValueError(f"scale must be integers of at least 1, got {scale!r}")
    if layout not in get_args(ShuffleLayout):
        raise ValueError(
            f"layout must be one of {get_args(ShuffleLayout)}, got {layout!r}"
        )
    return over(
        base,
        functools.partial(_draw_icnr, base, scale, layout),
        functools.partial(_check_icnr, base, scale),
    )


# ----------------------------------------------------------------------------- delta


def _check_delta(base: Base, shape: Shape):
    if len(shape) < 3:
        raise ValueError(
            f"delta needs a shape (*spatial, in, out) of at least 3 axes, got {shape}"
        )
    if isinstance(base, Initializer):
        base.check_shape(shape[-2:])


def _draw_delta(
    base: Base, key: jax.Array, shape: Shape, dtype: np.dtype, _: OutSharding
) -> jax.Array:
    matrix = drawn(base, key, shape[-2:], dtype)
    return jnp.zeros(shape, dtype).at[centre(shape)].set(matrix)


# ------------------------------------------------------------------------------ icnr


def _check_icnr(base: Base, scale: int | Sequence[int], shape: Shape):
    one = _unrepeated(scale, shape)
    if isinstance(base, Initializer):
        base.check_shape(one)


def _unrepeated(scale: int | Sequence[int], shape: Shape) -> Shape:
    """The shape of the kernel that is repeated."""
    pixels = _pixels(scale, shape)
    if shape[-1] % pixels:
        raise ValueError(
            f"icnr with scale {scale!r} needs a multiple of {pixels} outputs, got "
            f"{shape[-1]} in shape {shape}"
        )
    return (*shape[:-1], shape[-1] // pixels)


def _pixels(scale: int | Sequence[int], shape: Shape) -> int:
    """How many pixels of the fine grid make up one of the coarse."""
    check_rank(shape, 2, "icnr", "the last two are (in, out)")
    spatial = len(shape) - 2
    if isinstance(scale, Sequence) and len(scale) == (spatial or len(scale)):
        return math.prod(scale)
    if isinstance(scale, Sequence) or not spatial:
        raise ValueError(
            f"icnr with scale {scale!r} does not fit the {spatial} spatial axes of a "
            f"kernel of shape {shape}; give one number for each axis that is enlarged"
        )
    return scale**spatial


def _draw_icnr(
    base: Base,
    scale: int | Sequence[int],
    layout: ShuffleLayout,
    key: jax.Array,
    shape: Shape,
    dtype: np.dtype,
    _: OutSharding,
) -> jax.Array:
    kernel = drawn(base, key, _unrepeated(scale, shape), dtype)
    pixels = _pixels(scale, shape)
    if layout == "channel_major":
        return jnp.repeat(kernel, pixels, axis=-1)
    return jnp.concatenate([kernel] * pixels, axis=-1)
