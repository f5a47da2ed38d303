"""only= and explain: parts of a tree, and how each leaf is made."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from identical import content

from jaxinit import materialize
from jaxinit._errors import RuleError

KEY, X = jax.random.key(0), jnp.ones((1, 4))


class Model(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.Dense(12, name="body")(x)
        x = nn.BatchNorm(use_running_average=False, name="norm")(x)
        return nn.Dense(2, name="head", kernel_init=nn.initializers.orthogonal())(x)


WANTED = jax.jit(Model().init)(KEY, X)


def test_only_the_named_leaves_are_made():
    got = materialize(Model().init, only="head/.*")(KEY, X)
    assert jax.tree.structure(got) == jax.tree.structure(WANTED)
    for name in ("kernel", "bias"):
        made = got["params"]["head"][name]
        assert content(made) == content(WANTED["params"]["head"][name])
    body = got["params"]["body"]["kernel"]
    assert body == jax.ShapeDtypeStruct((4, 12), jnp.float32)


def test_patterns_may_be_several_and_speak_of_collections():
    got = materialize(Model().init, only=["batch_stats:.*", ".*/bias"])(KEY, X)
    assert isinstance(got["batch_stats"]["norm"]["mean"], jax.Array)
    assert isinstance(got["params"]["body"]["bias"], jax.Array)
    assert isinstance(got["params"]["norm"]["scale"], jax.ShapeDtypeStruct)


def test_a_pattern_that_matches_nothing_is_an_error():
    with pytest.raises(
        RuleError, match=r"only: the pattern 'haed/\.\*' matches no leaf"
    ):
        materialize(Model().init, only="haed/.*")(KEY, X)


def test_what_is_not_named_costs_nothing():
    """No program is compiled for a leaf that nobody asked for."""
    report = materialize(Model().init, only="body/.*").explain(KEY, X)
    made = {row[0]: row[3] for row in report.rows}
    assert made["head/kernel"] == "not asked for"
    assert "compiled" not in made.values()


def shared_draws(key, scale, *, last):
    """Leaves that share draws, each of a last axis for which XLA rounds otherwise."""
    normal = jax.random.normal(key, (40, last))
    key = jax.random.fold_in(key, 1)
    truncated = jax.random.truncated_normal(key, -2.0, 2.0, (40, last))
    return {
        "product": normal * 0.02,
        "sum": normal * 1.7 + normal,
        "small": truncated * 0.3,
        "sine": jnp.sin(truncated),
        "scaled": truncated * scale,
    }


@pytest.mark.parametrize("last", [5, 6, 9, 12, 16])
def test_leaves_that_share_draws_with_unnamed_ones_are_those_of_jit(last):
    init = functools.partial(shared_draws, last=last)
    wanted = jax.jit(init)(KEY, 2.0)
    for name in wanted:
        made = materialize(init, only=name)(KEY, 2.0)
        assert content(made[name]) == content(wanted[name])


def test_unnamed_leaves_need_no_arguments():
    init = functools.partial(shared_draws, last=12)
    number = jax.ShapeDtypeStruct((), jnp.float32)
    made = materialize(init, only="sine")(KEY, number)
    assert content(made["sine"]) == content(jax.jit(init)(KEY, 2.0)["sine"])
    with pytest.raises(ValueError, match="was given as a ShapeDtypeStruct"):
        materialize(init, only="scaled")(KEY, number)


def test_explain_tells_how_each_leaf_is_made_and_why_not_faster():
    report = materialize(Model().init).explain(KEY, X)
    rows = {row[0]: row for row in report.rows}
    assert rows["body/kernel"][3] == "in chunks"
    assert rows["body/bias"][3] == "constant"
    assert rows["head/kernel"][3] == "compiled"
    assert "not elementwise" in rows["head/kernel"][5]
    assert max(map(len, str(report).splitlines())) <= 80


def test_explain_names_keys_without_random_access():
    key = jax.random.key(0, impl="rbg")
    report = materialize(Model().init).explain(key, X)
    why = {row[0]: row[5] for row in report.rows}["body/kernel"]
    assert why == "key<rbg> has no random access"


def test_what_is_not_a_function_is_an_error():
    with pytest.raises(TypeError, match="init_fn must be a function"):
        materialize(WANTED)


def test_the_result_belongs_to_nobody_else():
    first = materialize(Model().init)(KEY, X)["params"]["body"]["kernel"]
    kept = np.array(first)
    for seed in range(3):
        materialize(Model().init)(jax.random.key(seed), X)
    np.testing.assert_array_equal(np.asarray(first), kept)
