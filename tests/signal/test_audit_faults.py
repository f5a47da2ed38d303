"""Each planted fault is the first finding, and the remedy it names removes it."""

import jax
import jax.numpy as jnp
import planted_faults as plant
import pytest
from flax import linen as nn
from planted_faults import BATCH, DEPTH, WIDTH

import jaxinit
from jaxinit import initializers
from jaxinit._signal._audit import Auditor
from jaxinit._signal._program import trace_signal

KERNELS = {
    # what is planted: in which layers, code, severity, the layer it is told of
    "constant": (plant.constant, [2], "duplicates", "error", 2),
    "constant everywhere": (plant.constant, range(DEPTH), "duplicates", "error", 0),
    "zero": (plant.zero, [2], "zero", "error", 2),
    "zero everywhere": (plant.zero, range(DEPTH), "zero", "error", 0),
    "large": (plant.large, range(DEPTH), "gain", "error", 0),
    "large, one": (plant.large, [3], "gain", "error", 3),
    "small": (plant.small, range(DEPTH), "gain", "error", 0),
    "small, one": (plant.small, [3], "gain", "error", 3),
    "half copied": (plant.half_copied, [1], "duplicates", "warning", 1),
    "NaN": (plant.one_nan, [4], "non-finite", "error", 4),
}


@pytest.mark.parametrize("name", plant.NETWORKS)
def test_the_network_without_a_fault_is_sound(name):
    report = plant.audited(name, plant.sound(plant.NETWORKS[name][1]))
    assert not report.findings
    assert len(report.rows) == DEPTH + 1


@pytest.mark.parametrize("network", plant.NETWORKS)
@pytest.mark.parametrize("fault", KERNELS)
def test_a_fault_of_kernels_is_the_first_and_only_finding(fault, network):
    change, layers, code, severity, where = KERNELS[fault]
    params = plant.sound(plant.NETWORKS[network][1])
    report = plant.audited(network, plant.with_kernels(params, change, layers))
    (finding,) = report.findings
    assert (finding.code, finding.severity) == (code, severity)
    assert finding.leaf == f"layer_{where}/kernel"


@pytest.mark.parametrize(("network", "code"), [("relu", "dead"), ("tanh", "saturated")])
def test_a_bias_of_minus_ten_is_the_first_finding(network, code):
    params = plant.sound(plant.NETWORKS[network][1])
    params["layer_2"] = params["layer_2"] | {"bias": jnp.full(WIDTH, -10.0)}
    (finding,) = plant.audited(network, params).findings
    assert (finding.leaf, finding.code) == ("layer_2/bias", code)
    assert finding.severity == "error"
    assert "It shifts the sum by -10" in finding.cause
    assert "layer_3/kernel" in finding.cause  # what follows from it


def test_consequences_are_told_and_numbered():
    params = plant.sound(1.0)
    report = plant.audited("tanh", plant.with_kernels(params, plant.large))
    cause = report.findings[0].cause
    assert "rms(w) sqrt(fan_in) is 8.1" in cause
    assert "likewise layer_{1..5}/kernel; 7.92 to 8.21" in cause
    assert "It explains: 77% of tanh saturated, and 5 alike." in cause
    assert [row["note"] for row in report.records()] == ["gain"] * DEPTH + [""]
    row = report.records()[0]
    assert row["gain"] == pytest.approx(8.0, rel=0.05)
    assert 0.7 < row["flat"] < 0.85  # P(|z| > 2.18) = 79% at rms 8


REPAIRED = [("relu", plant.constant), ("tanh", plant.large), ("relu", plant.small)]


@pytest.mark.parametrize(("network", "change"), REPAIRED)
def test_the_remedy_is_a_line_of_code_that_repairs_it(network, change):
    activation, gain = plant.NETWORKS[network]
    params = plant.with_kernels(plant.sound(gain), change)
    (finding,) = plant.audited(network, params).findings
    scope = {
        "jaxinit": jaxinit,
        "key": jax.random.key(11),
        "f": plant.network(activation),
        "params": params,
        "args": (plant.batch(),),
    }
    exec(finding.remedy, scope)
    assert not plant.audited(network, scope["params"]).findings


