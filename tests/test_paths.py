"""A leaf has one name in every kind of tree, and trees come back as they were."""

import collections
import dataclasses
import re
import subprocess
import sys

import jax
import numpy as np
import pytest
from flax import linen as nn
from flax import nnx
from flax.core import FrozenDict
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxinit._errors import PathError
from jaxinit._paths import (
    Name,
    flatten,
    from_separator,
    map_leaves,
    named_leaves,
    with_separator,
)

QUICK = settings(max_examples=60, deadline=None)


def fulls(tree):
    return [name.full for name in flatten(tree).names]


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class Weights:
    value: object
    bias: object


@jax.tree_util.register_pytree_node_class
class Unnamed:
    """A node that gives JAX no keys."""

    def __init__(self, *children):
        self.children = children

    def tree_flatten(self):
        return self.children, None

    @classmethod
    def tree_unflatten(cls, _, children):
        return cls(*children)


Pair = collections.namedtuple("Pair", ["left", "right"])


class Model(nnx.Module):
    def __init__(self, rngs):
        self.layers = nnx.List([nnx.Linear(2, 2, rngs=rngs) for _ in range(2)])
        self.norm = nnx.BatchNorm(2, rngs=rngs)
        self.dropout = nnx.Dropout(0.5, rngs=rngs)


@pytest.fixture(scope="module")
def state():
    return nnx.eval_shape(lambda: nnx.state(Model(nnx.Rngs(0))))


# What a leaf is called


@pytest.mark.parametrize("kind", [dict, FrozenDict])
def test_a_linen_collection_stands_beside_the_path(kind):
    tree = kind(
        {
            "params": {"Dense_0": {"kernel": 1, "bias": 2}},
            "batch_stats": {"BatchNorm_0": {"mean": 3}},
        }
    )
    names = flatten(tree).names
    assert names == (
        Name("batch_stats", "BatchNorm_0/mean"),
        Name("params", "Dense_0/bias"),
        Name("params", "Dense_0/kernel"),
    )
    assert [name.full for name in names] == [
        "batch_stats:BatchNorm_0/mean",
        "Dense_0/bias",
        "Dense_0/kernel",
    ]
    assert str(names[0]) == names[0].full


def test_an_nnx_state_has_the_names_of_its_linen_twin(state):
    linen = {
        "params": {
            "layers": [{"kernel": 0, "bias": 0}, {"kernel": 0, "bias": 0}],
            "norm": {"scale": 0, "bias": 0},
        },
        "batch_stats": {"norm": {"mean": 0, "var": 0}},
    }
    flat = flatten(state)
    drawn = {name for name in flat.names if not flat.is_random_state(name)}
    assert drawn == set(flatten(linen).names)
    assert Name("params", "layers/0/kernel") in drawn
    assert Name("batch_stats", "norm/mean") in drawn


def test_an_nnx_module_has_the_names_of_its_state():
    model = Model(nnx.Rngs(0))
    assert fulls(model) == fulls(nnx.state(model))


def test_random_number_state_is_listed_and_recognised(state):
    flat = flatten(state)
    found = {name.full for name in flat.random_state}
    assert found == {"RngCount:dropout/rngs/count", "RngKey:dropout/rngs/key"}
    assert flat.random_state < set(flat.names)
    assert flat.is_random_state(Name("RngKey", "dropout/rngs/key"))
    assert not flat.is_random_state(Name("params", "layers/0/kernel"))


def test_a_prng_key_is_random_number_state_in_any_tree():
    flat = flatten({"key": jax.random.key(0), "seed": np.uint32(0), "note": "text"})
    assert flat.random_state == {Name("params", "key")}


