"""Sound networks have no error and no warning, and numbers that are right."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax import nnx

import jaxinit
from jaxinit import initializers
from jaxinit._signal._audit import Auditor
from jaxinit._signal._program import trace_signal
from jaxinit._signal._ranges import _without_dips

KEY = jax.random.key(0)
X = functools.partial(jax.random.normal, jax.random.key(7))


def grave(report):
    return [finding for finding in report.findings if finding.severity != "note"]


class Layers(nn.Module):
    """Plain Flax: LeCun scaling, ReLU."""

    @nn.compact
    def __call__(self, x):
        for _ in range(4):
            x = nn.relu(nn.Dense(64)(x))
        return nn.Dense(10)(x)


class Widening(nn.Module):
    """Glorot scaling, whose gain is 0.27 where 20 inputs reach 512 units."""

    @nn.compact
    def __call__(self, x):
        init = nn.initializers.glorot_uniform()
        x = nn.relu(nn.Dense(512, kernel_init=init)(x))
        return nn.Dense(10, kernel_init=init)(nn.relu(nn.Dense(64)(x)))


class Residual(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.relu(nn.BatchNorm(use_running_average=False)(nn.Conv(16, (3, 3))(x)))
        for stride in (1, 2):
            y = nn.Conv(16, (3, 3), stride, use_bias=False)(x)
            y = nn.relu(nn.BatchNorm(use_running_average=False)(y))
            y = nn.Conv(16, (3, 3), use_bias=False)(y)
            y = nn.BatchNorm(
                use_running_average=False, scale_init=nn.initializers.zeros
            )(y)
            x = nn.relu(nn.Conv(16, (1, 1), stride)(x) + y)
        return nn.Dense(10)(jnp.mean(x, axis=(1, 2)))


class Transformer(nn.Module):
    """Norm in front, residual gates and head that start at zero."""

    @nn.compact
    def __call__(self, x):  # (batch, 6, 48)
        zeros = nn.initializers.zeros
        x = x + self.param("position", nn.initializers.normal(0.02), (1, 6, 48))
        for _ in range(2):
            y = nn.LayerNorm()(x)
            x = x + nn.MultiHeadDotProductAttention(4)(y)
            y = nn.gelu(nn.Dense(96)(nn.LayerNorm()(x)))
            x = x + nn.Dense(48, kernel_init=zeros)(y)
        return nn.Dense(10, kernel_init=zeros)(nn.LayerNorm()(x)[:, 0])


class Gated(nn.Module):
    """Residual branches that start at a millionth; their gradients do as well."""

    @nn.compact
    def __call__(self, x):
        x = nn.Dense(64)(x)
        for number in range(4):
            gate = self.param(f"gate_{number}", nn.initializers.constant(1e-6), (64,))
            x = x + gate * nn.gelu(nn.Dense(64)(nn.LayerNorm()(x)))
        return nn.Dense(10)(x)


class Recurrent(nn.Module):
    @nn.compact
    def __call__(self, words):
        x = nn.Embed(20, 32)(words)
        x = nn.RNN(nn.OptimizedLSTMCell(32))(x)
        return nn.Dense(20)(x)


class Autoencoder(nn.Module):
    @nn.compact
    def __call__(self, x, key):
        x = nn.relu(nn.Dense(64)(x))
        mean, log_variance = nn.Dense(8)(x), nn.Dense(8)(x)
        z = mean + jnp.exp(log_variance / 2) * jax.random.normal(key, mean.shape)
        return nn.Dense(32)(nn.relu(nn.Dense(64)(z))), mean, log_variance


LINEN = {
    "four layers": (Layers(), X((16, 64))),
    "gated": (Gated(), X((16, 64))),
    "widening": (Widening(), X((16, 20))),
    "residual": (Residual(), X((8, 8, 8, 3))),
    "transformer": (Transformer(), X((8, 6, 48))),
    "recurrent": (Recurrent(), jax.random.randint(KEY, (8, 5), 0, 20)),
    "autoencoder": (Autoencoder(), X((16, 32)), jax.random.key(4)),
}


@pytest.mark.parametrize("name", LINEN)
def test_flax_defaults_are_sound(name, relaxed_promotion):
    module, *args = LINEN[name]
    variables = jax.jit(module.init)(KEY, *args)
    report = jaxinit.audit(*jaxinit.from_linen(module, variables, *args))
    assert not grave(report), str(report)
    assert report.raise_if("warning") is report
    # Residual gates and heads that start at zero are a remark.
    codes = {finding.code for finding in report.findings}
    assert codes == ({"zero"} if name == "transformer" else set())


def test_nnx_is_sound(relaxed_promotion):
    class Net(nnx.Module):
        def __init__(self, rngs):
            self.first = nnx.Linear(32, 64, rngs=rngs)
            self.norm = nnx.BatchNorm(64, rngs=rngs)
            self.drop = nnx.Dropout(0.1, rngs=rngs)
            self.second = nnx.Linear(64, 8, rngs=rngs)

        def __call__(self, x):
            return self.second(self.drop(nnx.relu(self.norm(self.first(x)))))

    report = jaxinit.audit(*jaxinit.from_nnx(Net(nnx.Rngs(0)), X((16, 32))))
    assert not report.findings
    assert len(report.rows) == 2


def he_stack(weights, x):
    return jax.lax.scan(lambda x, w: (jax.nn.relu(x @ w), None), x, weights)[0]


@pytest.mark.parametrize("batch", [2, 16])
def test_dead_units_of_a_deep_he_net_are_what_chance_gives(batch):
    """On many draws of the weights; layer 10 alone has some 21% at batch 16."""
    draw = initializers.stacked(initializers.he_normal())
    auditor = Auditor(
        trace_signal(he_stack, draw(KEY, (10, 256, 256)), X((batch, 256)))
    )
    shares = []
    for seed in range(8):
        weights = draw(jax.random.key(seed), (10, 256, 256))
        report = auditor([weights])
        assert not grave(report)
        shares.append(report.rows[9][report.columns.index("flat")])
    assert np.mean(shares) > 0.1


def test_moments_are_those_of_numpy():
    """Each layer of a stack, bias and all, forward and backward, in float64."""
    weights = np.asarray(X((3, 12, 12))) / np.sqrt(12)
    biases = np.asarray(jax.random.normal(KEY, (3, 12)))
    x = np.asarray(X((8, 12)))

    def f(params, x):
        def step(x, layer):
            return jnp.tanh(x @ layer["w"] + layer["b"][None]), None

        return jax.lax.scan(step, x, params)[0]

    loss = lambda y: jnp.sum(jnp.square(y))  # noqa: E731
    params = {"w": jnp.asarray(weights), "b": jnp.asarray(biases)}
    report = jaxinit.audit(f, params, x, loss=loss)
    signal, sums = np.float64(x), []
    for weight, bias in zip(np.float64(weights), np.float64(biases), strict=True):
        sums.append(signal @ weight + bias)
        signal = np.tanh(sums[-1])
    gradient, gradients = 2 * signal, []
    for number in reversed(range(3)):
        gradient = gradient * (1 - np.tanh(sums[number]) ** 2)
        gradients.insert(0, gradient)
        gradient = gradient @ np.float64(weights[number]).T
    for number, row in enumerate(report.records()):
        value = sums[number]
        unit = value / np.linalg.norm(value, axis=1, keepdims=True)
        cosine = (np.sum(unit @ unit.T) - 8) / 56
        rms = lambda v: np.sqrt(np.mean(v**2))  # noqa: E731
        assert row["leaf"] == f"w[{number}]"
        assert row["out"] == pytest.approx(rms(value), rel=1e-5)
        assert row["mean"] == pytest.approx(np.mean(value), abs=1e-5)
        assert row["cos"] == pytest.approx(cosine, abs=1e-5)
        assert row["grad"] == pytest.approx(rms(gradients[number]), rel=1e-4)
        assert row["gain"] == pytest.approx(rms(weights[number]) * 12**0.5, rel=1e-5)
        assert row["flat"] == pytest.approx(np.mean(np.abs(value) >= 2.18), abs=1e-9)
    assert report.loss == pytest.approx(np.sum(signal**2), rel=1e-5)


def test_gradients_far_below_float32_squares_are_told():
    """1e-25 is no zero: its square would be."""

    def f(params, x):
        return 1e-25 * jnp.tanh(x @ params)

    report = jaxinit.audit(f, X((16, 16)) / 4, X((8, 16)))
    (row,) = report.records()
    assert 1e-26 < row["grad"] < 1e-25


def test_equal_examples_are_a_note_and_no_collapse():
    x = jnp.ones((4, 64))
    params = Layers().init(KEY, x)
    report = jaxinit.audit(*jaxinit.from_linen(Layers(), params, x))
    assert not report.findings
    assert "all examples of the batch are the same" in report.notes[0]


def test_a_loop_of_unknown_length_has_a_forward_half_only():
    def f(params, x):
        step = lambda state: (state[0] + 1, jnp.tanh(state[1] @ params))  # noqa: E731
        return jax.lax.while_loop(lambda state: state[0] < 3, step, (0, x))[1]

    report = jaxinit.audit(f, X((16, 16)) / 4, X((8, 16)))
    assert "no gradient" in report.notes[0]
    (row,) = report.records()
    assert row["grad"] is None
    assert row["out"] > 0


def test_a_model_without_weights_or_outputs_says_what_is_missing():
    with pytest.raises(ValueError, match="returns no array of floating numbers"):
        jaxinit.audit(lambda params, x: jnp.argmax(x @ params), X((4, 4)), X((2, 4)))
    with pytest.raises(ValueError, match="loss must return one real number"):
        jaxinit.audit(jnp.dot, X((4, 4)), X((4, 4)), loss=lambda y: y)


def test_a_weight_on_a_branch_that_does_not_count_is_no_vanishing_gradient():
    """Attention over equal values: the gradient of its logits is rounding."""

    def f(params, x):
        for layer in params:
            value = x @ layer["value"]
            logits = jnp.stack([value @ layer["logits"]] * 3)
            shares = jax.nn.softmax(logits, axis=0)
            x = jnp.tanh(jnp.sum(shares * value[None], axis=0))
        return x

    keys = iter(jax.random.split(KEY, 6))
    draw = initializers.lecun_normal()
    params = [
        {"value": draw(next(keys), (32, 32)), "logits": draw(next(keys), (32, 1))}
        for _ in range(3)
    ]
    report = jaxinit.audit(f, params, X((16, 32)))
    sizes = {row["leaf"]: row["grad"] for row in report.records()}
    assert sizes["0/logits"] < 1e-5 * sizes["0/value"]
    assert not grave(report)


def test_dips_are_raised_and_slopes_are_kept():
    sizes = [1.0, 1e-16, 2.0, 1e-16, 1e-16, 3.0, 3.0]
    assert _without_dips(sizes) == [1.0, 1.0, 2.0, 2.0, 2.0, 3.0, 3.0]
    falling = [10.0**-n for n in range(8)]
    assert _without_dips(falling)[:-1] == falling[:-1]
    assert _without_dips(falling[::-1])[1:] == falling[::-1][1:]


def test_a_head_of_one_unit_has_no_cosine_and_its_examples_differ():
    """The sign of one number is the same for all examples by chance."""

    def f(params, x):
        return jax.nn.relu(x @ params["wide"]) @ params["head"]

    params = {"wide": X((32, 64)) / 4, "head": jnp.full((64, 1), 0.1)}
    report = jaxinit.audit(f, params, jax.random.normal(KEY, (16, 32)))
    assert not grave(report)
    assert report.records()[-1]["cos"] is None
    assert not report.notes
