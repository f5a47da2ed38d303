"""stddev = sqrt(scale / fan): variance scaling."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np

from jaxinit._threefry import fast_key
from jaxinit.initializers._fans import Axes, Fans, Use
from jaxinit.initializers._initializer import (
    OutSharding,
    Recipe,
    Shape,
    drawn,
    initializer,
    scaled_by,
)
from jaxinit.initializers._options import check_nonnegative

Mode = Literal["fan_in", "fan_out", "fan_avg", "fan_geo_avg"]
Distribution = Literal["truncated_normal", "normal", "uniform"]
Sampler = Callable[..., jax.Array]


@initializer
def variance_scaling(
    scale: Any,
    mode: Mode,
    distribution: Distribution | Sampler,
    in_axis: Axes = -2,
    out_axis: Axes = -1,
    batch_axis: Axes = (),
    dtype: Any = None,
    *,
    groups: int = 1,
    strides: int | Sequence[int] = 1,
    transposed: bool = False,
    equation: str | None = None,
):
    r"""Draw with a variance that suits how the weight is used.

    .. math:: \mathrm{Var}(w) = \frac{scale}{n}

    where n is fan_in (the forward signal keeps its variance), fan_out (the gradient
    does), their mean ``"fan_avg"``, or their geometric mean ``"fan_geo_avg"``; see
    :func:`fans` for what the fans are. Note that ``"fan_avg"`` averages the fans, not
    the variances.

    Args:
      scale: gain squared: 1 for a linear unit, 2 for ReLU, ``gain(f) ** 2`` for any f.
      mode: the n above.
      distribution: ``"truncated_normal"`` (cut at two standard deviations, and divided
        by what the cut takes away), ``"normal"``, ``"uniform"``, or any sampler
        ``(key, shape, dtype) -> array`` of independent draws with variance 1. Complex
        dtypes draw in the plane: a Gaussian, one cut by its modulus, a uniform disk.
      in_axis: axis or axes summed over.
      out_axis: axis or axes of the outputs.
      batch_axis: axes that select independent weights, such as stacked layers.
      dtype: used where the call gives none.
      groups: ``feature_group_count`` of a convolution.
      strides: of a convolution.
      transposed: whether the convolution is transposed.
      equation: the einsum ``"input,weight->output"``, instead of axes.

    Raises:
      ValueError: at once for an unknown mode, a negative scale or an axis named twice;
        at the call for a shape that does not have the axes.

    Example:
      >>> import jax
      >>> init = variance_scaling(2.0, "fan_in", "normal")
      >>> weight = init(jax.random.key(0), (512, 512))
      >>> round(float(weight.std()) * 16, 1)  # sqrt(2 / 512) is 1 / 16
      1.0

    Source: Glorot & Bengio 2010, eqs. 10-12; He et al. 2015 (arXiv:1502.01852), eqs.
    10 and 14; LeCun et al. 1998, "Efficient BackProp", section 4.6.
    """
    use = Use(in_axis, out_axis, batch_axis, groups, strides, transposed, equation)
    return scaling_recipe(scale, mode, distribution, use)


@dataclasses.dataclass(frozen=True)
class _KnownFans:
    """What a use is to the drawing, where the fans are known beforehand."""

    known: Fans
    is_plain: bool = False

    def fans(self, shape: Shape) -> Fans:
        return self.known


def scaling_recipe(
    scale: Any,
    mode: Mode,
    distribution: Distribution | Sampler,
    use: Use | _KnownFans,
) -> Recipe:
    """Check what can be checked without a shape, and say how to draw."""

    def at_fans(fan_in: float, fan_out: float) -> Recipe:
        known = _KnownFans(Fans(fan_in, fan_out))
        return scaling_recipe(scale, mode, distribution, known)

    check_nonnegative("scale", scale)
    if mode not in get_args(Mode):
        raise ValueError(f"mode must be one of {get_args(Mode)}, got {mode!r}")
    if callable(distribution):
        draw = functools.partial(_draw_from_sampler, scale, mode, distribution, use)
        return Recipe(draw, check=use.fans, shards=False, at_fans=at_fans)
    if distribution not in get_args(Distribution):
        raise ValueError(
            f"distribution must be one of {get_args(Distribution)} or a sampler "
            f"(key, shape, dtype) -> array of variance 1, got {distribution!r}"
        )
    draw = functools.partial(_draw_as_jax_does, scale, mode, distribution, use)
    return Recipe(draw, check=use.fans, at_fans=at_fans)


def _draw_as_jax_does(
    scale: Any,
    mode: Mode,
    distribution: Distribution,
    use: Any,
    key: Any,
    shape: Shape,
    dtype: np.dtype,
    out_sharding: OutSharding,
) -> jax.Array:
    if use.is_plain:
        init = jax.nn.initializers.variance_scaling(
            scale,
            mode,
            distribution,
            in_axis=use.in_axis,
            out_axis=use.out_axis,
            batch_axis=use.batch_axis,
        )
    else:
        # All axes called batch axes makes a fan of exactly 1, so that JAX's own
        # arithmetic runs on the variance that we say.
        init = jax.nn.initializers.variance_scaling(
            scale / _fan(use.fans(shape), mode),
            "fan_in",
            distribution,
            in_axis=(),
            out_axis=(),
            batch_axis=tuple(range(len(shape))),
        )
    return init(fast_key(key), shape, dtype, out_sharding)


def _draw_from_sampler(
    scale: Any,
    mode: Mode,
    sampler: Sampler,
    use: Any,
    key: Any,
    shape: Shape,
    dtype: np.dtype,
    out_sharding: OutSharding,
) -> jax.Array:
    variance = jnp.asarray(scale / _fan(use.fans(shape), mode), dtype)
    return scaled_by(drawn(sampler, key, shape, dtype), jnp.sqrt(variance))


def _fan(fans: Fans, mode: Mode) -> float:
    if mode == "fan_in":
        return fans.fan_in
    if mode == "fan_out":
        return fans.fan_out
    if mode == "fan_avg":
        return (fans.fan_in + fans.fan_out) / 2
    return math.sqrt(fans.fan_in * fans.fan_out)
