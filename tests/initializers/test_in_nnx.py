"""In flax.nnx: every layer, stack, cache and copy."""

import copy
import functools
import inspect
import pickle
from collections.abc import Callable
from typing import Any

import flax.linen
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from in_flax import KEY, ROLES, ours, same, theirs, to_bfloat16

Maker = Callable[..., nnx.Module]


def layer(cls: Any, *arguments: Any, **settings: Any) -> Maker:
    """Make `cls` with an initializer of a library for every argument that takes one."""

    def make(library: Any, key: jax.Array = KEY, **options: Any) -> nnx.Module:
        roles = {name: ROLES[name] for name in roles_of(cls)}
        inits = {name: build(library) for name, build in roles.items()}
        return cls(*arguments, rngs=nnx.Rngs(key), **settings, **options, **inits)

    return make


def roles_of(cls: Any) -> list[str]:
    """The arguments that take an initializer; the slope of PReLU is a number."""
    arguments = inspect.signature(cls.__init__).parameters
    endings, excepted = ("_init", "_initializer"), "negative_slope_init"
    return [name for name in arguments if name.endswith(endings) and name != excepted]


def around(outer: Any, inner: Maker, **settings: Any) -> Maker:
    """Make `outer`, with settings from (library), around `inner`."""

    def make(library: Any, key: jax.Array = KEY, **options: Any) -> nnx.Module:
        inits = {name: build(library) for name, build in settings.items()}
        return outer(inner(library, key, **options), rngs=nnx.Rngs(key), **inits)

    return make


LAYERS = {
    "Linear": layer(nnx.Linear, 8, 8),
    "LinearGeneral": layer(nnx.LinearGeneral, (2, 4), (4, 2), axis=(-2, -1)),
    "LinearGeneral batched": layer(nnx.LinearGeneral, 8, 8, batch_axis={0: 2}),
    "Einsum": layer(nnx.Einsum, "btd,dnh->btnh", (8, 2, 4), (2, 4)),
    "Einsum with a vector": layer(nnx.Einsum, "bd,df->bf", (8, 4), 4),
    "Conv 1-D": layer(nnx.Conv, 8, 8, (3,)),
    "Conv 2-D": layer(nnx.Conv, 8, 8, (3, 3)),
    "Conv 3-D": layer(nnx.Conv, 8, 8, (2, 2, 2)),
    "Conv grouped": layer(nnx.Conv, 8, 8, (3, 3), feature_group_count=4),
    "ConvTranspose": layer(nnx.ConvTranspose, 8, 8, (3, 3), (2, 2)),
    "Embed": layer(nnx.Embed, 16, 8),
    "MultiHeadAttention": layer(nnx.MultiHeadAttention, 2, 8, decode=False),
    "LoRA": layer(nnx.LoRA, 8, 4, 8),
    "LoRALinear": layer(
        nnx.LoRALinear, 8, 8, lora_rank=4, kernel_init=theirs.he_uniform()
    ),
    "LSTMCell": layer(nnx.LSTMCell, 8, 8),
    "OptimizedLSTMCell": layer(nnx.OptimizedLSTMCell, 8, 8),
    "GRUCell": layer(nnx.GRUCell, 8, 8),
    "SimpleCell": layer(nnx.SimpleCell, 8, 8),
    "RNN": around(nnx.RNN, layer(nnx.SimpleCell, 8, 8)),
    "LayerNorm": layer(nnx.LayerNorm, 8),
    "BatchNorm": layer(nnx.BatchNorm, 8),
    "GroupNorm": layer(nnx.GroupNorm, 8, num_groups=2),
    "RMSNorm": layer(nnx.RMSNorm, 8),
    "InstanceNorm": layer(nnx.InstanceNorm, 8),
    # Flax hands it a stream of keys for a key: what draws nothing works.
    "WeightNorm": around(
        nnx.WeightNorm, layer(nnx.Linear, 8, 8), scale_init=lambda m: m.constant(2.0)
    ),
    "SpectralNorm": around(nnx.SpectralNorm, layer(nnx.Linear, 8, 8)),
}
# Flax warns that closures given here make models unequal; ours do not.
pytestmark = pytest.mark.filterwarnings("ignore:carry_init is provided")


def drawn(name: str, library: Any, key: jax.Array, **options: Any) -> dict[str, Any]:
    """The parameters of a layer and the carry of a cell: what initializers fill."""
    model: Any = LAYERS[name](library, key, **options)
    carry = {}
    if isinstance(model, nnx.RNNCellBase):
        init = ROLES["carry_init"](library)
        carry = {"carry": model.initialize_carry((2, 8), nnx.Rngs(key), init)}
    return {**nnx.to_pure_dict(nnx.state(model, nnx.Param)), **carry}


