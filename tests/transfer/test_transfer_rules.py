"""Rules: what each does in its stage, how they print, and what is refused at once."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxinit import initializers
from jaxinit import transfer as tr
from jaxinit._errors import MergeError, RuleError


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


# What is refused


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: tr.drop("head*("),
            "pattern: 'head\\*\\(' is not a regular expression",
        ),
        (lambda: tr.keep(3), "pattern: a pattern is text, got 3"),
        (lambda: tr.rename("a", []), "a replacement is needed; to leave the leaf out"),
        (lambda: tr.rename("a", 3), "a replacement is text or a function"),
        (lambda: tr.rename("a", [3]), "a replacement is text or a function"),
        (lambda: tr.split("a", ["b"], axis=0), "must name two parts or more"),
        (lambda: tr.split("a", "bc", axis=0), "must name two parts or more: 'bc'"),
        (
            lambda: tr.split("a", ["b", "c"], axis=0, sizes=[1]),
            "sizes must be one for each of 2 parts",
        ),
        (lambda: tr.fuse("ab", "c", axis=0), "patterns must be a list of two or more"),
        (lambda: tr.fuse(["a", "("], "c", axis=0), r"patterns\[1\]: '\(' is not a reg"),
        (lambda: tr.stack("h/.*", "h"), "no group for the number of the layer"),
        (lambda: tr.unstack("h", "h"), "replacement must contain {layer}"),
        (
            lambda: tr.layout("a", transpose=(0, 2)),
            "transpose must order the axes 0 to 1",
        ),
        (lambda: tr.layout("a", transpose=(0, 0)), "transpose names an axis twice"),
        (lambda: tr.layout("a", flip=(-1,)), "flip must count axes from 0"),
        (lambda: tr.torch_layout(transposed="("), "transposed: '\\(' is not a regular"),
        (lambda: tr.adapt("a", 3), "adapter must be a function of an array, got 3"),
        (
            lambda: tr.adapt("a", tr.adapters.inflate_channels, chanels=1),
            "adapter inflate_channels has no option 'chanels'; it takes channels, mode",
        ),
        (lambda: tr.draw("a", 0.0), "initializer must be a function of key, shape and"),
    ],
)
def test_what_cannot_be_meant_is_refused_where_it_is_written(make, message):
    with pytest.raises(RuleError, match=message):
        make()


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        (tr.rename("(a)", r"\2"), r"replacement '\\\\2' does not fit the pattern"),
        (tr.rename("a", lambda match: None), "the replacement of 'a' is None"),
        (tr.rename("a", "x:y:z"), "it goes to 'x:y:z', which"),
        (tr.split("a", ["b", "c"], axis=0), r"has 3 elements on axis 0, which 2 parts"),
        (tr.split("a", ["b", "c"], axis=2), r"'a' of shape \(3, 2\) has no axis 2"),
        (tr.unstack("a", "{layer}", axis=5), "has no axis 5"),
        (tr.stack("(a)", "w"), "the number of the layer of 'a' is 'a'"),
        (tr.stack("(?P<layer>.)", "w", first=2), "is 'a'"),
    ],
)
def test_what_does_not_fit_the_source_names_the_rule_and_the_leaf(rule, message):
    with pytest.raises((RuleError, MergeError), match=message) as raised:
        tr.merge({"b": ones(3, 2)}, {"a": ones(3, 2)}, [rule])
    if isinstance(raised.value, RuleError):
        assert str(raised.value).startswith("rules[0]")


def test_two_layers_that_claim_one_place_are_refused():
    rule = tr.stack(r"./(\d)/w", "w")
    source = {"a/0/w": ones(1), "b/0/w": ones(1)}
    with pytest.raises(RuleError, match="'a/0/w' and 'b/0/w' claim the same place"):
        tr.plan({"w": ones(2, 1)}, source, [rule])


def test_a_part_that_is_missing_from_a_fuse_is_named():
    rule = tr.fuse(["(.)/q", "(.)/k"], r"\1", axis=0)
    source = {"0/q": ones(1), "0/k": ones(1), "1/q": ones(1)}
    with pytest.raises(
        RuleError, match=r"'1', from '1/q', has no part for the patterns"
    ):
        tr.plan({"0": ones(2), "1": ones(2)}, source, [rule])


def test_parts_that_do_not_fit_together_are_a_finding_of_their_leaf():
    rule = tr.fuse(["a", "b"], "w", axis=0)
    with pytest.raises(
        MergeError, match=r"w: from a and b: shapes .* cannot be joined"
    ):
        tr.merge({"w": ones(3, 2)}, {"a": ones(1, 2), "b": ones(2, 3)}, [rule])


def test_a_rule_for_a_leaf_that_nothing_reaches_is_refused():
    target = {"a": ones(1), "b": ones(1)}
    with pytest.raises(RuleError, match="it matches 'b', but nothing from the source"):
        tr.plan(target, {"a": ones(1)}, [tr.adapt("b", jnp.sin), tr.keep("b")])


@pytest.mark.parametrize(
    ("found", "wanted", "advice"),
    [
        ((3, 5), (5, 3), r"torch_layout\(\) or layout\("),
        ((2, 3, 5), (3, 5, 2), "layout\\(..., transpose=...\\)"),
        ((3, 3, 3, 8), (3, 3, 1, 8), "adapters.inflate_channels"),
        ((6,), (2, 3), r"layout\(..., reshape=True\)"),
        ((7, 2), (9, 2), r"adapt\(...\) with a function"),
    ],
)
def test_a_wrong_shape_gets_the_advice_that_fits(found, wanted, advice):
    path = "layer/kernel"
    with pytest.raises(MergeError, match=advice):
        tr.merge({path: ones(*wanted)}, {path: ones(*found)})


def test_a_leaf_left_over_gets_the_name_that_may_be_meant():
    with pytest.raises(MergeError, match="Did you mean 'encoder/kernel'"):
        tr.merge({"encoder/kernel": ones(1)}, {"encoder/kernal": ones(1)})
