"""A plan is data: written down, read back, and applied to what it was made for."""

import hashlib
import json

import jax
import numpy as np
import pytest
from merge_helpers import KEY, ones, zeros

from jaxinit import initializers
from jaxinit import transfer as tr
from jaxinit._errors import MergeError, RuleError


def prepared():
    source = {"a/weight": ones(3, 2), "b": ones(2), "c": ones(7)}
    target = {"a": {"kernel": zeros(2, 3)}, "b": zeros(4), "d": zeros(2)}
    rules = [
        tr.drop("c", reason="not ours"),
        tr.torch_layout(),
        tr.adapt("b", tr.adapters.extend_vocabulary, size=4),
        tr.draw("d", initializers.normal(0.02)),
    ]
    return target, source, rules


def test_a_plan_survives_json_and_does_what_its_rules_did():
    target, source, rules = prepared()
    plan = tr.plan(target, source, rules)
    read = tr.Plan.from_json(plan.to_json())
    assert read == plan
    assert str(read) == str(plan)
    tree, report = tr.merge(target, source, read, key=KEY)
    expected, wanted = tr.merge(target, source, rules, key=KEY)
    jax.tree.map(np.testing.assert_array_equal, tree, expected)
    assert report == wanted


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"target": {"a": {"kernel": zeros(2, 3)}}},
            "target: not what the plan .* 'b'",
        ),
        (
            {"source": {"b": ones(2)}},
            "source: not what the plan was made for: .* not th",
        ),
        ({"extra": ones(1)}, "source: .*'extra' not in the plan"),
        ({"dtype": np.float16}, r"'b' float32\[2\] in the plan, float16\[2\]"),
        ({"function": True}, "the plan was made for a tree"),
        ({"policy": tr.Policy(shape="warn")}, "policy cannot be given with a plan"),
    ],
)
def test_a_plan_is_applied_to_what_it_was_made_for_only(change, message):
    target, source, rules = prepared()
    rules[-1] = tr.keep("d")
    plan = tr.plan(target, source, rules)
    if "extra" in change:
        source["extra"] = change["extra"]
    if "dtype" in change:
        source["b"] = source["b"].astype(change["dtype"])
    made = target
    target = (lambda: made) if "function" in change else change.get("target", target)
    source = change.get("source", source)
    with pytest.raises(MergeError, match=message):
        tr.merge(target, source, plan, policy=change.get("policy", tr.STRICT))


def test_functions_of_ones_own_are_given_to_a_plan_that_is_read():
    def double(array):
        return 2 * array

    plan = tr.plan({"w": zeros(2)}, {"w": ones(2)}, [tr.adapt("w", double)])
    with pytest.raises(RuleError, match=r"uses 'double\(\)', which is not of this lib"):
        tr.Plan.from_json(plan.to_json())
    read = tr.Plan.from_json(plan.to_json(), functions={"double()": double})
    np.testing.assert_array_equal(
        tr.merge({"w": zeros(2)}, {"w": ones(2)}, read)[0]["w"], [2, 2]
    )


@pytest.mark.parametrize(
    "label",
    [
        "initializers.normal(__import__('os'))",
        "initializers.__class__",
        "adapters.select_units.__globals__",
        "initializers.normal(1).__reduce__()",
        "os.system('true')",
    ],
)
def test_a_label_in_a_plan_is_data_and_never_evaluated(label):
    target, source, rules = prepared()
    text = tr.plan(target, source, rules).to_json()
    text = text.replace("initializers.normal(stddev=0.02)", label.replace('"', '\\"'))
    with pytest.raises(RuleError, match="which is not of this library"):
        tr.Plan.from_json(text)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"report": "Plan"}', "nonsense"])
def test_a_text_that_is_no_plan_is_refused(text):
    with pytest.raises(RuleError, match="text is not a plan"):
        tr.Plan.from_json(text)


def test_provenance_names_the_rules_and_the_fate_of_every_leaf():
    target, source, rules = prepared()
    record = tr.merge(target, source, rules, key=KEY)[1].provenance()
    assert record["targets"] == {
        "a/kernel": "copied",
        "b": "adapted",
        "d": "drawn",
    }
    assert record["sources"]["c"] == "dropped"
    assert record["rules"][0] == "drop('c', reason='not ours')"
    assert record["source"]["files"] == [{"path": "source"}]
    assert record["versions"]["jax"] == jax.__version__


def test_a_saved_tree_knows_the_file_and_the_rules_that_it_came_from(tmp_path):
    tr.save(tmp_path / "old.safetensors", {"old": ones(2)})
    source = tr.open_checkpoint(tmp_path / "old.safetensors")
    tree, report = tr.merge({"w": zeros(2)}, source, [tr.rename("old", "w")])
    tr.save(tmp_path / "new.safetensors", tree, provenance=report)
    metadata = tr.open_checkpoint(tmp_path / "new.safetensors").metadata
    record = json.loads(metadata["jaxinit.provenance"])["record"]
    content = (tmp_path / "old.safetensors").read_bytes()
    (file,) = record["source"]["files"]
    assert file["sha256"] == hashlib.sha256(content).hexdigest()
    assert record["rules"] == ["rename('old', 'w')"]
    assert record["targets"] == {"w": "copied"}
