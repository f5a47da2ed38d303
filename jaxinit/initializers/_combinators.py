"""Initializer -> initializer: scaled, stacked, blocked."""

from __future__ import annotations

import dataclasses
import functools
import math
import operator
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxinit.initializers._initializer import (
    Initializer,
    OutSharding,
    Recipe,
    Shape,
    drawn,
    initializer,
    scaled_by,
)
from jaxinit.initializers._options import check_broadcast

Base = Callable[..., jax.Array]


@initializer
def scaled(base: Base, factor: Any):
    r"""Multiply what another initializer draws.

    .. math:: w = factor \cdot base

    so the variance becomes factor² times as large; the usual residual scaling at
    depth L is ``scaled(base, (2 * L) ** -0.5)``.

    Args:
      base: any initializer ``(key, shape, dtype) -> array``.
      factor: a number, or an array that broadcasts to the shape.

    Example:
      >>> import jax
      >>> init = scaled(jax.nn.initializers.ones, 0.5)
      >>> print(init(jax.random.key(0), (3,)))
      [0.5 0.5 0.5]

    Source: Radford et al. 2019 (GPT-2), section 2.3, for the use on residual layers.
    """
    check_base("scaled", base)
    recipe = over(
        base,
        functools.partial(_draw_scaled, base, factor),
        functools.partial(_check_factor, base, np.shape(factor)),
    )
    if recipe.accepts != "any":
        return recipe
    # An integer constant times a factor would be rounded without a word.
    return dataclasses.replace(recipe, accepts="inexact")


@initializer
def stacked(base: Base, *, axis: int = 0):
    r"""Draw independent weights, one for each index of an axis.

    The weights of scanned layers, of experts, or of an ensemble share one array; each
    of them is drawn as `base` draws it alone, from its own key (the keys of
    ``jax.random.split``), so that the stacking axis takes no part in any fan.

    Args:
      base: any initializer; it sees the shape without the axis.
      axis: the axis that stacks.

    Raises:
      ValueError: at the call, for a shape that does not have the axis.

    Example:
      >>> import jax
      >>> weight = stacked(lecun_normal())(jax.random.key(0), (12, 256, 256))
      >>> round(float(weight.std()) * 16, 1)  # sqrt(1 / 256), whatever the 12
      1.0

    Source: the definition of ``jax.vmap`` over keys; see also ``batch_axis``.
    """
    check_base("stacked", base)
    return over(
        base,
        functools.partial(_draw_stacked, base, axis),
        functools.partial(_check_stack, base, axis),
    )


@initializer
def blocked(base: Base, *, blocks: int | Sequence[int], axis: int = -1):
    r"""Draw the blocks of a fused weight independently, each as if it stood alone.

    Query, key and value in one kernel, the gates of a recurrent cell, or the batch of a
    flattened ``DenseGeneral(batch_dims=...)`` are several weights laid side by side.
    Drawn as one they get one fan (or one orthogonality) too few: the fused recurrent
    kernel (H, 4 H) of an LSTM has no orthogonal gate, unless it is drawn as
    ``blocked(orthogonal(), blocks=4)`` (of a GRU, with 3 blocks).

    Args:
      base: any initializer; it sees the shape of one block.
      blocks: how many equal blocks, or the size of each.
      axis: the axis along which they lie.

    Raises:
      ValueError: at the call, for an axis that the blocks do not fill exactly.

    Example:
      >>> import jax
      >>> fused = blocked(glorot_uniform(), blocks=3)  # query, key, value
      >>> weight = fused(jax.random.key(0), (128, 3 * 128))
      >>> bound = (6 / (128 + 128)) ** 0.5
      >>> bool(0.99 * bound < abs(weight).max() <= bound)
      True

    Source: the packed projections of Vaswani et al. 2017 (arXiv:1706.03762), section
    3.2.2, taken as the separate matrices that they are.
    """
    check_base("blocked", base)
    sizes = blocks if isinstance(blocks, Sequence) else (blocks,)
    try:
        positive = all(operator.index(size) >= 1 for size in sizes) and len(sizes) > 0
    except TypeError:
        raise TypeError(
            f"blocks must be a number of blocks or their sizes, got {blocks!r}"
        ) from None
    if not positive:
        raise ValueError(f"blocks must be at least 1, got {blocks!r}")
    return over(
        base,
        functools.partial(_draw_blocked, base, blocks, axis),
        functools.partial(_check_blocks, base, blocks, axis),
    )


