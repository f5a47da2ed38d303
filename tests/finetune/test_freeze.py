"""freeze over many steps, in nnx, on a mesh, and where it is told something wrong."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import optax.contrib
import pytest
from flax import nnx
from flax.core import FrozenDict
from jax.sharding import NamedSharding, PartitionSpec

from jaxinit import finetune as ft
from jaxinit._containers import nnx_variables
from jaxinit._errors import PathError, RuleError

SPECIAL = jnp.array([0.0, -0.0, 1e-40, jnp.nan, jnp.inf, -jnp.inf, 1.0, -3e38])


def bits(array):
    return np.asarray(array).tobytes()


def test_frozen_leaves_keep_every_bit_for_1000_steps(relaxed_promotion):
    params = {
        "frozen": {"float": SPECIAL, "half": SPECIAL.astype(jnp.bfloat16)},
        "complex": jnp.array([complex(-0.0, -0.0), complex(0.0, -0.0)]),
        "whole": jnp.array([-(2**31), 5], jnp.int32),
        "head": jnp.ones(2),
    }
    optimizer = ft.freeze(
        optax.chain(
            optax.clip_by_global_norm(1.0),
            optax.add_noise(0.1, 0.5, 0),
            optax.adamw(0.01, weight_decay=0.1),
        ),
        ["frozen/.*", "complex", "whole"],
    )

    @jax.jit
    def train(params):
        def step(carry, _):
            params, state = carry
            updates, state = optimizer.update(params, state, params)
            return (optax.apply_updates(params, updates), state), None

        return jax.lax.scan(step, (params, optimizer.init(params)), length=1000)[0][0]

    after = train(params)
    for name in ("float", "half"):
        assert bits(after["frozen"][name]) == bits(params["frozen"][name])
    assert bits(after["complex"]) == bits(params["complex"])
    assert bits(after["whole"]) == bits(params["whole"])
    assert np.all(np.asarray(after["head"]) != 1.0)
    ft.assert_frozen(params, after, ["frozen/.*", "complex", "whole"])


@pytest.mark.parametrize("value", [0.0, -0.0])
def test_an_update_of_a_frozen_leaf_adds_nothing_outside_of_jit_too(value):
    params = {"frozen": jnp.full(2, value), "head": jnp.ones(1)}
    optimizer = ft.freeze(optax.sgd(1.0), "frozen")
    updates, _ = optimizer.update(params, optimizer.init(params), params)
    assert bits(optax.apply_updates(params, updates)["frozen"]) == bits(
        params["frozen"]
    )
    # Zeros would have: -0.0 + 0.0 is 0.0.
    assert bits(jnp.full(2, -0.0) + jnp.zeros(2)) != bits(jnp.full(2, -0.0))


def test_frozen_gradients_that_are_not_finite_hold_nothing_up():
    params = {"frozen": jnp.ones(2), "head": jnp.ones(1)}
    gradients = {"frozen": jnp.array([jnp.nan, jnp.inf]), "head": jnp.ones(1)}
    optimizer = ft.freeze(optax.apply_if_finite(optax.sgd(0.5), 3), "frozen")
    updates, state = optimizer.update(gradients, optimizer.init(params), params)
    assert updates["head"].tolist() == [-0.5]
    assert int(state.total_notfinite) == 0


def test_there_is_no_state_for_frozen_leaves():
    params = {"frozen": jnp.ones(1000), "head": jnp.ones(3)}
    state = ft.freeze(optax.adam(0.1), "frozen").init(params)
    assert sum(leaf.size for leaf in jax.tree.leaves(state)) == 1 + 2 * 3


def test_one_trace_for_all_steps(relaxed_promotion):
    traces = 0
    params = {"frozen": jnp.ones(2), "head": jnp.ones(1)}
    optimizer = ft.freeze(optax.adamw(optax.cosine_decay_schedule(0.1, 9)), "frozen")

    @jax.jit
    def step(params, state):
        nonlocal traces
        traces += 1
        updates, state = optimizer.update(params, state, params)
        return optax.apply_updates(params, updates), state

    state = jax.jit(optimizer.init)(params)
    for _ in range(5):
        params, state = step(params, state)
    assert traces == 1


class Network(nnx.Module):
    def __init__(self, rngs):
        self.body = nnx.Linear(2, 3, rngs=rngs)
        self.norm = nnx.BatchNorm(3, rngs=rngs)
        self.drop = nnx.Dropout(0.5, rngs=rngs)
        self.head = nnx.Linear(3, 1, rngs=rngs)

    def __call__(self, x):
        return self.head(self.drop(self.norm(self.body(x))))


def train_network(model, optimizer, steps=3):
    @nnx.jit
    def step(model, optimizer):
        def loss(model):
            return jnp.mean((model(jnp.arange(8.0).reshape(4, 2)) - 1) ** 2)

        optimizer.update(model, nnx.grad(loss)(model))

    for _ in range(steps):
        step(model, optimizer)


def test_in_nnx_optimizer(relaxed_promotion):
    model = Network(nnx.Rngs(0))
    optimizer = nnx.Optimizer(
        model, ft.freeze(optax.adamw(0.1), "(body|norm)/.*"), wrt=nnx.Param
    )
    before = jax.tree.map(jnp.copy, nnx.state(model))
    model.norm.eval()
    train_network(model, optimizer)
    after = nnx.state(model)
    ft.assert_frozen(before, after, "(body|norm)/.*")
    with pytest.raises(AssertionError, match="head/kernel moved"):
        ft.assert_frozen(before, after, "head/.*")
    ft.assert_frozen(before, after, "drop/.*")  # a stream that was used is no finding

    model.norm.train()
    train_network(model, optimizer, steps=1)
    with pytest.raises(AssertionError, match=r"batch_stats:norm/mean moved") as raised:
        ft.assert_frozen(before, nnx.state(model), "(body|norm)/.*")
    assert "layer.eval()" in str(raised.value)
    ft.assert_frozen(before, nnx.state(model), "params:(body|norm)/.*")


def test_a_view_of_an_nnx_model_is_no_before():
    model = Network(nnx.Rngs(0))
    view = nnx.state(model)
    assert len(nnx_variables(view)) == len(nnx_variables(nnx.state(model))) > 4
    with pytest.raises(RuleError, match=r"before: it holds .*jnp.copy"):
        ft.assert_frozen(view, nnx.state(model), "body/.*")


def test_inside_a_sharded_step_shardings_and_frozen_bits_stay(relaxed_promotion):
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    rows = NamedSharding(mesh, PartitionSpec("data"))
    params = jax.device_put(
        {"frozen": jnp.arange(16.0), "head": jnp.arange(16.0)}, rows
    )
    optimizer = ft.freeze(
        optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(0.1)), "frozen"
    )
    state = optimizer.init(params)

    @jax.jit
    def step(params, state):
        updates, state = optimizer.update(params, state, params)
        return optax.apply_updates(params, updates), state

    after, state = step(params, state)
    assert after["frozen"].sharding == rows
    assert after["head"].sharding == rows
    ft.assert_frozen(params, after, "frozen")
    one = jax.device_put(params, jax.devices()[0])
    alone, _ = step(one, optimizer.init(one))
    # The norm is summed in another order: 16 terms, and two roundings of the step.
    np.testing.assert_allclose(after["head"], alone["head"], rtol=18 * 2**-24)


def test_in_explicit_sharding_the_update_has_the_sharding_of_the_leaf():
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Explicit,))
    with jax.set_mesh(mesh):
        rows = NamedSharding(mesh, PartitionSpec("data"))
        params = jax.device_put({"frozen": jnp.ones(8), "head": jnp.ones(8)}, rows)
        optimizer = ft.freeze(optax.sgd(0.5), "frozen")
        state = optimizer.init(params)
        updates, _ = jax.jit(optimizer.update)(params, state, params)
        assert jax.typeof(updates["frozen"]).sharding.spec == PartitionSpec("data")


def test_trees_keep_their_kind():
    params = FrozenDict({"frozen": {"w": jnp.ones(2)}, "head": {"w": jnp.ones(2)}})
    optimizer = ft.freeze(optax.sgd(0.5), "frozen/.*")
    updates, _ = optimizer.update(params, optimizer.init(params), params)
    assert isinstance(updates, FrozenDict)
    assert updates["head"]["w"].tolist() == [-0.5, -0.5]


def test_a_tree_of_bools_made_for_all_leaves_still_fits_inside():
    params = {"frozen": {"kernel": jnp.ones(2)}, "head": {"kernel": jnp.ones(2)}}
    mask = jax.tree.map(lambda leaf: True, params)
    tx = optax.chain(optax.add_decayed_weights(0.5, mask=mask), optax.sgd(1.0))
    optimizer = ft.freeze(tx, "frozen/.*")
    updates, _ = optimizer.update(params, optimizer.init(params), params)
    assert updates["head"]["kernel"].tolist() == [-1.5, -1.5]


def test_extra_arguments_shaped_like_the_parameters_are_hidden_likewise():
    def update(updates, state, params=None, *, factor, scale):
        assert jax.tree.structure(factor) == jax.tree.structure(updates)
        return jax.tree.map(lambda u, f: u * f * scale, updates, factor), state

    tx = optax.GradientTransformationExtraArgs(lambda params: (), update)
    params = {"frozen": jnp.ones(2), "head": jnp.ones(2)}
    factor = {"frozen": jnp.full(2, 2.0), "head": jnp.full(2, 3.0)}
    updates, _ = ft.freeze(tx, "frozen").update(params, (), factor=factor, scale=2.0)
    assert updates["head"].tolist() == [6.0, 6.0]


def test_optax_still_finds_which_state_mirrors_the_parameters():
    params = {"frozen": jnp.ones(2), "head": jnp.ones(2)}
    optimizer = ft.ema(ft.freeze(optax.adam(0.1), "frozen"), 0.9)
    state = optimizer.init(params)
    marked = optax.tree.map_params(
        optimizer,
        lambda leaf: "mirrors",
        state,
        transform_non_params=lambda leaf: "does not",
        is_leaf=lambda leaf: isinstance(leaf, optax.MaskedNode),
    )
    assert marked.average == {"frozen": "mirrors", "head": "mirrors"}
    assert marked.inner[0].mu["head"] == "mirrors"
    assert (marked.count, marked.inner[0].count) == ("does not", "does not")


def test_schedule_free_parameters_are_read_through_on_trainable(relaxed_promotion):
    params = {"frozen": jnp.ones(2), "head": jnp.ones(2)}
    schedule_free = optax.contrib.schedule_free_sgd(0.1)
    frozen = ft.freeze(schedule_free, "frozen")
    read = optax.contrib.schedule_free_eval_params

    def trained(optimizer, params):
        state = optimizer.init(params)
        for _ in range(3):
            updates, state = optimizer.update(params, state, params)
            params = optax.apply_updates(params, updates)
        return state, params

    state, after = trained(frozen, params)
    result = ft.on_trainable(functools.partial(read, state), after, "frozen")
    alone = read(*trained(schedule_free, {"head": params["head"]}))
    np.testing.assert_allclose(result["head"], alone["head"], rtol=2**-22)
    assert bits(result["frozen"]) == bits(params["frozen"])


def test_assert_frozen_names_what_changed_and_how():
    before = {"a": jnp.ones(2), "b": jnp.zeros(2), "c": jnp.ones(2), "d": jnp.ones(1)}
    after = {"a": jnp.ones(3), "b": -before["b"], "c": jnp.ones(2, jnp.bfloat16)}
    with pytest.raises(AssertionError) as raised:
        ft.assert_frozen(before, after, ".*")
    text = str(raised.value)
    assert "4 frozen leaves are not what they were" in text
    assert "a was float32[2] and is float32[3]" in text
    assert "b moved by up to 0" in text  # the sign of a zero is a bit like any other
    assert "c was float32[2] and is bfloat16[2]" in text
    assert "d is gone" in text
    assert "make freeze(tx, pattern) the outermost transformation" in text


def test_nan_is_equal_to_itself_in_assert_frozen():
    ft.assert_frozen({"a": SPECIAL}, {"a": jnp.array(SPECIAL)}, "a")
    with pytest.raises(AssertionError, match="a moved by up to nan"):
        ft.assert_frozen({"a": SPECIAL}, {"a": jnp.flip(SPECIAL)}, "a")


def test_long_lists_of_moved_leaves_are_cut():
    before = {f"layer_{i}": jnp.ones(1) for i in range(30)}
    after = jax.tree.map(lambda leaf: leaf + 1, before)
    with pytest.raises(AssertionError, match=r"and 20 more\n.*layer_\{0\.\.29\}"):
        ft.assert_frozen(before, after, ".*")


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("head(", "'head\\(' is not a regular expression"),
        (["head", 3], r"pattern\[1\]: a pattern is text, got 3"),
        (None, "pattern must be a pattern or a list, got None"),
    ],
)
def test_bad_patterns_are_refused_when_the_optimizer_is_built(pattern, message):
    with pytest.raises(RuleError, match=message):
        ft.freeze(optax.sgd(0.1), pattern)


def test_a_generator_of_patterns_is_read_once_and_kept():
    params = {"a": jnp.ones(1), "b": jnp.ones(1)}
    optimizer = ft.freeze(optax.sgd(0.1), (name for name in ["a"]))
    state = optimizer.init(params)
    for _ in range(2):
        updates, state = optimizer.update(params, state, params)
        assert bits(updates["a"]) == bits(jnp.full(1, -0.0))


def test_leaves_that_share_a_name_are_refused():
    with pytest.raises(PathError, match="params: two leaves share the name"):
        ft.freeze(optax.sgd(0.1), "a/b").init({"a/b": jnp.ones(1), "a": {"b": 1.0}})
