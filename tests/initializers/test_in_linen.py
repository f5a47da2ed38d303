"""In flax.linen: every layer, lifted transformation, cache, copy and summary."""

import copy
import dataclasses
import functools
import pickle
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from in_flax import KEY, ROLES, ours, same, theirs, to_bfloat16

# Flax multiplies parameters and inputs of different dtypes.
pytestmark = [
    pytest.mark.usefixtures("relaxed_promotion"),
    pytest.mark.filterwarnings("ignore:SelfAttention will be deprecated"),
]


class Layer(NamedTuple):
    """How to make a layer from (library, **options), and the shape of its input."""

    make: Callable[..., nn.Module]
    shape: tuple[int, ...]


def layer(cls: Any, *arguments: Any, **settings: Any):
    """Make `cls` with an initializer of a library in every field that takes one."""

    def make(library: Any, **options: Any) -> nn.Module:
        fields = [field.name for field in dataclasses.fields(cls)]
        roles = {name: ROLES[name] for name in fields if name.endswith("_init")}
        inits = {name: build(library) for name, build in roles.items()}
        return cls(*arguments, **settings, **options, **inits)

    return make


def around(outer: Any, *inner: Callable[..., nn.Module], **settings: Any):
    """Make `outer`, with settings from (library), around the layers of `inner`."""

    def make(library: Any, **options: Any) -> nn.Module:
        layers = [make_one(library, **options) for make_one in inner]
        return outer(*layers, **{name: f(library) for name, f in settings.items()})

    return make


# An empty batch: parameters do not depend on it, and nothing is computed. Cells have
# one that is not, for their carry.
ROW, SEQUENCE, PICTURE, CELL_ROW = (0, 8), (0, 4, 8), (0, 4, 4, 8), (2, 8)
DENSE, CELL = layer(nn.Dense, 8), layer(nn.SimpleCell, 8)
LAYERS = {
    "Dense": Layer(DENSE, ROW),
    "DenseGeneral": Layer(
        layer(nn.DenseGeneral, (2, 4), axis=(-2, -1), batch_dims=(0,)), (2, 4, 8)
    ),
    "Einsum": Layer(layer(nn.Einsum, (8, 2, 4), "btd,dnh->btnh"), SEQUENCE),
    "Conv 1-D": Layer(layer(nn.Conv, 8, (3,)), SEQUENCE),
    "Conv 2-D": Layer(layer(nn.Conv, 8, (3, 3)), PICTURE),
    "Conv 3-D": Layer(layer(nn.Conv, 8, (2, 2, 2)), (0, 2, 2, 2, 8)),
    "Conv grouped": Layer(layer(nn.Conv, 8, (3, 3), feature_group_count=4), PICTURE),
    "ConvTranspose": Layer(layer(nn.ConvTranspose, 8, (3, 3), (2, 2)), PICTURE),
    "ConvLocal": Layer(layer(nn.ConvLocal, 8, (3,)), SEQUENCE),
    "Embed": Layer(layer(nn.Embed, 16, 8), (2,)),
    "MultiHeadAttention": Layer(layer(nn.MultiHeadAttention, 2), SEQUENCE),
    "MultiHeadDotProductAttention": Layer(
        layer(nn.MultiHeadDotProductAttention, 2, qkv_features=4), SEQUENCE
    ),
    "SelfAttention": Layer(layer(nn.SelfAttention, 2), SEQUENCE),
    "LSTMCell": Layer(layer(nn.LSTMCell, 8), CELL_ROW),
    "OptimizedLSTMCell": Layer(layer(nn.OptimizedLSTMCell, 8), CELL_ROW),
    "GRUCell": Layer(layer(nn.GRUCell, 8), CELL_ROW),
    "MGUCell": Layer(layer(nn.MGUCell, 8), CELL_ROW),
    "SimpleCell": Layer(CELL, CELL_ROW),
    "ConvLSTMCell": Layer(layer(nn.ConvLSTMCell, 8, (2,)), (2, 4, 8)),
    "RNN": Layer(around(nn.RNN, CELL), (2, 4, 8)),
    "Bidirectional": Layer(
        around(nn.Bidirectional, around(nn.RNN, CELL), around(nn.RNN, CELL)),
        (2, 4, 8),
    ),
    "LayerNorm": Layer(layer(nn.LayerNorm), ROW),
    "BatchNorm": Layer(layer(nn.BatchNorm, use_running_average=True), ROW),
    "GroupNorm": Layer(layer(nn.GroupNorm, num_groups=2), SEQUENCE),
    "RMSNorm": Layer(layer(nn.RMSNorm), ROW),
    "InstanceNorm": Layer(layer(nn.InstanceNorm), SEQUENCE),
    "WeightNorm": Layer(
        around(
            nn.WeightNorm,
            DENSE,
            scale_init=ROLES["scale_init"],
            # A module with the default, a set, has no hash.
            variable_filter=lambda m: frozenset({"kernel"}),
        ),
        ROW,
    ),
    "SpectralNorm": Layer(around(nn.SpectralNorm, DENSE), ROW),
}


