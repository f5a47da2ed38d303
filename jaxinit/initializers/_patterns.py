"""Initializers that draw nothing: the values are said."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxinit.initializers._initializer import (
    Initializer,
    OutSharding,
    Recipe,
    Shape,
    initializer,
    named,
)
from jaxinit.initializers._options import check_broadcast


@initializer
def constant(value: Any, dtype: Any = None):
    r"""Fill with one value.

    Args:
      value: a number, or an array that broadcasts to the shape.
      dtype: used where the call gives none; integer and boolean dtypes are legal.

    Raises:
      ValueError: at the call, for an array that does not broadcast to the shape.

    Example:
      >>> import jax
      >>> print(constant(0.1)(jax.random.key(0), (3,)))
      [0.1 0.1 0.1]

    Source: ``jax.nn.initializers.constant``.
    """
    return Recipe(
        functools.partial(_filled, value),
        check=functools.partial(check_broadcast, "value", np.shape(value)),
        accepts="any",
    )


def _filled(
    value: Any, key: Any, shape: Shape, dtype: np.dtype, out_sharding: OutSharding
) -> jax.Array:
    return jax.nn.initializers.constant(value)(key, shape, dtype, out_sharding)


def zeros_init() -> Initializer:
    """Return :data:`zeros`; Flax's spelling.

    Example:
      >>> zeros_init() is zeros
      True
    """
    return zeros


def ones_init() -> Initializer:
    """Return :data:`ones`; Flax's spelling.

    Example:
      >>> ones_init() is ones
      True
    """
    return ones


def _zeros(key: Any, shape: Shape, dtype: np.dtype, out_sharding: OutSharding):
    return jnp.zeros(shape, dtype, out_sharding=out_sharding)


def _ones(key: Any, shape: Shape, dtype: np.dtype, out_sharding: OutSharding):
    return jnp.ones(shape, dtype, out_sharding=out_sharding)


# Not builders but initializers: ``kernel_init=zeros``, without a call.
zeros = named("zeros", zeros_init, Recipe(_zeros, accepts="any"))
ones = named("ones", ones_init, Recipe(_ones, accepts="any"))
