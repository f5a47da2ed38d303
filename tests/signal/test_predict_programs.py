"""Predictions go through calls, loops, branches, noise and normalizations."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

import jaxinit
from jaxinit import predict_signal
from jaxinit._signal._predict_draws import Draws
from jaxinit._signal._predict_values import COUNT, FULL


def shape(*sizes, dtype="float32"):
    return jax.ShapeDtypeStruct(sizes, dtype)


def column(report, name):
    return np.array([row[name] for row in report.records()], float)


def layer(x, weight):
    return jnp.tanh(x @ weight)


@jax.custom_jvp
def ruled(x, weight):
    return layer(x, weight)


@ruled.defjvp
def _(primals, tangents):
    return jax.jvp(layer, primals, tangents)


def twice(step):
    return lambda weights, x: step(step(x, weights[0]), weights[1])


WEIGHTS = [shape(64, 64), shape(64, 64)]


@pytest.mark.parametrize("wrapped", [jax.jit, jax.checkpoint, lambda _: ruled])
def test_calls_change_nothing(wrapped):
    plain = predict_signal(twice(layer), WEIGHTS, shape(8, 64))
    called = predict_signal(twice(wrapped(layer)), WEIGHTS, shape(8, 64))
    assert called.rows == plain.rows


def scanned(weights, x):
    return jax.lax.scan(lambda x, w: (layer(x, w), None), x, weights)[0]


def test_each_layer_of_a_scan_has_its_own_variance():
    keys = jax.random.split(jax.random.key(0), 4)
    weights = jnp.stack([jax.random.normal(k, (64, 64)) / 8 for k in keys])
    sound = column(predict_signal(scanned, weights, shape(8, 64)), "out")
    planted = weights.at[2].multiply(3.0)
    report = predict_signal(scanned, planted, shape(8, 64), backward=True)
    assert [row["leaf"][-3:] for row in report.records()] == [
        "[0]", "[1]", "[2]", "[3]"
    ]  # fmt: skip
    assert column(report, "out")[2] / sound[2] == pytest.approx(3, rel=1e-5)
    assert np.all(column(report, "grad") > 0)


def test_a_loop_of_no_rounds_leaves_the_signal_as_it_is():
    def f(weight, x):
        x, rows = jax.lax.scan(
            lambda x, row: (7.0 * x, x), x, jnp.zeros((0, 3), x.dtype)
        )
        return x @ weight, rows

    report = predict_signal(f, shape(256, 256), shape(8, 256))
    np.testing.assert_allclose(column(report, "out"), [1.0], rtol=1e-6)


def test_a_long_loop_is_followed_for_a_while_and_says_so():
    report = predict_signal(scanned, shape(150, 8, 8), shape(4, 8))
    assert len(report.rows) == 150
    assert any("a loop of 150 rounds was followed for 128" in n for n in report.notes)
    sizes = column(report, "out")
    np.testing.assert_array_equal(sizes[128:], sizes[127])


def test_branches_count_alike():
    def f(weight, x, flag):
        y = x @ weight[0]
        return jax.lax.cond(flag, lambda y: 0 * y, lambda y: y, y) @ weight[1]

    flag = jnp.array(True)
    report = predict_signal(f, WEIGHTS, shape(8, 64), flag)
    # Which half of the draws takes which branch is chance: 8192 squares of 4 columns.
    expected = [1, math.sqrt(0.5)]
    np.testing.assert_allclose(column(report, "out"), expected, rtol=0.05)
    assert any("branches" in note for note in report.notes)


def test_dropout_keeps_the_mean_and_adds_variance():
    def f(weight, x, key):
        kept = jax.random.bernoulli(key, 0.5, (8, 64))
        x = jnp.where(kept, 2 * (x @ weight[0]), 0.0)
        return x @ weight[1]

    report = predict_signal(f, WEIGHTS, shape(8, 64), jax.random.key(0))
    np.testing.assert_allclose(column(report, "out"), [1, 2**0.5], rtol=0.05)


def test_numbers_made_of_a_key_by_hand_are_not_understood():
    def f(weight, x, key):
        words = jax.random.key_data(key).astype(jnp.float32)
        return (x + words[0]) @ weight[0]

    report = predict_signal(f, WEIGHTS, shape(8, 64), jax.random.key(0))
    assert "not-understood" in [finding.code for finding in report.findings]
    assert report.records()[0]["out"] is None


def test_sixteen_bits_round_and_no_more():
    half = [shape(64, 64, dtype="bfloat16")] * 2
    found = predict_signal(twice(layer), half, shape(8, 64, dtype="bfloat16"))
    wide = predict_signal(twice(layer), WEIGHTS, shape(8, 64))
    # Each rounding is by at most 2^-9.
    np.testing.assert_allclose(column(found, "out"), column(wide, "out"), rtol=0.01)


def test_normalizations_bring_any_scale_back_to_one():
    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            x = nn.BatchNorm(use_running_average=False)(100 * nn.Conv(16, (1, 1))(x))
            x = nn.LayerNorm()(5 * nn.Conv(64, (1, 1))(nn.relu(x)))
            return nn.Conv(8, (1, 1))(x)

    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        model, x = Net(), jnp.ones((16, 4, 4, 256))
        shapes = jax.eval_shape(model.init, jax.random.key(0), x)
        f, params, *args = jaxinit.from_linen(model, shapes, x)
        report = predict_signal(f, params, *args)
    first, second, third = column(report, "out")
    assert first == pytest.approx(1, rel=1e-4)
    # Batch normalization to 1, half of it positive; what the batch of 256 places tells
    # of a variance is known to sqrt(2 / 256).
    assert second == pytest.approx(math.sqrt(0.5), rel=0.09)
    assert third == pytest.approx(1, rel=0.01)


def test_a_token_class_is_sliced_off_and_tables_are_looked_up():
    def f(params, tokens):
        x = params["table"][tokens]
        first = jnp.broadcast_to(params["token"], (4, 1, 64))
        x = jnp.concatenate([first, x], axis=1)
        return x[:, 1] @ params["head"]

    params = {
        "table": shape(100, 64),
        "token": shape(1, 1, 64),
        "head": shape(64, 8),
    }
    report = predict_signal(f, params, shape(4, 7, dtype="int32"))
    # A place is the token one time in eight; tables have variance 1 / 64.
    expected = math.sqrt(7 / 8) / 8
    assert column(report, "out")[0] == pytest.approx(expected, rel=0.05)


def test_draws_have_the_mean_and_the_covariance_asked_for():
    root = np.array([[1, 0, 0, 0], [2, 1, 0, 0], [0, 1, 1, 0], [1, 1, 1, 1.0]])
    drawn = Draws(0).gaussian(np.arange(4.0), root @ root.T).reshape(COUNT, 4)
    np.testing.assert_allclose(np.mean(drawn, 0), np.arange(4), atol=1e-9)
    centred = drawn - np.arange(4)
    np.testing.assert_allclose(centred.T @ centred / COUNT, root @ root.T, atol=1e-9)


@pytest.mark.parametrize("count", [5, 500])
def test_sums_over_neurons_have_the_moments_of_sums(count):
    draws = Draws(0)
    sample = np.broadcast_to(draws.gaussian(np.ones(4), np.eye(4)), FULL) ** 2
    total = draws.total(sample, {"neuron": count})
    # Mean and variance of x^2 for x ~ N(1, 1) are 2 and 6. The mean is exact for a few;
    # a variance of 4 * 8192 numbers with the kurtosis of this is known to 5 %.
    assert np.mean(total) == pytest.approx(2 * count, rel=0.02)
    assert np.var(total) == pytest.approx(6 * count, rel=0.15)
    assert np.min(total) > 0


@pytest.mark.parametrize("count", [2, 4, 9])
def test_the_greatest_of_several_is_that_of_order_statistics(count):
    draws = Draws(0)
    sample = draws.gaussian(np.zeros(4), np.eye(4))
    found = np.mean(draws.maximum(sample, {"place": count}))
    expected = {2: 0.56419, 4: 1.02938, 9: 1.48501}[count]  # Teichroew 1956, table I
    assert found == pytest.approx(expected, abs=5 / math.sqrt(COUNT))


def test_weights_that_are_used_again_are_named():
    def f(params, x):
        step = lambda x, _: (jnp.tanh(x @ params["again"]), None)  # noqa: E731
        x, _ = jax.lax.scan(step, x @ params["tied"], length=3)
        return x @ params["tied"].T @ params["once"]

    shapes = {
        name: jax.ShapeDtypeStruct((16, 16), "float32")
        for name in ("again", "once", "tied")
    }
    x = jax.ShapeDtypeStruct((4, 16), "float32")
    (note,) = jaxinit.predict_signal(f, shapes, x).notes
    assert "drawn anew at each use" in note
    listed = note.partition(": ")[2]
    assert sorted(listed.split(", ")) == ["again", "tied"]
