"""The loss of an audit that is given none: outputs with constant random signs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

# The first two words of the fraction of pi: nothing up our sleeve.
DEFAULT_SEED = 0x243F6A88


def probe_loss(results: Sequence[Any], seed: Any) -> Any:
    r"""The sum of all outputs, each with a random sign.

    .. math:: L = \sum_i s_i y_i, \qquad s_i = \pm 1

    So the gradient with respect to the outputs has mean square 1, no labels are needed,
    and two audits of one model look in the same direction. The sign of element i of
    output k is a bit of a hash of (i, k, seed).

    Raises:
      ValueError: no output is an array of floating numbers.
    """
    total, found = jnp.zeros((), jnp.float32), False
    for number, result in enumerate(results):
        if not jnp.issubdtype(jnp.result_type(result), jnp.inexact):
            continue
        found = True
        value = jnp.asarray(result)
        parts = [value.real, value.imag] if jnp.iscomplexobj(value) else [value]
        for place, part in enumerate(parts):
            signs = _signs(part.shape, seed, 2 * number + place)
            total += jnp.sum(part.astype(jnp.float32) * signs)
    if not found:
        raise ValueError(
            "f returns no array of floating numbers, so that there is no gradient to "
            "measure; return the logits, or what the loss is made of"
        )
    return total


def seed_of(key: Any) -> Any:
    """A seed from a key of the caller's, or the constant one."""
    if key is None:
        return jnp.uint32(DEFAULT_SEED)
    return jax.random.bits(key, (), jnp.uint32)


def _signs(shape: Sequence[int], seed: Any, number: int) -> Any:
    """Signs without a generator: compiled in no time, and they take no memory."""
    index = jnp.broadcast_to(seed + jnp.uint32(number * 0x9E3779B9 % 2**32), shape)
    for axis in range(len(shape)):
        stride = jnp.uint32(math.prod(shape[axis + 1 :]) % 2**32)
        index += lax.broadcasted_iota(jnp.uint32, shape, axis) * stride
    # The finalizer of MurmurHash3, by Austin Appleby, in the public domain.
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):
        index = (index ^ (index >> jnp.uint32(shift))) * jnp.uint32(factor)
    index ^= index >> jnp.uint32(16)
    return 1.0 - 2.0 * (index & jnp.uint32(1)).astype(jnp.float32)
