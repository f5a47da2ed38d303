"""The way back: exact where it can be, and refused or listed where it cannot."""

import jax
import numpy as np
import pytest

from jaxinit import initializers
from jaxinit import transfer as tr
from jaxinit._errors import MergeError, RuleError


def ones(*shape, dtype=np.float32):
    return np.ones(shape, dtype)


def numbered(*shape):
    return np.arange(np.prod(shape), dtype=np.float32).reshape(shape)


def exported(target, source, rules, allow=(), **options):
    tree, report = tr.merge(target, source, rules, **options)
    return tr.export(tree, report, allow=allow)


def test_what_was_merged_goes_back_by_way_of_a_file(tmp_path):
    source = {"fc/weight": numbered(2, 3), "fc/bias": numbered(2)}
    target = {"fc": {"kernel": ones(3, 2), "bias": ones(2)}}
    plan = tr.plan(target, source, [tr.torch_layout()])
    tree, _ = tr.merge(target, source, plan)
    leaves, report = tr.export(tree, tr.Plan.from_json(plan.to_json()))
    assert report.ok
    tr.save(tmp_path / "back.safetensors", leaves)
    again = tr.open_checkpoint(tmp_path / "back.safetensors")
    for name, array in source.items():
        np.testing.assert_array_equal(again[name].read(), array, strict=True)


def test_a_trained_tree_goes_back_with_its_new_numbers():
    source = {"w": numbered(2, 3)}
    rule = tr.layout("w", transpose=(1, 0))
    tree, report = tr.merge({"w": ones(3, 2)}, source, [rule])
    leaves, _ = tr.export({"w": tree["w"] * 2}, report)
    np.testing.assert_array_equal(leaves["w"], 2 * source["w"])


def test_a_new_head_goes_back_under_the_name_of_the_old_one_if_allowed():
    source = {"head/weight": ones(1000, 4)}
    target = {"head": {"kernel": numbered(4, 3)}}
    rules = [tr.torch_layout(), tr.keep("head/.*")]
    with pytest.raises(
        MergeError, match="head/weight: what is exported comes from a le"
    ):
        exported(target, source, rules)
    leaves, report = exported(target, source, rules, ["replaced"])
    np.testing.assert_array_equal(leaves["head/weight"], numbered(4, 3).T)
    assert [row["fate"] for row in report.records()] == ["replaced"]
    assert report.counts() == {"error": 0, "warning": 0, "note": 1}


def test_an_adapted_leaf_goes_back_in_its_new_shape_if_allowed():
    rule = tr.adapt("w", tr.adapters.extend_vocabulary, size=5)
    problem = {"w": ones(5, 2)}, {"w": numbered(3, 2)}, [rule]
    with pytest.raises(MergeError, match="leaf that was adapted"):
        exported(*problem)
    leaves, _ = exported(*problem, ["adapted"])
    assert leaves["w"].shape == (5, 2)


def test_a_cast_leaf_goes_back_in_its_old_dtype_if_allowed():
    source = {"w": numbered(3).astype(np.float16)}
    with pytest.raises(MergeError, match="leaf that was cast"):
        exported({"w": ones(3)}, source, [])
    leaves, _ = exported({"w": ones(3)}, source, [], ["cast"])
    np.testing.assert_array_equal(leaves["w"], source["w"], strict=True)


def test_a_dropped_leaf_is_not_there_and_that_is_said():
    source = {"w": ones(1), "step": ones(1)}
    with pytest.raises(MergeError, match="step: it is in no leaf of the tree"):
        exported({"w": ones(1)}, source, [tr.drop("step")])
    leaves, _ = exported({"w": ones(1)}, source, [tr.drop("step")], ["dropped"])
    assert set(leaves) == {"w"}


def test_the_summands_of_a_bias_cannot_be_told_apart():
    target = {f"h{g}/bias": ones(2) for g in "ifgo"} | {
        f"i{g}/kernel": ones(3, 2) for g in "ifgo"
    }
    source = {"weight_ih": ones(8, 3), "bias_ih": ones(8), "bias_hh": ones(8)}
    with pytest.raises(MergeError, match="a sum cannot be taken apart"):
        exported(target, source, [tr.torch_layout()])
    leaves, report = exported(target, source, [tr.torch_layout()], ["summed"])
    assert set(leaves) == {"weight_ih"}
    fates = {row["source"]: row["fate"] for row in report.records()}
    assert fates == {"weight_ih": "restored", "bias_ih": "summed", "bias_hh": "summed"}


def test_one_leaf_in_two_places_goes_back_only_while_they_are_equal():
    source, target = {"wte": numbered(3)}, {"embed": ones(3), "head": ones(3)}
    rule = tr.rename("wte", ["embed", "head"])
    tree, report = tr.merge(target, source, [rule])
    np.testing.assert_array_equal(tr.export(tree, report)[0]["wte"], source["wte"])
    with pytest.raises(MergeError, match="head and embed were one, and differ now"):
        tr.export(tree | {"head": tree["head"] + 1}, report)


def test_a_leaf_of_which_a_part_was_left_out_is_not_restored():
    source = {"stack": numbered(3, 2)}
    policy = tr.Policy(unexpected="allow")
    rule = tr.unstack("stack", "h{layer}")
    target = {"h0": ones(2), "h1": ones(2)}
    with pytest.raises(MergeError, match="a part of it is in no leaf of the tree"):
        exported(target, source, [rule], policy=policy)


def test_another_tree_than_that_of_the_plan_is_refused():
    tree, report = tr.merge({"w": ones(2)}, {"w": ones(2)})
    for wrong in ({"w": ones(3)}, {"v": ones(2)}, {**tree, "v": ones(1)}):
        with pytest.raises(MergeError, match="give the tree that the plan made"):
            tr.export(wrong, report)


def test_what_may_be_allowed_is_known():
    tree, report = tr.merge({"w": ones(2)}, {"w": ones(2)})
    with pytest.raises(
        RuleError, match=r"allow must be of 'adapted', 'cast', .* 'all'"
    ):
        tr.export(tree, report, allow=["all"])


def test_a_drawn_leaf_that_replaced_nothing_is_no_leaf_of_the_source():

    rule = tr.draw("v", initializers.normal())
    leaves, report = exported(
        {"w": ones(1), "v": ones(1)}, {"w": ones(1)}, [rule], key=jax.random.key(0)
    )
    assert set(leaves) == {"w"}
    assert report.ok
