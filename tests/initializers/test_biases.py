"""Biases do what they are for, in the cells and networks that they are for."""

import math
import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxinit import initializers, testing

KEY = jax.random.key(0)
HIDDEN = 32


# ---------------------------------------------------------------------- forget gates


def fused_cell(bias_init):
    return nnx.OptimizedLSTMCell(
        3,
        HIDDEN,
        recurrent_kernel_init=initializers.lecun_normal(),
        bias_init=bias_init,
        rngs=nnx.Rngs(KEY),
    )


def memory_after_one_step(bias_init):
    """What a fused LSTM cell keeps of a memory of ones, with nothing else to hear."""
    cell = fused_cell(bias_init)
    silence = jnp.zeros((1, HIDDEN))
    (memory, _), _ = cell((jnp.ones((1, HIDDEN)), silence), jnp.zeros((1, 3)))
    return memory[0]


def test_forget_gates_keep_the_memory_of_a_fused_cell():
    kept = memory_after_one_step(initializers.forget_gates())
    np.testing.assert_allclose(kept, 1 / (1 + math.exp(-1)), rtol=1e-6)


def test_another_order_of_gates_would_be_noticed():
    kept = memory_after_one_step(initializers.forget_gates(forget_gate=0))
    np.testing.assert_array_equal(kept, 0.5)


def test_the_update_gate_of_a_fused_gru_is_the_one_that_remembers():
    cell = nnx.GRUCell(
        3,
        8,
        bias_init=initializers.forget_gates(2.0, gates=3),
        recurrent_kernel_init=initializers.zeros,
        rngs=nnx.Rngs(KEY),
    )
    kept, _ = cell(jnp.ones((1, 8)), jnp.zeros((1, 3)))
    np.testing.assert_allclose(kept, 1 / (1 + math.exp(-2)), rtol=1e-6)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, [0, 0, 1, 1, 0, 0, 0, 0]),
        ({"forget_gate": 2}, [0, 0, 0, 0, 1, 1, 0, 0]),
        ({"forget_gate": -1}, [0, 0, 0, 0, 0, 0, 1, 1]),
        ({"gates": 2, "value": -3}, [0, 0, 0, 0, -3, -3, -3, -3]),
        ({"gates": 1, "forget_gate": 0}, [1] * 8),
    ],
    ids=str,
)
def test_the_forget_gate_lies_where_it_is_said_to(options, expected):
    bias = initializers.forget_gates(**options)(KEY, (8,))
    np.testing.assert_array_equal(bias, expected)
    turned = initializers.forget_gates(axis=0, **options)(KEY, (8, 3))
    np.testing.assert_array_equal(turned, np.repeat(bias[:, None], 3, axis=1))


# ---------------------------------------------------------------------------- chrono

STEPS = 400.0


def characteristic_times(init, hidden=4096):
    """1 / (1 - f) of the forget gates, as a fused cell opens them."""
    bias = np.asarray(init(KEY, (4 * hidden,)), np.float64).reshape(4, hidden)
    return 1 + np.exp(bias[1])


def uniform_times(times):
    return np.clip((times - 2) / (STEPS - 2), 0, 1)


def test_chrono_memories_last_from_two_to_the_longest_evenly():
    testing.assert_follows(
        characteristic_times(initializers.chrono(STEPS)), uniform_times
    )


def test_other_memories_would_be_noticed():
    for init in (initializers.chrono(STEPS / 2), initializers.forget_gates(5.0)):
        with pytest.raises(AssertionError, match="do not follow"):
            testing.assert_follows(characteristic_times(init), uniform_times)


def test_the_ends_of_the_draws_are_the_ends_of_the_times(monkeypatch):
    def times(share):
        def drawn(key, shape, dtype):
            return jnp.full(shape, share, dtype)

        monkeypatch.setattr(jax.random, "uniform", drawn)
        return characteristic_times(initializers.chrono(STEPS), hidden=1)

    np.testing.assert_array_equal(times(0.0), 2.0)
    np.testing.assert_allclose(times(1.0), STEPS, rtol=1e-6)


def test_a_fused_cell_with_chrono_keeps_what_its_times_say():
    init = initializers.chrono(STEPS)
    kept = memory_after_one_step(init)
    bias = fused_cell(init).dense_h.bias[...]
    opened = jax.nn.sigmoid(bias[HIDDEN : 2 * HIDDEN])
    np.testing.assert_allclose(kept, opened, rtol=1e-6)
    assert 0.5 <= kept.min() < kept.max() <= 1 - 1 / STEPS + 1e-6


def test_the_input_gate_lets_in_what_is_forgotten_and_the_others_are_zero():
    bias = initializers.chrono(STEPS)(KEY, (3, 4 * 16)).reshape(3, 4, 16)
    np.testing.assert_array_equal(bias[:, 0], -bias[:, 1])
    np.testing.assert_array_equal(bias[:, 2:], 0.0)
    forget_only = initializers.chrono(STEPS, gates=3, input_gate=None)
    gru = forget_only(KEY, (3, 3 * 16)).reshape(3, 3, 16)
    np.testing.assert_array_equal(gru[:, 1], bias[:, 1])
    np.testing.assert_array_equal(gru[:, ::2], 0.0)
    keras = initializers.chrono(STEPS, forget_gate=2, input_gate=1, axis=0)
    np.testing.assert_array_equal(
        keras(KEY, (4 * 16, 3)).reshape(4, 16, 3).any((1, 2)),
        [False, True, True, False],
    )