def drawn(name: str, library: Any, key: jax.Array, **options: Any) -> dict[str, Any]:
    """The parameters of a layer and the carry of a cell: what initializers fill."""
    make, shape = LAYERS[name]
    model: Any = make(library, **options)
    x = jnp.zeros(shape, jnp.int32 if name == "Embed" else jnp.float32)
    if name in ("RNN", "Bidirectional"):  # they carry their state in its own dtype
        x = x.astype(options.get("param_dtype", jnp.float32))
    carry, inputs = {}, (x,)
    if isinstance(model, nn.RNNCellBase):
        carry = {"carry": model.initialize_carry(key, shape)}
        inputs = (carry["carry"], x)
    keywords = {"update_stats": False} if name == "SpectralNorm" else {}
    params = model.init(key, *inputs, **keywords)["params"]
    # ConvLSTMCell lets its carry be chosen, but not its kernels.
    return carry if name == "ConvLSTMCell" else {"params": params, **carry}


def test_every_layer_that_takes_an_initializer_is_here():
    def takes(cls: Any) -> bool:
        fields = {field.name for field in dataclasses.fields(cls)}
        # The slope of PReLU is a number, whatever it is called.
        return any(f.endswith("_init") for f in fields - {"negative_slope_init"})

    public = [cls for cls in vars(nn).values() if isinstance(cls, type)]
    layers = {c for c in public if issubclass(c, nn.Module) and c is not nn.Module}
    made = {type(one.make(ours)) for one in LAYERS.values()}
    assert {cls for cls in layers if takes(cls)} <= made


@pytest.mark.parametrize("name", LAYERS)
def test_eager_parameters_are_those_drawn_with_jax(name):
    same(drawn(name, ours, KEY), drawn(name, theirs, KEY))


# Flax draws the carry of these with a key of its own kind.
@pytest.mark.parametrize("name", sorted(set(LAYERS) - {"RNN", "Bidirectional"}))
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


@pytest.mark.parametrize("transform", [jax.jit, lambda f: f], ids=["jitted", "eager"])
def test_parameters_of_default_keys_are_those_drawn_with_jax(transform):
    def draw(library: Any) -> Any:
        names = ("Dense", "Embed", "GRUCell")
        draw_all = transform(lambda key: [drawn(n, library, key) for n in names])
        return draw_all(jax.random.key(0))

    same(draw(ours), draw(theirs))


# These two keep a weight that they have computed with, not the draw.
@pytest.mark.parametrize("name", sorted(set(LAYERS) - {"WeightNorm", "SpectralNorm"}))
def test_bfloat16_parameters_are_the_float32_draws_cast(name):
    narrow = drawn(name, ours, KEY, param_dtype=jnp.bfloat16)
    same(narrow, jax.tree.map(to_bfloat16, drawn(name, ours, KEY)))


def test_orthogonal_recurrence_in_bfloat16_is_what_jax_does_not_draw():
    with pytest.raises((NotImplementedError, TypeError), match="bfloat16"):
        drawn("GRUCell", theirs, KEY, param_dtype=jnp.bfloat16)


def test_another_initializer_would_be_noticed():
    with pytest.raises(AssertionError):
        same(drawn("Dense", ours, KEY), drawn("Dense", ours, jax.random.key(1)))


# ----------------------------------------------------------- parameters of one's own


class Block(nn.Module):
    """One matrix, declared with and without a dtype."""

    init_fn: Callable[..., Any]
    dtypes: tuple[Any, ...] = ()

    @nn.compact
    def __call__(self, x: Any, _: Any = None):
        weight = self.param("w", self.init_fn, (8, 8), *self.dtypes)
        return x @ weight.astype(x.dtype), None


LIFTED = {
    "param": lambda: Block,
    "remat": lambda: nn.remat(Block),
    "scan": lambda: nn.scan(
        Block, variable_axes={"params": 0}, split_rngs={"params": True}, length=3
    ),
    "vmap": lambda: nn.vmap(
        Block, variable_axes={"params": 0}, split_rngs={"params": True}, axis_size=3
    ),
}


