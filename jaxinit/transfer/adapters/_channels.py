"""Convolutions that see other inputs than those they were trained on."""

from __future__ import annotations

import math
from typing import Any, Literal

import jax
import jax.numpy as jnp

from jaxinit.transfer.adapters._common import narrow, require, wide


def inflate_channels(
    kernel: Any,
    *,
    channels: int,
    mode: Literal["sum", "tile", "zero"],
    variance: Literal["correlated", "independent"] = "correlated",
    axis: int = -2,
) -> jax.Array:
    """A kernel for another number of input channels, such as one grey for three.

    With C channels before and N after:

    - "sum": every channel gets the sum of the old ones over N. A grey picture, repeated
      N times, gives what its colour version gave; N = 1 is the usual case.
    - "tile": channel n gets old channel n mod C, times C / N where the new channels are
      correlated, as bands of one picture are, and times sqrt(C / N) where they are
      independent, as MRI sequences or spectra may be. The first preserves a common
      signal, the second the variance of a sum of independent ones.
    - "zero": the old channels first, then zeros.

    Args:
      kernel: ``(*window, in, out)``, as Flax holds it.
      channels: N.
      mode: see above; there is no default, because it depends on the new channels.
      variance: for "tile" only.
      axis: of the input channels.

    Returns:
      The kernel with N input channels, in the dtype of the old one.

    Raises:
      ValueError: an option is unknown, or "zero" has fewer channels than before.

    Source: the sum and C / N follow timm (`adapt_input_conv`); sqrt(C / N) from
    Var(sum) = N s² C/N.

    >>> import jax.numpy as jnp
    >>> from jaxinit.transfer import adapters
    >>> kernel = jnp.ones((3, 3, 3, 8))
    >>> adapters.inflate_channels(kernel, channels=1, mode="sum")[0, 0, :, 0].tolist()
    [3.0]
    >>> adapters.inflate_channels(kernel, channels=6, mode="tile")[0, 0, :2, 0].tolist()
    [0.5, 0.5]
    """
    values = wide(kernel)
    require("mode", mode, ("sum", "tile", "zero"))
    require("variance", variance, ("correlated", "independent"))
    if variance == "independent" and mode != "tile":
        raise ValueError(
            f'variance="independent" is defined for mode="tile" alone, got {mode!r}'
        )
    if channels < 1:
        raise ValueError(f"channels must be 1 or more, got {channels}")
    old = values.shape[axis]
    if mode == "sum":
        total = values.sum(axis, keepdims=True) / channels
        return narrow(jnp.repeat(total, channels, axis), kernel)
    if mode == "zero":
        if channels < old:
            raise ValueError(
                f'mode="zero" adds channels: {old} cannot become {channels}; use "sum"'
            )
        padding = [(0, 0)] * values.ndim
        padding[axis] = (0, channels - old)
        return narrow(jnp.pad(values, padding), kernel)
    share = old / channels
    factor = share if variance == "correlated" else math.sqrt(share)
    tiled = jnp.take(values, jnp.arange(channels) % old, axis)
    return narrow(tiled * factor, kernel)


def inflate_depth(
    kernel: Any, *, depth: int, mode: Literal["mean", "center"], axis: int = 0
) -> jax.Array:
    """A 3-D kernel from a 2-D one, for video and volumes: a new axis of size `depth`.

    - "mean": every slice is the old kernel over `depth`. A volume of equal slices gives
      what one slice gave.
    - "center": the old kernel in slice depth // 2, zeros elsewhere. The volume is at
      first seen slice by slice.

    Args:
      kernel: (height, width, in, out).
      depth: the size of the new axis.
      mode: see above.
      axis: where the new axis stands in the result.

    Returns:
      (depth, height, width, in, out), in the dtype of the old kernel.

    Raises:
      ValueError: an option is unknown, or depth is not positive.

    Source: Carreira and Zisserman 2017, section 2.4 ("mean"); Arnab et al. 2021,
    equation 9 ("center").

    >>> import jax.numpy as jnp
    >>> from jaxinit.transfer import adapters
    >>> adapters.inflate_depth(jnp.ones((3, 3, 1, 8)), depth=4, mode="mean").shape
    (4, 3, 3, 1, 8)
    """
    values = wide(kernel)
    require("mode", mode, ("mean", "center"))
    if depth < 1:
        raise ValueError(f"depth must be 1 or more, got {depth}")
    if mode == "mean":
        return narrow(jnp.stack([values / depth] * depth, axis), kernel)
    slices = [jnp.zeros_like(values)] * depth
    slices[depth // 2] = values
    return narrow(jnp.stack(slices, axis), kernel)
