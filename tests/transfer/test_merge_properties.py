"""Random trees under random rules: one fate each, plan and merge agree, the way back.

A tree is put together from units, each a few leaves and the rules that fill them; the
expected arrays are worked out here with NumPy alone.
"""

from dataclasses import dataclass, field

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxinit import initializers
from jaxinit import transfer as tr
from jaxinit._errors import MergeError

TARGET_FATES = {"copied", "cast", "adapted", "kept", "drawn"}
SOURCE_FATES = {"used", "dropped", "replaced"}


@dataclass
class Unit:
    """Leaves of a source and a target, the rules between, and what is to come out."""

    source: dict = field(default_factory=dict)
    expected: dict = field(default_factory=dict)
    rules: list = field(default_factory=list)
    fates: dict = field(default_factory=dict)
    source_fates: dict = field(default_factory=dict)
    exact: bool = True  # whether the way back restores every leaf of the source


def numbers(draw, shape, dtype=np.float32):
    rng = np.random.default_rng(draw(st.integers(0, 2**31)))
    return rng.normal(size=shape).astype(dtype)


shapes = st.lists(st.integers(1, 3), min_size=1, max_size=3).map(tuple)


def axis_of(draw, shape):
    return draw(st.integers(-len(shape), len(shape) - 1))


def plain(draw, name):
    array = numbers(draw, draw(shapes))
    return Unit({name: array}, {name: array})


def renamed(draw, name):
    array = numbers(draw, draw(shapes))
    rule = tr.rename(f"{name}/old/(.*)", rf"{name}/new/deep/\1")
    return Unit({f"{name}/old/w": array}, {f"{name}/new/deep/w": array}, [rule])


def dropped(draw, name):
    unit = plain(draw, f"{name}/w")
    unit.source[f"{name}/gone"] = numbers(draw, draw(shapes))
    unit.rules = [tr.drop(f"{name}/gone")]
    unit.source_fates = {f"{name}/gone": "dropped"}
    unit.exact = False
    return unit


def split(draw, name):
    shape, count = draw(shapes), draw(st.integers(2, 3))
    axis = axis_of(draw, shape)
    sizes = [draw(st.integers(1, 2)) for _ in range(count)]
    whole = list(shape)
    whole[axis] = sum(sizes)
    array = numbers(draw, whole)
    parts = np.split(array, np.cumsum(sizes)[:-1], axis)
    to = [f"{name}/part{i}" for i in range(count)]
    rule = tr.split(f"{name}/whole", to, axis=axis, sizes=sizes)
    return Unit({f"{name}/whole": array}, dict(zip(to, parts, strict=True)), [rule])


def fused(draw, name):
    shape, count = draw(shapes), draw(st.integers(2, 3))
    axis = axis_of(draw, shape)
    parts = [numbers(draw, shape) for _ in range(count)]
    source = {f"{name}/part{i}": part for i, part in enumerate(parts)}
    rule = tr.fuse(list(source), f"{name}/whole", axis=axis)
    return Unit(source, {f"{name}/whole": np.concatenate(parts, axis)}, [rule])


def stacked(draw, name):
    shape, count = draw(shapes), draw(st.integers(1, 3))
    axis = draw(st.integers(-len(shape) - 1, len(shape)))
    layers = [numbers(draw, shape) for _ in range(count)]
    source = {f"{name}/h/{i + 1}/w": layer for i, layer in enumerate(layers)}
    rule = tr.stack(rf"{name}/h/(\d+)/(.*)", rf"{name}/h/\2", axis=axis, first=1)
    return Unit(source, {f"{name}/h/w": np.stack(layers, axis)}, [rule])


def unstacked(draw, name):
    shape = draw(shapes)
    axis = axis_of(draw, shape)
    array = numbers(draw, shape)
    rule = tr.unstack(f"{name}/all/(.*)", rf"{name}/h_{{layer}}/\1", axis=axis)
    expected = {f"{name}/h_{i}/w": np.take(array, i, axis) for i in range(shape[axis])}
    return Unit({f"{name}/all/w": array}, expected, [rule])


def laid_out(draw, name):
    array = numbers(draw, draw(shapes))
    axes = draw(st.permutations(range(array.ndim)))
    backwards = draw(st.sets(st.integers(0, array.ndim - 1)))
    expected = np.flip(np.transpose(array, axes), tuple(backwards))
    flat = draw(st.booleans())
    rule = tr.layout(f"{name}/w", transpose=axes, flip=backwards, reshape=flat)
    expected = expected.reshape(-1) if flat else expected
    return Unit({f"{name}/w": array}, {f"{name}/w": expected}, [rule])


def from_torch(draw, name):
    array = numbers(draw, (3, 2, 1, 2))
    expected = np.transpose(array, (2, 3, 1, 0))
    rule = tr.torch_layout(f"{name}/.*")
    return Unit({f"{name}/weight": array}, {f"{name}/kernel": expected}, [rule])


def stacked_torch(draw, name):
    layers = [numbers(draw, (4, 3)) for _ in range(2)]
    source = {f"{name}/{i}/weight": layer for i, layer in enumerate(layers)}
    rules = [
        tr.stack(rf"{name}/(\d)/(.*)", rf"{name}/\2", axis=1),
        tr.torch_layout(f"{name}/.*"),
    ]
    expected = np.stack([layer.T.reshape(3, 2, 2) for layer in layers], 1)
    return Unit(source, {f"{name}/kernel": expected}, rules)


def cast(draw, name):
    array = numbers(draw, draw(shapes), np.float16)
    return Unit(
        {f"{name}/w": array},
        {f"{name}/w": array.astype(np.float32)},
        fates={f"{name}/w": "cast"},
    )


