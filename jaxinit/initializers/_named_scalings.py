"""The named points of variance scaling: LeCun, Glorot (Xavier), He (Kaiming)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from jaxinit.initializers._fans import Axes, Use
from jaxinit.initializers._initializer import initializer
from jaxinit.initializers._scaling import Distribution, Mode, scaling_recipe


def _named_point(name: str, scale: float, mode: Mode, distribution: Distribution, doc):
    """variance_scaling at one point, with JAX's positional order of the options."""

    def build(
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
        use = Use(in_axis, out_axis, batch_axis, groups, strides, transposed, equation)
        return scaling_recipe(scale, mode, distribution, use)

    build.__name__ = build.__qualname__ = name
    build.__doc__ = (
        doc
        + f"""
    The options say how the weight is used, as in :func:`variance_scaling`, of which
    this is ``variance_scaling({scale}, {mode!r}, {distribution!r})``.
    """
    )
    return initializer(build)


lecun_normal = _named_point(
    "lecun_normal",
    1.0,
    "fan_in",
    "truncated_normal",
    r"""Truncated normal with variance 1 / fan_in: for linear units; Flax's default.

    Example:
      >>> import jax
      >>> weight = lecun_normal()(jax.random.key(0), (1024, 256))
      >>> round(float(weight.var()) * 1024, 1)
      1.0

    Source: LeCun et al. 1998, "Efficient BackProp", section 4.6; Klambauer et al. 2017
    (arXiv:1706.02515).
    """,
)

lecun_uniform = _named_point(
    "lecun_uniform",
    1.0,
    "fan_in",
    "uniform",
    r"""Uniform on ±sqrt(3 / fan_in), variance 1 / fan_in: for linear units and SELU.

    Example:
      >>> import jax
      >>> weight = lecun_uniform()(jax.random.key(0), (300, 64))
      >>> bool((abs(weight) <= 0.1).all())
      True

    Source: LeCun et al. 1998, "Efficient BackProp", section 4.6.
    """,
)

glorot_normal = _named_point(
    "glorot_normal",
    1.0,
    "fan_avg",
    "truncated_normal",
    r"""Truncated normal with variance 2 / (fan_in + fan_out): for tanh and attention.

    Forward, the signal asks for 1 / fan_in; backward, the gradient for 1 / fan_out;
    this is the compromise, also known as Xavier.

    Example:
      >>> import jax
      >>> weight = glorot_normal()(jax.random.key(0), (768, 256))
      >>> round(float(weight.var()) * 512, 1)
      1.0

    Source: Glorot & Bengio 2010, eq. 12.
    """,
)

glorot_uniform = _named_point(
    "glorot_uniform",
    1.0,
    "fan_avg",
    "uniform",
    r"""Uniform on ±sqrt(6 / (fan_in + fan_out)): for tanh and attention; also Xavier.

    Example:
      >>> import jax
      >>> weight = glorot_uniform()(jax.random.key(0), (400, 200))
      >>> bool((abs(weight) <= 0.1).all())
      True

    Source: Glorot & Bengio 2010, eq. 16.
    """,
)

he_normal = _named_point(
    "he_normal",
    2.0,
    "fan_in",
    "truncated_normal",
    r"""Truncated normal with variance 2 / fan_in: for ReLU; also known as Kaiming.

    ReLU passes half of the second moment, the 2 gives it back. For another activation
    f, use ``variance_scaling(gain(f) ** 2, "fan_in", "truncated_normal")``.

    Example:
      >>> import jax
      >>> weight = he_normal()(jax.random.key(0), (3, 3, 64, 128))
      >>> round(float(weight.var()) * 3 * 3 * 64, 1)
      2.0

    Source: He et al. 2015 (arXiv:1502.01852), eq. 10.
    """,
)

he_uniform = _named_point(
    "he_uniform",
    2.0,
    "fan_in",
    "uniform",
    r"""Uniform on ±sqrt(6 / fan_in), variance 2 / fan_in: for ReLU; also Kaiming.

    Example:
      >>> import jax
      >>> weight = he_uniform()(jax.random.key(0), (600, 64))
      >>> bool((abs(weight) <= 0.1).all())
      True

    Source: He et al. 2015 (arXiv:1502.01852), eq. 10.
    """,
)

kaiming_normal = he_normal
kaiming_uniform = he_uniform
xavier_normal = glorot_normal
xavier_uniform = glorot_uniform
