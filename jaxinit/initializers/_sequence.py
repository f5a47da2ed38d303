"""Linear recurrences: the decays, phases and step sizes that they start from.

These leaves are rates and their logarithms, not weights: their values *are* the time
scales of the model. Keep them in float32 (``param_dtype``), out of weight decay and out
of any rule that draws kernels again. Narrow dtypes are granted, because a model that
asks for bfloat16 throughout must be able to start, but they blur the spectrum.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from jaxinit.initializers._fans import Axes, Use
from jaxinit.initializers._initializer import OutSharding, Recipe, Shape, initializer
from jaxinit.initializers._numbers import (
    check_increasing,
    check_number,
    check_positive,
    logarithm,
    open_uniform,
)
from jaxinit.initializers._options import check_nonnegative
from jaxinit.initializers._scaling import scaling_recipe

# ------------------------------------------------------------------------------- LRU


@initializer
def lru_nu(r_min: Any = 0.0, r_max: Any = 1.0, dtype: Any = None):
    r"""Draw the decays of a linear recurrent unit, with eigenvalues even over a ring.

    .. math::
        |λ| = \exp(-\exp w), \qquad w = \log\Bigl(-\frac{1}{2}
        \log\bigl(r_{min}^2 + u (r_{max}^2 - r_{min}^2)\bigr)\Bigr),
        \quad u \sim U(0, 1)

    so ``|λ|²`` is uniform on [r_min², r_max²], and with a uniform phase
    (:func:`lru_theta`) λ is uniform over the area of the ring. Long memories need r_max
    (and r_min) near 1. The input normalization ``√(1 - |λ|²)`` is computed from this
    leaf, not drawn. Keep it in float32: in bfloat16 the neighbours of a memory of 999
    steps, ``1 / (1 - |λ|)``, are 968 and 1031.

    Args:
      r_min: the inner radius, 0 or more.
      r_max: the outer radius, at most 1.
      dtype: used where the call gives none.

    Raises:
      ValueError: at once, for radii outside [0, 1] or not in order.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> radius = jnp.exp(-jnp.exp(lru_nu(0.9, 0.999)(jax.random.key(0), (64,))))
      >>> bool(((0.9 <= radius) & (radius <= 0.999001)).all())
      True

    Source: Orvieto et al. 2023 (arXiv:2303.06349), lemma 3.2 and section 3.4.
    """
    _check_radius("r_min", r_min)
    _check_radius("r_max", r_max)
    check_increasing(r_min=r_min, r_max=r_max)
    return Recipe(functools.partial(_draw_nu, r_min, r_max), accepts="floating")


@initializer
def lru_theta(max_phase: Any = 2 * np.pi, dtype: Any = None):
    r"""Draw the logarithms of the phases of a linear recurrent unit.

    .. math:: \arg λ = \exp(w), \qquad w = \log(θ_{max} u), \quad u \sim U(0, 1)

    Args:
      max_phase: the largest phase; small ones (π / 10) favour slow oscillations, which
        long sequences need.
      dtype: used where the call gives none. Narrow ones blur the spectrum.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> phase = jnp.exp(lru_theta(0.3)(jax.random.key(0), (64,)))
      >>> bool(((0 < phase) & (phase <= 0.3001)).all())
      True

    Source: Orvieto et al. 2023 (arXiv:2303.06349), lemma 3.2 and section 3.4.
    """
    check_positive("max_phase", max_phase)
    return Recipe(functools.partial(_draw_theta, max_phase), accepts="floating")


# ----------------------------------------------------------------------------- Mamba


@initializer
def mamba_dt_bias(
    dt_min: Any = 1e-3, dt_max: Any = 0.1, dt_floor: Any = 1e-4, dtype: Any = None
):
    r"""Draw the biases from which softplus makes Mamba's step sizes.

    .. math::
        b = \mathrm{softplus}^{-1}(Δ), \qquad
        \log Δ \sim U(\log Δ_{min}, \log Δ_{max}), \quad Δ \ge Δ_{floor}

    so that the steps, and with them the time scales, are even in the logarithm. The
    paper writes a uniform Δ; its code, like S4 before it, takes the uniform logarithm.

    Args:
      dt_min: the shortest step.
      dt_max: the longest step.
      dt_floor: below which no step goes, whatever `dt_min`.
      dtype: used where the call gives none. Narrow ones blur the steps.

    Raises:
      ValueError: at once, for steps that are not positive or not in order.

    Example:
      >>> import jax
      >>> steps = jax.nn.softplus(mamba_dt_bias()(jax.random.key(0), (512,)))
      >>> bool(((0.00099 < steps) & (steps < 0.101)).all())
      True

    Source: Gu & Dao 2023 (arXiv:2312.00752), section 3.6, and its authors' code.
    """
    check_positive("dt_min", dt_min)
    check_positive("dt_max", dt_max)
    check_increasing(dt_min=dt_min, dt_max=dt_max)
    check_number("dt_floor", dt_floor)
    check_nonnegative("dt_floor", dt_floor)
    draw = functools.partial(_draw_steps, dt_min, dt_max, dt_floor)
    return Recipe(draw, accepts="floating")


@initializer
def mamba_dt_projection(
    *,
    in_axis: Axes = -2,
    out_axis: Axes = -1,
    batch_axis: Axes = (),
    dtype: Any = None,
    equation: str | None = None,
):
    r"""Draw the kernel that widens Mamba's low-rank step sizes to all channels.

    .. math:: w \sim U(-a, a), \qquad a = \frac{1}{\sqrt{rank}}

    The rank is the fan_in of the kernel (rank, channels). What it adds to the bias
    (:func:`mamba_dt_bias`) has a third of the second moment of its input.

    Args:
      in_axis, out_axis, batch_axis, dtype, equation: how the weight is used, as in
        :func:`variance_scaling`.

    Example:
      >>> import jax
      >>> kernel = mamba_dt_projection()(jax.random.key(0), (16, 512))
      >>> bool((abs(kernel) <= 0.25).all())
      True

    Source: Gu & Dao 2023 (arXiv:2312.00752), section 3.6, and its authors' code.
    """
    use = Use(in_axis, out_axis, batch_axis, equation=equation)
    return scaling_recipe(1 / 3, "fan_in", "uniform", use)


# --------------------------------------------------------------------------- drawing


def _draw_nu(
    r_min: Any,
    r_max: Any,
    key: Any,
    shape: Shape,
    dtype: np.dtype,
    out_sharding: OutSharding,
) -> jax.Array:
    # |λ|² = r_max² (1 - share · u), which keeps the digits of |λ| near 1.
    share = jnp.asarray((r_max - r_min) * (r_max + r_min) / r_max**2, dtype)
    outermost = jnp.asarray(2 * logarithm(r_max), dtype)
    inward = jnp.log1p(-share * open_uniform(key, shape, dtype, out_sharding))
    return jnp.log(-(outermost + inward) / 2)


def _draw_theta(
    max_phase: Any, key: Any, shape: Shape, dtype: np.dtype, out_sharding: OutSharding
) -> jax.Array:
    share = open_uniform(key, shape, dtype, out_sharding)
    return jnp.log(share * jnp.asarray(max_phase, dtype))


def _draw_steps(
    dt_min: Any,
    dt_max: Any,
    dt_floor: Any,
    key: Any,
    shape: Shape,
    dtype: np.dtype,
    out_sharding: OutSharding,
) -> jax.Array:
    shortest, floor = (jnp.asarray(option, dtype) for option in (dt_min, dt_floor))
    decades = jnp.asarray(logarithm(dt_max / dt_min), dtype)
    share = jax.random.uniform(key, shape, dtype, out_sharding=out_sharding)
    steps = jnp.maximum(shortest * jnp.exp(share * decades), floor)
    # log(exp(Δ) - 1), the inverse of softplus, for steps of every size.
    return steps + jnp.log(-jnp.expm1(-steps))


def _check_radius(argument: str, value: Any):
    check_number(argument, value)
    if not isinstance(value, Tracer) and not 0 <= value <= 1:
        raise ValueError(f"{argument} must lie between 0 and 1, got {value!r}")
