"""Labels cover every leaf, and the usual decay mask is right on real layers."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn
from flax import nnx
from flax.core import FrozenDict

from jaxinit import finetune as ft
from jaxinit._errors import RuleError
from jaxinit._paths import named_leaves

PARAMS = {"body": {"kernel": jnp.ones((2, 2))}, "head": {"bias": jnp.ones(2)}}


def test_the_first_rule_that_matches_gives_the_label():
    rules = [("head/.*", "a"), (".*", "b")]
    wanted = {"body": {"kernel": "b"}, "head": {"bias": "a"}}
    assert ft.labels(rules, PARAMS) == wanted
    assert ft.labels(dict(rules), PARAMS) == wanted
    assert ft.labels([("head/.*", "a")], PARAMS, default="b") == wanted
    frozen = ft.labels(rules, FrozenDict(PARAMS))
    assert isinstance(frozen, FrozenDict)


def test_labels_are_what_optax_partition_takes():
    tx = optax.partition(
        {"a": optax.sgd(1.0), "b": optax.set_to_zero()},
        ft.labels([("head/.*", "a"), (".*", "b")], PARAMS),
    )
    updates, _ = tx.update(PARAMS, tx.init(PARAMS), PARAMS)
    assert updates["head"]["bias"].tolist() == [-1.0, -1.0]
    assert not np.any(updates["body"]["kernel"])


def test_a_leaf_without_a_label_is_an_error_that_names_it():
    with pytest.raises(
        RuleError, match=r"rules: no rule matches 1 of 2 .*'body/kernel'"
    ):
        ft.labels([("head/.*", "a")], PARAMS)


def test_random_state_of_nnx_gets_no_label():
    model = nnx.Sequential(
        nnx.Linear(2, 2, rngs=nnx.Rngs(0)), nnx.Dropout(0.5, rngs=nnx.Rngs(1))
    )
    state = nnx.state(model)
    assert len(jax.tree.leaves(state)) == 4
    assert jax.tree.leaves(ft.labels([(".*", "a")], state)) == ["a", "a"]


class Every(nn.Module):
    """One of each kind of parameter that decides wrongly by its number of axes."""

    @nn.compact
    def __call__(self, x):
        x = nn.Embed(5, 4)(x)
        x = nn.MultiHeadDotProductAttention(num_heads=2)(x)
        x = nn.BatchNorm(use_running_average=True)(nn.LayerNorm()(x))
        return nn.RNN(nn.GRUCell(4))(x)


class Block(nn.Module):
    @nn.compact
    def __call__(self, x, _):
        return nn.LayerNorm()(nn.Dense(4)(x)), None


class Stack(nn.Module):
    @nn.compact
    def __call__(self, x):
        layers = nn.scan(
            Block, variable_axes={"params": 0}, split_rngs={"params": True}, length=3
        )
        return layers()(x, None)[0]


def decided(tree):
    return {name.full: bool(value) for name, value in named_leaves(tree).items()}


def test_kernels_decay_and_biases_and_scales_of_any_rank_do_not(relaxed_promotion):
    variables = jax.eval_shape(
        Every().init, jax.random.key(0), jnp.zeros((2, 3), jnp.int32)
    )
    for name, decays in decided(ft.decayed(variables)).items():
        last = name.rpartition("/")[2]
        assert decays == (last in ("kernel", "embedding")), name
    attention = variables["params"]["MultiHeadDotProductAttention_0"]
    assert attention["query"]["bias"].ndim == 2  # what counting axes gets wrong


def test_stacked_layers_decay_as_their_layers_do():
    variables = jax.eval_shape(Stack().init, jax.random.key(0), jnp.zeros((2, 4)))
    found = decided(ft.decayed(variables))
    assert [name for name, decays in found.items() if decays] == [
        "ScanBlock_0/Dense_0/kernel"
    ]
    assert len(found) == 4


def test_names_that_do_not_tell_are_told_by_stacked():
    params = {
        "norm": {"weight": jnp.ones((3, 4))},
        "w": {"weight": jnp.ones((3, 4, 4))},
    }
    assert decided(ft.decayed(params)) == {"norm/weight": True, "w/weight": True}
    found = ft.decayed(params, stacked=".*")
    assert decided(found) == {"norm/weight": False, "w/weight": True}
    with pytest.raises(
        RuleError, match=r"stacked: the pattern 'nrm/.*' matches no leaf"
    ):
        ft.decayed(params, stacked="nrm/.*")


@pytest.mark.parametrize(
    ("last", "wanted"),
    [
        ("kernel", True),
        ("weight", True),
        ("lora_b", True),
        ("embedding", True),
        ("b", False),
        ("query_bias", False),
        ("gamma", False),
        ("offset", False),
        ("scale", False),
    ],
)
def test_the_last_key_decides_for_leaves_of_two_axes(last, wanted):
    assert ft.decayed({"layer": {last: jnp.ones((2, 2))}})["layer"][last] is wanted


def test_nnx_states_and_the_mask_of_adamw(relaxed_promotion):
    model = nnx.Linear(2, 2, rngs=nnx.Rngs(0))
    kernel = jnp.copy(model.kernel[...])
    model.bias[...] = jnp.ones(2)
    optimizer = nnx.Optimizer(
        model, optax.adamw(0.5, weight_decay=1.0, mask=ft.decayed), wrt=nnx.Param
    )
    zeros = jax.tree.map(jnp.zeros_like, nnx.state(model, nnx.Param))
    optimizer.update(model, zeros)
    np.testing.assert_allclose(model.kernel[...], kernel / 2, rtol=2**-22)
    np.testing.assert_array_equal(model.bias[...], np.float32(1))


def test_kinds_of_nnx_parameters_are_parameters():
    model = nnx.LoRALinear(3, 4, lora_rank=2, rngs=nnx.Rngs(0))
    params = nnx.state(model, nnx.Param)
    assert jax.tree.leaves(ft.decayed(params)) == [False, True, True, True]

    # nnx.Optimizer initializes with Variables and updates with bare arrays, to which
    # labels, masks and patterns have to mean the same.
    labels = ft.labels([("lora/.*", "new"), (".*", "old")], params)
    tx = ft.freeze(
        optax.chain(
            optax.add_decayed_weights(1.0, mask=ft.decayed),
            ft.learning_rates(optax.sgd(1.0), {"new": 0.5, "old": 1.0}, labels),
        ),
        "kernel|bias",
    )
    before = jax.tree.map(jnp.copy, nnx.state(model))
    zeros = jax.tree.map(jnp.zeros_like, params)
    nnx.Optimizer(model, tx, wrt=nnx.Param).update(model, zeros)
    ft.assert_frozen(before, nnx.state(model), "kernel|bias")
    half = before["lora"]["lora_a"][...] / 2
    np.testing.assert_array_equal(model.lora.lora_a[...], half)
    with pytest.raises(AssertionError, match=r"lora_a moved by(.|\n)*outermost"):
        ft.assert_frozen(before, nnx.state(model), "lora/.*")


@nnx.register_variable_name("adapters_of_a_test")
class Adapter(nnx.Param):
    """A parameter in a collection of its own."""


def test_a_parameter_of_a_type_with_its_own_collection_decays():
    found = decided(ft.decayed({"w": Adapter(jnp.ones((2, 3)))}))
    assert found == {"adapters_of_a_test:w": True}