def test_deep_lecun_with_relu_vanishes_and_the_first_layer_is_named():
    def f(weights, x):
        return jax.lax.scan(lambda x, w: (jax.nn.relu(x @ w), None), x, weights)[0]

    weights = jax.random.normal(jax.random.key(0), (40, WIDTH, WIDTH)) * WIDTH**-0.5
    (finding,) = jaxinit.audit(f, weights, plant.batch()).findings
    assert (finding.severity, finding.code) == ("error", "vanishing")
    assert "0.69 in each weight" in finding.cause  # sqrt(1/2), nearly
    assert "the gradient vanishes" in finding.cause


def heads(heads_init):
    class Attention(nn.Module):
        @nn.compact
        def __call__(self, x):  # (batch, length, width)
            y = nn.LayerNorm()(x)
            query, key, value = (
                nn.Einsum((8, 64, 8), "BTD,NDH->BTNH", kernel_init=heads_init)(y)
                for _ in range(3)
            )
            y = nn.dot_product_attention(query, key, value)
            x = x + nn.DenseGeneral(64, axis=(-2, -1))(y)
            return nn.Dense(10)(nn.LayerNorm()(x))

    return Attention()


def test_a_fan_wrong_by_heads(relaxed_promotion):
    """Flax's own default for Einsum: 8 heads enter the fan."""
    x = jax.random.normal(jax.random.key(1), (BATCH, 5, 64))
    module = heads(nn.initializers.lecun_normal())
    variables = module.init(jax.random.key(0), x)
    f, params, *args = jaxinit.from_linen(module, variables, x)
    auditor = Auditor(trace_signal(f, params, *args))
    first = auditor(jax.tree.leaves(params)).findings[0]
    assert (first.severity, first.code) == ("error", "wrong-fan")
    assert first.leaf == "Einsum_0/kernel"
    assert "that for fan_in 512" in first.cause
    assert "its true fan_in is 64" in first.cause
    assert "2.83 times too small" in first.cause
    told = initializers.lecun_normal(equation="btd,ndh->btnh")
    params = heads(told).init(jax.random.key(0), x)["params"]
    assert not auditor(jax.tree.leaves(params)).findings


def test_a_fan_wrong_by_experts():
    def f(params, x):
        hidden = jax.nn.relu(jnp.einsum("ebd,edf->ebf", x, params["wide"]))
        return jnp.einsum("ebf,efd->ebd", hidden, params["narrow"])

    x = jax.random.normal(jax.random.key(1), (4, BATCH, 64))
    keys = jax.random.split(jax.random.key(0))
    params = {
        "wide": initializers.he_normal()(keys[0], (4, 64, 128)),
        "narrow": initializers.he_normal(batch_axis=0)(keys[1], (4, 128, 64)),
    }
    (finding,) = jaxinit.audit(f, params, x).findings
    assert (finding.leaf, finding.code) == ("wide", "wrong-fan")
    params["wide"] = initializers.he_normal(batch_axis=0)(keys[0], (4, 64, 128))
    assert not jaxinit.audit(f, params, x).findings


def unused(params, x):
    return jnp.tanh(x @ params["a"])


def stopped(params, x):
    return jnp.tanh(x @ params["a"]) @ jax.lax.stop_gradient(params["b"])


@pytest.mark.parametrize(
    ("f", "code"), [(unused, "unused"), (stopped, "stop-gradient")]
)
def test_unused_and_stopped_parameters_are_told_apart(f, code):
    keys = jax.random.split(jax.random.key(0))
    init = initializers.lecun_normal()
    params = {"a": init(keys[0], (WIDTH, WIDTH)), "b": init(keys[1], (WIDTH, 4))}
    (finding,) = jaxinit.audit(f, params, plant.batch()).findings
    assert (finding.severity, finding.leaf, finding.code) == ("warning", "b", code)


def test_nan_from_the_batch_or_from_an_operation_is_not_blamed_on_a_weight():
    params = plant.sound(1.0)
    broken = plant.batch().at[0, 0].set(jnp.nan)
    f = plant.network(jnp.tanh)
    (finding,) = jaxinit.audit(f, params, broken).findings
    assert finding.code == "non-finite"
    assert "NaN or infinite already" in finding.cause

    def logarithm(params, x):
        return jnp.log(x @ params["a"]) @ params["b"]

    params = {"a": jnp.eye(WIDTH), "b": jnp.eye(WIDTH)}
    found = jaxinit.audit(logarithm, params, plant.batch()).findings
    assert (found[0].leaf, found[0].code) == ("b", "non-finite")
    assert "test_audit_faults.py" in found[0].cause