def kept(draw, name):
    mine, theirs = numbers(draw, (2,)), numbers(draw, draw(shapes))
    return Unit(
        {f"{name}/w": theirs},
        {f"{name}/w": mine},
        [tr.keep(f"{name}/.*")],
        {f"{name}/w": "kept"},
        {f"{name}/w": "replaced"},
        exact=False,
    )


def drawn(draw, name):
    rule = tr.draw(f"{name}/w", initializers.constant(2.0))
    return Unit(
        {f"{name}/w": numbers(draw, draw(shapes))},
        {f"{name}/w": np.full((3,), 2.0, np.float32)},
        [rule],
        {f"{name}/w": "drawn"},
        {f"{name}/w": "replaced"},
        exact=False,
    )


def adapted(draw, name):
    array = numbers(draw, (2, 3))
    rule = tr.adapt(f"{name}/w", lambda array: 2 * array)
    return Unit(
        {f"{name}/w": array},
        {f"{name}/w": 2 * array},
        [rule],
        {f"{name}/w": "adapted"},
        exact=False,
    )


KINDS = [plain, renamed, split, fused, stacked, unstacked, laid_out]
KINDS += [from_torch, stacked_torch, cast, dropped, kept, drawn, adapted]


def nested(leaves):
    """Dictionaries within dictionaries from leaves by path."""
    tree = {}
    for path, leaf in leaves.items():
        *parents, last = path.split("/")
        node = tree
        for key in parents:
            node = node.setdefault(key, {})
        node[last] = leaf
    return tree


@st.composite
def problems(draw):
    kinds = draw(st.lists(st.sampled_from(KINDS), min_size=1, max_size=5))
    units = [kind(draw, f"unit{i}") for i, kind in enumerate(kinds)]
    rules = [rule for unit in units for rule in unit.rules]
    order = draw(st.permutations(range(len(rules))))
    return units, [rules[i] for i in order]


def merged(attribute, units):
    return {k: v for unit in units for k, v in getattr(unit, attribute).items()}


@settings(max_examples=60, deadline=None)
@given(problems())
def test_every_leaf_has_one_fate_and_the_way_back_is_exact(problem):
    units, rules = problem
    source, expected = merged("source", units), merged("expected", units)
    # What is kept must come out; anything else in the target must not.
    fates = {name: "copied" for name in expected} | merged("fates", units)
    target = nested(
        {
            name: array if fates[name] == "kept" else np.full_like(array, np.nan)
            for name, array in expected.items()
        }
    )
    plan = tr.plan(jax.eval_shape(lambda: target), nested(source), rules)
    assert plan.ok, plan
    tree, report = tr.merge(target, nested(source), rules, key=jax.random.key(0))

    assert report.target_fates == plan.target_fates == fates
    assert set(fates.values()) <= TARGET_FATES
    wanted = {name: "used" for name in source} | merged("source_fates", units)
    assert report.source_fates == plan.source_fates == wanted
    assert set(wanted.values()) <= SOURCE_FATES
    assert jax.tree.structure(tree) == jax.tree.structure(target)
    for name, array in expected.items():
        found = tree
        for key in name.split("/"):
            found = found[key]
        np.testing.assert_array_equal(found, array, strict=True)

    read_back = tr.Plan.from_json(plan.to_json(), functions=dict(plan.functions))
    assert read_back == plan
    applied, again = tr.merge(target, nested(source), read_back, key=jax.random.key(0))
    jax.tree.map(np.testing.assert_array_equal, applied, tree)
    assert again == report

    words = ["cast", "dropped", "replaced", "adapted"]
    leaves, account = tr.export(tree, report, allow=words)
    assert [row[1] for row in account.rows] == list(report.source_fates)
    for unit in units:
        if unit.exact:
            for name, array in unit.source.items():
                np.testing.assert_array_equal(leaves[name], array, strict=True)
    if any(not unit.exact for unit in units):
        with pytest.raises(MergeError):
            tr.export(tree, report, allow=["cast"])


@settings(max_examples=60, deadline=None)
@given(problems(), st.data())
def test_a_leaf_too_many_or_too_few_never_goes_unnoticed(problem, data):
    units, rules = problem
    source, expected = merged("source", units), merged("expected", units)
    target = dict(expected)
    where = data.draw(st.sampled_from(["source", "target"]))
    (source if where == "source" else target)["extra/leaf"] = np.zeros(2, np.float32)
    with pytest.raises(MergeError) as raised:
        tr.merge(nested(target), nested(source), rules, key=jax.random.key(0))
    report = raised.value.report
    codes = {finding.code for finding in report.findings}
    assert codes == {"unexpected" if where == "source" else "missing"}
    assert [found.leaf for found in report.findings] == ["extra/leaf"]


@settings(max_examples=30, deadline=None)
@given(problems(), st.data())
def test_a_number_that_changed_in_the_tree_changes_the_export(problem, data):
    units, rules = problem
    source, expected = merged("source", units), merged("expected", units)
    exact = {k: v for unit in units if unit.exact for k, v in unit.source.items()}
    tree, report = tr.merge(
        nested(expected), nested(source), rules, key=jax.random.key(0)
    )
    names = [leaf.name for leaf in report.targets if leaf.fate in ("copied", "cast")]
    if not names:
        return
    changed = data.draw(st.sampled_from(names))
    *parents, last = changed.split("/")
    node = tree
    for key in parents:
        node = node[key]
    node[last] = node[last] + 1
    words = ["cast", "dropped", "replaced", "adapted"]
    leaves, _ = tr.export(tree, report, allow=words)
    differ = [n for n in exact if not np.array_equal(leaves[n], exact[n])]
    (leaf,) = [leaf for leaf in report.targets if leaf.name == changed]
    assert set(differ) == {*leaf.recipe.sources} & {*exact}
