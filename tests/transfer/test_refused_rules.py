"""Rules that cannot be meant are refused, where they are written or where they meet."""

import jax.numpy as jnp
import numpy as np
import pytest

from jaxinit import transfer as tr
from jaxinit._errors import MergeError, RuleError


def ones(*shape, dtype=np.float32):
    return np.ones(shape, dtype)


def numbered(*shape):
    return np.arange(np.prod(shape), dtype=np.float32).reshape(shape)


def merged(target, source, *rules):
    return tr.merge(target, source, rules)[0]


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
