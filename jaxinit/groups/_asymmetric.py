"""Kernels and biases drawn as one matrix, so that ReLU units start alive."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from jaxinit._keys import require_key
from jaxinit.groups._gather import gather
from jaxinit.groups._setting import (
    GroupReport,
    Like,
    Said,
    draw,
    finished,
    likes,
    widened,
)

# Of Beta(2, 1), whose density is 2x on [0, 1].
_MEAN, _SECOND_MOMENT = 2 / 3, 1 / 2

# One entry of a row is positive with these moments, the rest are normal with variance
# σ²/n. Then the mean square behind a ReLU is at most that before it times
# E[p²] + E[p] √(2/π) σ + σ²/2; this is the σ for which that is 1.
_SIGMA = math.sqrt(2 * _MEAN**2 / math.pi + 2 * (1 - _SECOND_MOMENT)) - _MEAN * (
    math.sqrt(2 / math.pi)
)


def randomized_asymmetric(
    params: Any, rules: Any, *, key: Any, stacked_axis: int | None = None
) -> tuple[Any, GroupReport]:
    r"""Draw kernels with their biases so that few ReLU units are born dead.

    For every output one of its n + 1 weights, the bias counted as the last, is drawn
    from Beta(2, 1), all others from a normal distribution:

    .. math:: v_{jk} \sim N(0, σ^2 / n), \qquad v_{j k_j} \sim Beta(2, 1), \quad
        k_j \sim U\{1, \dots, n + 1\}

    with σ = 0.6007, the root of σ²/2 + (2/3) √(2/π) σ + 1/2 = 1, for which the mean
    square of the signal does not grow. A deep and narrow ReLU network is a constant,
    and stays one, with probability 1 in the limit of depth: of ten layers of width 2
    about 88% are with he_normal and zero biases, and about 25% with this.

    Args:
      params: the tree: kernels (..., inputs, outputs), all axes but the last summed,
        and biases (outputs,).
      rules: pairs of a pattern and one of the roles "kernel" and "bias"; leaves with
        equal named groups belong together.
      key: a JAX random key.
      stacked_axis: the axis of scanned layers, in kernel and bias alike.

    Returns:
      ``(params, report)``: a tree of the same kind, and what became of each leaf.

    Raises:
      RuleError: a pattern matches nothing, a partner is missing, or the shapes of the
        two do not fit.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from jaxinit import groups
      >>> params = {"kernel": jnp.zeros((64, 32)), "bias": jnp.zeros(32)}
      >>> rules = [("kernel", "kernel"), ("bias", "bias")]
      >>> new, _ = groups.randomized_asymmetric(params, rules, key=jax.random.key(0))
      >>> rows = jnp.concatenate([new["kernel"], new["bias"][None]])
      >>> bool((rows.max(0) > 0).all())
      True

    Source: Lu, Shin, Su & Karniadakis 2019 (arXiv:1903.06733), section 4.
    """
    key = require_key(key, "to draw kernels and biases")
    flat, groups = gather(params, rules, required=("kernel", "bias"))
    new: dict[Any, Any] = {}
    said: dict[Any, Said] = {}
    for group in groups:
        like = likes(group, stacked_axis)
        kernel, bias = like["kernel"].shape, like["bias"].shape
        if len(kernel) < 2 or bias != kernel[-1:]:
            group.refuse(
                "bias",
                f"has shape {bias}, which does not fit the kernel "
                f"{group.names['kernel'].full!r} of shape {kernel}: give a kernel "
                "(..., inputs, outputs) and a bias (outputs,)",
            )
        new |= draw(_asymmetric, group, like, None, key=key, stacked_axis=stacked_axis)
        factor = _SIGMA / math.sqrt(max(math.prod(kernel[:-1]), 1))
        for role in ("kernel", "bias"):
            said[group.names[role]] = Said("normal, one Beta(2, 1) a unit", factor)
    return finished(
        "randomized_asymmetric", flat, [g.names.values() for g in groups], new, said
    )


def _asymmetric(
    keys: Mapping[str, Any], like: Mapping[str, Like], values: Any, options: Any
) -> dict[str, Any]:
    *summed, units = like["kernel"].shape
    count = math.prod(summed)
    dtype = widened(like["kernel"].dtype)
    weights, places, positive = jax.random.split(keys["kernel"], 3)
    stddev = jnp.asarray(_SIGMA / math.sqrt(max(count, 1)), dtype)
    kernel = stddev * jax.random.normal(weights, (count, units), dtype)
    bias = stddev * jax.random.normal(keys["bias"], (units,), dtype)
    chosen = jax.random.randint(places, (units,), 0, count + 1)
    # The distribution function of Beta(2, 1) is x².
    large = jnp.sqrt(jax.random.uniform(positive, (units,), dtype))
    here = jnp.arange(count)[:, None] == chosen[None, :]
    return {
        "kernel": jnp.where(here, large[None, :], kernel),
        "bias": jnp.where(chosen == count, large, bias),
    }
