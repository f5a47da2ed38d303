"""Every product at its target after one pass; what cannot be scaled is said."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax import nnx

from jaxinit import _jaxpr
from jaxinit._errors import RuleError
from jaxinit._signal._calibrate import calibrate
from jaxinit._signal._entry import from_linen, from_nnx
from jaxinit._signal._places import places
from jaxinit._signal._program import trace_signal
from jaxinit._signal._rescale import Goal, Rescaler
from jaxinit._signal._uses import uses_of

KEY = jax.random.key(0)
WIDTH, BATCH = 32, 64


def batch(*shape):
    return jax.random.normal(jax.random.key(7), shape or (BATCH, WIDTH))


def draws(depth, stddev=WIDTH**-0.5):
    return stddev * jax.random.normal(KEY, (depth, WIDTH, WIDTH))


def chain(activation):
    def f(weights, x):
        for weight in weights:
            x = activation(x @ weight)
        return x

    return f


def product_sizes(weights, x, activation):
    """The root mean square of each product of a chain, in float64."""
    x, sizes = np.asarray(x, np.float64), []
    for weight in weights:
        product = x @ np.asarray(weight, np.float64)
        sizes.append(np.sqrt(np.mean(product**2)))
        x = activation(product)
    return np.array(sizes)


def relu(x):
    return np.maximum(x, 0)


def gelu(x):
    return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


CHAINS = {
    "relu": (jax.nn.relu, relu),
    "tanh": (jnp.tanh, np.tanh),
    "gelu": (jax.nn.gelu, gelu),
}


# The pass is one for any activation: in ReLU's chain it meets dead values as well.
@pytest.mark.parametrize(
    "name",
    [
        "relu",
        pytest.param("tanh", marks=pytest.mark.long),
        pytest.param("gelu", marks=pytest.mark.long),
    ],
)
def test_fifty_layers_are_at_their_target_after_one_pass(name):
    ours, reference = CHAINS[name]
    weights = list(draws(50))
    new, report = calibrate(chain(ours), weights, batch(), measure=False)
    np.testing.assert_allclose(product_sizes(new, batch(), reference), 1.0, rtol=1e-5)
    assert report.passes == 1
    assert report.settled
    for one, other in zip(new, weights, strict=True):
        ratio = np.asarray(one / other)
        np.testing.assert_allclose(ratio, ratio[0, 0], rtol=1e-5)  # one factor each


@pytest.mark.parametrize("stddev", [1.0, 1e3, 1e-8])
def test_a_net_that_overflows_or_underflows_is_brought_back(stddev):
    weights = list(draws(50, stddev))
    result = jnp.max(chain(jax.nn.relu)(weights, batch()))
    assert not 0 < result < 1e9
    new, _ = calibrate(chain(jax.nn.relu), weights, batch(), measure=False)
    np.testing.assert_allclose(product_sizes(new, batch(), relu), 1.0, rtol=1e-5)


def test_gradient_ratio_and_cosine_are_shown_before_and_after():
    weights = list(draws(30))
    _, report = calibrate(chain(jax.nn.relu), weights, batch())
    before, after = report.gradient_ratio
    assert before < 1e-3 < 0.05 < after < 20
    assert report.cosine[0] == pytest.approx(report.cosine[1], abs=0.05)
    assert report.cosine[1] > 0.8
    assert "gradient at the first" in str(report)
    old = product_sizes(weights, batch(), relu)
    rows = report.records()
    np.testing.assert_allclose([row["before"] for row in rows], old, rtol=1e-4)
    np.testing.assert_allclose([row["after"] for row in rows], 1.0, rtol=1e-5)
    scales = [row["scale"] for row in rows]
    np.testing.assert_allclose(np.prod(scales[:3]) * old[2], 1.0, rtol=1e-4)


def test_a_scanned_stack_gets_one_factor_for_each_layer():
    def f(weights, x):
        return jax.lax.scan(lambda x, w: (jax.nn.relu(x @ w), None), x, weights)[0]

    new, report = calibrate(f, draws(50), batch())
    np.testing.assert_allclose(product_sizes(new, batch(), relu), 1.0, rtol=1e-5)
    assert len(report.rows) == 50
    assert report.rows[3][0].endswith("[3]")


def test_a_stack_along_another_axis_and_rematerialized():
    def f(weights, x):
        step = jax.checkpoint(lambda x, w: jnp.tanh(x @ w))
        moved = jnp.moveaxis(weights, 2, 0)
        return jax.lax.scan(lambda x, w: (step(x, w), None), x, moved)[0]

    new, _ = calibrate(f, jnp.moveaxis(draws(6), 0, 2), batch())
    layers = np.moveaxis(np.asarray(new), 2, 0)
    np.testing.assert_allclose(product_sizes(layers, batch(), np.tanh), 1.0, rtol=1e-5)


def test_the_target_is_that_of_the_product_and_biases_stay():
    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            for _ in range(3):
                x = nn.relu(nn.Dense(WIDTH, bias_init=nn.initializers.ones)(x))
            return x

    x = batch()
    variables = Net().init(KEY, x)
    f, params, *args = from_linen(Net(), variables, x)
    new, report = calibrate(f, params, *args, target=0.5, targets=[(".*_1/kernel", 2)])
    after = [row["after"] for row in report.records()]
    np.testing.assert_allclose(after, [0.5, 2.0, 0.5], rtol=1e-5)
    for row in report.records():
        assert row["sum"] > row["after"]
    product = x @ new["Dense_0"]["kernel"]
    assert float(jnp.sqrt(jnp.mean(product**2))) == pytest.approx(0.5, rel=1e-5)
    np.testing.assert_array_equal(new["Dense_0"]["bias"], 1.0)


def test_only_some_weights():
    weights = list(draws(3))
    new, report = calibrate(chain(jnp.tanh), weights, batch(), only="[01]")
    np.testing.assert_array_equal(new[2], weights[2])
    assert [row["note"] for row in report.records()] == ["", "", "not chosen"]


class Skips(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.Dense(WIDTH, name="first")(x)
        x = nn.LayerNorm()(nn.Dense(WIDTH, use_bias=False, name="normed")(x))
        x = nn.WeightNorm(nn.Dense(WIDTH, name="weight_norm"))(x)
        x = x + nn.Dense(WIDTH, kernel_init=nn.initializers.zeros, name="gate")(x)
        return nn.Dense(4, name="head")(x)


def test_what_no_factor_helps_is_left_alone_and_said():
    x = batch()
    f, params, *args = from_linen(Skips(), Skips().init(KEY, x), x)
    new, report = calibrate(f, params, *args)
    notes = {row["leaf"]: row["note"] for row in report.records()}
    assert notes == {
        "first/kernel": "",
        "normed/kernel": "a normalization follows",
        "weight_norm/kernel": "transformed first",
        "gate/kernel": "zero",
        "head/kernel": "",
    }
    assert {finding.severity for finding in report.findings} == {"note"}
    for layer in ("normed", "weight_norm", "gate"):
        np.testing.assert_array_equal(new[layer]["kernel"], params[layer]["kernel"])


def recurrent(params, x):
    """One matrix for all time steps, and a tied one at both ends."""
    rows = jnp.broadcast_to(jnp.tanh(x @ params["tied"]), (5, *x.shape))

    def step(carry, now):
        return jnp.tanh(carry @ params["again"] + now), None

    carry = jax.lax.scan(step, jnp.zeros_like(x), rows)[0]
    return carry @ params["tied"].T


def test_shared_weights_are_settled_by_whole_passes():
    weights = draws(2, 0.02)
    params = {"tied": weights[0], "again": weights[1]}
    new, report = calibrate(recurrent, params, batch(), max_passes=50)
    assert report.settled
    assert 2 < report.passes < 50
    x = np.asarray(batch(), np.float64)
    tied, again = (np.asarray(new[name], np.float64) for name in ("tied", "again"))
    first, carry, sizes = x @ tied, np.zeros_like(x), []
    for _ in range(5):
        product = carry @ again
        sizes.append(np.mean(product**2))
        carry = np.tanh(product + np.tanh(first))
    last = carry @ tied.T
    assert np.sqrt(np.mean(sizes)) == pytest.approx(1, rel=1e-4)
    both = np.sqrt((np.mean(first**2) + np.mean(last**2)) / 2)
    assert both == pytest.approx(1, rel=1e-4)


def test_one_pass_leaves_shared_weights_and_says_so():
    weights = draws(2, 0.02)
    params = {"tied": weights[0], "again": weights[1]}
    new, report = calibrate(recurrent, params, batch())
    np.testing.assert_array_equal(new["tied"], params["tied"])
    assert not report.settled
    codes = {finding.leaf: finding.code for finding in report.findings}
    assert codes == {"tied": "unsettled", "again": "unsettled"}
    assert "max_passes=20" in report.findings[0].remedy


class Wide(nnx.Module):
    def __init__(self, rngs):
        self.convs = nnx.List([nnx.Conv(8, 8, (3, 3), rngs=rngs) for _ in range(3)])
        self.norm = nnx.BatchNorm(8, rngs=rngs)
        self.drop = nnx.Dropout(0.2, rngs=rngs)
        self.head = nnx.Linear(8, 5, rngs=rngs)

    def __call__(self, x):
        for conv in self.convs:
            x = self.drop(nnx.relu(conv(x)))
        return self.head(jnp.mean(self.norm(x), axis=(1, 2)))


def test_nnx_with_batch_norm_and_dropout(relaxed_promotion):
    model = Wide(nnx.Rngs(0))
    f, params, *args = from_nnx(model, batch(8, 6, 6, 8))
    new, report = calibrate(f, params, *args)
    after = [row["after"] for row in report.records() if row["scale"] is not None]
    np.testing.assert_allclose(after, 1.0, rtol=1e-5)
    assert jax.tree.structure(new) == jax.tree.structure(params)
    nnx.update(model, new)
    product = nnx.Conv.__call__(model.convs[0], batch(8, 6, 6, 8))
    assert float(jnp.sqrt(jnp.mean(product**2))) == pytest.approx(1, rel=1e-5)


def test_sixteen_bits_come_as_close_as_they_can():
    weights = [weight.astype(jnp.bfloat16) for weight in draws(6, 3.0)]
    new, _ = calibrate(chain(jnp.tanh), weights, batch().astype(jnp.bfloat16))
    assert {weight.dtype for weight in new} == {jnp.dtype(jnp.bfloat16)}
    sizes = product_sizes(new, batch(), np.tanh)
    np.testing.assert_allclose(sizes, 1.0, rtol=2**-7)


def test_a_dead_layer_is_reported():
    def f(params, x):
        return jax.nn.relu(x @ params["a"] - 1e6) @ params["b"]

    params = dict(zip("ab", draws(2), strict=True))
    new, report = calibrate(f, params, batch(), measure=False)
    assert [finding.leaf for finding in report.findings] == ["b"]
    assert report.findings[0].code == "no-signal"
    np.testing.assert_array_equal(new["b"], params["b"])


def test_std_at_its_target_with_exploding_gradients_is_a_warning():
    """tanh at pre-activations this large is chaotic."""
    _, report = calibrate(chain(jnp.tanh), list(draws(20)), batch(), target=9.0)
    (finding,) = report.findings
    assert (finding.severity, finding.code) == ("warning", "gradient-ratio")


def test_the_pass_is_one_program_whatever_the_depth():
    """And it goes forward once: as many products as the network itself has."""
    for depth in (2, 7):
        weights = list(draws(depth))
        signal = trace_signal(chain(jnp.tanh), weights, batch())
        found = places(signal, uses_of(signal))
        rescaler = Rescaler(signal, [Goal(place, 1.0, False) for place in found])
        program = jax.make_jaxpr(rescaler._run)(list(signal.leaves), {})
        names = [eqn.primitive.name for eqn, _ in _jaxpr.walk(program)]
        # One more for each sum of squares, a product of two vectors.
        assert names.count("dot_general") == 2 * depth


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"max_passes": 0}, ValueError, "max_passes must be at least 1, got 0"),
        ({"target": -1.0}, ValueError, "must be a positive number, got -1.0"),
        ({"targets": [("nothing", 1.0)]}, RuleError, "targets.0.: the pattern"),
        ({"only": "nothing"}, RuleError, "only: the pattern 'nothing' matches no leaf"),
    ],
)
def test_bad_options_are_named(options, error, text):
    with pytest.raises(error, match=text):
        calibrate(chain(jnp.tanh), list(draws(2)), batch(), **options)
