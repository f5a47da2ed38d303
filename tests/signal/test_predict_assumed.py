"""What stands for weights and data in a prediction, and what is not predicted."""

import math
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxinit
from jaxinit import predict_signal
from jaxinit._errors import RuleError

WIDTH = 512
X = jax.random.normal(jax.random.key(7), (32, WIDTH))


def shape(*sizes, dtype="float32"):
    return jax.ShapeDtypeStruct(sizes, dtype)


def draws(depth, width=WIDTH):
    keys = jax.random.split(jax.random.key(0), depth)
    return [width**-0.5 * jax.random.normal(k, (width, width)) for k in keys]


def chain(activation):
    def f(weights, x):
        for weight in weights:
            x = activation(x @ weight)
        return x

    return f


def normalized(x):
    mean = jnp.mean(x, -1, keepdims=True)
    variance = jnp.mean(jnp.square(x - mean), -1, keepdims=True)
    return (x - mean) * jax.lax.rsqrt(variance + 1e-6)


def column(report, name):
    return np.array([row[name] for row in report.records()], float)


# ------------------------------------------------------------------ what stands for it


def test_shapes_are_arrays_of_variance_one_over_fan_in():
    weights = draws(4, width=1024)
    shapes = [shape(*weight.shape) for weight in weights]
    x = shape(8, 1024)
    found = predict_signal(chain(jnp.tanh), weights, x, backward=True)
    usual = predict_signal(chain(jnp.tanh), shapes, x, backward=True)
    for name in ("out", "grad"):
        # The variance of 2^20 draws is off by sqrt(2 / 2^20), 0.14 %; the samples of
        # products of gradients, by 1 / sqrt(8192) a layer.
        one, other = column(found, name), column(usual, name)
        np.testing.assert_allclose(one, other, rtol=0.05)


def test_the_second_moment_is_exact_for_relu():
    shapes = [shape(64, 64)] * 4
    report = predict_signal(chain(jax.nn.relu), shapes, shape(8, 64))
    # To each draw belongs its opposite, so that a half is a half: to float32's rounding
    # in each of four layers, with room for 8192 terms.
    expected = 0.5 ** (np.arange(4) / 2)
    np.testing.assert_allclose(column(report, "out"), expected, rtol=1e-5)


def test_a_variance_four_times_as_large_is_noticed():
    weights = draws(4)
    sound = column(predict_signal(chain(jnp.tanh), weights, X), "out")
    weights[2] = 2 * weights[2]
    planted = column(predict_signal(chain(jnp.tanh), weights, X), "out")
    np.testing.assert_allclose(planted[2] / sound[2], 2, rtol=1e-5)
    np.testing.assert_array_equal(planted[:2], sound[:2])
    measured = column(jaxinit.audit(chain(jnp.tanh), weights, X), "out")
    with pytest.raises(AssertionError):
        np.testing.assert_allclose(sound, measured, rtol=0.1)
    np.testing.assert_allclose(planted, measured, rtol=0.1)


def test_variances_are_given_by_rules():
    params = {"body": shape(256, 256), "head": shape(256, 8)}

    def f(params, x):
        return (x @ params["body"]) @ params["head"]

    x = shape(4, 256)
    rules = [("head", 4 / 256)]
    found = column(predict_signal(f, params, x, variance=rules), "out")
    np.testing.assert_allclose(found, [1, 2], rtol=1e-5)
    found = column(predict_signal(f, params, x, variance=1.0), "out")
    np.testing.assert_allclose(found, [16, 256], rtol=1e-5)


def test_data_have_the_mean_the_deviation_and_the_correlation_given():
    report = predict_signal(
        chain(jnp.tanh), [shape(64, 64)], shape(8, 64), input=(3.0, 4.0)
    )
    (row,) = report.records()
    assert row["out"] == pytest.approx(5.0, rel=1e-5)
    assert row["cos"] == pytest.approx(9 / 25, rel=1e-4)
    report = predict_signal(
        chain(jnp.tanh), [shape(64, 64)], shape(8, 64), correlation=0.8
    )
    assert report.records()[0]["cos"] == pytest.approx(0.8, rel=1e-4)


def test_the_cosine_is_that_of_the_arc_cosine_kernel():
    cosine = 0.3
    report = predict_signal(
        chain(jax.nn.relu), [shape(64, 64)] * 2, shape(8, 64), correlation=cosine
    )
    angle = math.acos(cosine)  # Cho & Saul 2009, equations 3 and 6
    expected = (math.sin(angle) + (math.pi - angle) * cosine) / math.pi
    # A mean of 8192 products whose standard deviation is below 1.5.
    assert report.records()[1]["cos"] == pytest.approx(expected, abs=0.05)


