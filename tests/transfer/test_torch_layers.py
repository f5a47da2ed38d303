"""A layer filled from torch's numbers gives torch's outputs, in linen and in nnx.

The outputs were recorded with torch by make_torch_layers.py.
"""

import jax
import numpy as np
import pytest
from flax import linen as nn
from flax import nnx
from torch_cases import linen_cases, nnx_cases, recurrent, state_of

from jaxinit import transfer as tr
from jaxinit._errors import MergeError, RuleError

LINEN = list(linen_cases())


def concrete(leaf):
    """A value for the random-number state that recurrent layers carry along."""
    is_key = jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)
    return jax.random.key(0) if is_key else jax.numpy.zeros(leaf.shape, leaf.dtype)


def assert_equal_outputs(found, expected):
    # Each output is at most six sums, one after the other, of fewer than 64 products.
    scale = np.abs(expected).max()
    tolerance = 6 * 64 * np.finfo(np.float32).eps / 2 * scale
    np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance)


@pytest.mark.parametrize("case", LINEN, ids=str)
def test_linen_gives_the_outputs_of_torch(case, relaxed_promotion):
    inputs = case.inputs()

    def init():
        return case.module.init_with_output(
            jax.random.key(0), *inputs, method=case.call
        )[1]

    variables, report = tr.merge(jax.eval_shape(init), state_of(case.layer), case.rules)
    assert set(report.target_fates.values()) == {"copied"}
    found = case.module.apply(variables, *inputs, method=case.call)
    assert_equal_outputs(found, case.expected())


@pytest.mark.parametrize("case", list(nnx_cases()), ids=str)
def test_nnx_gives_the_outputs_of_torch(case, relaxed_promotion):
    model = nnx.eval_shape(lambda: case.module(rngs=nnx.Rngs(0)))
    learned = nnx.state(model, nnx.Not(nnx.RngState))
    state, report = tr.merge(learned, state_of(case.layer), case.rules)
    assert isinstance(state, nnx.State)
    assert set(report.target_fates.values()) == {"copied"}
    nnx.update(model, state, jax.tree.map(concrete, nnx.state(model, nnx.RngState)))
    found = case.call(model, *case.inputs())
    assert_equal_outputs(found, case.expected())


@pytest.mark.parametrize("case", LINEN, ids=str)
def test_every_number_of_torch_goes_back_to_its_place(case, relaxed_promotion):
    inputs, source = case.inputs(), state_of(case.layer)
    target = jax.eval_shape(
        lambda: case.module.init_with_output(
            jax.random.key(0), *inputs, method=case.call
        )[1]
    )
    tree, report = tr.merge(target, source, case.rules)
    leaves, _ = tr.export(tree, report, allow=["summed", "dropped"])
    lost = {name for name in source if name not in leaves}
    assert all("bias_" in name or "num_batches" in name for name in lost)
    for name, array in leaves.items():
        np.testing.assert_array_equal(array, source[name])
        assert array.dtype == source[name].dtype


def test_a_transposed_convolution_taken_for_a_plain_one_is_noticed():
    target = jax.eval_shape(
        lambda: nn.ConvTranspose(4, (4,)).init(jax.random.key(0), np.zeros((1, 5, 3)))
    )
    with pytest.raises(MergeError, match=r"torch_layout\(transposed="):
        tr.merge(target, state_of("transposed1d"), [tr.torch_layout()])


def test_transposed_must_match_a_leaf():
    with pytest.raises(RuleError, match="transposed: the pattern 'up/kernel'"):
        tr.plan(
            {"kernel": np.zeros((3, 5), "f"), "bias": np.zeros(5, "f")},
            state_of("linear"),
            [tr.torch_layout(transposed="up/kernel")],
        )


def test_the_bias_of_torchs_gru_has_no_place_in_that_of_nnx():
    model = nnx.eval_shape(lambda: recurrent(nnx.GRUCell, nnx.Rngs(0)))
    state = nnx.state(model)
    plan = tr.plan(
        state, state_of("gru"), [tr.rename("(.*)", r"cell/\1"), tr.torch_layout()]
    )
    (finding,) = [found for found in plan.findings if found.severity == "error"]
    assert finding.leaf == "bias_hh_l0"
    assert "inside of the reset gate" in finding.remedy


def test_a_name_that_torch_uses_for_two_leaves_is_not_guessed():
    target = {"kernel": np.zeros((3, 5), "f"), "embedding": np.zeros((5, 3), "f")}
    with pytest.raises(RuleError, match="'weight' could be 'kernel', 'embedding'"):
        tr.plan(target, {"weight": np.zeros((5, 3), "f")}, [tr.torch_layout()])


def test_packed_attention_of_an_odd_size_is_refused():
    target = {f"{head}/kernel": np.zeros((2, 2)) for head in ("query", "key", "value")}
    source = {"in_proj_weight": np.zeros((7, 2))}
    with pytest.raises(RuleError, match=r"\(7, 2\) does not hold 3 equal parts"):
        tr.plan(target, source, [tr.torch_layout()])


def test_counts_of_batches_are_dropped_and_listed():
    tree = {
        "params": {"scale": np.zeros(4, "f"), "bias": np.zeros(4, "f")},
        "batch_stats": {"mean": np.zeros(4, "f"), "var": np.zeros(4, "f")},
    }
    plan = tr.plan(tree, state_of("batch_norm"), [tr.torch_layout()])
    assert plan.ok
    assert plan.source_fates["num_batches_tracked"] == "dropped"


def test_layers_of_torch_are_stacked_each_in_its_own_layout():
    rng = np.random.default_rng(0)
    source = {
        f"{i}/{name}": rng.normal(size=shape).astype(np.float32)
        for i in range(3)
        for name, shape in (("in_proj_weight", (12, 4)), ("out_proj/weight", (4, 4)))
    }
    heads = {f"{name}/kernel": (3, 4, 2, 2) for name in ("query", "key", "value")}
    target = {
        name: np.zeros(shape, np.float32)
        for name, shape in {**heads, "out/kernel": (3, 2, 2, 4)}.items()
    }
    rules = [tr.stack(r"(\d)/(.*)", r"\2"), tr.torch_layout()]
    tree, report = tr.merge(target, source, rules)
    for i in range(3):
        packed = source[f"{i}/in_proj_weight"].reshape(3, 2, 2, 4)
        for position, head in enumerate(("query", "key", "value")):
            expected = np.moveaxis(packed[position], -1, 0)
            np.testing.assert_array_equal(tree[f"{head}/kernel"][i], expected)
        expected = source[f"{i}/out_proj/weight"].T.reshape(2, 2, 4)
        np.testing.assert_array_equal(tree["out/kernel"][i], expected)
    leaves, _ = tr.export(tree, report)
    for name, array in source.items():
        np.testing.assert_array_equal(leaves[name], array)
