"""materialize gives the bits of jit, for whatever an init function is made of."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax import nnx
from identical import assert_as_jit, differences

from jaxinit import materialize

KEY = jax.random.key(0)
initializers = nn.initializers


class Convolutions(nn.Module):
    dtype: type = jnp.float32

    @nn.compact
    def __call__(self, x):
        kinds = {"param_dtype": self.dtype}
        x = nn.Conv(4, (3, 3), **kinds)(x)
        x = nn.relu(nn.BatchNorm(use_running_average=False)(x))
        x = nn.Conv(8, (3, 3), kernel_init=initializers.he_uniform(), **kinds)(x)
        return nn.Dense(3, kernel_init=initializers.normal(0.02), **kinds)(
            x.mean((1, 2))
        )


class Block(nn.Module):
    @nn.compact
    def __call__(self, x, _=None):
        y = nn.LayerNorm()(x)
        x = x + nn.MultiHeadDotProductAttention(2)(y, y)
        return x + nn.Dense(8)(nn.gelu(nn.Dense(16)(x))), None


class Scanned(nn.Module):
    @nn.compact
    def __call__(self, x):
        layers = nn.scan(
            nn.remat(Block),
            variable_axes={"params": 0},
            split_rngs={"params": True},
            length=3,
        )
        return layers()(x, None)[0]


class Ensemble(nn.Module):
    @nn.compact
    def __call__(self, x):
        members = nn.vmap(
            nn.Dense,
            variable_axes={"params": 1},
            split_rngs={"params": True},
            axis_size=3,
            in_axes=None,
        )
        return members(4)(x)


IMAGE, TOKENS = jnp.ones((1, 6, 6, 2)), jnp.ones((1, 3, 8))
MODELS = {
    "convolutions": (Convolutions(), IMAGE),
    "bfloat16 parameters": (Convolutions(jnp.bfloat16), IMAGE),
    "transformer block": (Block(), TOKENS),
    "scan and remat": (Scanned(), TOKENS),
    "vmap": (Ensemble(), TOKENS),
    "orthogonal recurrence": (nn.RNN(nn.OptimizedLSTMCell(6)), TOKENS),
}


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.usefixtures("relaxed_promotion")
def test_linen_models(name):
    model, inputs = MODELS[name]
    assert_as_jit(model.init, KEY, inputs)


@pytest.mark.parametrize(
    "key",
    [
        pytest.param(lambda: jax.random.PRNGKey(5), id="legacy"),
        pytest.param(lambda: jax.random.key(5, impl="rbg"), id="rbg"),
        pytest.param(lambda: jax.random.key(5, impl="unsafe_rbg"), id="unsafe_rbg"),
    ],
)
def test_every_kind_of_key(key):
    assert_as_jit(Ensemble().init, key(), TOKENS)


def test_the_layout_that_is_not_partitionable():
    with jax.threefry_partitionable(False):
        assert_as_jit(Ensemble().init, KEY, TOKENS)


class Mixed(nnx.Module):
    def __init__(self, rngs):
        self.layers = nnx.List([nnx.Linear(4, 4, rngs=rngs) for _ in range(2)])
        self.norm = nnx.BatchNorm(4, rngs=rngs)
        self.dropout = nnx.Dropout(0.5, rngs=rngs)
        self.cell = nnx.GRUCell(4, 4, rngs=rngs)


@pytest.mark.usefixtures("relaxed_promotion")
def test_nnx_models_with_their_random_state():
    assert_as_jit(lambda key: nnx.state(Mixed(nnx.Rngs(key))), KEY)


def test_nnx_models_seeded_by_a_number():
    def init():
        return nnx.state(nnx.Linear(3, 5, rngs=nnx.Rngs(7)))

    assert_as_jit(init)


DRAWS = {
    "normal": lambda k: jax.random.normal(k, (33, 7)),
    "scaled": lambda k: jax.random.normal(k, (9,)) * 0.3 + 1.5,
    "two draws": lambda k: jax.random.normal(k, (40,)) * jax.random.uniform(k, (40,)),
    "more than a row": lambda k: jax.random.uniform(k, (4097,), minval=-1.0),
    "truncated": lambda k: jax.random.truncated_normal(k, -3.0, 1.0, (50,)) / 3,
    "complex": lambda k: jax.random.normal(k, (12, 3), jnp.complex64),
    "half": lambda k: jax.random.normal(k, (300,), jnp.float16),
    "brain": lambda k: jax.random.uniform(k, (300,), jnp.bfloat16),
    "bytes": lambda k: jax.random.bits(k, (77,), jnp.uint8),
    "integers": lambda k: jax.random.randint(k, (30,), -4, 9),
    "signs": lambda k: jax.random.rademacher(k, (30,), jnp.int32),
    "masked": lambda k: jnp.where(jax.random.bernoulli(k, 0.3, (30,)), 0.0, 2.0),
    "gumbel": lambda k: jax.random.gumbel(k, (30,)),
    "mamba": lambda k: jnp.log(
        jnp.expm1(jnp.exp(jax.random.uniform(k, (30,)) * 4 - 7))
    ),
    "a matrix turned": lambda k: jax.random.normal(k, (5, 6)).T,
    "centred": lambda k: (lambda x: x - x.mean())(jax.random.normal(k, (50,))),
    "orthogonal": lambda k: jax.random.orthogonal(k, 5),
    "permutation": lambda k: jax.random.permutation(k, 9),
    "halves": lambda k: jnp.concatenate([jax.random.normal(k, (5,)), jnp.zeros(5)]),
    "with a table": lambda k: jax.random.normal(k, (5,)) * jnp.arange(5.0),
    "split": lambda k: [jax.random.normal(one, (3,)) for one in jax.random.split(k, 3)],
    "folded": lambda k: jax.random.normal(jax.random.fold_in(k, 2**31 + 5), (3,)),
    "mapped": lambda k: jax.vmap(lambda k: jax.random.normal(k, (5,)))(
        jax.random.split(k, 4)
    ),
    "keys": lambda k: jax.random.split(k, 3),
    "scalar": lambda k: jax.random.normal(k),
    "constants": lambda k: (jnp.zeros(3), jnp.eye(3), jnp.arange(4.0) / 3, 2.0, True),
    "empty": lambda k: jax.random.normal(k, (0, 4)),
    "a loop": lambda k: jax.lax.fori_loop(
        0, 3, lambda i, x: x * 1.1, jax.random.normal(k, (4,))
    ),
}


@pytest.mark.parametrize("name", DRAWS)
def test_programs(name):
    assert_as_jit(DRAWS[name], KEY)


@pytest.mark.parametrize("name", ["normal", "complex", "bytes", "integers", "mamba"])
def test_programs_in_64_bit_mode(name, x64):
    assert_as_jit(DRAWS[name], KEY)


def test_wide_dtypes(x64):
    def init(key):
        return (
            jax.random.normal(key, (40,), jnp.float64) * 0.1,
            jax.random.normal(key, (40,), jnp.complex128),
            jax.random.bits(key, (40,), jnp.uint64),
        )

    assert_as_jit(init, KEY)


def test_leaves_may_depend_on_arguments():
    def init(key, scale, table):
        noise = jax.random.normal(key, table.shape)
        return {"a": noise * scale, "b": table + noise, "c": scale * 2 + 1, "d": table}

    assert_as_jit(init, KEY, jnp.float32(0.3), jnp.arange(6.0))


def test_arguments_whose_values_no_leaf_needs_may_be_shapes():
    model, inputs = MODELS["transformer block"]
    shape = jax.ShapeDtypeStruct(inputs.shape, inputs.dtype)
    wanted = jax.jit(model.init)(KEY, inputs)
    assert differences(materialize(model.init)(KEY, shape), wanted) == []


def test_a_shape_for_an_argument_that_is_needed_is_an_error():
    def init(key, table):
        return jax.random.normal(key, (3,)) + table

    shape = jax.ShapeDtypeStruct((3,), jnp.float32)
    with pytest.raises(ValueError, match="given as a ShapeDtypeStruct"):
        materialize(init)(KEY, shape)


def test_an_init_that_fails_fails_as_under_jit():
    def init(key):
        return jnp.zeros(3) if key > 0 else jnp.ones(3)

    messages = []
    for call in (materialize(init), jax.jit(init)):
        with pytest.raises(jax.errors.TracerBoolConversionError) as raised:
            call(jnp.float32(1.0))
        messages.append(str(raised.value))
    assert messages[0] == messages[1]


def test_static_arguments_are_those_of_jit():
    def init(key, size, *, twice=False):
        draws = jax.random.normal(key, (size,))
        return draws * 2 if twice else draws

    for options in (
        {"static_argnums": 1, "static_argnames": "twice"},
        {"static_argnames": ("size", "twice")},
    ):
        got = materialize(init, **options)(KEY, 5, twice=True)
        wanted = jax.jit(init, **options)(KEY, 5, twice=True)
        assert differences(got, wanted) == []


def test_results_are_as_movable_as_those_of_jit():
    got = assert_as_jit(lambda k: {"w": jax.random.normal(k, (8, 8))}, KEY)
    device = jax.devices()[3]
    moved = jax.jit(lambda w, x: w @ x)(got["w"], jax.device_put(jnp.ones(8), device))
    assert moved.devices() == {device}
    jax.jit(lambda w: w + 1, donate_argnums=0)(got["w"]).block_until_ready()


def test_a_difference_would_be_noticed():
    wanted = {"a": jnp.ones(3), "b": jnp.zeros(2)}
    assert differences({"a": jnp.ones(3), "b": -jnp.zeros(2)}, wanted) == ["['b']"]
    shorter = {"a": jnp.ones(3, jnp.bfloat16), "b": jnp.zeros(2)}
    assert differences(shorter, wanted) == ["['a']"]


def test_progress_ends_at_the_total():
    seen = []
    materialize(
        Ensemble().init, progress=lambda done, total: seen.append((done, total))
    )(KEY, TOKENS)
    assert seen[-1] == (seen[-1][1],) * 2
    assert seen == sorted(seen)
    assert np.all([total == seen[0][1] for _, total in seen])
