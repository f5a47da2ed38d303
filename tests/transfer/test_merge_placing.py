"""Leaves are read once, one at a time, and go straight to where they belong."""

import gc

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from merge_helpers import KEY, ones, watched, zeros

from jaxinit import initializers
from jaxinit import transfer as tr
from jaxinit._errors import MergeError
from jaxinit.transfer._source import ValueLeaf
from jaxinit.transfer._steps import (
    apply,
    element,
    flip,
    part,
    read_part,
    shape_after,
    transpose,
)


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