@pytest.mark.parametrize(
    ("tree", "expected"),
    [
        ({"layers": [{"w": 1}, {"w": 2}]}, ["layers/0/w", "layers/1/w"]),
        ((1, [2]), ["0", "1/0"]),
        ({10: 1, 9: 2}, ["9", "10"]),
        ({"a": Pair(1, 2)}, ["a/left", "a/right"]),
        ({"a": Unnamed(1, 2)}, ["a/0", "a/1"]),
        ({"a": None, "b": 1}, ["b"]),
        ({"linear/~/in": {"w": 1}}, ["linear/~/in/w"]),
        (1.0, [""]),
        ({}, []),
        ({"batch_stats": {"mean": 1}}, ["batch_stats/mean"]),
        ({"params": 1, "step": 2}, ["params", "step"]),
        ({"params": {"w": 1}, "step": 2}, ["w", "step:"]),
        ({"params": {}, "cache": {"i": 1}}, ["cache:i"]),
        ({"params": [1]}, ["0"]),
        ([{"params": {"w": 1}}], ["0/params/w"]),
        (jax.ShapeDtypeStruct((2,), "float32"), [""]),
        ({"a": jax.ShapeDtypeStruct((2,), "float32")}, ["a"]),
    ],
)
def test_the_names_of_plain_trees(tree, expected):
    assert fulls(tree) == expected


@pytest.mark.parametrize(
    ("tree", "expected"),
    [
        ({"value": 1, "a": {"value": 2}}, ["a/value", "value"]),
        (Weights(value=1, bias=2), ["value", "bias"]),
        ({"w": nn.Partitioned(1, names=("x",))}, ["w"]),
        ({"w": nn.LogicallyPartitioned({"value": 1}, names=())}, ["w/value"]),
        ({"w": nn.Partitioned(nn.Partitioned(1, ("x",)), ("y",))}, ["w"]),
        (nnx.State({"w": nnx.Param({"value": [1, 2]})}), ["w/value/0", "w/value/1"]),
        (nnx.State({"w": nnx.Param(nn.Partitioned(1, ()))}), ["w"]),
        (nnx.State({"w": nnx.Param(Weights(1, 2))}), ["w/value", "w/bias"]),
        (nnx.State({"w": nnx.Param(None), "value": nnx.Param(1)}), ["value"]),
        (nnx.State({"params": {"w": nnx.Param(1)}}), ["params/w"]),
        (nnx.BatchStat(1), ["batch_stats:"]),
        ({"params": {"w": nn.Partitioned(1, ("x",))}}, ["w"]),
        ({"params": nn.Partitioned(1, ("x",))}, ["params"]),
    ],
)
def test_only_the_key_of_a_box_is_dropped(tree, expected):
    assert fulls(tree) == expected


def test_a_box_of_several_values_keeps_their_keys():
    class Quantized(nn.meta.AxisMetadata):
        def __init__(self, codes, scale):
            self.codes, self.scale = codes, scale

        unbox = replace_boxed = add_axis = remove_axis = None

    jax.tree_util.register_pytree_with_keys(
        Quantized,
        lambda q: (
            ((jax.tree_util.GetAttrKey("value"), q.codes), ("scale", q.scale)),
            None,
        ),
        lambda _, children: Quantized(*children),
    )
    assert fulls({"w": Quantized(1, 2)}) == ["w/value", "w/scale"]


def test_a_variable_type_has_the_collection_of_its_nearest_registered_ancestor():
    class Counter(nnx.Variable):
        pass

    class Scale(nnx.BatchStat):
        pass

    tree = nnx.State(
        {"a": nnx.LoRAParam(1), "b": Counter(2), "c": Scale(3), "d": nnx.Cache(4)}
    )
    assert fulls(tree) == ["a", "Counter:b", "batch_stats:c", "cache:d"]
    # Naming a type must not register it: that would change what Flax does next.
    with pytest.raises(ValueError, match="not registered"):
        nnx.variable_name_from_type(Counter)


def test_a_subclass_of_random_number_state_is_random_number_state():
    class Seed(nnx.RngState):
        pass

    flat = flatten(nnx.State({"seed": Seed(1, tag="x")}))
    assert flat.random_state == {Name("Seed", "seed")}


