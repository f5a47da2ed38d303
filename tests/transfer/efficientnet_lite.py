"""EfficientNet-Lite0 in linen and in nnx, and the rules that fill it from PyTorch."""

import jax.numpy as jnp
from flax import linen as nn
from flax import nnx

from jaxinit import transfer as tr

# kernel, strides, expansion, features, repeats
STAGES = (
    (3, 1, 1, 16, 1),
    (3, 2, 6, 24, 2),
    (5, 2, 6, 40, 2),
    (3, 2, 6, 80, 3),
    (5, 1, 6, 112, 3),
    (5, 2, 6, 192, 4),
    (3, 1, 6, 320, 1),
)
BLOCKS = [
    (kernel, strides if i == 0 else 1, expansion, features)
    for kernel, strides, expansion, features, repeats in STAGES
    for i in range(repeats)
]
RULES = (
    tr.rename(r"_blocks/(\d+)/_(.*)", r"blocks_\1/\2"),
    tr.rename("_(.*)", r"\1"),
    tr.torch_layout(),
)


def relu6(x):
    return jnp.clip(x, 0, 6)


class Block(nn.Module):
    kernel: int
    strides: int
    expansion: int
    features: int
    epsilon: float = 1e-3
    padding: object = "SAME"

    @nn.compact
    def __call__(self, x):
        def norm(name):
            return nn.BatchNorm(
                use_running_average=True, epsilon=self.epsilon, name=name
            )

        inputs, width = x, x.shape[-1] * self.expansion
        if self.expansion > 1:
            x = nn.Conv(width, (1, 1), use_bias=False, name="expand_conv")(x)
            x = relu6(norm("bn0")(x))
        padding = self.padding if self.padding == "SAME" else self.kernel // 2
        x = nn.Conv(
            width,
            (self.kernel, self.kernel),
            self.strides,
            padding=padding,
            feature_group_count=width,
            use_bias=False,
            name="depthwise_conv",
        )(x)
        x = relu6(norm("bn1")(x))
        x = nn.Conv(self.features, (1, 1), use_bias=False, name="project_conv")(x)
        x = norm("bn2")(x)
        same = self.strides == 1 and inputs.shape[-1] == self.features
        return x + inputs if same else x


class EfficientNetLite0(nn.Module):
    epsilon: float = 1e-3
    padding: object = "SAME"

    @nn.compact
    def __call__(self, x):
        def norm(name):
            return nn.BatchNorm(
                use_running_average=True, epsilon=self.epsilon, name=name
            )

        padding = self.padding if self.padding == "SAME" else 1
        x = nn.Conv(32, (3, 3), 2, padding=padding, use_bias=False, name="conv_stem")(x)
        x = relu6(norm("bn0")(x))
        for i, block in enumerate(BLOCKS):
            x = Block(*block, self.epsilon, self.padding, name=f"blocks_{i}")(x)
        x = nn.Conv(1280, (1, 1), use_bias=False, name="conv_head")(x)
        x = relu6(norm("bn1")(x))
        return nn.Dense(1000, name="fc")(x.mean((1, 2)))


class NnxBlock(nnx.Module):
    def __init__(self, inputs, kernel, strides, expansion, features, rngs):
        width = inputs * expansion
        self.expands, self.same = expansion > 1, strides == 1 and inputs == features
        norm = {"use_running_average": True, "epsilon": 1e-3, "rngs": rngs}
        plain = {"use_bias": False, "rngs": rngs}
        if self.expands:
            self.expand_conv = nnx.Conv(inputs, width, (1, 1), **plain)
            self.bn0 = nnx.BatchNorm(width, **norm)
        self.depthwise_conv = nnx.Conv(
            width,
            width,
            (kernel, kernel),
            strides,
            feature_group_count=width,
            **plain,
        )
        self.bn1 = nnx.BatchNorm(width, **norm)
        self.project_conv = nnx.Conv(width, features, (1, 1), **plain)
        self.bn2 = nnx.BatchNorm(features, **norm)

    def __call__(self, inputs):
        x = relu6(self.bn0(self.expand_conv(inputs))) if self.expands else inputs
        x = relu6(self.bn1(self.depthwise_conv(x)))
        x = self.bn2(self.project_conv(x))
        return x + inputs if self.same else x


class NnxEfficientNetLite0(nnx.Module):
    def __init__(self, rngs):
        norm = {"use_running_average": True, "epsilon": 1e-3, "rngs": rngs}
        plain = {"use_bias": False, "rngs": rngs}
        self.conv_stem = nnx.Conv(3, 32, (3, 3), 2, **plain)
        self.bn0 = nnx.BatchNorm(32, **norm)
        width = 32
        for i, block in enumerate(BLOCKS):
            setattr(self, f"blocks_{i}", NnxBlock(width, *block, rngs=rngs))
            width = block[-1]
        self.conv_head = nnx.Conv(width, 1280, (1, 1), **plain)
        self.bn1 = nnx.BatchNorm(1280, **norm)
        self.fc = nnx.Linear(1280, 1000, rngs=rngs)

    def __call__(self, x):
        x = relu6(self.bn0(self.conv_stem(x)))
        for i in range(len(BLOCKS)):
            x = getattr(self, f"blocks_{i}")(x)
        x = relu6(self.bn1(self.conv_head(x)))
        return self.fc(x.mean((1, 2)))
