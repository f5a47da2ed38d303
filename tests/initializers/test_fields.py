"""Sine networks keep their signal, Fourier features induce their kernel."""

import math
import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from replicates import assert_mean, second_moment
from scipy import special

from jaxinit import initializers

KEY = jax.random.key(0)
FREQUENCY = 30.0


def replicate(measure, count):
    """What `measure` returns for independent keys; its operations compile only once."""
    rows = [jnp.asarray(measure(key)) for key in jax.random.split(KEY, count)]
    return np.stack(rows).astype(np.float64)


# ----------------------------------------------------------------------------- siren


class Sines(nn.Module):
    """Sine layers of one width; returns what each hands to its sine."""

    kernel_init: object
    depth: int = 4

    @nn.compact
    def __call__(self, hidden):
        seen = []
        for _ in range(self.depth):
            dense = nn.Dense(hidden.shape[-1], kernel_init=self.kernel_init)
            seen.append(FREQUENCY * dense(hidden))
            hidden = jnp.sin(seen[-1])
        return jnp.stack(seen)


def phases(init, count=24):
    """Mean squares of ω W x in each layer, behind arcsine-distributed activations."""
    module = Sines(init)

    def measure(key):
        first, second = jax.random.split(key)
        inputs = jnp.sin(jax.random.uniform(first, (32, 256), maxval=2 * jnp.pi))
        seen = module.apply(module.init(second, inputs), inputs)
        return jnp.mean(seen**2, axis=(1, 2))

    return replicate(measure, count)


def expected_phases(depth=4):
    """q = 1 behind an arcsine, and q' = 2 E[sin(z)²] = 1 - exp(-2q) ever after."""
    moments = [1.0]
    while len(moments) < depth:
        moments.append(1 - math.exp(-2 * moments[-1]))
    return np.asarray(moments)


def test_a_deep_sine_network_neither_explodes_nor_fades():
    measured = phases(initializers.siren(frequency=FREQUENCY))
    assert_mean(measured / expected_phases(), 1.0, sensitivity=0.05)


def test_the_signal_settles_where_the_docstring_says():
    assert abs(expected_phases(60)[-1] - 0.797) < 5e-4


@pytest.mark.parametrize(
    "init",
    [initializers.siren(frequency=33.0), initializers.he_uniform()],
    ids=repr,
)
def test_weights_for_another_frequency_would_be_noticed(init):
    with pytest.raises(AssertionError, match="measured"):
        assert_mean(phases(init) / expected_phases(), 1.0, sensitivity=0.05)


def test_the_first_layer_sweeps_many_periods():
    """Two coordinates in [-1, 1]: E cos(2z) is (Si(ω) / ω)², from uniform products."""
    dense = nn.Dense(64, kernel_init=initializers.siren(first=True))

    def measure(key):
        first, second = jax.random.split(key)
        inputs = jax.random.uniform(first, (64, 2), minval=-1.0)
        phase = FREQUENCY * dense.apply(dense.init(second, inputs), inputs)
        return second_moment(jnp.sin(phase))

    sine_integral, _ = special.sici(FREQUENCY)
    expected = (1 - (sine_integral / FREQUENCY) ** 2) / 2
    assert abs(expected - 0.5) < 0.01
    assert_mean(replicate(measure, 64), expected)


def test_bounds_follow_the_use_of_the_weight():
    shape, equation = (3, 64, 16), "bnd,ndh->bh"
    hidden = initializers.siren(frequency=2.0, equation=equation)(KEY, shape)
    first = initializers.siren(first=True, in_axis=(0, 1))(KEY, shape)
    for weight, bound in ((hidden, math.sqrt(6 / 192) / 2), (first, 1 / 192)):
        # Of 3072 draws, all below 0.98 of the bound: 0.98^3072 is 1e-27.
        assert 0.98 * bound < jnp.abs(weight).max() <= bound * (1 + 2**-22)


def test_a_traced_frequency_draws_what_the_number_draws():
    def draw(frequency):
        return initializers.siren(frequency=frequency)(KEY, (8, 8))

    np.testing.assert_allclose(jax.jit(draw)(30.0), draw(30.0), rtol=1e-6)


# ------------------------------------------------------------------ Fourier features

POINTS = np.asarray([[0.0, 0.0], [0.02, 0.01], [0.05, -0.03], [0.3, 0.4]])


def assert_kernel(frequencies, stddev, failure_rate=1e-9):
    """The features' inner products against exp(-2 π² σ² |d|²), by Hoeffding."""
    angles = 2 * np.pi * POINTS @ np.asarray(frequencies, np.float64)
    features = np.concatenate([np.cos(angles), np.sin(angles)], axis=-1)
    count = frequencies.shape[-1]
    measured = features @ features.T / count
    squared = np.sum((POINTS[:, None] - POINTS) ** 2, axis=-1)
    expected = np.exp(-2 * np.pi**2 * stddev**2 * squared)
    # Each product is a mean of `count` cosines, which lie in an interval of length 2.
    pairs = expected.size
    allowed = math.sqrt(2 * math.log(2 * pairs / failure_rate) / count)
    np.testing.assert_allclose(measured, expected, rtol=0, atol=allowed)


@pytest.mark.parametrize("stddev", [3.0, 10.0])
def test_fourier_features_induce_the_gaussian_kernel(stddev):
    init = initializers.fourier_features(stddev)
    assert_kernel(init(KEY, (2, 8192)), stddev)


def test_another_bandwidth_would_be_noticed():
    frequencies = initializers.fourier_features(10.0)(KEY, (2, 8192))
    for factor in (1.2, 1 / (2 * np.pi)):
        with pytest.raises(AssertionError, match="Not equal"):
            assert_kernel(factor * frequencies, 10.0)


# ---------------------------------------------------------------------------- errors

ERRORS = [
    (
        lambda: initializers.siren(frequency=0),
        "frequency must be positive, got 0",
    ),
    (
        lambda: initializers.siren(frequency="30"),
        "frequency must be a real number, got '30'",
    ),
    (
        lambda: initializers.siren(frequency=math.inf),
        "frequency must be finite, got inf",
    ),
    (
        lambda: initializers.siren(first=True)(KEY, (3,)),
        "Can't compute input and output sizes of a 1-dimensional weights tensor with "
        "default in_axis. Must be at least 2D or specify in_axis explicitly. "
        "Got shape (3,)",
    ),
    (
        lambda: initializers.fourier_features(-1.0),
        "stddev must be finite and not negative, got -1.0",
    ),
]


@pytest.mark.parametrize(
    ("act", "text"), ERRORS, ids=lambda v: None if callable(v) else str(v)[:60]
)
def test_errors_name_the_argument(act, text):
    with pytest.raises((ValueError, TypeError), match=f"^{re.escape(text)}$"):
        act()
