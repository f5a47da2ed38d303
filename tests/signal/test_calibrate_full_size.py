"""The networks people train, at their size: at the target after one pass."""

import functools
import importlib
import pathlib
import sys

import jax
import numpy as np
import pytest
from flax import linen as nn
from flax import nnx

import jaxinit
from jaxinit._signal._measure import Meter
from jaxinit._signal._places import places
from jaxinit._signal._program import trace_signal
from jaxinit._signal._uses import uses_of

pytestmark = pytest.mark.long

KEY = jax.random.key(0)
BENCHMARKS = pathlib.Path(__file__).parents[2] / "benchmarks"


def draw(*shape):
    return jax.random.normal(jax.random.key(1), shape)


def modules():
    """ResNet-50 and ViT-B as the benchmarks have them."""
    sys.path.insert(0, str(BENCHMARKS))
    try:
        return importlib.import_module("networks_linen")
    finally:
        sys.path.remove(str(BENCHMARKS))


def linen(module, x):
    variables = jax.jit(module.init)(KEY, x)
    return jaxinit.from_linen(module, variables, x, rngs={"dropout": KEY})


class Plain(nn.Module):
    activation: object

    @nn.compact
    def __call__(self, x):
        for _ in range(50):
            x = self.activation(nn.Dense(128)(x))
        return nn.Dense(10)(x)


class Convolutions(nn.Module):
    """Twenty, with strides, one of them depthwise, without a norm."""

    @nn.compact
    def __call__(self, x):
        for layer in range(20):
            features = 32 if layer < 10 else 64
            groups = 32 if layer == 5 else 1
            stride = 2 if layer in (4, 10, 15) else 1
            x = nn.Conv(features, (3, 3), stride, feature_group_count=groups)(x)
            x = nn.relu(x)
        return nn.Dense(10)(x.mean((1, 2)))


class Unnormed(nn.Module):
    """ResNet-50's blocks without BatchNorm."""

    @nn.compact
    def __call__(self, x):
        conv = functools.partial(nn.Conv, use_bias=False)
        x = nn.relu(conv(64, (7, 7), (2, 2))(x))
        x = nn.max_pool(x, (3, 3), (2, 2), "SAME")
        for stage, blocks in enumerate((3, 4, 6, 3)):
            for block in range(blocks):
                width, stride = 64 * 2**stage, 2 if stage and not block else 1
                y = nn.relu(conv(width, (1, 1))(x))
                y = nn.relu(conv(width, (3, 3), (stride, stride))(y))
                y = conv(4 * width, (1, 1))(y)
                if x.shape != y.shape:
                    x = conv(4 * width, (1, 1), (stride, stride))(x)
                x = nn.relu(x + y)
        return nn.Dense(1000)(x.mean((1, 2)))


class Normed(nnx.Module):
    """BatchNorm in front of each convolution, and dropout behind it."""

    def __init__(self, rngs):
        layers = range(10)
        self.convs = nnx.List([nnx.Conv(32, 32, (3, 3), rngs=rngs) for _ in layers])
        self.norms = nnx.List([nnx.BatchNorm(32, rngs=rngs) for _ in layers])
        self.drop = nnx.Dropout(0.1, rngs=rngs)
        self.head = nnx.Linear(32, 10, rngs=rngs)

    def __call__(self, x):
        for norm, conv in zip(self.norms, self.convs, strict=True):
            x = self.drop(nnx.relu(conv(norm(x))))
        return self.head(x.mean((1, 2)))


class Stack(nn.Module):
    """Transformer layers, scanned and rematerialized."""

    @nn.compact
    def __call__(self, x):
        block = nn.remat(modules().Block, prevent_cse=False)
        layers = nn.scan(
            lambda layer, x, _: (layer(x), None),
            variable_axes={"params": 0},
            split_rngs={"params": True},
            length=12,
        )
        x, _ = layers(block(), x, None)
        return nn.Dense(10)(nn.LayerNorm()(x))


NETWORKS = {
    "mlp relu": lambda: linen(Plain(nn.relu), draw(128, 128)),
    "mlp tanh": lambda: linen(Plain(nn.tanh), draw(128, 128)),
    "mlp gelu": lambda: linen(Plain(nn.gelu), draw(128, 128)),
    "convolutions": lambda: linen(Convolutions(), draw(16, 32, 32, 3)),
    "resnet": lambda: linen(modules().ResNet(), draw(4, 64, 64, 3)),
    "resnet without norms": lambda: linen(Unnormed(), draw(4, 64, 64, 3)),
    "vit": lambda: linen(modules().ViT(), draw(4, 64, 64, 3)),
    "nnx": lambda: jaxinit.from_nnx(Normed(nnx.Rngs(0)), draw(16, 16, 16, 32)),
    "scan": lambda: linen(Stack(), draw(4, 16, 128)),
}
# How many weights have a factor; the other products go straight into a norm.
SCALED = {
    "mlp relu": (51, 51),
    "mlp tanh": (51, 51),
    "mlp gelu": (51, 51),
    "convolutions": (21, 21),
    "resnet": (1, 54),
    "resnet without norms": (54, 54),
    "vit": (74, 74),
    "nnx": (11, 11),
    "scan": (7, 7),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_every_product_is_at_its_target_after_one_pass(name, relaxed_promotion):
    f, params, *args = NETWORKS[name]()
    new, report = jaxinit.calibrate(f, params, *args, measure=False)
    assert report.passes == 1
    scaled = [row["leaf"] for row in report.records() if row["scale"] is not None]
    weights = {leaf.split("[")[0] for leaf in scaled}
    everything = {row["leaf"].split("[")[0] for row in report.records()}
    assert (len(weights), len(everything)) == SCALED[name]
    reasons = {row["note"] for row in report.records() if row["note"]}
    assert reasons <= {"a normalization follows"}
    # Measured as an audit does, in a program of its own, with the new parameters.
    signal = trace_signal(f, new, *args)
    uses = uses_of(signal)
    found = places(signal, uses)
    sizes = Meter(signal, found, uses)(signal.params.leaves).moments
    for place, moments in zip(found, sizes, strict=True):
        if place.name.full in weights:
            np.testing.assert_allclose(
                moments.product_rms, 1.0, rtol=1e-5, err_msg=place.name.full
            )
