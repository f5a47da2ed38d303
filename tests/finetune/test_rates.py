"""Rates by label and by depth, against float64 numpy and plain optax."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from optimizers import ALIASES, LINE_SEARCHES, built, extra_arguments

from jaxinit import finetune as ft
from jaxinit import testing
from jaxinit._errors import RuleError


def tree(seed=0):
    return {
        "body": {"w": jax.random.normal(jax.random.key(seed), (3, 2))},
        "head": {"w": jax.random.normal(jax.random.key(seed + 1), (2,))},
    }


RULES = [("head/.*", "fast"), (".*", "slow")]
FACTORS = {"fast": 1.0, "slow": 0.1}


def update(optimizer, gradients, params=None):
    return optimizer.update(gradients, optimizer.init(gradients), params)[0]


@pytest.mark.parametrize("name", ["adamw", "lamb", "noisy_sgd", "sm3"])
def test_updates_are_those_of_the_optimizer_times_the_factor(name, relaxed_promotion):
    assert_updates_are_scaled(name)


@pytest.mark.long
@pytest.mark.parametrize("name", sorted(ALIASES.keys() - LINE_SEARCHES))
def test_so_they_are_for_every_optimizer_of_optax(name, relaxed_promotion):
    assert_updates_are_scaled(name)


def assert_updates_are_scaled(name):
    gradients = tree()
    extra = extra_arguments(name, jnp.float32(2.0))
    plain = optax.with_extra_args_support(built(ALIASES[name]))
    ours = ft.learning_rates(plain, FACTORS, ft.labels(RULES, gradients))
    state, wanted_state = ours.init(gradients), plain.init(gradients)
    assert jax.tree.structure(state) == jax.tree.structure(wanted_state)
    for _ in range(3):
        found, state = ours.update(gradients, state, gradients, **extra)
        wanted, wanted_state = plain.update(gradients, wanted_state, gradients, **extra)
        np.testing.assert_array_equal(found["head"]["w"], wanted["head"]["w"])
        np.testing.assert_array_equal(
            found["body"]["w"], wanted["body"]["w"] * np.float32(0.1)
        )
    testing.assert_trees_identical(state, wanted_state)


def test_clipping_stays_global():
    gradients = {"body": {"w": jnp.full(3, 4.0)}, "head": {"w": jnp.full(1, 4.0)}}
    tx = optax.chain(optax.clip_by_global_norm(1.0), optax.sgd(1.0))
    found = update(
        ft.learning_rates(tx, FACTORS, ft.labels(RULES, gradients)), gradients
    )
    # One norm of 8 over four entries of 4, so each becomes 1/2; by group, the head's
    # would have become 1.
    np.testing.assert_array_equal(found["head"]["w"], np.float32(-0.5))
    np.testing.assert_array_equal(
        found["body"]["w"], np.float32(-0.5) * np.float32(0.1)
    )


def test_sixteen_bit_updates_are_scaled_in_float32_and_rounded_once():
    values = jax.random.normal(jax.random.key(0), (500,), jnp.bfloat16)
    found = update(
        ft.learning_rates(optax.identity(), {"x": 0.7}, {"w": "x"}), {"w": values}
    )
    wanted = (values.astype(jnp.float32) * np.float32(0.7)).astype(jnp.bfloat16)
    assert found["w"].dtype == jnp.bfloat16
    np.testing.assert_array_equal(found["w"], wanted)
    naive = values * jnp.bfloat16(0.7)
    assert np.any(np.asarray(naive != wanted))


def test_labels_may_be_a_function_of_the_parameters():
    gradients = tree()
    by_tree = ft.learning_rates(optax.sgd(0.1), FACTORS, ft.labels(RULES, gradients))
    by_rules = ft.learning_rates(
        optax.sgd(0.1), FACTORS, functools.partial(ft.labels, RULES)
    )
    for one, other in zip(
        *(jax.tree.leaves(update(tx, gradients)) for tx in (by_tree, by_rules)),
        strict=True,
    ):
        np.testing.assert_array_equal(one, other)


def test_traced_factors_cost_no_retrace():
    traces = 0

    @jax.jit
    def step(gradients, factor):
        nonlocal traces
        traces += 1
        tx = ft.learning_rates(optax.sgd(1.0), {"x": factor}, {"w": "x"})
        return update(tx, gradients)

    for factor in (0.5, 0.25):
        found = step({"w": jnp.ones(2)}, jnp.float32(factor))
        assert found["w"].tolist() == [-factor, -factor]
    assert traces == 1


def test_inside_freeze_labels_of_frozen_leaves_do_no_harm():
    gradients = tree()
    tx = ft.learning_rates(optax.sgd(1.0), FACTORS, ft.labels(RULES, gradients))
    found = update(ft.freeze(tx, "body/.*"), gradients)
    np.testing.assert_array_equal(found["head"]["w"], -gradients["head"]["w"])
    ft.assert_frozen(gradients, optax.apply_updates(gradients, found), "body/.*")


@pytest.mark.parametrize(
    ("factors", "message"),
    [
        ({"fast": 1.0, "slwo": 0.1}, "no leaf has the label 'slwo'.*mean 'slow'"),
        ({"fast": 1.0}, "factors: nothing is said for 'slow'"),
        ({"fast": 1.0, "slow": -1}, r"factors\['slow'\] must be a number >= 0"),
        ({"fast": 1.0, "slow": "1"}, r"factors\['slow'\] must be a number >= 0"),
        ({"fast": 1.0, "slow": float("nan")}, "must be a number >= 0 and finite"),
        ([("fast", 1.0)], "factors must map each label to a number"),
    ],
)
def test_bad_factors_are_refused_when_the_optimizer_is_built(factors, message):
    with pytest.raises(RuleError, match=message):
        ft.learning_rates(optax.sgd(0.1), factors, ft.labels(RULES, tree()))


def test_labels_of_another_tree_are_refused():
    labels = ft.labels([(".*", "fast")], {"other": jnp.ones(1)})
    optimizer = ft.learning_rates(optax.sgd(0.1), {"fast": 1.0}, labels)
    with pytest.raises(RuleError, match=r"no label for 2 of 2 leaves \('body/w', 'hea"):
        optimizer.init(tree())


# Layer-wise decay

# The scales that timm's param_groups_layer_decay gives the 14 groups of a ViT of depth
# 12 (embeddings, blocks, norm and head) with its default of 0.75: 0.75^13 ... 0.75^0.
TIMM = [
    0.023757264018058777,
    0.03167635202407837,
    0.04223513603210449,
    0.056313514709472656,
    0.07508468627929688,
    0.1001129150390625,
    0.13348388671875,
    0.177978515625,
    0.2373046875,
    0.31640625,
    0.421875,
    0.5625,
    0.75,
    1.0,
]


def vit_layer(path):
    if path.startswith("block"):
        return 1 + int(path.split("/")[0].removeprefix("block_"))
    return 0 if path.startswith("embed") else 13


def vit_gradients():
    blocks = {f"block_{i}": {"w": jnp.ones((2, 2))} for i in range(12)}
    return {"embed": jnp.ones(3), **blocks, "norm": jnp.ones(3), "head": jnp.ones(3)}


def test_the_scales_of_timm():
    optimizer = ft.layerwise_decay(optax.sgd(1.0), 0.75, layer_of=vit_layer)
    found = update(optimizer, vit_gradients())
    for i, scale in enumerate(TIMM[1:13]):
        # Exact: these powers of 3/4 are numbers of 24 bits or are rounded to them.
        np.testing.assert_array_equal(found[f"block_{i}"]["w"], -np.float32(scale))
    np.testing.assert_array_equal(found["embed"], -np.float32(TIMM[0]))
    np.testing.assert_array_equal(found["head"], -np.float32(1.0))
    np.testing.assert_array_equal(found["norm"], -np.float32(1.0))


@pytest.mark.parametrize("axis", [0, 1, -1])
def test_a_scanned_stack_gets_the_scales_of_its_layers(axis):
    stacked = {
        "embed": jnp.ones(3),
        "blocks": {"w": jnp.moveaxis(jnp.ones((12, 2, 3)), 0, axis)},
        "norm": jnp.ones(3),
        "head": jnp.ones(3),
    }

    def layer_of(path):
        return ft.Stacked(axis, first=1) if path == "blocks/w" else vit_layer(path)

    optimizer = ft.layerwise_decay(optax.sgd(1.0), 0.75, layer_of=layer_of)
    found = update(optimizer, stacked)
    blocks = np.moveaxis(np.asarray(found["blocks"]["w"]), axis, 0)
    for block, scale in zip(blocks, TIMM[1:13], strict=True):
        np.testing.assert_array_equal(block, -np.float32(scale))
    np.testing.assert_array_equal(found["embed"], -np.float32(TIMM[0]))


def test_scales_do_not_change_when_lower_layers_are_frozen():
    plain = ft.layerwise_decay(optax.sgd(1.0), 0.75, layer_of=vit_layer)
    frozen = ft.freeze(plain, "embed|block_[0-4]/.*")
    wanted = update(plain, vit_gradients())
    found = update(frozen, vit_gradients())
    for i in range(5, 12):
        name = f"block_{i}"
        np.testing.assert_array_equal(found[name]["w"], wanted[name]["w"])


def test_layerwise_decay_in_nnx_optimizer(relaxed_promotion):
    model = nnx.Sequential(*(nnx.Linear(2, 2, rngs=nnx.Rngs(i)) for i in range(3)))
    before = nnx.to_pure_dict(jax.tree.map(jnp.copy, nnx.state(model)))
    tx = ft.layerwise_decay(
        optax.sgd(1.0), 0.5, layer_of=lambda path: int(path.split("/")[1])
    )
    optimizer = nnx.Optimizer(model, tx, wrt=nnx.Param)
    optimizer.update(model, jax.tree.map(jnp.ones_like, nnx.state(model, nnx.Param)))
    after = nnx.to_pure_dict(nnx.state(model))
    for i, step in enumerate([0.25, 0.5, 1.0]):
        # Biases start at 0, so that the step is exact.
        moved = before["layers"][i]["bias"] - after["layers"][i]["bias"]
        np.testing.assert_array_equal(moved, np.float32(step))


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        (-1, "a layer is a whole number >= 0.*got -1 for 'a'"),
        (0.5, "a layer is a whole number >= 0.*got 0.5 for 'a'"),
        (None, "a layer is a whole number >= 0.*got None for 'a'"),
        (True, "a layer is a whole number >= 0.*got True"),
        (ft.Stacked(2), r"Stacked\(axis=2, first=0\) for 'a', which has 1 axes"),
        (ft.Stacked(0, -3), "got -3 for 'a'"),
        (99999, "'b' is 99999 layers below the highest.*without gaps"),
    ],
)
def test_bad_layers_are_refused_with_the_leaf(layer, message):
    layers = {"a": layer, "b": 0}
    optimizer = ft.layerwise_decay(optax.sgd(1.0), 0.75, layer_of=layers.get)
    with pytest.raises(RuleError, match=message):
        optimizer.init({"a": jnp.ones(2), "b": jnp.ones(2)})


def test_bad_decay_and_bad_functions_are_refused_when_built():
    with pytest.raises(RuleError, match="decay must be a number >= 0 and finite"):
        ft.layerwise_decay(optax.sgd(1.0), -0.5, layer_of=vit_layer)
    with pytest.raises(RuleError, match="layer_of must be a function of a path, got 3"):
        ft.layerwise_decay(optax.sgd(1.0), 0.5, layer_of=3)


def test_decay_0_trains_the_top_alone_and_1_trains_all_alike():
    gradients = {"a": jnp.ones(1), "b": jnp.ones(1)}
    layer_of = {"a": 0, "b": 1}.get
    for decay, wanted in ((0, 0.0), (1, -1.0)):
        optimizer = ft.layerwise_decay(optax.sgd(1.0), decay, layer_of=layer_of)
        found = update(optimizer, gradients)
        assert (float(found["a"][0]), float(found["b"][0])) == (wanted, -1.0)
