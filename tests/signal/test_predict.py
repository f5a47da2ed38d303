"""Predictions agree with what an audit measures, as far as is said; no data is read."""

import functools
import math
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

import jaxinit
from jaxinit import predict_signal

WIDTH = 512
X = jax.random.normal(jax.random.key(7), (32, WIDTH))


def shape(*sizes, dtype="float32"):
    return jax.ShapeDtypeStruct(sizes, dtype)


def draws(depth, gain=1.0, width=WIDTH):
    keys = jax.random.split(jax.random.key(0), depth)
    return [gain * width**-0.5 * jax.random.normal(k, (width, width)) for k in keys]


def chain(activation):
    def f(weights, x):
        for weight in weights:
            x = activation(x @ weight)
        return x

    return f


def column(report, name):
    return np.array([row[name] for row in report.records()], float)


def ratios(name, f, params, *args, **options):
    """Predicted over measured, for each product."""
    found = predict_signal(f, params, *args, **options)
    measured = jaxinit.audit(f, params, *args)
    assert column_of_names(found) == column_of_names(measured)
    return column(found, name) / column(measured, name)


def column_of_names(report):
    return [row["leaf"] for row in report.records()]


# ------------------------------------------------------------------- what is measured


@pytest.mark.parametrize("name", ["out", "grad"])
def test_tanh_is_within_ten_percent(name):
    found = ratios(name, chain(jnp.tanh), draws(20, 1.5), X, backward=True)
    np.testing.assert_allclose(found, 1, atol=0.1)


def test_thirty_layers_of_relu_are_within_35_percent():
    # One draw of a network wanders: the logarithm of the mean square of a layer of n
    # has a standard deviation of about sqrt(5 / n) with each layer, 0.27 after 30 of
    # 512, times 1/2 for the root. 35 % is 2.2 of these.
    found = ratios("out", chain(jax.nn.relu), draws(30, math.sqrt(2)), X, backward=True)
    assert np.all(np.abs(found - 1) < 0.35)


def test_gelu_with_lecun_variance_decays():
    report = predict_signal(chain(jax.nn.gelu), draws(20), X)
    sizes = column(report, "out")
    assert np.all(sizes[1:] < sizes[:-1])
    assert sizes[-1] < 1e-4


def normalized(x):
    mean = jnp.mean(x, -1, keepdims=True)
    variance = jnp.mean(jnp.square(x - mean), -1, keepdims=True)
    return (x - mean) * jax.lax.rsqrt(variance + 1e-6)


def residual(weights, x):
    for first, second in zip(weights[::2], weights[1::2], strict=True):
        x = x + jax.nn.relu(normalized(x) @ first) @ second
    return normalized(x)


@pytest.mark.parametrize("name", ["out", "grad"])
def test_pre_norm_residual_networks_are_within_ten_percent(name):
    found = ratios(name, residual, draws(24), X, backward=True)
    np.testing.assert_allclose(found, 1, atol=0.1)


class Convolutions(nn.Module):
    @nn.compact
    def __call__(self, x):
        he = nn.initializers.he_normal()
        for features, stride in ((32, 1), (64, 2), (64, 1)):
            x = nn.relu(nn.Conv(features, (3, 3), stride, kernel_init=he)(x))
        x = nn.max_pool(x, (2, 2), (2, 2))
        x = nn.BatchNorm(use_running_average=False)(nn.Conv(64, (3, 3))(x))
        return nn.Dense(64)(nn.relu(x).mean((1, 2)))


def test_convolutions_pooling_and_batch_norm(relaxed_promotion):
    x = jax.random.normal(jax.random.key(1), (32, 16, 16, 3))
    model = Convolutions()
    f, params, *args = jaxinit.from_linen(model, model.init(jax.random.key(0), x), x)
    found = ratios("out", f, params, *args)
    # 32 to 64 units: sqrt(5 / 32) / 2 is 20 % in each of five layers, in both ways.
    assert np.all(np.abs(np.log(found)) < 3 * 0.2)
    assert abs(np.median(np.log(found))) < 0.2


class Block(nn.Module):
    @nn.compact
    def __call__(self, x, _):
        x = x + nn.MultiHeadDotProductAttention(4)(nn.LayerNorm()(x))
        y = nn.gelu(nn.Dense(256)(nn.LayerNorm()(x)))
        return x + nn.Dense(64)(y), None


class Transformer(nn.Module):
    @nn.compact
    def __call__(self, tokens):
        x = nn.Embed(1000, 64, embedding_init=nn.initializers.normal(1.0))(tokens)
        layers = nn.scan(
            nn.remat(Block),
            variable_axes={"params": 0},
            split_rngs={"params": True},
            length=3,
        )
        x, _ = layers()(x, None)
        return nn.Dense(50)(nn.LayerNorm()(x))


@functools.cache
def transformer():
    tokens = jax.random.randint(jax.random.key(1), (8, 12), 0, 1000)
    model = Transformer()
    variables = model.init(jax.random.key(0), tokens)
    return jaxinit.from_linen(model, variables, tokens)


def test_a_scanned_transformer_is_predicted_layer_by_layer(relaxed_promotion):
    f, params, *args = transformer()
    report = predict_signal(f, params, *args, backward=True)
    measured = jaxinit.audit(f, params, *args)
    names = column_of_names(report)
    assert names == column_of_names(measured)
    assert sum(name.endswith("[2]") for name in names) == 6
    found = column(report, "out") / column(measured, "out")
    after = np.array(["/out/" in name for name in names])
    # Behind attention the mean over 12 tokens is taken for what each token sees.
    assert np.all(np.abs(found[~after] - 1) < 0.15)
    assert np.all(np.abs(found[after] - 1) < 0.35)
    slopes = column(report, "grad") / column(measured, "grad")
    inside = np.array(["/query/" in name or "/key/" in name for name in names])
    assert np.all(np.abs(slopes[~inside] - 1) < 0.25)
    assert np.all(np.abs(np.log(slopes[inside])) < np.log(2))


# ------------------------------------------------------------------ what stands for it


def test_shapes_are_arrays_of_variance_one_over_fan_in():
    weights = draws(4, 1.0, width=1024)
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
    assert "'cumsum' at" in finding.cause and "test_predict.py" in finding.cause
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
        ({"variance": [("haed", 1.0)]}, jaxinit.predict_signal.__globals__["RuleError"]
         if "RuleError" in jaxinit.predict_signal.__globals__ else ValueError, "haed"),
    ],
)  # fmt: skip
def test_bad_options_are_named(options, error, text):
    with pytest.raises(error, match=text):
        predict_signal(lambda p, x: x @ p["head"], {"head": shape(8, 8)}, X[:, :8], **options)


def test_the_table_folds_equal_layers_and_the_dictionary_gives_the_report_back():
    stack = shape(6, 64, 64)

    def f(weights, x):
        return jax.lax.scan(lambda x, w: (x @ w, None), x, weights)[0]

    report = predict_signal(f, {"layers": stack}, shape(4, 64))
    assert "layers[{0..5}]" in str(report)
    assert type(report).from_dict(report.to_dict()) == report
