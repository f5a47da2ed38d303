"""Merging: kinds of trees, functions as targets, drawing, placing, plans applied."""

import gc
import hashlib
import json
import weakref
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax import nnx
from flax.core import freeze
from hypothesis import given
from hypothesis import strategies as st
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxinit import initializers
from jaxinit import transfer as tr
from jaxinit._errors import MergeError, RuleError
from jaxinit._keys import fold_name
from jaxinit.transfer._origin import Origin
from jaxinit.transfer._source import Leaf, Source, ValueLeaf
from jaxinit.transfer._steps import (
    apply,
    element,
    flip,
    part,
    read_part,
    shape_after,
    transpose,
)

KEY = jax.random.key(0)


def ones(*shape, dtype=np.float32):
    return np.ones(shape, dtype)


def zeros(*shape, dtype=np.float32):
    return np.zeros(shape, dtype)


class Watched(Leaf):
    """A leaf that remembers which slices of it were read, and the arrays it gave."""

    def __init__(self, name, values):
        origin = Origin(None, label="watched")
        super().__init__(
            name=name, key=name, shape=values.shape, dtype=values.dtype, origin=origin
        )
        self.values, self.reads, self.given = values, [], []

    def _read(self, index):
        found = np.array(self.values[index])
        self.reads.append(found.shape)
        self.given.append(weakref.ref(found))
        return found


def watched(**arrays):
    leaves = {name: Watched(name, array) for name, array in arrays.items()}
    return Source(leaves, format="watched", origins=())


# Kinds of trees


@jax.tree_util.register_dataclass
@dataclass
class Module:
    """As Equinox has it: a module is a tree, and its activation is a leaf of it."""

    weight: Any
    activation: Any = jax.nn.relu


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


# Functions as targets, and drawing


