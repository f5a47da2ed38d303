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
    scaled_by,
)
from jaxinit.initializers._options import check_broadcast, check_nonnegative


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


@initializer
def identity(scale: Any = 1.0, dtype: Any = None):
    r"""Pass input i on to output i, times a scale.

    .. math:: w_{ij} = scale \cdot \delta_{ij}

    for a matrix (in, out); one that is not square passes the first min(in, out) inputs
    on and leaves the other outputs at zero. As the recurrent kernel of ReLU units it
    keeps their state over long times; a layer inserted with it into a trained network
    changes nothing. Stacks of matrices are ``stacked(identity())``, fused gates
    ``blocked(identity(), blocks=4)``, convolutions :func:`dirac`.

    Args:
      scale: multiplies the matrix: a number, or an array that broadcasts to the shape.
      dtype: used where the call gives none.

    Raises:
      ValueError: at the call, for a shape that is not (in, out).

    Example:
      >>> import jax
      >>> print(identity(0.5)(jax.random.key(0), (2, 3)))
      [[0.5 0.  0. ]
       [0.  0.5 0. ]]

    Source: Le et al. 2015 (arXiv:1504.00941), section 2.
    """
    check_nonnegative("scale", scale)
    return Recipe(
        functools.partial(_draw_identity, scale),
        check=functools.partial(_check_matrix, np.shape(scale)),
        shards=False,
    )


def _check_matrix(scale_shape: Shape, shape: Shape):
    if len(shape) != 2:
        raise ValueError(
            f"identity needs a shape (in, out) of 2 axes, got {shape}; write "
            "stacked(identity()) for a stack of matrices, dirac() for a convolution"
        )
    check_broadcast("scale", scale_shape, shape)


def _draw_identity(
    scale: Any, key: Any, shape: Shape, dtype: np.dtype, out_sharding: OutSharding
) -> jax.Array:
    scale = jnp.broadcast_to(jnp.asarray(scale, dtype), shape)
    return scaled_by(jnp.eye(*shape, dtype=dtype), scale)


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