# ---------------------------------------------------------------------- spread gates


def test_gates_are_spread_evenly_from_end_to_end():
    heads = np.linspace(3.4, 6.0, 8, dtype=np.float32)
    init = initializers.linspace_gates()
    np.testing.assert_array_equal(init(KEY, (8,)), heads)
    np.testing.assert_array_equal(init(KEY, (2, 8)), [heads, heads])
    turned = initializers.linspace_gates(axis=0)(KEY, (8, 2))
    np.testing.assert_array_equal(turned, np.stack([heads, heads], axis=1))
    np.testing.assert_array_equal(init(KEY, (1,)), np.float32([3.4]))


def test_traced_ends_spread_alike():
    def spread(stop):
        return initializers.linspace_gates(0.0, stop)(KEY, (5,))

    np.testing.assert_allclose(jax.jit(spread)(1.0), spread(1.0), rtol=1e-6)


# -------------------------------------------------------------------- positive biases


WIDTH, LAYERS, NETWORKS = 2, 10, 4000


@jax.jit
@jax.vmap
def share_of_dead_units(key, biases):
    """The share of units that no input turns on, in one deep and narrow network."""
    layer = nn.Dense(WIDTH)
    kernels = initializers.stacked(initializers.he_normal())

    def forward(hidden, parameters):
        hidden = nn.relu(layer.apply({"params": parameters}, hidden))
        return hidden, 1 - jnp.mean((hidden > 0).any(0).astype(jnp.float32))

    first, second = jax.random.split(key)
    inputs = jax.random.normal(first, (64, WIDTH))
    weights = kernels(second, (LAYERS, WIDTH, WIDTH))
    _, shares = jax.lax.scan(forward, inputs, {"kernel": weights, "bias": biases})
    return jnp.mean(shares)


def dead_units(bias_init):
    keys = jax.random.split(KEY, NETWORKS)
    biases = bias_init(KEY, (NETWORKS, LAYERS, WIDTH))
    return np.asarray(share_of_dead_units(keys, biases), np.float64)


def fewer_by_at_least(before, after, failure_rate=1e-6):
    """A lower bound on the mean difference of pairs in [-1, 1], by Hoeffding."""
    slack = 2 * math.sqrt(math.log(1 / failure_rate) / (2 * len(before)))
    return np.mean(before - after) - slack


def test_positive_biases_keep_units_of_a_narrow_deep_network_alive():
    without = dead_units(initializers.zeros)
    positive = dead_units(initializers.positive_relu_bias())
    assert fewer_by_at_least(without, positive) > 0.3
    assert fewer_by_at_least(without, without) < 0  # what no difference looks like
    # The numbers of the docstring, to six standard errors of 4000 shares.
    assert abs(without.mean() - 0.63) < 0.03
    assert abs(positive.mean() - 0.17) < 0.03


# ---------------------------------------------------------------------------- errors

ERRORS = [
    (lambda: initializers.forget_gates("1"), "value must be a real number, got '1'"),
    (
        lambda: initializers.forget_gates(np.ones(2)),
        "value must be a real number, got array([1., 1.])",
    ),
    (lambda: initializers.forget_gates(gates=0), "gates must be at least 1, got 0"),
    (
        lambda: initializers.forget_gates(gates=4.0),
        "gates must be an integer, got 4.0",
    ),
    (
        lambda: initializers.forget_gates(forget_gate=4),
        "forget_gate 4 does not exist among 4",
    ),
    (
        lambda: initializers.forget_gates(forget_gate="f"),
        "forget_gate must be an integer, got 'f'",
    ),
    (
        lambda: initializers.chrono(2),
        "max_steps must be more than 2, got 2",
    ),
    (
        lambda: initializers.chrono(9, forget_gate=0),
        "forget_gate and input_gate are the same gate, 0",
    ),
    (
        lambda: initializers.chrono(9, input_gate=-3),
        "forget_gate and input_gate are the same gate, -3",
    ),
    (
        lambda: initializers.linspace_gates(math.inf),
        "start must be finite, got inf",
    ),
    (
        lambda: initializers.positive_relu_bias(0.0),
        "value must be positive, got 0.0",
    ),
    (
        lambda: initializers.forget_gates()(KEY, (6,)),
        "the 4 gates of forget_gates do not fill axis -1 of shape (6,), which has size "
        "6",
    ),
    (
        lambda: initializers.chrono(9, axis=1)(KEY, (8,)),
        "axis 1 of chrono does not exist in shape (8,)",
    ),
    (
        lambda: initializers.linspace_gates()(KEY, ()),
        "axis -1 of linspace_gates does not exist in shape ()",
    ),
    (
        lambda: initializers.forget_gates()(KEY, (8,), jnp.int32),
        "dtype of forget_gates must be floating, got int32",
    ),
]


@pytest.mark.parametrize(
    ("act", "text"), ERRORS, ids=lambda v: None if callable(v) else str(v)[:60]
)
def test_errors_name_the_argument(act, text):
    with pytest.raises((ValueError, TypeError), match=f"^{re.escape(text)}$"):
        act()