def test_predictions_repeat_and_another_key_gives_others():
    args = chain(jnp.tanh), draws(2, width=16), X[:, :16]
    assert predict_signal(*args) == predict_signal(*args)
    other = predict_signal(*args, key=jax.random.key(1))
    assert other != predict_signal(*args)


def test_seven_billion_parameters_are_predicted_without_one_of_them():
    width, hidden, layers, heads = 4096, 11008, 32, 32

    def layer(x, w):
        y = normalized(x)
        query, key, value = (jnp.einsum("btd,dhk->bthk", y, w[name]) for name in "qkv")
        logits = jnp.einsum("bthk,bshk->bhts", query, key) / math.sqrt(128)
        mixed = jnp.einsum("bhts,bshk->bthk", jax.nn.softmax(logits), value)
        x = x + jnp.einsum("bthk,hkd->btd", mixed, w["o"])
        y = normalized(x)
        return x + (jax.nn.silu(y @ w["gate"]) * (y @ w["up"])) @ w["down"], None

    def f(params, tokens):
        x, _ = jax.lax.scan(layer, params["table"][tokens], params["layers"])
        return normalized(x) @ params["head"]

    square, head = width // heads, (layers, width, heads, width // heads)
    assert square == 128
    params = {
        "table": shape(32000, width),
        "head": shape(width, 32000),
        "layers": {name: shape(*head) for name in "qkv"}
        | {
            "o": shape(layers, heads, width // heads, width),
            "gate": shape(layers, width, hidden),
            "up": shape(layers, width, hidden),
            "down": shape(layers, hidden, width),
        },
    }
    total = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(params))
    assert total > 6.7e9
    started = time.perf_counter()
    report = predict_signal(f, params, shape(8, 2048, dtype="int32"))
    assert time.perf_counter() - started < 60
    assert len(report.rows) == 7 * layers + 1
    queries = [row["out"] for row in report.records() if "/q" in row["leaf"]]
    np.testing.assert_allclose(queries, 1, rtol=0.05)


# ------------------------------------------------------------------- what is not known


def test_what_is_not_understood_is_listed_and_nothing_is_made_up():
    def f(params, x):
        x = x @ params[0]
        x = jnp.cumsum(x, axis=1)
        return x @ params[1]

    report = predict_signal(f, [shape(8, 8)] * 2, shape(4, 8), backward=True)
    (finding,) = report.findings
    assert (finding.severity, finding.code) == ("note", "not-understood")
    assert "'cumsum' at" in finding.cause
    assert "test_predict_assumed.py" in finding.cause
    first, second = report.records()
    assert first["out"] == pytest.approx(1, rel=1e-5)
    assert first["grad"] is None
    assert (second["out"], second["mean"], second["cos"]) == (None, None, None)
    assert second["note"] == "not-understood"


def test_neurons_of_one_kind_are_not_cut_from_those_of_another():
    def f(params, x):
        both = jnp.concatenate([x @ params[0], 100 * x], axis=1)
        return both[:, 8:] @ params[1]

    report = predict_signal(f, [shape(8, 8)] * 2, shape(4, 8))
    assert [finding.code for finding in report.findings] == ["not-understood"]
    assert report.records()[1]["out"] is None


def test_a_loop_of_unknown_length_is_not_understood():
    def f(params, x):
        x = jax.lax.while_loop(lambda x: jnp.sum(x) > 0, lambda x: x - 1, x @ params)
        return x

    report = predict_signal(f, shape(8, 8), shape(4, 8), backward=True)
    assert "'while'" in report.findings[0].cause
    assert any("only forward" in note for note in report.notes)


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"input": 3.0}, ValueError, r"input must be a mean and a standard deviation"),
        ({"input": (0.0, -1.0)}, ValueError, r"got \(0.0, -1.0\)"),
        ({"correlation": 2.0}, ValueError, r"correlation must be a number from -1 to"),
        ({"variance": [("haed", 1.0)]}, RuleError, "variance.0.: the pattern .haed."),
        ({"variance": [("head", -1.0)]}, RuleError, "must be a number of at least 0"),
    ],
)
def test_bad_options_are_named(options, error, text):
    with pytest.raises(error, match=text):
        predict_signal(
            lambda p, x: x @ p["head"], {"head": shape(8, 8)}, X[:, :8], **options
        )


def test_the_table_folds_equal_layers_and_the_dictionary_gives_the_report_back():
    stack = shape(6, 64, 64)

    def f(params, x):
        return jax.lax.scan(lambda x, w: (x @ w, None), x, params["layers"])[0]

    report = predict_signal(f, {"layers": stack}, shape(4, 64))
    assert "layers[{0..5}]" in str(report)
    assert type(report).from_dict(report.to_dict()) == report