class Net(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.Dense(8, name="body")(x)
        x = nn.BatchNorm(use_running_average=True, name="norm")(x)
        return nn.Dense(3, name="head", bias_init=nn.initializers.normal())(x)


def init():
    return Net().init(KEY, jnp.ones((1, 4)))


def test_of_a_function_only_the_missing_leaves_are_drawn():
    body = {
        "params": {
            "body": {"kernel": ones(4, 8), "bias": ones(8)},
            "norm": {"scale": ones(8), "bias": ones(8)},
        },
        "batch_stats": {"norm": {"mean": ones(8), "var": ones(8)}},
    }
    tree, report = tr.merge(init, body, [tr.keep("head/.*")])
    expected = jax.jit(init)()
    assert jax.tree.structure(tree) == jax.tree.structure(expected)
    for name, leaf in tree["params"]["head"].items():
        np.testing.assert_array_equal(leaf, expected["params"]["head"][name])
    np.testing.assert_array_equal(tree["params"]["body"]["kernel"], ones(4, 8))
    drawn = {name for name, fate in report.target_fates.items() if fate == "drawn"}
    assert drawn == {"head/kernel", "head/bias"}
    missing = tr.Policy(missing="warn")
    again, report = tr.merge(init, body, policy=missing)
    jax.tree.map(np.testing.assert_array_equal, again, tree)
    assert report.counts()["warning"] == 2


def test_a_function_that_makes_an_nnx_state_is_a_target_too():
    def make():
        return nnx.state(nnx.Linear(2, 3, rngs=nnx.Rngs(0)))

    tree, report = tr.merge(make, {"kernel": ones(2, 3)}, [tr.keep("bias")])
    assert isinstance(tree, nnx.State)
    assert report.target_fates == {"bias": "drawn", "kernel": "copied"}
    assert not tree["bias"][...].any()


def test_a_function_that_returns_no_arrays_is_refused_with_advice():
    with pytest.raises(MergeError, match="target: the function cannot be traced"):
        tr.merge(lambda: Module(jnp.zeros(2)), {"weight": ones(2)})
    with pytest.raises(MergeError, match="it takes no arguments"):
        tr.merge(lambda key: {"w": key}, {"w": ones(2)})


def test_a_drawn_leaf_depends_on_the_key_and_its_name_alone():
    normal = initializers.normal()
    target = {"a": zeros(4), "b": zeros(4)}
    both = tr.draw("[ab]", normal)
    tree, _ = tr.merge(target, {}, [both], key=KEY)
    for name in target:
        draw = jax.jit(lambda key: normal(key, (4,), jnp.float32))
        expected = draw(fold_name(KEY, name))
        np.testing.assert_array_equal(tree[name], expected)
    alone, _ = tr.merge({"b": zeros(4)}, {}, [tr.draw("b", normal)], key=KEY)
    np.testing.assert_array_equal(alone["b"], tree["b"])


def test_drawing_without_a_key_is_an_error_that_names_the_leaf():
    with pytest.raises(ValueError, match="key is needed to draw 'w', and there is no"):
        tr.merge({"w": zeros(2)}, {}, [tr.draw("w", initializers.normal())])


def test_what_a_function_makes_must_be_what_was_asked_for():
    def wrong(key, shape, dtype):
        return jnp.zeros((*shape, 1), dtype)

    with pytest.raises(MergeError, match=r"'w' is to be float32 of shape \(2,\), and"):
        tr.merge({"w": zeros(2)}, {}, [tr.draw("w", wrong)], key=KEY)
    rule = tr.adapt("w", lambda array: array[:1])
    with pytest.raises(MergeError, match=r"w has shape \(1,\).*the target \(2,\)"):
        tr.merge({"w": zeros(2)}, {"w": ones(4)}, [rule])


def test_an_adapter_is_given_the_shape_and_a_key_of_its_own():
    seen = []

    def adapter(array, *, shape, key, factor):
        seen.append((shape, key))
        return jnp.broadcast_to(array * factor, shape)

    rule = tr.adapt("w", adapter, factor=3.0)
    tree, _ = tr.merge({"w": zeros(2)}, {"w": ones(1)}, [rule], key=KEY)
    np.testing.assert_array_equal(tree["w"], [3, 3])
    shape, key = seen[-1]
    assert shape == (2,)
    np.testing.assert_array_equal(
        jax.random.key_data(key), jax.random.key_data(fold_name(KEY, "w"))
    )


def test_an_adapter_that_refuses_is_a_finding_of_its_leaf():
    rule = tr.adapt("w", tr.adapters.inflate_channels, channels=2, mode="zero")
    source, target = {"w": ones(1, 1, 3, 4)}, {"w": zeros(1, 1, 2, 4)}
    with pytest.raises(
        MergeError, match=r"w: from w: adapters\.inflate_channels.*refuse"
    ):
        tr.merge(target, source, [rule])


# Reading and placing


def test_a_plan_reads_no_numbers():
    source = watched(a=ones(2, 3), b=ones(3))
    target = jax.eval_shape(lambda: {"a": jnp.zeros((3, 2)), "b": jnp.zeros(3)})
    assert tr.plan(target, source, [tr.layout("a", transpose=(1, 0))]).ok
    assert not any(leaf.reads for leaf in source.values())


def test_every_leaf_is_read_once_and_one_at_a_time():
    source = watched(
        qkv=ones(6, 2), stack=ones(3, 4, 2), plain=ones(4, 2), last=ones(4, 2)
    )
    rules = [
        tr.split("qkv", ["q", "k", "v"], axis=0),
        tr.unstack("stack", "h{layer}"),
        tr.layout(".*", transpose=(1, 0)),
    ]
    target = {name: zeros(2, 2) for name in "qkv"}
    target |= {name: zeros(2, 4) for name in ("h0", "h1", "h2", "plain", "last")}
    tree, _ = tr.merge(target, source, rules)
    assert {name: leaf.reads for name, leaf in source.items()} == {
        "qkv": [(6, 2)],
        "stack": [(3, 4, 2)],
        "plain": [(4, 2)],
        "last": [(4, 2)],
    }
    gc.collect()
    alive = [name for name, leaf in source.items() if leaf.given[0]() is not None]
    assert alive == []
    assert tree["h2"].shape == (2, 4)


MESH = Mesh(np.array(jax.devices()).reshape(4, 2), ("x", "y"))


def sharded(*axes):
    return NamedSharding(MESH, PartitionSpec(*axes))


def test_each_shard_is_read_for_itself():
    values = np.arange(64, dtype=np.float32).reshape(8, 8)
    source = watched(w=values)
    tree, _ = tr.merge({"w": zeros(8, 8)}, source, out_shardings=sharded("x", "y"))
    assert tree["w"].sharding == sharded("x", "y")
    np.testing.assert_array_equal(tree["w"], values)
    assert source["w"].reads == [(2, 4)] * 8


def test_each_shard_of_a_part_in_another_layout_is_read_for_itself():
    values = np.arange(96, dtype=np.float32).reshape(12, 8)
    source = watched(qk=values)
    rules = [tr.split("qk", ["q", "k"], axis=0, sizes=[4, 8])]
    rules += [tr.layout("k", transpose=(1, 0), flip=(0,))]
    target = {"q": zeros(4, 8), "k": zeros(8, 8)}
    spread = {"q": sharded(), "k": sharded("x", "y")}
    tree, _ = tr.merge(target, source, rules, out_shardings=spread)
    np.testing.assert_array_equal(tree["k"], values[4:].T[::-1])
    np.testing.assert_array_equal(tree["q"], values[:4])
    assert sorted(source["qk"].reads) == [(4, 2)] * 8 + [(4, 8)]


@given(st.data())
def test_a_part_is_read_as_it_would_be_cut_from_the_whole(data):
    shape = tuple(data.draw(st.lists(st.integers(1, 4), min_size=1, max_size=4)))
    array = np.arange(np.prod(shape)).reshape(shape)
    steps, found = [], shape
    for kind in data.draw(st.lists(st.sampled_from("sitf"), max_size=4)):
        axis = data.draw(st.integers(0, max(len(found) - 1, 0)))
        if not found:
            break
        size, axes = found[axis], data.draw(st.permutations(range(len(found))))
        choices = {
            "s": part(axis, size // 3, size),
            "i": element(axis, size - 1),
            "t": transpose(axes),
            "f": flip((axis,)),
        }
        steps.append(choices[kind])
        found = shape_after(steps, shape)
    index = tuple(slice(data.draw(st.integers(0, n - 1)), n) for n in found)
    cut = read_part(steps, shape, index, lambda taken: array[taken])
    np.testing.assert_array_equal(cut, apply(steps, array)[index])


def test_shards_are_laid_out_cast_adapted_and_drawn_as_whole_leaves_are():
    values = np.random.default_rng(0).normal(size=(8, 4)).astype(np.float32)
    source = {"a": values, "b": values, "c": values}
    target = {
        "a": zeros(4, 8, dtype=jnp.bfloat16),
        "b": zeros(8, 4),
        "c": zeros(8, 4),
        "d": zeros(8, 4),
    }
    rules = [
        tr.layout("a", transpose=(1, 0)),
        tr.adapt("b", lambda array: -array),
        tr.draw("[cd]", initializers.normal()),
    ]
    spread = {name: sharded("x") for name in "abcd"} | {"a": sharded(None, "y")}
    whole, _ = tr.merge(target, source, rules, key=KEY)
    parts, report = tr.merge(target, source, rules, key=KEY, out_shardings=spread)
    assert set(report.target_fates.values()) == {"cast", "adapted", "drawn"}
    for name, leaf in parts.items():
        assert leaf.sharding == spread[name]
        np.testing.assert_array_equal(leaf, whole[name], strict=True)


def test_a_leaf_goes_where_the_leaf_of_the_target_is():
    kept = jax.device_put(zeros(8), sharded("x"))
    shape = jax.ShapeDtypeStruct((8,), jnp.float32, sharding=sharded("y"))
    tree, _ = tr.merge({"a": kept, "b": shape}, {"a": ones(8), "b": ones(8)})
    assert tree["a"].sharding == sharded("x")
    assert tree["b"].sharding == sharded("y")


def test_the_drawn_leaves_of_a_function_are_sharded_too():
    tree, _ = tr.merge(
        lambda: {"w": jax.random.normal(KEY, (8,))},
        {},
        [tr.keep("w")],
        out_shardings={"w": sharded("x")},
    )
    assert tree["w"].sharding == sharded("x")
    np.testing.assert_array_equal(tree["w"], jax.random.normal(KEY, (8,)))


def test_shards_with_a_number_that_is_none_are_noticed():
    values = ones(8)
    values[5] = np.nan
    with pytest.raises(MergeError, match="w: 1 of 8 values of the source are NaN"):
        tr.merge({"w": zeros(8)}, {"w": values}, out_shardings=sharded("x"))


def test_arrays_on_devices_take_no_way_by_the_host(monkeypatch):
    def refuse(leaf, index):
        raise AssertionError("a leaf on devices was read by the host")

    monkeypatch.setattr(ValueLeaf, "_read", refuse)
    source = {"w": jax.device_put(ones(8), sharded("x"))}
    tree, _ = tr.merge({"w": zeros(8)}, source, out_shardings=sharded("y"))
    np.testing.assert_array_equal(tree["w"], ones(8))


def test_leaves_of_64_bits_arrive_with_all_of_them(x64):
    value = np.array([1 + 2**-40])
    tree, _ = tr.merge({"w": np.zeros(1)}, {"w": value})
    np.testing.assert_array_equal(tree["w"], value, strict=True)


# Plans applied later


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
