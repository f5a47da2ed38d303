"""Trained weights of torch arrive whole in linen and in nnx, and say what they said.

The expected numbers were recorded with torch by make_efficientnet.py.
"""

import functools
import hashlib
import sys

import efficientnet
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from efficientnet import example
from flax import nnx

from jaxinit import transfer as tr
from jaxinit._errors import MergeError

TORCH = dict(np.load(efficientnet.FIXTURES / "efficientnet_lite0.npz"))
LAYERS = [name for name in TORCH if name not in ("sha256", "logits")]
IMAGES = efficientnet.photographs()


def assert_close(found, expected):
    """Within 1e-5 of the largest; a changed layer costs ten thousand times as much."""
    error = np.abs(np.asarray(found, np.float64) - expected).max()
    assert error <= 1e-5 * np.abs(expected).max()


@functools.cache
def in_linen():
    model = example.EfficientNetLite0()
    target = jax.eval_shape(model.init, jax.random.key(0), IMAGES)
    return model, *tr.merge(target, example.weights(), example.rules())


@functools.cache
def in_nnx():
    model = nnx.eval_shape(lambda: efficientnet.EfficientNetLite0(rngs=nnx.Rngs(0)))
    rules = example.rules(r"blocks/\1")
    return model, *tr.merge(nnx.state(model), example.weights(), rules)


def test_the_photographs_are_those_that_torch_was_shown():
    assert IMAGES.shape == (2, 208, 208, 3)
    assert IMAGES.dtype == np.float32
    found = hashlib.sha256(IMAGES.tobytes()).hexdigest()
    assert found == str(TORCH["sha256"]), "decoded otherwise: run make_efficientnet.py"


@pytest.mark.parametrize("arrived", [in_linen, in_nnx])
def test_every_leaf_is_accounted_for(arrived):
    _, tree, report = arrived()
    assert set(report.target_fates.values()) == {"copied"}
    assert len(report.target_fates) == len(jax.tree.leaves(tree)) == 247
    dropped = {name for name, fate in report.source_fates.items() if fate != "used"}
    assert len(report.source_fates) == 296
    assert len(dropped) == 49
    assert all(name.endswith("/num_batches_tracked") for name in dropped)
    assert not report.findings
    assert "torch" not in sys.modules


@jax.jit
def run_linen(variables, images):
    """Logits, and means over height and width of what the recorded layers return."""
    logits, state = example.EfficientNetLite0().apply(
        variables,
        images,
        capture_intermediates=lambda module, _: module.name in LAYERS,
        mutable=["intermediates"],
    )
    found = {name: state["intermediates"][name]["__call__"][0] for name in LAYERS}
    return logits, {name: array.mean((1, 2)) for name, array in found.items()}


def test_linen_says_what_torch_said_layer_by_layer():
    _, variables, _ = in_linen()
    logits, means = run_linen(variables, IMAGES)
    for name in LAYERS:
        assert_close(means[name], TORCH[name])
    assert_close(logits, TORCH["logits"])
    assert logits.argmax(-1).tolist() == [442, 985]  # bell cote, daisy


def test_compare_takes_the_recorded_logits_for_the_old_function():
    _, variables, _ = in_linen()

    def logits(images):
        return run_linen(variables, images)[0]

    report = tr.compare(TORCH["logits"], logits, IMAGES)
    assert report.ok
    assert 0 < report.relative <= 1e-5
    assert not tr.compare(TORCH["logits"], logits, IMAGES[::-1]).ok


def test_nnx_says_what_torch_said():
    model, state, _ = in_nnx()
    graph, _ = nnx.split(model)
    run = jax.jit(lambda state, images: nnx.merge(graph, state)(images))
    assert_close(run(state, IMAGES), TORCH["logits"])


def test_the_logits_of_a_network_that_was_in_bfloat16_are_not_close():
    _, variables, _ = in_linen()
    rounded = jax.tree.map(
        lambda leaf: np.asarray(leaf).astype(jnp.bfloat16).astype(np.float32), variables
    )
    logits, _ = run_linen(rounded, IMAGES)
    with pytest.raises(AssertionError):
        assert_close(logits, TORCH["logits"])


@pytest.mark.parametrize("arrived", [in_linen, in_nnx])
def test_every_number_goes_back_to_torchs_name_and_layout(arrived):
    _, tree, report = arrived()
    source = example.weights()
    leaves, _ = tr.export(tree, report, allow=["dropped"])
    assert len(leaves) == 247
    for name, array in leaves.items():
        np.testing.assert_array_equal(array, source[name].read())


def test_a_plan_that_was_written_down_fills_the_network(tmp_path):
    model, expected, _ = in_linen()
    target = jax.eval_shape(model.init, jax.random.key(0), IMAGES)
    plan = tr.plan(target, example.weights(), example.rules())
    again = tr.Plan.from_json(plan.to_json())
    found, _ = tr.merge(target, example.weights(), again)
    jax.tree.map(np.testing.assert_array_equal, found, expected)


def test_forgotten_statistics_are_an_error_by_themselves():
    model, _, _ = in_linen()
    rules = [*example.rules(), tr.keep("batch_stats:.*")]
    with pytest.raises(MergeError, match="Take the statistics from the source too"):
        tr.merge(
            lambda: model.init(jax.random.key(0), IMAGES[:1]), example.weights(), rules
        )
