"""Networks from coordinates to values: sine layers and random Fourier features."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from jaxinit.initializers._fans import Axes, Use
from jaxinit.initializers._initializer import OutSharding, Recipe, Shape, initializer
from jaxinit.initializers._numbers import check_positive
from jaxinit.initializers._options import check_nonnegative
from jaxinit.initializers._scaling import scaling_recipe


@initializer
def siren(
    *,
    frequency: Any = 30.0,
    first: bool = False,
    in_axis: Axes = -2,
    out_axis: Axes = -1,
    batch_axis: Axes = (),
    dtype: Any = None,
    groups: int = 1,
    strides: int | Sequence[int] = 1,
    transposed: bool = False,
    equation: str | None = None,
):
    r"""Draw the weights of a sine network, whose layers are sin(ω (W x + b)).

    .. math::
        w \sim U(-a, a), \qquad a = \frac{1}{n} \;\text{(first layer)}, \qquad
        a = \frac{1}{ω} \sqrt{\frac{6}{n}} \;\text{(all others)}

    with n the fan_in. Behind the first layer, where ω x sweeps many periods, the sines
    have second moment 1/2, so that ω W x has ω² n (2 / (n ω²)) (1/2) = 1. The sine of
    a normal z of variance q has second moment (1 - exp(-2q)) / 2, so a deep stack
    settles at q = 1 - exp(-2q), which is 0.797: neither exploding nor fading.

    Args:
      frequency: ω, which the *layer* multiplies by; it is not part of the weight.
      first: whether the layer reads the coordinates themselves, in [-1, 1].
      in_axis, out_axis, batch_axis, dtype, groups, strides, transposed, equation: how
        the weight is used, as in :func:`variance_scaling`.

    Example:
      >>> import jax
      >>> weight = siren(frequency=30.0)(jax.random.key(0), (600, 256))
      >>> bool((abs(weight) <= 0.1 / 30).all())
      True
      >>> first = siren(first=True)(jax.random.key(0), (2, 256))
      >>> bool(0.4 < abs(first).max() <= 0.5)
      True

    Source: Sitzmann et al. 2020 (arXiv:2006.09661), section 3.2 and supplement 1.
    """
    check_positive("frequency", frequency)
    use = Use(in_axis, out_axis, batch_axis, groups, strides, transposed, equation)
    if first:
        return Recipe(functools.partial(_draw_first, use), check=use.fans)
    return scaling_recipe(2 / frequency**2, "fan_in", "uniform", use)


def _draw_first(
    use: Use, key: Any, shape: Shape, dtype: np.dtype, out_sharding: OutSharding
) -> jax.Array:
    # The variance of U(-1/n, 1/n) is 1 / (3 n²), one fan more than a scale has.
    scale = 1 / (3 * use.fans(shape).fan_in)
    recipe = scaling_recipe(scale, "fan_in", "uniform", use)
    return recipe.draw(key, shape, dtype, out_sharding)


@initializer
def fourier_features(stddev: Any, dtype: Any = None):
    r"""Draw the frequencies B of random Fourier features, cos(2π x B) and sin(2π x B).

    .. math:: B_{ij} \sim N(0, σ^2), \qquad
        E[\cos 2π(x - y) \cdot b] = \exp(-2 π^2 σ^2 |x - y|^2)

    The right side, the characteristic function of the normal law at 2π(x - y), is the
    kernel that the features induce: Gaussian, of width 1 / (2πσ). So σ is the
    bandwidth, to be tuned to the detail of the signal: too small blurs, too large
    fits noise. B is usually not trained.

    Args:
      stddev: σ, in periods per unit of x; the paper's images, in [0, 1]², have 10.
      dtype: used where the call gives none.

    Example:
      >>> import jax
      >>> frequencies = fourier_features(10.0)(jax.random.key(0), (2, 4096))
      >>> round(float(frequencies.std()) / 10, 1)
      1.0

    Source: Tancik et al. 2020 (arXiv:2006.10739), eqs. 5 and 6 and section 6.1; Rahimi
    & Recht 2007, theorem 1.
    """
    check_nonnegative("stddev", stddev)
    return Recipe(functools.partial(_draw_normal, stddev), accepts="floating")


def _draw_normal(
    stddev: Any, key: Any, shape: Shape, dtype: np.dtype, out_sharding: OutSharding
) -> jax.Array:
    return jax.nn.initializers.normal(stddev)(key, shape, dtype, out_sharding)
