"""Rules: what each does in its stage, and how they print."""

import re

import jax
import numpy as np
import pytest

from jaxinit import initializers
from jaxinit import transfer as tr


def ones(*shape, dtype=np.float32):
    return np.ones(shape, dtype)


def numbered(*shape):
    return np.arange(np.prod(shape), dtype=np.float32).reshape(shape)


def merged(target, source, *rules):
    return tr.merge(target, source, rules)[0]


# What each does


def test_the_first_rule_that_matches_wins_within_a_stage():
    rules = [tr.rename("a/w", "first"), tr.rename("./w", "second")]
    tree = merged(
        {"first": ones(1) * 0, "second": ones(2) * 0},
        {"a/w": ones(1), "b/w": ones(2)},
        *rules,
    )
    assert tree["first"].shape == (1,)


def test_stages_follow_each_other_whatever_the_order_of_the_list():
    rules = [
        tr.draw("new/b", initializers.constant(5.0)),
        tr.layout("new/w", transpose=(1, 0)),
        tr.rename("old/(.*)", r"new/\1"),
    ]
    source = {"old/w": numbered(2, 3), "old/b": ones(9)}
    target = {"new": {"w": numbered(3, 2) * 0, "b": ones(2) * 0}}
    for order in (rules, rules[::-1]):
        tree, report = tr.merge(target, source, order, key=jax.random.key(0))
        np.testing.assert_array_equal(tree["new"]["w"], source["old/w"].T)
        np.testing.assert_array_equal(tree["new"]["b"], [5, 5])
        assert report.source_fates == {"old/w": "used", "old/b": "replaced"}


def test_a_replacement_may_be_a_function_of_the_match():
    def shifted(match):
        return f"block_{int(match[1]) - 1}/{match[2]}"

    rule = tr.rename(r"layer(\d+)/(.*)", shifted)
    tree = merged({"block_0": {"w": ones(1) * 0}}, {"layer1/w": ones(1)}, rule)
    np.testing.assert_array_equal(tree["block_0"]["w"], [1])


def test_a_replacement_names_the_collection_or_leaves_it():
    target = {
        "params": {"a": {"w": ones(1) * 0}},
        "batch_stats": {"a": {"m": ones(1) * 0}},
    }
    source = {"params": {"b": {"w": ones(1)}}, "batch_stats": {"b": {"m": ones(1)}}}
    assert tr.plan(target, source, [tr.rename("b/(.*)", r"a/\1")]).ok
    flat = {"a/w": ones(1), "stats/m": ones(1)}
    rule = tr.rename("stats/m", "batch_stats:a/m")
    assert tr.plan(target, flat, [rule]).ok
    back = tr.rename("batch_stats:(.*)", r"params:stats/\1")
    bare = {"b": {"w": ones(1)}, "stats": {"b": {"m": ones(1)}}}
    assert tr.plan(bare, source, [back]).ok


def test_unequal_parts_are_cut_by_their_sizes():
    rule = tr.split("qkv", ["q", "kv"], axis=-1, sizes=[4, 2])
    source = {"qkv": numbered(2, 6)}
    tree = merged({"q": ones(2, 4), "kv": ones(2, 2)}, source, rule)
    np.testing.assert_array_equal(tree["kv"], source["qkv"][:, 4:])


def test_parts_are_fused_in_the_order_of_the_patterns_group_by_group():
    source = {f"{i}/{name}": ones(1) * v for i in "01" for v, name in enumerate("kqv")}
    rule = tr.fuse([f"(.)/{name}" for name in "qkv"], r"\1/qkv", axis=0)
    tree = merged({i: {"qkv": ones(3) * 0} for i in "01"}, source, rule)
    np.testing.assert_array_equal(tree["1"]["qkv"], [1, 0, 2])


def test_the_number_of_a_layer_may_have_a_name_and_a_first():
    source = {f"a/{i}/w/1": ones(1) * i for i in (1, 2)}
    rule = tr.stack(r"(.)/(?P<layer>\d)/w/(\d)", r"\1/w", first=1)
    tree = merged({"a": {"w": ones(2, 1) * 0}}, source, rule)
    np.testing.assert_array_equal(tree["a"]["w"][:, 0], [1, 2])