@pytest.mark.parametrize("name", ["he_uniform", "orthogonal"])
@pytest.mark.parametrize("lifted", LIFTED)
def test_param_draws_the_same_under_lifted_transformations(lifted, name):
    model = LIFTED[lifted]()
    x = jnp.zeros((3, 8))
    wide = model(getattr(ours, name)()).init(KEY, x)
    same(wide, model(getattr(theirs, name)()).init(KEY, x))
    narrow = model(getattr(ours, name)(), (jnp.bfloat16,)).init(KEY, x)
    same(narrow, jax.tree.map(to_bfloat16, wide))
    if lifted in ("scan", "vmap"):
        layers = np.asarray(wide["params"]["w"])
        assert layers.shape == (3, 8, 8)
        assert len({matrix.tobytes() for matrix in layers}) == 3


# ---------------------------------------------------------- values: caches and copies


def traces_of(make: Callable[[], nn.Module]) -> int:
    """How often a jitted function of a module is traced for three equal modules."""
    traces = []

    @functools.partial(jax.jit, static_argnums=0)
    def train_step(model, x):
        traces.append(model)
        return x

    for _ in range(3):
        train_step(make(), jnp.zeros(()))
    return len(traces)


@pytest.mark.parametrize("name", LAYERS)
def test_a_module_made_anew_is_not_traced_anew(name):
    make = LAYERS[name].make
    assert make(ours) == make(ours)
    assert hash(make(ours)) == hash(make(ours))
    assert traces_of(lambda: make(ours)) == 1


def test_with_closures_it_would_be():
    assert traces_of(lambda: LAYERS["Dense"].make(theirs)) == 3


def test_a_module_of_another_initializer_is_traced_for_itself():
    scales = iter((0.1, 0.2, 0.3))
    assert traces_of(lambda: nn.Dense(8, kernel_init=ours.normal(next(scales)))) == 3


@pytest.mark.parametrize(
    "duplicate",
    [
        lambda model: pickle.loads(pickle.dumps(model)),
        copy.copy,
        copy.deepcopy,
        lambda model: model.clone(),
        lambda model: model.copy(),
    ],
    ids=["pickle", "copy", "deepcopy", "clone", "module copy"],
)
def test_a_duplicated_module_is_equal_and_draws_the_same(duplicate):
    attention = nn.MultiHeadAttention(
        2, kernel_init=ours.orthogonal(0.5), out_kernel_init=ours.he_normal(-1, 0)
    )
    scale = np.linspace(0.5, 1.5, 8, dtype=np.float32)
    model = nn.Sequential(
        (
            nn.Dense(8, kernel_init=ours.scaled(ours.he_uniform(), 0.5)),
            attention,
            nn.LayerNorm(scale_init=ours.constant(scale), bias_init=ours.zeros),
        )
    )
    again = duplicate(model)
    assert again == model
    assert hash(again) == hash(model)
    x = jnp.zeros((1, 2, 8))
    same(again.init(KEY, x), model.init(KEY, x))


# --------------------------------------------------------------- shapes and summaries


def test_shapes_are_had_without_a_draw():
    model, x = LAYERS["MultiHeadAttention"].make(ours), jnp.zeros((2, 4, 8))
    shapes = jax.eval_shape(model.init, KEY, x)
    same(
        jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes),
        jax.tree.map(jnp.zeros_like, model.init(KEY, x)),
    )


def test_apply_checks_shapes_and_draws_nothing():
    """Flax traces every initializer again in apply, to compare the shape."""
    model, x = nn.Dense(8, kernel_init=ours.orthogonal()), jnp.zeros((2, 8))
    variables = model.init(KEY, x)
    assert "random_" in str(jax.make_jaxpr(model.init)(KEY, x))
    assert "random_" not in str(jax.make_jaxpr(model.apply)(variables, x))
    with pytest.raises(nn.module.errors.ScopeParamShapeError):
        model.apply(variables, jnp.zeros((2, 4)))


def test_the_summary_is_that_of_a_module_with_closures():
    x = jnp.zeros((2, 4, 8))

    def summary(library: Any) -> str:
        model = LAYERS["MultiHeadAttention"].make(library)
        return nn.tabulate(model, KEY, console_kwargs={"width": 120})(x)

    assert "query" in summary(ours)
    assert summary(ours) == summary(theirs)


def test_modules_scopes_and_programs_show_the_initializer_with_its_options():
    init = ours.orthogonal(0.5)
    assert "kernel_init = orthogonal(scale=0.5)" in repr(nn.Dense(8, kernel_init=init))
    assert init.__name__ == "orthogonal(scale=0.5)"
    same(jax.named_call(init)(KEY, (8, 8)), init(KEY, (8, 8)))
    text = jax.jit(init, static_argnums=1).lower(KEY, (8, 8)).as_text()
    assert "orthogonal" in text.splitlines()[0]
    assert type(init).__name__ == "Initializer"


def test_initializers_are_what_the_annotations_of_jax_ask_for():
    inits = [build(ours) for build in ROLES.values()] + [ours.zeros, ours.ones_init()]
    assert all(isinstance(init, theirs.Initializer) for init in inits)
