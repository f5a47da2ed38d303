"""only= and explain: parts of a tree, and how each leaf is made."""

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