def test_stacking_and_unstacking_undo_each_other():
    source = {f"h/{i}/w": numbered(2, 2) + i for i in range(3)}
    there = tr.stack(r"h/(\d)/w", "w", axis=1)
    stack = merged({"w": ones(2, 3, 2) * 0}, source, there)
    back = tr.unstack("w", "h/{layer}/w", axis=1)
    target = {f"h/{i}/w": ones(2, 2) * 0 for i in range(3)}
    tree = merged(target, stack, back)
    for name, array in source.items():
        np.testing.assert_array_equal(tree[name], array)


def test_the_kernel_behind_flattened_maps_is_laid_out_channels_last():
    torch = numbered(5, 4 * 3 * 2)
    rule = tr.layout(
        "kernel", unflatten=(5, 4, 3, 2), transpose=(2, 3, 1, 0), reshape=True
    )
    maps = np.random.default_rng(0).normal(size=(1, 4, 3, 2)).astype(np.float32)
    tree = merged({"kernel": ones(24, 5) * 0}, {"kernel": torch}, rule)
    expected = maps.reshape(1, -1) @ torch.T
    found = np.moveaxis(maps, 1, -1).reshape(1, -1) @ np.asarray(tree["kernel"])
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_a_layout_exempts_its_leaves_from_that_of_torch():
    rules = [tr.layout("a/kernel"), tr.torch_layout()]
    source = {"a/weight": numbered(2, 2), "b/weight": numbered(2, 2)}
    tree = merged({"a/kernel": ones(2, 2), "b/kernel": ones(2, 2)}, source, *rules)
    np.testing.assert_array_equal(tree["a/kernel"], source["a/weight"])
    np.testing.assert_array_equal(tree["b/kernel"], source["b/weight"].T)


def test_the_reason_of_a_drop_stands_in_the_report():
    rule = tr.drop("ids", reason="positions are computed")
    report = tr.merge({}, {"ids": ones(1)}, [rule])[1]
    assert "positions are" in str(report)


def test_a_source_that_is_dropped_where_unexpected_is_allowed_is_accounted_for():
    policy = tr.Policy(unexpected="warn")
    _, report = tr.merge({}, {"a": ones(1), "b": ones(1)}, policy=policy)
    assert report.source_fates == {"a": "dropped", "b": "dropped"}
    assert report.counts()["warning"] == 2


def test_a_dtype_is_kept_cast_or_refused_as_the_policy_says():
    source, target = {"w": ones(2, dtype=np.float16)}, {"w": ones(2) * 0}
    found = {}
    for choice in ("cast", "warn", "allow"):
        tree, report = tr.merge(target, source, policy=tr.Policy(dtype=choice))
        fate, count = report.target_fates["w"], report.counts()["warning"]
        found[choice] = (tree["w"].dtype.name, fate, count)
    assert found == {
        "cast": ("float32", "cast", 0),
        "warn": ("float32", "cast", 1),
        "allow": ("float16", "copied", 0),
    }


# How they print


@pytest.mark.parametrize(
    ("rule", "text"),
    [
        (tr.drop("a", reason="b"), "drop('a', reason='b')"),
        (tr.rename("a", "b"), "rename('a', 'b')"),
        (tr.rename("a", ["b", "c"]), "rename('a', ['b', 'c'])"),
        (tr.rename("a", np.sum), "rename('a', sum)"),
        (tr.split("a", ["b", "c"], axis=0), "split('a', ['b', 'c'], axis=0)"),
        (tr.fuse(["a", "b"], "c", axis=1), "fuse(['a', 'b'], 'c', axis=1)"),
        (tr.stack(r"(\d)", "a", axis=1), r"stack('(\\d)', 'a', axis=1)"),
        (tr.unstack("a", "{layer}"), "unstack('a', '{layer}')"),
        (tr.layout("a", transpose=(1, 0)), "layout('a', transpose=[1, 0])"),
        (tr.torch_layout(), "torch_layout()"),
        (tr.torch_layout(transposed="up"), "torch_layout(transposed='up')"),
        (tr.keep(re.compile("a")), "keep('a')"),
        (tr.draw("a", initializers.zeros), "draw('a', zeros)"),
        (
            tr.adapt("a", tr.adapters.resize_positions, length=3),
            "adapt('a', resize_positions, length=3)",
        ),
    ],
)
def test_a_rule_prints_as_it_was_written(rule, text):
    assert str(rule) == text


def test_rules_are_values():
    assert tr.rename("a", "b") == tr.rename("a", ["b"])
    assert tr.keep("a") != tr.keep("b")
    assert len({tr.drop("a"), tr.drop("a")}) == 1
