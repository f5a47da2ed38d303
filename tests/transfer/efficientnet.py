"""EfficientNet-Lite0: the linen one of examples/transfer.py, and the same in nnx."""

import importlib.util
import pathlib
import sys

import numpy as np
from checkpoint_files import FIXTURES
from flax import nnx

__all__ = ["FIXTURES", "EfficientNetLite0", "Layer", "example", "photographs"]


def _example():
    root = pathlib.Path(__file__).parents[2]
    spec = importlib.util.spec_from_file_location(
        "transfer_example", root / "examples" / "transfer.py"
    )
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


example = _example()


def photographs():
    return np.stack([example.photograph("china"), example.photograph("flower")])


class Layer(nnx.Module):
    def __init__(
        self,
        inputs,
        outputs,
        *,
        size=1,
        stride=1,
        groups=1,
        epsilon=1e-3,
        padding=lambda size: "SAME",
        rngs,
    ):
        self.conv = nnx.Conv(
            inputs,
            outputs,
            (size, size),
            strides=stride,
            padding=padding(size),
            feature_group_count=groups,
            use_bias=False,
            rngs=rngs,
        )
        self.norm = nnx.BatchNorm(
            outputs, use_running_average=True, epsilon=epsilon, rngs=rngs
        )

    def __call__(self, x):
        return self.norm(self.conv(x))


class Block(nnx.Module):
    def __init__(self, inputs, size, stride, expansion, outputs, layer, *, rngs):
        width = expansion * inputs
        if expansion > 1:
            self.expand = layer(inputs, width, rngs=rngs)
        options = {"size": size, "stride": stride, "groups": width}
        self.depthwise = layer(width, width, **options, rngs=rngs)
        self.project = layer(width, outputs, rngs=rngs)

    def __call__(self, x):
        y = nnx.relu6(self.expand(x)) if hasattr(self, "expand") else x
        y = self.project(nnx.relu6(self.depthwise(y)))
        return x + y if x.shape == y.shape else y


class EfficientNetLite0(nnx.Module):
    def __init__(self, *, layer=Layer, rngs):
        self.stem = layer(3, 32, size=3, stride=2, rngs=rngs)
        features = [32, *(block[-1] for block in example.BLOCKS)]
        self.blocks = nnx.List(
            Block(inputs, *block, layer, rngs=rngs)
            for inputs, block in zip(features, example.BLOCKS, strict=False)
        )
        self.head = layer(features[-1], 1280, rngs=rngs)
        self.classifier = nnx.Linear(1280, 1000, rngs=rngs)

    def __call__(self, x):
        x = nnx.relu6(self.stem(x))
        for block in self.blocks:
            x = block(x)
        return self.classifier(nnx.relu6(self.head(x)).mean((1, 2)))
