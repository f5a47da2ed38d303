"""The lecture's warnings, as an audit tells them: zeros, equal weights, dead units."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import norm

import jaxinit
from jaxinit import initializers
from jaxinit._signal._audit import Auditor
from jaxinit._signal._program import trace_signal

WIDTH = 16
X = jax.random.normal(jax.random.key(0), (32, WIDTH))
Y = jax.random.normal(jax.random.key(1), (32, 4))


def network(params, x):
    for weight in params[:-1]:
        x = jnp.tanh(x @ weight)
    return x @ params[-1]


def error(outputs):
    return jnp.mean(jnp.square(outputs - Y))


def weights(init):
    keys = jax.random.split(jax.random.key(2), 3)
    shapes = [(WIDTH, WIDTH), (WIDTH, WIDTH), (WIDTH, 4)]
    return [init(key, shape) for key, shape in zip(keys, shapes, strict=True)]


@jax.jit
def descend(params):
    slopes = jax.grad(lambda params: error(network(params, X)))(params)
    return [p - 0.1 * g for p, g in zip(params, slopes, strict=True)]


SOUND = weights(initializers.lecun_normal())
AUDITOR = Auditor(trace_signal(network, SOUND, X), loss=error)


def test_all_zero_weights_have_hidden_gradients_of_exactly_zero():
    params = weights(initializers.zeros)
    report = AUDITOR(params)
    assert [row["grad"] for row in report.records()[:2]] == [0.0, 0.0]
    assert report.findings[0].code == "zero"
    assert report.findings[0].severity == "error"
    # And for ever: the signal is zero, and so is every gradient but that of a bias.
    for _ in range(100):
        params = descend(params)
    np.testing.assert_array_equal(np.concatenate([*map(np.ravel, params)]), 0.0)
    assert all(row["grad"] > 0 for row in AUDITOR(SOUND).records())


def spread(params):
    """How far the units of the hidden layers are from their mean, and how large."""
    hidden = np.stack([np.asarray(weight, np.float64) for weight in params[:-1]])
    apart = np.max(np.abs(hidden - hidden.mean(axis=-1, keepdims=True)))
    return apart, np.max(np.abs(hidden))


def test_equal_weights_stay_equal_exactly_at_first_and_to_rounding_for_100_steps():
    params = weights(initializers.constant(0.1))
    report = AUDITOR(params)
    first = report.findings[0]
    assert (first.code, first.severity) == ("duplicates", "error")
    assert "15 of its 16 units equal another one" in first.cause
    for gradient in jax.grad(lambda params: error(network(params, X)))(params)[:1]:
        np.testing.assert_array_equal(gradient, gradient[:, :1] @ jnp.ones((1, WIDTH)))
    for _ in range(100):
        params = descend(params)
    # The units of the last layer differ, so that rounding in sums over them may enter:
    # at most one unit in the last place for each of 100 steps and 16 summands.
    apart, size = spread(params)
    assert apart <= 100 * WIDTH * np.finfo(np.float32).eps * size
    broken = SOUND
    for _ in range(100):
        broken = descend(broken)
    assert spread(broken)[0] > 0.1  # while random weights stay apart


@pytest.mark.parametrize("bias", [0.0, 0.01, 0.3])
def test_a_small_positive_bias_leaves_fewer_units_dead(bias):
    """P = Φ(-b)^n on n examples whose pre-activations are independent N(0, 1).

    Of m units the share is off by 6 standard errors once in 5e8 draws.
    """
    examples, units = 3, 2**16
    x = jnp.eye(examples, 8)  # orthogonal: what they have in common is nothing

    def layer(params, x):
        return jax.nn.relu(x @ params["w"] + params["b"][None])

    params = {
        "w": jax.random.normal(jax.random.key(3), (8, units)),
        "b": jnp.full(units, bias),
    }
    report = jaxinit.audit(layer, params, x)
    expected = norm.cdf(-bias) ** examples
    bound = 6 * np.sqrt(expected * (1 - expected) / units)
    (row,) = report.records()
    assert row["flat"] == pytest.approx(expected, abs=bound)
    assert not report.findings


def test_units_that_died_are_an_error_and_the_bias_is_named():
    def layer(params, x):
        return jax.nn.relu(x @ params["w"] + params["b"][None]) @ params["head"]

    keys = jax.random.split(jax.random.key(4))
    params = {
        "w": initializers.he_normal()(keys[0], (WIDTH, 64)),
        "b": jnp.full(64, -6.0),
        "head": initializers.lecun_normal()(keys[1], (64, 4)),
    }
    (finding,) = jaxinit.audit(layer, params, X).findings
    assert (finding.leaf, finding.code, finding.severity) == ("b", "dead", "error")