@pytest.mark.parametrize("leaf", ["table", "bias", "scale"])
def test_a_nan_in_no_weight_of_a_product_is_told_as_well(leaf):
    def f(params, tokens):
        x = params["table"][tokens] @ params["a"] + params["bias"][None]
        return jnp.tanh(x) * params["scale"][None] @ params["b"]

    keys = jax.random.split(jax.random.key(0), 3)
    init = initializers.lecun_normal()
    params = {
        "table": jax.random.normal(keys[0], (20, WIDTH)),
        "a": init(keys[1], (WIDTH, WIDTH)),
        "bias": jnp.zeros(WIDTH),
        "scale": jnp.ones(WIDTH),
        "b": init(keys[2], (WIDTH, 4)),
    }
    params[leaf] = params[leaf].at[..., 3].set(jnp.nan)
    (finding,) = jaxinit.audit(f, params, jnp.arange(BATCH)).findings
    assert (finding.leaf, finding.code) == (leaf, "non-finite")
    assert "numbers are NaN or infinite" in finding.cause


def test_a_nan_that_a_loop_brings_round_is_told_of_its_weight():
    def f(params, x):
        def step(carry, now):
            first = jnp.tanh(carry @ params["a"])
            return first @ params["b"] + now, None

        return jax.lax.scan(step, x, jnp.stack([x] * 3))[0]

    init = initializers.lecun_normal()
    keys = jax.random.split(jax.random.key(0))
    params = {
        name: init(key, (WIDTH, WIDTH)) for name, key in zip("ab", keys, strict=True)
    }
    params["b"] = params["b"].at[0, 0].set(jnp.nan)
    (finding,) = jaxinit.audit(f, params, plant.batch()).findings
    assert (finding.leaf, finding.code) == ("b", "non-finite")


def test_a_network_that_overflows_is_told_by_its_gain():
    def f(weights, x):
        return jax.lax.scan(lambda x, w: (jax.nn.relu(x @ w), None), x, weights)[0]

    weights = jax.random.normal(jax.random.key(0), (60, WIDTH, WIDTH)) * 10
    (finding,) = jaxinit.audit(f, weights, plant.batch()).findings
    assert (finding.severity, finding.code) == ("error", "gain")
    assert "NaN or infinity from" in finding.cause


def test_a_zero_layer_of_a_stack_is_told_with_its_number():
    def f(weights, x):
        return jax.lax.scan(lambda x, w: (jnp.tanh(x @ w), None), x, weights)[0]

    weights = jax.random.normal(jax.random.key(0), (6, WIDTH, WIDTH)) * WIDTH**-0.5
    report = jaxinit.audit(f, weights.at[2].set(0.0), plant.batch())
    (finding,) = report.findings
    assert (finding.severity, finding.code) == ("error", "zero")
    assert "[3]" in finding.cause  # the first layer that nothing reaches
    assert report.rows[2][report.columns.index("out")] == 0.0


CELLS = {
    "plain": lambda x, h, p: jnp.tanh(x @ p["x"] + h @ p["h"] + p["b"][None]),
    "gate": lambda x, h, p: nn.sigmoid(x @ p["x"] + p["b"][None] + h @ p["h"]) * x,
}


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("leaf", ["x", "h"])
def test_large_weights_of_a_recurrent_cell_are_told(cell, leaf):
    def f(params, xs):
        step = lambda h, x: (CELLS[cell](x, h, params), None)  # noqa: E731
        return jax.lax.scan(step, jnp.zeros_like(xs[0]), xs)[0]

    keys = jax.random.split(jax.random.key(0))
    init = initializers.lecun_normal()
    params = {"x": init(keys[0], (96, 96)), "h": init(keys[1], (96, 96))}
    params["b"] = jnp.zeros(96)
    xs = jax.random.normal(jax.random.key(1), (5, BATCH, 96))
    audit = Auditor(trace_signal(f, params, xs))
    assert not audit(jax.tree.leaves(params)).findings
    params[leaf] = plant.large(keys[0], (params[leaf]))
    (finding,) = audit(jax.tree.leaves(params)).findings
    assert (finding.severity, finding.leaf, finding.code) == ("error", leaf, "gain")
    params[leaf] = init(keys[1], (96, 96))
    params["b"] = jnp.full(96, -10.0)
    (finding,) = audit(jax.tree.leaves(params)).findings
    assert (finding.leaf, finding.code) == ("b", "saturated")
