"""Rules pair leaves, in every tree; what they do not mean is an error that helps."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from flax.core import FrozenDict

from jaxinit import groups
from jaxinit._errors import RuleError
from jaxinit.testing import assert_trees_identical

KEY = jax.random.key(0)
RULES = [("(?P<at>.*)/w", "kernel"), ("(?P<at>.*)/b", "bias")]


def layer(inputs=3, outputs=2):
    return {"w": jnp.zeros((inputs, outputs)), "b": jnp.zeros(outputs)}


PARAMS = {"h": [layer(), layer()], "head": {"scale": jnp.ones(2)}}


def asymmetric(params, rules=RULES, **options):
    return groups.randomized_asymmetric(params, rules, key=KEY, **options)


def test_leaves_whose_named_groups_hold_the_same_are_partners():
    new, report = asymmetric(PARAMS)
    rows = {row["leaf"]: row for row in report.records()}
    assert rows["h/0/w"]["partner"] == "h/0/b"
    assert rows["h/1/b"]["partner"] == "h/1/w"
    assert rows["head/scale"]["set"] == "kept"
    assert new["head"]["scale"] is PARAMS["head"]["scale"]
    assert not np.array_equal(new["h"][0]["w"], new["h"][1]["w"])
    assert "4 of 5 leaves set, 2 groups" in str(report)
    assert type(report).from_dict(report.to_dict()) == report


def test_a_leaf_more_moves_no_other():
    more = {**PARAMS, "h": [layer(), layer(), layer(5, 4)]}
    assert_trees_identical(asymmetric(more)[0]["h"][:2], asymmetric(PARAMS)[0]["h"])


def test_the_same_key_gives_the_same_bits_eagerly_and_inside_jit():
    eager, again = asymmetric(PARAMS)[0], asymmetric(PARAMS)[0]
    assert_trees_identical(eager, again)
    jitted = jax.jit(lambda params: asymmetric(params)[0])(PARAMS)
    assert_trees_identical(eager, jitted)


def test_shapes_do_where_values_are_not_read():
    shapes = jax.eval_shape(lambda: PARAMS["h"])
    assert_trees_identical(
        asymmetric({"h": shapes})[0]["h"], asymmetric(PARAMS)[0]["h"]
    )


def test_a_tree_keeps_its_kind_and_its_dtypes():
    frozen = FrozenDict({"h": {"0": layer()}})
    assert isinstance(asymmetric(frozen)[0], FrozenDict)
    model = nnx.Linear(3, 2, rngs=nnx.Rngs(0), param_dtype=jnp.bfloat16)
    rules = [("kernel", "kernel"), ("bias", "bias")]
    state, _ = asymmetric(nnx.state(model), rules)
    assert isinstance(state, nnx.State)
    assert state["kernel"][...].dtype == jnp.bfloat16
    nnx.update(model, state)
    np.testing.assert_array_equal(model.bias[...], state["bias"][...])


def test_layers_that_are_stacked_are_drawn_one_by_one():
    stack = {"w": jnp.zeros((3, 4, 2)), "b": jnp.zeros((2, 4))}
    with pytest.raises(
        RuleError, match=r"'w', the kernel, stacks 4 layers .* 'b' stacks 2"
    ):
        asymmetric(stack, [("w", "kernel"), ("b", "bias")], stacked_axis=-2)
    stack = {"w": jnp.zeros((4, 50, 30)), "b": jnp.zeros((4, 30))}
    new, report = asymmetric(stack, [("w", "kernel"), ("b", "bias")], stacked_axis=0)
    assert len({np.asarray(one).tobytes() for one in new["w"]}) == 4
    assert report.records()[1]["factor"] == pytest.approx(0.6007 / 50**0.5, rel=1e-3)
    with pytest.raises(RuleError, match=r"has shape .* and no stacked_axis 2"):
        asymmetric(stack, [("w", "kernel"), ("b", "bias")], stacked_axis=2)


def test_the_leaves_stay_on_their_devices():
    mesh = jax.make_mesh((8,), ("x",))
    split = jax.NamedSharding(mesh, jax.P(None, "x"))
    params = {"w": jax.device_put(jnp.zeros((4, 8)), split), "b": jnp.zeros(8)}
    new, _ = asymmetric(params, [("w", "kernel"), ("b", "bias")])
    assert new["w"].sharding == split


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        ([("(?P<at>.*)/w", "kernel"), ("(?P<at>.*)/bb", "bias")], "did you mean"),
        ([("(?P<at>.*)/w", "kernal")], "no role; the roles are .*mean 'kernel'?"),
        (
            [("(?P<at>.*)/w", "kernel")],
            "the group at='h/0' has the kernel 'h/0/w' and no leaf for the role 'bias';"
            r" add a rule \(pattern, 'bias'\)",
        ),
        (
            [("(?P<at>.*)/w", "kernel"), ("(?P<at>h/0)/b", "bias")],
            "the group at='h/1' .* matches none whose named groups hold the same; did "
            "you mean 'h/1/b'",
        ),
        (
            [("(?P<at>.*)/w", "kernel"), ("h/./b", "bias")],
            r"names the groups \[\], and .* names \['at'\]",
        ),
        (
            [(".*/w", "kernel"), (".*/b", "bias")],
            r"'h/0/[bw]' and 'h/1/[bw]' would both be the .* of one group",
        ),
        ("h/.*", r"must be a list of \(pattern, value\) pairs"),
    ],
)
def test_rules_that_mean_something_else_are_errors(rules, message):
    with pytest.raises(RuleError, match=message):
        asymmetric(PARAMS, rules)


def test_a_key_is_needed_where_something_is_drawn():
    with pytest.raises(ValueError, match=re.escape("pass key=jax.random.key(seed)")):
        groups.randomized_asymmetric(PARAMS, RULES, key=None)


EVERY = {
    "randomized_asymmetric": {"kernel": (4, 6), "bias": (6,)},
    "mimetic": {"query": (8, 2, 4), "key": (8, 2, 4), "value": (8, 2, 4),
                "output": (2, 4, 8)},
    "lru": {"nu": (4,), "theta": (4,), "gamma": (4,), "B_real": (4, 3),
            "B_imag": (4, 3), "C_real": (3, 4), "C_imag": (3, 4), "D": (3,)},
    "s5": {"Lambda_log_real": (4,), "Lambda_imag": (4,), "B": (4, 3, 2),
           "C": (3, 4, 2), "D": (3,), "log_step": (4,)},
    "hippo": {"Lambda_real": (4,), "Lambda_imag": (4,), "P": (4, 2), "B": (3, 4, 2),
              "C": (3, 4, 2)},
    "mamba": {"A_log": (6, 4), "D": (6,), "dt_bias": (6,), "dt_kernel": (2, 6)},
    "lstm_gates": {"recurrent": (4, 16), "bias": (16,), "second_bias": (16,),
                   "input": (3, 16)},
    "lora": {"weight": (8, 6), "A": (8, 2), "B": (2, 6)},
    "tied_embedding": {"embedding": (12, 4), "norm": (4,)},
}  # fmt: skip


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float32, jnp.float64])
@pytest.mark.parametrize("stacked_axis", [None, 0])
def test_every_function_keeps_shapes_and_dtypes(name, dtype, stacked_axis, x64):
    lead = () if stacked_axis is None else (3,)
    shapes = {
        role: jax.ShapeDtypeStruct((*lead, *shape), dtype)
        for role, shape in EVERY[name].items()
    }
    rules = [(role, role) for role in shapes]
    reports = []

    def run(params):
        new, report = getattr(groups, name)(
            params, rules, key=KEY, stacked_axis=stacked_axis
        )
        reports.append(report)
        return new

    new = jax.eval_shape(run, shapes)
    assert {r: (n.shape, n.dtype) for r, n in new.items()} == {
        r: (n.shape, n.dtype) for r, n in shapes.items()
    }
    assert [row["leaf"] for row in reports[0].records()] == sorted(shapes)


@pytest.mark.parametrize("start", ["pissa", "olora", "orthogonal"])
def test_starts_of_adapters_keep_narrow_dtypes(start):
    shapes = {
        role: jax.ShapeDtypeStruct(shape, jnp.bfloat16)
        for role, shape in EVERY["lora"].items()
    }
    rules = [(role, role) for role in shapes]
    new = jax.eval_shape(
        lambda params: groups.lora(params, rules, key=KEY, start=start)[0], shapes
    )
    assert {leaf.dtype for leaf in new.values()} == {jnp.dtype(jnp.bfloat16)}