def over(
    base: Base, draw: Callable[..., jax.Array], check: Callable[[Shape], object]
) -> Recipe:
    """A recipe that asks for what its base can give."""
    accepts = base.accepts if isinstance(base, Initializer) else "inexact"
    return Recipe(draw, check, accepts, shards=False)


def check_base(name: str, base: object):
    if not callable(base):
        raise TypeError(
            f"base of {name} must be an initializer (key, shape, dtype) -> array, "
            f"got {base!r}"
        )


# ---------------------------------------------------------------------------- scaled


def _check_factor(base: Base, factor_shape: Shape, shape: Shape):
    check_broadcast("factor", factor_shape, shape)
    if isinstance(base, Initializer):
        base.check_shape(shape)


def _draw_scaled(
    base: Base, factor: Any, key: Any, shape: Shape, dtype: np.dtype, _: OutSharding
) -> jax.Array:
    factor = jnp.broadcast_to(jnp.asarray(factor, dtype), shape)
    return scaled_by(drawn(base, key, shape, dtype), factor)


# --------------------------------------------------------------------------- stacked


def _check_stack(base: Base, axis: int, shape: Shape):
    _without(shape, axis, "stacked")
    if isinstance(base, Initializer):
        base.check_shape(_without(shape, axis, "stacked"))


def _without(shape: Shape, axis: int, name: str) -> Shape:
    if not -len(shape) <= axis < len(shape):
        raise ValueError(f"axis {axis} of {name} does not exist in shape {shape}")
    return tuple(np.delete(np.asarray(shape, dtype=int), axis).tolist())


def _draw_stacked(
    base: Base, axis: int, key: Any, shape: Shape, dtype: np.dtype, _: OutSharding
) -> jax.Array:
    one = _without(shape, axis, "stacked")
    keys = jax.random.split(key, shape[axis])
    weights = jax.vmap(lambda key: drawn(base, key, one, dtype))(keys)
    return jnp.moveaxis(weights, 0, axis)


# --------------------------------------------------------------------------- blocked


def _check_blocks(base: Base, blocks: int | Sequence[int], axis: int, shape: Shape):
    for one in set(_block_shapes(blocks, axis, shape)):
        if isinstance(base, Initializer):
            base.check_shape(one)


def _block_shapes(
    blocks: int | Sequence[int], axis: int, shape: Shape
) -> tuple[Shape, ...]:
    rest = _without(shape, axis, "blocked")
    size, axis = shape[axis], axis % len(shape)
    if isinstance(blocks, Sequence):
        sizes = tuple(blocks)
    else:
        sizes = (size // blocks,) * blocks
    if sum(sizes) != size:
        wanted = (
            f"sizes {sizes}" if isinstance(blocks, Sequence) else f"{blocks} blocks"
        )
        raise ValueError(
            f"{wanted} do not fill axis {axis} of shape {shape}, which has size {size}"
        )
    return tuple((*rest[:axis], one, *rest[axis:]) for one in sizes)


def _draw_blocked(
    base: Base,
    blocks: int | Sequence[int],
    axis: int,
    key: Any,
    shape: Shape,
    dtype: np.dtype,
    _: OutSharding,
) -> jax.Array:
    shapes = _block_shapes(blocks, axis, shape)
    keys = jax.random.split(key, len(shapes))
    if len(set(shapes)) > 1:
        drawn_apart = [
            drawn(base, keys[index], one, dtype)
            if math.prod(one)
            else jnp.zeros(one, dtype)
            for index, one in enumerate(shapes)
        ]
        return jnp.concatenate(drawn_apart, axis)
    weights = jax.vmap(lambda key: drawn(base, key, shapes[0], dtype))(keys)
    return jnp.reshape(jnp.moveaxis(weights, 0, axis % len(shape)), shape)
