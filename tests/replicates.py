"""One checker for everything that is measured: independent replicates, Student's t.

A replicate draws its own weights and its own inputs and reports one number (or one per
layer). Whatever makes that number fluctuate, weights and inputs alike, is then in the
spread of the replicates, and the bound needs no model of it.
"""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from scipy import stats

FAILURE_RATE = 1e-6
# Half-width relative to the expected value: a factor of 1.25 either way, seen with an
# interval at most this wide, leaves the bound with the probability 1 - FAILURE_RATE.
SENSITIVITY = 0.1


# Small layers run at once and compile for seconds; unoptimized code computes the same.
UNOPTIMIZED = {"xla_backend_optimization_level": 0}


def replicate(measure: Callable[..., Any], count: int, *inputs: Any) -> Any:
    """What `measure(key, *inputs)` returns for independent replicates, in float64.

    One compiled program runs over the replicates one after the other: convolutions with
    a kernel of their own each would be slow as a batch.

    Args:
      measure: a function of a key and of one replicate of each of the inputs.
      count: how many replicates.
      *inputs: arrays with a leading axis of size `count`.
    """

    def run(keys, *inputs):
        return jax.lax.map(lambda one: measure(*one), (keys, *inputs))

    keys = jax.random.split(jax.random.key(0), count)
    results = jax.jit(run, compiler_options=UNOPTIMIZED)(keys, *inputs)
    return jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), results)


def second_moment(values: jax.Array) -> jax.Array:
    """The mean square of all entries."""
    return jnp.mean(jnp.square(values))


def half_width(values: np.ndarray, failure_rate: float = FAILURE_RATE) -> np.ndarray:
    """How far the mean of the replicates may be from its expectation.

    Student's two-sided bound: replicates are means over hundreds of products, near
    enough to normal draws with a spread that is not known.
    """
    count = len(values)
    quantile = stats.t.isf(failure_rate / 2, count - 1)
    return quantile * values.std(axis=0, ddof=1) / math.sqrt(count)


def assert_mean(
    values: np.ndarray,
    expected: float,
    *,
    failure_rate: float = FAILURE_RATE,
    sensitivity: float = SENSITIVITY,
) -> None:
    """Check that independent `values` have the expectation `expected`.

    Args:
      values: one replicate per row; further axes are checked each on its own.
      expected: the exact expectation.
      failure_rate: how often a true claim may fail for a fresh seed, for each entry.
      sensitivity: the widest bound accepted, relative to `expected`, so that a check
        that could not tell right from wrong fails instead of passing.

    Raises:
      AssertionError: the mean is outside the bound, or the bound is too wide.
    """
    mean, width = values.mean(axis=0), half_width(values, failure_rate)
    # The spread goes with the mean, so the bound is read at the expected value.
    relative = np.max(width / np.abs(mean))
    assert relative <= sensitivity, (
        f"the bound is ±{relative:.1%} wide, more than {sensitivity:.0%}: take more "
        "replicates or larger layers"
    )
    assert np.all(np.abs(mean - expected) <= width), (
        f"measured {mean} ± {width}, expected {expected}"
    )
