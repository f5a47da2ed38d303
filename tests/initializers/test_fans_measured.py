"""Fans that are said, not guessed, checked against measurement.

Through the real layer of every kind that Flax has: N(0, 1) forward, and N(0, 1)
cotangents backward, keep their second moment where the use of the weight is said.
"""

import functools
import math

import flax.linen as nn
import flax_hooks
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from layer_cases import CASES, Case
from replicates import (
    SENSITIVITY,
    UNOPTIMIZED,
    assert_mean,
    replicate,
    second_moment,
)

from jaxinit.initializers import blocked, fans, orthogonal, variance_scaling

COUNT = 64
MEASURED = [pytest.param(case, marks=[pytest.mark.long] * case.twin) for case in CASES]
BY_NAME = {case.name: case for case in CASES}

each_case = pytest.mark.parametrize("case", CASES, ids=str)
each_measured = pytest.mark.parametrize("case", MEASURED, ids=str)


@functools.cache
def signals() -> jax.Array:
    """N(0, 1): an input and a cotangent for each replicate, the same for all layers."""
    return jax.random.normal(jax.random.key(1), (COUNT, 2, 6144))


def shaped(signal: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    return signal[: math.prod(shape)].reshape(shape)


def moments(case: Case, forward, backward) -> tuple[np.ndarray, np.ndarray]:
    """Second moments of outputs with one initializer, of gradients with another."""

    def measure(key, signal):
        x = shaped(signal[0], case.inputs)
        y = case.draw(forward, key, x)(x)
        _, pull_back = jax.vjp(case.draw(backward, key, x), x)
        (gradient,) = pull_back(shaped(signal[1], y.shape))
        return second_moment(y), second_moment(gradient)

    return replicate(measure, COUNT, signals())


@functools.cache
def said(case: Case) -> tuple[np.ndarray, np.ndarray]:
    """The moments with initializers that are told how the weight is used."""
    init = functools.partial(variance_scaling, 1.0, **case.use)
    forward = case.over(init("fan_in", case.distribution))
    return moments(case, forward, case.over(init("fan_out", case.distribution)))


@each_case
def test_fans_count_the_products_of_the_layer(case):
    """Ones times ones counts them: no draw, no tolerance."""
    asked = set()

    def ones(key, shape, dtype=None, out_sharding=None):
        asked.add(tuple(shape))
        return jnp.ones(shape, dtype)

    def count(x):
        y, pull_back = jax.vjp(case.draw(ones, jax.random.key(0), x), x)
        return y, pull_back(jnp.ones_like(y))[0]

    run = jax.jit(count, compiler_options=UNOPTIMIZED)
    into, out_of = map(np.float64, run(jnp.ones(case.inputs)))
    assert asked == {case.asked}
    assert into.mean() == case.fans[0] ** case.depth
    assert out_of.mean() == case.readers * case.fans[1] ** case.depth
    assert fans(case.one or case.asked, **case.use) == case.fans


def check(case: Case, values: np.ndarray, expected: float):
    # A wrong fan is wrong in every layer of a stack, so that a wider bound sees it too.
    assert_mean(values, expected, sensitivity=SENSITIVITY * case.depth)


@each_measured
def test_fan_in_keeps_the_signal(case):
    check(case, said(case)[0], 1.0)


@each_measured
def test_fan_out_keeps_the_gradient(case):
    """Once for every weight that reads the same input."""
    check(case, said(case)[1], case.readers)


@each_measured
@pytest.mark.parametrize("factor", [1.25, 0.8])
def test_a_fan_wrong_by_a_quarter_would_be_seen(case, factor):
    """The moments go with the variance, so a wrong fan is a factor on them."""
    for values, expected in zip(said(case), (1.0, case.readers), strict=True):
        with pytest.raises(AssertionError, match="measured"):
            check(case, factor**case.depth * values, expected)


# ------------------------------------------------------- the defaults that Flax ships


@pytest.mark.parametrize(
    ("name", "share"),
    [
        # The heads of a query projection are taken for inputs.
        ("Einsum BTD,NDH->BTNH", 4),
        # Half of the taps fall between the pixels, in each direction.
        ("ConvTranspose 4x4/2", 2 * 2),
        # The batch is flattened into the inputs.
        ("batch_dims", 6),
        # The positions are taken for taps.
        ("ConvLocal", 8 * 8),
    ],
)
def test_the_default_fan_of_flax_loses_the_signal(name, share):
    """By the factor that one wrong axis makes; the checker sees both."""
    case = BY_NAME[name]
    default = nn.linear.default_kernel_init
    values, _ = moments(case, default, default)
    assert_mean(values, 1 / share)
    with pytest.raises(AssertionError, match="measured"):
        assert_mean(values, 1.0)


def test_the_checker_refuses_a_bound_that_is_too_wide():
    values = np.array([0.5, 1.0, 1.5] * 5)
    with pytest.raises(AssertionError, match="more than 10%: take more replicates"):
        assert_mean(values, 1.0)
    assert_mean(values, 1.0, sensitivity=1.0)


# --------------------------------------------------------------------------- look-ups


def looked_up(key, init):
    indices = jax.random.randint(key, (64,), 0, 96)
    module = nn.Embed(96, 32, embedding_init=init)
    return module.apply(module.init(key, indices), indices)


@pytest.mark.parametrize(
    ("use", "expected"),
    [
        # One product with a one: the row itself.
        ({"batch_axis": 0, "in_axis": (), "out_axis": 1}, (1, 32)),
        # Flax's own words for an embedding, which suit the table as an output layer.
        ({"out_axis": 0}, (32, 32)),
    ],
)
def test_a_look_up_has_the_moment_of_its_fan(use, expected):
    init = variance_scaling(1.0, "fan_in", "normal", **use)
    values = replicate(lambda key: second_moment(looked_up(key, init)), COUNT)
    assert fans((96, 32), **use) == expected
    assert_mean(values, 1 / expected[0])


def test_flax_own_embedding_init_suits_the_output_layer():
    """variance_scaling(1, 'fan_in', 'normal', out_axis=0) is 1 / sqrt(features)."""
    init = variance_scaling(1.0, "fan_in", "normal", out_axis=0)
    values, _ = moments(BY_NAME["Embed.attend"], init, init)
    assert_mean(values, 1.0)


# ------------------------------------------------------------------- orthogonal gates


@pytest.mark.parametrize(("cell", "count"), [("OptimizedLSTMCell", 4), ("GRUCell", 3)])
def test_blocked_orthogonal_makes_every_fused_gate_orthogonal(cell, count):
    """Each gate then keeps the norm of every state; exact but for rounding.

    Orthogonal rows of the fused kernel, Flax's default, give the norm to all gates
    together, and to each a share of it.
    """
    draw = flax_hooks.gates(cell, "hidden", fused=True)
    state = jax.random.normal(jax.random.key(3), (16, flax_hooks.HIDDEN))
    norms = np.sum(np.square(state, dtype=np.float64), axis=-1)

    def of_each_gate(init):
        run = jax.jit(
            lambda key: draw(init, key, state)(state), compiler_options=UNOPTIMIZED
        )
        y = np.float64(run(jax.random.key(4)))
        return np.sum(np.square(y.reshape(16, count, -1)), axis=-1)  # (16, gates)

    # A norm is off by a few units in the last place for each of the 24 products.
    rounding = 4 * flax_hooks.HIDDEN * np.finfo(np.float32).eps
    apart = of_each_gate(blocked(orthogonal(), blocks=count))
    np.testing.assert_array_less(abs(apart / norms[:, None] - 1), rounding)
    fused = of_each_gate(orthogonal())
    np.testing.assert_array_less(abs(fused.sum(axis=1) / norms - 1), rounding)
    assert np.all(fused / norms[:, None] < 0.9)
