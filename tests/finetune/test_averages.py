"""EMA and soups, against float64 numpy."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from jaxinit import finetune as ft
from jaxinit._errors import RuleError

PARAMS = {"frozen": jnp.array([0.1, -0.0]), "w": jnp.array([1.0, -2.0, 3.0])}


def run(optimizer, params, steps):
    history, state = [params], optimizer.init(params)
    for i in range(steps):
        gradients = jax.tree.map(lambda leaf, i=i: leaf * (i + 1), params)
        updates, state = optimizer.update(gradients, state, params)
        params = optax.apply_updates(params, updates)
        history.append(params)
    return state, history


@pytest.mark.parametrize("decay", [0.9, lambda n: jnp.minimum(0.9, (1 + n) / (10 + n))])
def test_the_average_by_hand(decay, relaxed_promotion):
    state, history = run(ft.ema(optax.sgd(0.1), decay), PARAMS, 5)
    average = np.asarray(history[0]["w"], np.float64)
    for n, params in enumerate(history[1:]):
        rate = decay if isinstance(decay, float) else min(0.9, (1 + n) / (10 + n))
        average = rate * average + (1 - rate) * np.asarray(params["w"], np.float64)
    found = ft.averaged(state, history[-1])["w"]
    # Three roundings a step, and 1 - 0.9 is short of 3 bits in float32.
    np.testing.assert_allclose(found, average, rtol=5 * 12 * 2**-24)


def test_the_updates_are_those_of_the_optimizer():
    _, ours = run(ft.ema(optax.sgd(0.1), 0.9), PARAMS, 3)
    _, plain = run(optax.sgd(0.1), PARAMS, 3)
    for one, other in zip(ours, plain, strict=True):
        np.testing.assert_array_equal(one["w"], other["w"])


def test_inside_freeze_frozen_leaves_are_not_averaged_but_given_back():
    optimizer = ft.freeze(ft.ema(optax.sgd(0.1), 0.9), "frozen")
    state, history = run(optimizer, PARAMS, 2)
    assert [leaf.shape for leaf in jax.tree.leaves(state.average)] == [(3,)]
    found = ft.averaged(state, history[-1])
    assert found["frozen"] is history[-1]["frozen"]


def test_outside_of_freeze_the_average_of_what_does_not_move_is_exact():
    optimizer = ft.ema(ft.freeze(optax.sgd(0.1), "frozen"), 0.9)
    state, history = run(optimizer, PARAMS, 5)
    ft.assert_frozen(PARAMS, ft.averaged(state, history[-1]), "frozen")


def test_bfloat16_parameters_are_averaged_in_float32():
    params = {"w": jnp.full(3, 1.0, jnp.bfloat16)}
    state, history = run(ft.ema(optax.sgd(0.25), 0.999), params, 3)
    average = state.average["w"]
    assert average.dtype == jnp.float32
    assert np.all(np.asarray(average) < 1)  # in bfloat16 it would still be 1
    assert ft.averaged(state, history[-1])["w"].dtype == jnp.bfloat16


def test_whole_numbers_are_followed_not_averaged():
    tx = optax.stateless(lambda updates, params: updates)
    optimizer = ft.ema(tx, 0.5)
    params = {"n": jnp.array(3), "w": jnp.array(3.0)}
    updates = {"n": jnp.array(4), "w": jnp.array(4.0)}
    _, state = optimizer.update(updates, optimizer.init(params), params)
    found = ft.averaged(state, params)
    assert (int(found["n"]), float(found["w"])) == (7, 5.0)


def test_the_average_in_nnx_optimizer_and_one_trace():
    traces = 0
    model = nnx.Linear(2, 2, rngs=nnx.Rngs(0))
    optimizer = nnx.Optimizer(model, ft.ema(optax.sgd(1.0), 0.5), wrt=nnx.Param)

    @nnx.jit
    def step(model, optimizer):
        nonlocal traces
        traces += 1
        ones = jax.tree.map(jnp.ones_like, nnx.state(model, nnx.Param))
        optimizer.update(model, ones)

    for _ in range(2):
        step(model, optimizer)
    found = ft.averaged(optimizer.opt_state, nnx.state(model, nnx.Param))
    assert isinstance(found, nnx.State)
    # Biases go 0, -1, -2; the average 0, -1/2, -5/4.
    np.testing.assert_array_equal(found["bias"][...], np.float32(-1.25))
    assert traces == 1


def test_a_state_with_no_average_or_two_and_a_bad_decay_are_refused():
    with pytest.raises(RuleError, match="state: it holds 0 averages, not one"):
        ft.averaged(optax.sgd(0.1).init(PARAMS), PARAMS)
    twice = ft.ema(ft.ema(optax.sgd(0.1), 0.9), 0.99).init(PARAMS)
    assert ft.averaged(twice, PARAMS)["w"].shape == (3,)  # the outer one
    pair = (ft.ema(optax.sgd(0.1), 0.9).init(PARAMS),) * 2
    with pytest.raises(RuleError, match="state: it holds 2 averages, not one"):
        ft.averaged(pair, PARAMS)
    with pytest.raises(RuleError, match="decay must be a number >= 0 and below 1"):
        ft.ema(optax.sgd(0.1), 1.0)
    optimizer = ft.ema(optax.sgd(0.1), 0.9)
    with pytest.raises(RuleError, match="params: ema needs"):
        optimizer.update(PARAMS, optimizer.init(PARAMS))


# Soups


def trees(count=3, dtype=jnp.float32):
    keys = jax.random.split(jax.random.key(0), count)
    return [{"w": jax.random.normal(key, (50,), dtype)} for key in keys]


@pytest.mark.parametrize("weights", [None, [0.5, 0.25, 0.25], [2.0, -0.5, -0.5]])
def test_a_soup_by_hand(weights):
    given = trees()
    parts = weights or [1 / 3] * 3
    wanted = sum(
        np.asarray(tree["w"], np.float64) * part
        for tree, part in zip(given, parts, strict=True)
    )
    found = ft.soup(given, weights)["w"]
    # Three products and two sums of terms of at most 2 * 5.
    np.testing.assert_allclose(found, wanted, rtol=0, atol=8 * 10 * 2**-24)


def test_a_soup_of_bfloat16_is_summed_in_float32():
    given = trees(dtype=jnp.bfloat16)
    wide = [{"w": tree["w"].astype(jnp.float32)} for tree in given]
    found, wanted = ft.soup(given)["w"], ft.soup(wide)["w"].astype(jnp.bfloat16)
    assert found.dtype == jnp.bfloat16
    np.testing.assert_array_equal(found, wanted)


def test_a_line_through_two_trees_inside_jit():
    a, b = trees(2)

    @jax.jit
    def point(t):
        return ft.soup([a, b], [1 - t, t])["w"]

    np.testing.assert_array_equal(point(jnp.float32(0)), a["w"])
    np.testing.assert_array_equal(point(jnp.float32(1)), b["w"])


def test_a_soup_of_nnx_states_leaves_random_state_alone():
    models = [nnx.Dropout(0.5, rngs=nnx.Rngs(i)) for i in range(2)]
    states = [nnx.state(model) for model in models]
    found = ft.soup(states)
    assert jax.tree.structure(found) == jax.tree.structure(states[0])


def test_whole_numbers_must_agree():
    same = {"n": jnp.array([3])}
    assert ft.soup([same, {"n": jnp.array([3])}])["n"].tolist() == [3]
    with pytest.raises(RuleError, match="trees: 'n' is of int32 and differs"):
        ft.soup([same, {"n": jnp.array([4])}])


@pytest.mark.parametrize(
    ("second", "weights", "message"),
    [
        (
            {"v": jnp.ones(50)},
            None,
            r"trees\[1\]: only one of it and trees\[0\] has 'v', 'w'",
        ),
        (
            {"w": jnp.ones(2)},
            None,
            r"trees\[1\]: 'w' has shape \(2,\), in trees\[0\] \(50,\)",
        ),
        ({"w": jnp.ones(50)}, [1.0, 1.0], "must sum to 1, got 2; divide"),
        ({"w": jnp.ones(50)}, [1.0], "weights: 1 weights for 2 trees"),
        ({"w": jnp.ones(50)}, [float("nan"), 1.0], "must sum to 1, got nan"),
    ],
)
def test_bad_soups_are_refused(second, weights, message):
    with pytest.raises(RuleError, match=message):
        ft.soup([trees()[0], second], weights)


def test_a_soup_of_nothing_is_refused():
    with pytest.raises(RuleError, match="trees: there is nothing to average"):
        ft.soup([])
