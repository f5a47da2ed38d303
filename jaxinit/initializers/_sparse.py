"""Initializer -> initializer: most inputs of a unit switched off."""

from __future__ import annotations

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxinit.initializers._combinators import Base, check_base, over
from jaxinit.initializers._initializer import (
    Initializer,
    OutSharding,
    Shape,
    drawn,
    initializer,
)
from jaxinit.initializers._options import check_rank


@initializer
def sparse(base: Base, *, sparsity: float):
    r"""Set the same number of inputs of every unit to zero, at random places.

    With n the inputs of a unit (every axis but the last, flattened), each column of the
    weight keeps what `base` draws except at

    .. math:: \lceil sparsity \cdot n \rceil

    entries, which are zero; every set of so many entries is equally likely, and columns
    are independent. The variance of a column is (1 - that share) of what it was: for
    k connections of variance v each, ``sparse(normal(v**0.5), sparsity=1 - k / n)``.

    Args:
      base: any initializer, drawn from one half of the key; the places are drawn from
        the other (``jax.random.split``).
      sparsity: the share of zeros, at least 0 and below 1. A product that is a whole
        number up to rounding (0.07 · 100) counts as that number.

    Raises:
      ValueError: at the call, for a shape of fewer than two axes, or if no input of a
        unit would be left.

    Example:
      >>> import jax
      >>> weight = sparse(normal(1.0), sparsity=0.9)(jax.random.key(0), (150, 4))
      >>> print((weight != 0).sum(axis=0))
      [15 15 15 15]

    Source: Martens 2010, "Deep learning via Hessian-free optimization", section 5 (15
    connections of variance 1 for each unit).
    """
    check_base("sparse", base)
    _check_sparsity(sparsity)
    return over(
        base,
        functools.partial(_draw_sparse, base, sparsity),
        functools.partial(_check_inputs, base, sparsity),
    )


def _check_sparsity(sparsity: Any):
    try:
        share = float(sparsity)
    except (TypeError, ValueError):
        raise TypeError(f"sparsity must be a number, got {sparsity!r}") from None
    if not 0 <= share < 1:
        raise ValueError(
            f"sparsity must be at least 0 and below 1, got {sparsity!r}; it is the "
            "share of the inputs of each unit that is zero"
        )


def _check_inputs(base: Base, sparsity: float, shape: Shape):
    check_rank(shape, 2, "sparse", "a vector has no inputs to choose from")
    inputs = math.prod(shape[:-1])
    if inputs and _zeros(sparsity, inputs) == inputs:
        raise ValueError(
            f"sparsity {sparsity} leaves none of the {inputs} inputs of each unit in a "
            f"weight of shape {shape}"
        )
    if isinstance(base, Initializer):
        base.check_shape(shape)


def _zeros(sparsity: float, inputs: int) -> int:
    product = float(sparsity) * inputs
    whole = round(product)
    return whole if math.isclose(product, whole, rel_tol=1e-12) else math.ceil(product)


def _draw_sparse(
    base: Base,
    sparsity: float,
    key: jax.Array,
    shape: Shape,
    dtype: np.dtype,
    _: OutSharding,
) -> jax.Array:
    value_key, place_key = jax.random.split(key)
    inputs = math.prod(shape[:-1])
    first = jnp.arange(inputs) < _zeros(sparsity, inputs)
    # Columns are shuffled each on its own, by sorting random bits.
    switched_off = jax.random.permutation(
        place_key,
        jnp.broadcast_to(first[:, None], (inputs, shape[-1])),
        independent=True,
    )
    values = drawn(base, value_key, shape, dtype)
    return jnp.where(jnp.reshape(switched_off, shape), jnp.zeros((), dtype), values)
