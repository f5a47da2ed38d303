"""Merging gives a tree of the target's kind, and refuses what cannot be meant."""

from typing import Any, NamedTuple

import jax
import numpy as np
import pytest
from flax import linen as nn
from flax import nnx
from flax.core import freeze
from merge_helpers import Module, ones, zeros

from jaxinit import transfer as tr
from jaxinit._errors import RuleError


class Pair(NamedTuple):
    first: Any
    second: Any


def boxed(value):
    return nn.Partitioned(value, names=("in", "out"))


TREES = {
    "linen": {
        "params": {"a": {"w": zeros(2, 3)}},
        "batch_stats": {"a": {"m": zeros(1)}},
    },
    "frozen": freeze({"params": {"a": {"w": zeros(2, 3)}}}),
    "boxes": {"params": {"a": {"w": boxed(zeros(2, 3))}}},
    "haiku": {"mlp/~/linear_0": {"w": zeros(2, 3), "b": zeros(3)}},
    "equinox": [Module(zeros(2, 3)), Module(zeros(1))],
    "lists": {"a": [zeros(2), (zeros(1), Pair(zeros(3), zeros(4)))]},
    "a leaf": zeros(3),
    "nothing": {},
}


@pytest.mark.parametrize("target", TREES.values(), ids=TREES)
def test_the_result_is_a_tree_of_the_targets_kind(target):
    source = jax.tree.map(lambda x: x if callable(x) else np.ones_like(x), target)
    tree, report = tr.merge(target, source)
    assert jax.tree.structure(tree) == jax.tree.structure(target)
    assert report.ok
    for found, wanted in zip(
        jax.tree.leaves(tree), jax.tree.leaves(source), strict=True
    ):
        if callable(wanted):
            assert found is wanted
        else:
            np.testing.assert_array_equal(found, wanted)


def test_what_is_no_array_is_kept_and_listed():
    plan = tr.plan([Module(zeros(2))], [Module(ones(2))])
    assert plan.target_fates == {"0/weight": "copied", "0/activation": "kept"}
    assert plan.source_fates == {"0/weight": "used"}
    assert "no arrays: 0/activation" in plan.notes[0]
    assert "not an array" in str(plan)


def test_a_state_of_nnx_fills_its_model():
    model = nnx.Sequential(
        nnx.Linear(3, 4, rngs=nnx.Rngs(0)), nnx.BatchNorm(4, rngs=nnx.Rngs(0))
    )
    state = nnx.state(model)
    source = {
        "params": {
            "layers": [
                {"kernel": ones(3, 4), "bias": ones(4)},
                {"scale": ones(4) * 2, "bias": ones(4)},
            ]
        },
        "batch_stats": {"layers": [{}, {"mean": ones(4), "var": ones(4)}]},
    }
    tree, report = tr.merge(state, source)
    assert type(tree) is type(state)
    assert set(report.target_fates.values()) == {"copied"}
    nnx.update(model, tree)
    np.testing.assert_array_equal(model.layers[1].scale[...], 2 * ones(4))
    np.testing.assert_array_equal(model.layers[1].mean[...], ones(4))
    whole, _ = tr.merge(model, source)
    assert isinstance(whole, nnx.Sequential)


def test_linen_variables_fill_an_nnx_state_and_the_other_way_round():
    linen = {
        "params": {"scale": ones(2), "bias": ones(2)},
        "batch_stats": {"mean": ones(2), "var": ones(2) * 3},
    }
    state = nnx.state(nnx.BatchNorm(2, rngs=nnx.Rngs(0)))
    there, _ = tr.merge(state, linen)
    back, _ = tr.merge(jax.tree.map(np.zeros_like, linen), there)
    jax.tree.map(np.testing.assert_array_equal, back, linen)


def test_numbers_of_python_are_leaves_too():
    tree, report = tr.merge({"scale": 1.0, "on": True}, {"scale": 2.0, "on": False})
    assert tree["scale"] == 2.0
    assert not tree["on"]
    assert report.target_fates == {"on": "copied", "scale": "copied"}


# What is given wrongly


@pytest.mark.parametrize(
    ("rules", "options", "message"),
    [
        (
            tr.drop("w"),
            {},
            r"rules must be a list, got one rule; write \[drop\('w'\)\]",
        ),
        (["w"], {}, r"rules\[0\] must be a rule such as drop\('...'\), got 'w'"),
        ([], {"policy": "strict"}, "policy must be a Policy, got 'strict'"),
    ],
)
def test_bad_rules_and_policies_are_refused(rules, options, message):
    with pytest.raises(RuleError, match=message):
        tr.plan({"w": zeros(1)}, {"w": ones(1)}, rules, **options)


def test_a_policy_has_known_choices():
    with pytest.raises(
        RuleError, match="missing must be one of 'error', 'warn', 'allow"
    ):
        tr.Policy(missing="ignore")
    with pytest.raises(RuleError, match="shape must be one of"):
        tr.Policy(shape="cast")


def test_a_dictionary_of_leaves_of_a_checkpoint_is_a_source(tmp_path):
    path = tmp_path / "all.safetensors"
    variables = {"params": {"a": {"w": ones(2, 3)}}, "batch_stats": {"m": ones(4)}}
    more = {"params": {**variables["params"], "old": ones(5)}}
    tr.save(path, {**variables, **more})
    checkpoint = tr.open_checkpoint(path)
    part = {name: leaf for name, leaf in checkpoint.items() if name != "old"}
    target = jax.tree.map(np.zeros_like, variables)
    tree, report = tr.merge(target, part)
    jax.tree.map(np.testing.assert_array_equal, tree, variables)
    assert report.provenance()["source"]["files"] == checkpoint.provenance()["files"]

    nested = {"b": {"w": checkpoint["a/w"], "c": 2 * ones(7)}}
    tree, _ = tr.merge({"b": {"w": zeros(2, 3), "c": zeros(7)}}, nested)
    np.testing.assert_array_equal(tree["b"]["w"], ones(2, 3))
    np.testing.assert_array_equal(tree["b"]["c"], 2 * ones(7))

    # Under the names of the dictionary, of which two may hold one leaf.
    tr.save(tmp_path / "two.safetensors", {"x": part["a/w"], "y": part["a/w"]})
    saved = tr.open_checkpoint(tmp_path / "two.safetensors")
    assert {name: leaf.shape for name, leaf in saved.items()} == dict.fromkeys(
        "xy", (2, 3)
    )