def test_a_variable_that_jax_does_not_look_into_has_the_same_name():
    def states():
        return nnx.state(nnx.BatchNorm(2, rngs=nnx.Rngs(0)))

    with nnx.var_defaults(hijax=True):
        opaque = flatten(states())
    assert opaque.names == flatten(states()).names
    assert all(isinstance(leaf, nnx.Variable) for leaf in opaque.leaves)


def test_flax_is_not_imported_for_a_plain_tree():
    program = (
        "import sys\n"
        "from jaxinit._paths import flatten\n"
        "assert flatten({'params': {'w': 1}}).names[0].full == 'w'\n"
        "assert not [m for m in sys.modules if m.split('.')[0] == 'flax']\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_a_mapping_that_jax_does_not_look_into_is_one_leaf():
    tree = collections.UserDict({"params": {"w": 1}})
    assert named_leaves(tree) == {Name("params", ""): tree}


class OwnKey:
    def __str__(self):
        return "own"


def test_a_key_type_of_the_users_own_is_written_as_it_prints():
    class Box:
        pass

    jax.tree_util.register_pytree_with_keys(
        Box, lambda _: (((OwnKey(), 1),), None), lambda _, children: Box()
    )
    assert fulls([Box()]) == ["0/own"]


# Names are unambiguous


@QUICK
@given(st.text("ab:/0", max_size=6), st.text("ab:/", max_size=6))
def test_the_full_text_of_a_name_reads_back(collection, path):
    collection = collection.replace(":", "")
    for name in (Name(collection, path), Name("params", path)):
        assert Name.parse(name.full) == name


def test_a_collection_cannot_contain_a_colon():
    with pytest.raises(PathError, match="cannot contain a colon, got 'a:b'"):
        Name("a:b", "w")


@pytest.mark.parametrize(
    ("tree", "name", "first", "second"),
    [
        ({"a/b": 1, "a": {"b": 2}}, "a/b", "['a']['b']", "['a/b']"),
        (collections.OrderedDict([(0, 1), ("0", 2)]), "0", "[0]", "['0']"),
        (
            {"params": {}, "cache": {"a/b": 1, "a": {"b": 2}}},
            "cache:a/b",
            "['cache']['a']['b']",
            "['cache']['a/b']",
        ),
    ],
)
def test_two_leaves_of_one_name_are_an_error_that_shows_both(tree, name, first, second):
    message = (
        f"source: two leaves share the name {name!r}, source{first} and "
        f"source{second}; rename one of them"
    )
    with pytest.raises(PathError, match=re.escape(message)):
        flatten(tree, argument="source")
    with pytest.raises(PathError, match=r"^source: two leaves"):
        named_leaves(tree, argument="source")


def test_equal_paths_in_different_collections_are_two_names():
    tree = {"params": {"a": 1}, "batch_stats": {"a": 2}}
    assert named_leaves(tree) == {Name("params", "a"): 1, Name("batch_stats", "a"): 2}


@pytest.mark.parametrize(
    ("tree", "where"),
    [
        ({0: 1, "0": 2}, ""),
        ({"a": [{0: 1, "0": 2}]}, " at ['a'][0]"),
        ({"a": nnx.State({0: 1, "0": 2})}, " at ['a']"),
    ],
)
def test_keys_that_cannot_be_sorted_are_an_error_that_shows_two(tree, where):
    message = f"tree: the keys 0 (int) and '0' (str){where} cannot be sorted; write all"
    with pytest.raises(PathError, match=re.escape(message)):
        flatten(tree)


def test_other_errors_of_flattening_are_not_explained_away():
    class Broken:
        pass

    calls = []

    def fail(_):
        calls.append(1)
        if len(calls) == 1:
            raise TypeError("broken")
        return (), None

    jax.tree_util.register_pytree_with_keys(Broken, fail, fail)
    with pytest.raises(TypeError, match="broken"):
        flatten([Broken()])


# Trees come back


def trees():
    leaves = st.integers()
    keys = st.text("ab0_", min_size=1, max_size=3)
    return st.recursive(
        leaves | st.none(),
        lambda inner: st.one_of(
            st.dictionaries(keys, inner, max_size=3),
            st.dictionaries(keys, inner, max_size=3).map(FrozenDict),
            st.lists(inner, max_size=3),
            st.tuples(inner, inner),
            st.builds(Pair, inner, inner),
            st.builds(Weights, inner, inner),
            st.builds(Unnamed, inner, inner),
        ),
        max_leaves=12,
    )


def same(first, second):
    """Equal leaves in equal structures, kinds of nodes included."""
    assert jax.tree.structure(first) == jax.tree.structure(second)
    assert jax.tree.leaves(first) == jax.tree.leaves(second)


@QUICK
@given(trees())
def test_flatten_and_unflatten_are_inverse(tree):
    flat = flatten(tree)
    assert list(flat.leaves) == jax.tree.leaves(tree)
    assert len(set(flat.names)) == len(flat.names)
    same(flat.unflatten(flat.leaves), tree)
    same(flat.replace(dict(flat.items())), tree)
    doubled = map_leaves(lambda name, leaf: 2 * leaf, tree)
    same(doubled, jax.tree.map(lambda leaf: 2 * leaf, tree))


@QUICK
@given(trees())
def test_boxes_change_no_name_and_no_order(tree):
    plain = flatten(tree)
    for box in (nnx.Param, lambda x: nn.Partitioned(x, names=())):
        boxed = jax.tree.map(box, tree)
        flat = flatten(boxed)
        assert flat.names == plain.names
        assert flat.leaves == plain.leaves
        same(flat.unflatten(flat.leaves), boxed)


def test_a_state_comes_back_as_a_state_with_its_variables(state):
    flat = flatten(state)
    labels = flat.unflatten([name.full for name in flat.names])
    assert type(labels) is nnx.State
    assert type(labels["norm"]["mean"]) is nnx.BatchStat
    assert labels["norm"]["mean"].get_value() == "batch_stats:norm/mean"
    assert labels["layers"][1]["kernel"].get_value() == "layers/1/kernel"


def test_replacing_leaves_changes_neither_the_rest_nor_the_original():
    tree = {"params": {"a": 1, "b": 2}, "cache": {"a": 3}}
    flat = flatten(tree)
    new = flat.replace({Name("params", "a"): 10})
    assert new == {"params": {"a": 10, "b": 2}, "cache": {"a": 3}}
    assert tree == {"params": {"a": 1, "b": 2}, "cache": {"a": 3}}


def test_replacing_an_unknown_leaf_is_an_error():
    with pytest.raises(PathError, match="the tree has no leaf 'cache:a' to replace"):
        flatten({"a": 1}).replace({Name("cache", "a"): 1})


@pytest.mark.parametrize("count", [1, 3])
def test_a_wrong_number_of_leaves_is_an_error(count):
    with pytest.raises(PathError, match=f"the tree has 2 leaves, got {count} to fill"):
        flatten({"a": 1, "b": 2}).unflatten(range(count))


# The separators of files


@QUICK
@given(st.lists(st.text("ab0_", max_size=3), min_size=1, max_size=4))
@pytest.mark.parametrize("separator", [".", "::", "/", "-"])
def test_a_separator_can_be_exchanged_and_back(separator, keys):
    path = "/".join(keys)
    text = with_separator(path, separator)
    assert text == separator.join(keys)
    assert from_separator(text, separator) == path


def test_a_key_that_contains_the_separator_is_an_error():
    message = "the key 'v1.5' of 'a/v1.5/w' contains '.', which would separate keys"
    with pytest.raises(PathError, match=re.escape(message)):
        with_separator("a/v1.5/w", ".")
    with pytest.raises(PathError, match=r"the key 'a/b' of 'x\.a/b' contains '/'"):
        from_separator("x.a/b", ".")


def test_an_empty_separator_is_an_error():
    with pytest.raises(PathError, match="separator cannot be empty"):
        with_separator("a/b", "")
    with pytest.raises(PathError, match="separator cannot be empty"):
        from_separator("a/b", "")
