"""Draws whose scale is given outright, not derived from a shape."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.core import Tracer

from jaxinit._threefry import fast_key
from jaxinit.initializers._initializer import (
    OutSharding,
    Recipe,
    Shape,
    initializer,
)
from jaxinit.initializers._options import check_nonnegative


def _from_jax(
    build: Callable[..., Any],
    key: Any,
    shape: Shape,
    dtype: np.dtype,
    out_sharding: OutSharding,
) -> jax.Array:
    return build()(fast_key(key), shape, dtype, out_sharding)


@initializer
def uniform(scale: Any = 1e-2, dtype: Any = None):
    r"""Draw uniformly from [0, scale).

    The interval is JAX's, and one-sided: its mean is scale / 2. For an interval around
    zero use ``variance_scaling(..., "uniform")`` or a name that ends in ``_uniform``.

    Args:
      scale: the upper end of the interval.
      dtype: used where the call gives none.

    Example:
      >>> import jax
      >>> weight = uniform(2.0)(jax.random.key(0), (1000,))
      >>> 0.0 <= float(weight.min()) and float(weight.max()) < 2.0
      True

    Source: ``jax.nn.initializers.uniform``, whose draws these are.
    """
    check_nonnegative("scale", scale)
    build = functools.partial(jax.nn.initializers.uniform, scale)
    return Recipe(functools.partial(_from_jax, build), accepts="floating")


@initializer
def normal(stddev: Any = 1e-2, dtype: Any = None):
    r"""Draw from a normal distribution N(0, stddev²).

    Args:
      stddev: the standard deviation; for complex dtypes the root of E|w|².
      dtype: used where the call gives none.

    Example:
      >>> import jax
      >>> weight = normal(0.02)(jax.random.key(0), (512, 512))
      >>> round(float(weight.std()), 3)
      0.02

    Source: ``jax.nn.initializers.normal``, whose draws these are.
    """
    check_nonnegative("stddev", stddev)
    build = functools.partial(jax.nn.initializers.normal, stddev)
    return Recipe(functools.partial(_from_jax, build))


@initializer
def truncated_normal(
    stddev: Any = 1e-2, dtype: Any = None, lower: Any = -2.0, upper: Any = 2.0
):
    r"""Draw from N(0, stddev²) cut to lower · stddev < w < upper · stddev.

    As in JAX, `stddev` is that of the distribution *before* the cut: at ±2 the result
    has 0.8796 of it. ``variance_scaling`` corrects for that, this function does not.

    Args:
      stddev: the standard deviation before the cut.
      dtype: used where the call gives none.
      lower: the lower end, in units of `stddev`.
      upper: the upper end, in units of `stddev`.

    Example:
      >>> import jax
      >>> weight = truncated_normal(1.0)(jax.random.key(0), (256, 256))
      >>> round(float(weight.std()), 2), bool((abs(weight) < 2.0).all())
      (0.88, True)

    Source: ``jax.nn.initializers.truncated_normal``, whose draws these are.
    """
    check_nonnegative("stddev", stddev)
    concrete = not any(isinstance(end, Tracer) for end in (lower, upper))
    if concrete and not np.all(np.asarray(lower) < np.asarray(upper)):
        raise ValueError(f"lower must be below upper, got {lower!r} and {upper!r}")
    build = functools.partial(
        jax.nn.initializers.truncated_normal, stddev, lower=lower, upper=upper
    )
    return Recipe(functools.partial(_from_jax, build), accepts="floating")
