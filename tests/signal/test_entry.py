"""from_linen and from_nnx: the same outputs, and nothing changed outside."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax import nnx

import jaxinit

pytestmark = pytest.mark.usefixtures("relaxed_promotion")

KEY = jax.random.key(0)
X = jax.random.normal(KEY, (4, 6))


class Net(nn.Module):
    @nn.compact
    def __call__(self, x, train, *, scale=None):
        x = nn.BatchNorm(use_running_average=not train)(nn.Dense(5)(x))
        x = nn.Dropout(0.5, deterministic=not train)(x)
        calls = self.variable("counters", "calls", lambda: jnp.zeros(()))
        calls.value += 1
        return x if scale is None else x * scale

    def only_first(self, x):
        return x[:1]


def variables():
    return Net().init(KEY, X, False)


@pytest.mark.parametrize("train", [False, True])
def test_linen_gives_the_outputs_of_apply(train):
    state = variables()
    options = {"rngs": {"dropout": KEY}, "scale": jnp.full((1, 5), 3.0)}
    f, params, *args = jaxinit.from_linen(Net(), state, X, train, **options)
    mutable = ["batch_stats", "counters"]
    expected, _ = Net().apply(state, X, train, mutable=mutable, **options)
    np.testing.assert_array_equal(f(params, *args), expected)
    np.testing.assert_array_equal(jax.jit(f)(params, *args).shape, expected.shape)
    assert params is state["params"]


def test_arrays_are_arguments_and_options_are_not():
    f, params, *args = jaxinit.from_linen(
        Net(), variables(), X, True, rngs={"dropout": KEY}, scale=jnp.ones((1, 5))
    )
    state, x = args
    assert x is X
    assert set(state) == {"collections", "rngs", "keywords"}
    other = {**state, "rngs": {"dropout": jax.random.key(1)}}
    assert np.any(f(params, other, x) != f(params, state, x))


def test_a_method_and_frozen_variables_are_welcome():
    frozen = nn.FrozenDict(variables()) if hasattr(nn, "FrozenDict") else variables()
    f, params, *args = jaxinit.from_linen(Net(), frozen, X, method=Net.only_first)
    assert f(params, *args).shape == (1, 6)


def test_variables_without_parameters_are_refused():
    with pytest.raises(
        ValueError, match=r"collection 'params'.*give \{'params': params"
    ):
        jaxinit.from_linen(Net(), variables()["params"], X, False)


class Model(nnx.Module):
    def __init__(self, rngs):
        self.first = nnx.Linear(6, 5, rngs=rngs)
        self.norm = nnx.BatchNorm(5, rngs=rngs)
        self.dropout = nnx.Dropout(0.5, rngs=rngs)

    def __call__(self, x, factor=1.0):
        return self.dropout(self.norm(self.first(x))) * factor

    def linear(self, x):
        return self.first(x)


@pytest.mark.parametrize("mode", ["train", "eval"])
def test_nnx_gives_the_outputs_of_the_call_and_leaves_the_model(mode):
    model = Model(nnx.Rngs(0))
    getattr(model, mode)()
    before = jax.tree.map(jnp.copy, nnx.state(model))
    f, params, *args = jaxinit.from_nnx(model, X, factor=jnp.float32(2))
    found = jax.jit(f)(params, *args)
    after = nnx.state(model)
    for one, other in zip(jax.tree.leaves(before), jax.tree.leaves(after), strict=True):
        assert (
            jnp.array_equal(jax.random.key_data(one), jax.random.key_data(other))
            if (jax.dtypes.issubdtype(one.dtype, jax.dtypes.prng_key))
            else jnp.array_equal(one, other)
        )
    np.testing.assert_allclose(found, model(X, 2.0), rtol=1e-5, atol=1e-6)


def test_nnx_takes_another_method():
    model = Model(nnx.Rngs(0))
    f, params, *args = jaxinit.from_nnx(model, X, method=Model.linear)
    np.testing.assert_allclose(f(params, *args), model.first(X), rtol=1e-6)


def test_the_uses_of_a_model_in_training_mode():
    f, params, *args = jaxinit.from_linen(
        Net(), variables(), X, True, rngs={"dropout": KEY}
    )
    uses = jaxinit.trace_uses(f, params, *args)
    assert {path: use.kind for path, (use,) in uses.items()} == {
        "Dense_0/kernel": "dot",
        "Dense_0/bias": "bias",
        "BatchNorm_0/scale": "scale",
        "BatchNorm_0/bias": "bias",
    }