def test_every_layer_that_takes_an_initializer_is_here():
    public = [cls for cls in vars(nnx).values() if isinstance(cls, type)]
    layers = {cls for cls in public if issubclass(cls, nnx.Module)}
    made = {type(make(ours)) for make in LAYERS.values()}
    assert {cls for cls in layers if roles_of(cls)} <= made


@pytest.mark.parametrize("name", LAYERS)
def test_eager_parameters_are_those_drawn_with_jax(name):
    same(drawn(name, ours, KEY), drawn(name, theirs, KEY))


@pytest.mark.parametrize("name", LAYERS)
def test_jit_is_given_the_program_that_it_is_given_with_jax(name):
    """And so returns the same bits; keys that we draw faster with are tested below."""
    our, their = (
        jax.make_jaxpr(functools.partial(drawn, name, library))(KEY)
        for library in (ours, theirs)
    )
    assert str(our) == str(their)
    assert "random_" in str(our)
    assert not our.consts
    assert not their.consts


def test_jitted_parameters_of_default_keys_are_those_drawn_with_jax():
    def draw(library: Any) -> Any:
        names = ("Linear", "Embed", "GRUCell")
        draw_all = jax.jit(lambda key: [drawn(n, library, key) for n in names])
        return draw_all(jax.random.key(0))

    same(draw(ours), draw(theirs))


# The scale of WeightNorm has the dtype that its initializer chooses.
@pytest.mark.parametrize("name", sorted(set(LAYERS) - {"WeightNorm"}))
def test_bfloat16_parameters_are_the_float32_draws_cast(name):
    options = {"param_dtype": jnp.bfloat16}
    if name == "LoRALinear":
        options = {"lora_param_dtype": jnp.bfloat16}
    narrow, wide = drawn(name, ours, KEY, **options), drawn(name, ours, KEY)
    if name == "LoRALinear":  # of a frozen matrix in float32
        assert narrow.pop("kernel").dtype == wide.pop("kernel").dtype == jnp.float32
        assert narrow.pop("bias").dtype == wide.pop("bias").dtype == jnp.float32
    same(narrow, jax.tree.map(to_bfloat16, wide))


def test_orthogonal_recurrence_in_bfloat16_is_what_jax_does_not_draw():
    with pytest.raises((NotImplementedError, TypeError), match="bfloat16"):
        drawn("GRUCell", theirs, KEY, param_dtype=jnp.bfloat16)


@pytest.mark.parametrize("name", ["normal", "uniform", "truncated_normal", "zeros"])
def test_the_shape_of_a_vector_may_be_its_size(name):
    """As Flax writes it where a bias has one axis."""
    our, their = (getattr(library, name) for library in (ours, theirs))
    our, their = (our, their) if name == "zeros" else (our(), their())
    same(our(KEY, 4), their(KEY, 4))


def test_another_initializer_would_be_noticed():
    with pytest.raises(AssertionError):
        same(drawn("Linear", ours, KEY), drawn("Linear", ours, jax.random.key(1)))


# ------------------------------------------------------------- models of one's own


class Block(nnx.Module):
    """A matrix drawn by hand, and a layer; the initializer is kept, as many do."""

    def __init__(self, init_fn: Any, rngs: nnx.Rngs, dtype: Any = jnp.float32):
        self.init_fn = init_fn
        self.weight = nnx.Param(init_fn(rngs.params(), (8, 8), dtype))
        self.linear = nnx.Linear(8, 8, kernel_init=init_fn, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.linear(x @ self.weight)


def by_vmap(init: Any, dtype: Any) -> nnx.Module:
    @nnx.split_rngs(splits=3)
    @nnx.vmap(in_axes=(0,), out_axes=0)
    def make(rngs: nnx.Rngs) -> nnx.Module:
        return Block(init, rngs, dtype)

    return make(nnx.Rngs(KEY))


def by_scan(init: Any, dtype: Any) -> nnx.Module:
    @nnx.split_rngs(splits=3)
    @nnx.scan(in_axes=(nnx.Carry, 0), out_axes=(nnx.Carry, 0))
    def make(carry: jax.Array, rngs: nnx.Rngs):
        return carry, Block(init, rngs, dtype)

    return make(jnp.zeros(()), nnx.Rngs(KEY))[1]


STACKED = {"vmap": by_vmap, "scan": by_scan}


@pytest.mark.parametrize("name", ["he_uniform", "orthogonal"])
@pytest.mark.parametrize("stack", STACKED)
def test_stacks_are_those_drawn_with_jax(stack, name):
    def weights(library: Any, dtype: Any = jnp.float32) -> Any:
        model = STACKED[stack](getattr(library, name)(), dtype)
        return nnx.to_pure_dict(nnx.state(model, nnx.Param))

    wide = weights(ours)
    same(wide, weights(theirs))
    assert wide["weight"].shape == (3, 8, 8)
    assert len({matrix.tobytes() for matrix in np.asarray(wide["weight"])}) == 3
    narrow = weights(ours, jnp.bfloat16)
    same(narrow["weight"], to_bfloat16(wide["weight"]))


def test_a_linen_module_through_the_bridge_draws_the_same():
    def params(library: Any) -> Any:
        dense = flax.linen.Dense(8, kernel_init=library.he_uniform())
        model = nnx.bridge.ToNNX(dense, nnx.Rngs(KEY)).lazy_init(jnp.zeros((1, 8)))
        return nnx.to_pure_dict(nnx.state(model, nnx.Param))

    same(params(ours), params(theirs))


def test_shapes_are_had_without_a_draw():
    model = Block(ours.orthogonal(), nnx.Rngs(KEY))
    shapes = nnx.eval_shape(lambda: Block(ours.orthogonal(), nnx.Rngs(KEY)))
    for abstract, array in zip(
        jax.tree.leaves(nnx.state(shapes)),
        jax.tree.leaves(nnx.state(model)),
        strict=True,
    ):
        assert isinstance(abstract, jax.ShapeDtypeStruct)
        assert (abstract.shape, abstract.dtype) == (array.shape, array.dtype)


# ---------------------------------------------------------- values: caches and copies


def traces_of(make: Callable[[], nnx.Module]) -> tuple[int, int]:
    """How often a step is traced for three equal models: nnx.jit, static graphdef."""
    models, graphdefs = [], []

    @nnx.jit
    def step(model):
        models.append(model)
        return jnp.zeros(())

    @functools.partial(jax.jit, static_argnums=0)
    def split_step(graphdef, state):
        graphdefs.append(graphdef)
        return jnp.zeros(())

    for _ in range(3):
        step(make())
        split_step(*nnx.split(make()))
    return len(models), len(graphdefs)


@pytest.mark.parametrize("name", ["GRUCell", "SimpleCell", "WeightNorm"])
def test_a_layer_that_keeps_its_initializer_is_not_traced_anew(name):
    first, second = (nnx.graphdef(LAYERS[name](ours)) for _ in range(2))
    assert first == second
    assert hash(first) == hash(second)
    assert traces_of(lambda: LAYERS[name](ours)) == (1, 1)


def test_a_model_that_keeps_its_initializer_is_not_traced_anew():
    assert traces_of(lambda: Block(ours.he_uniform(), nnx.Rngs(KEY))) == (1, 1)
    assert traces_of(lambda: Block(theirs.he_uniform(), nnx.Rngs(KEY))) == (3, 3)


def test_a_model_of_another_initializer_is_traced_for_itself():
    scales = iter(np.linspace(0.1, 0.6, 6).tolist())
    assert traces_of(lambda: Block(ours.normal(next(scales)), nnx.Rngs(KEY))) == (3, 3)


@pytest.mark.parametrize(
    "duplicate",
    [
        lambda model: pickle.loads(pickle.dumps(model)),
        lambda model: nnx.merge(*pickle.loads(pickle.dumps(nnx.split(model)))),
        copy.deepcopy,
        nnx.clone,
    ],
    ids=["pickle", "pickled split", "deepcopy", "clone"],
)
def test_a_duplicated_model_is_equal(duplicate):
    init = ours.scaled(ours.orthogonal(), 0.5)
    model = Block(init, nnx.Rngs(KEY))
    again = duplicate(model)
    assert again is not model
    assert again.init_fn == init
    assert nnx.graphdef(again) == nnx.graphdef(model)
    assert hash(nnx.graphdef(again)) == hash(nnx.graphdef(model))
    same(nnx.state(again), nnx.state(model))


def test_a_model_shows_its_initializer():
    assert "init_fn=orthogonal(scale=0.5)" in repr(
        Block(ours.orthogonal(0.5), nnx.Rngs(KEY))
    )
