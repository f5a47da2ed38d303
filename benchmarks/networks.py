"""The networks that benchmarks of audit and calibrate run on, in linen."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

import jaxinit


class Bottleneck(nn.Module):
    width: int
    stride: int

    @nn.compact
    def __call__(self, x):
        norm = functools.partial(nn.BatchNorm, use_running_average=False)
        conv = functools.partial(nn.Conv, use_bias=False)
        y = nn.relu(norm()(conv(self.width, (1, 1))(x)))
        y = nn.relu(norm()(conv(self.width, (3, 3), self.stride)(y)))
        y = conv(4 * self.width, (1, 1))(y)
        y = norm(scale_init=nn.initializers.zeros)(y)
        if x.shape != y.shape:
            x = norm()(conv(4 * self.width, (1, 1), self.stride)(x))
        return nn.relu(x + y)


class ResNet(nn.Module):
    blocks: tuple[int, ...] = (3, 4, 6, 3)

    @nn.compact
    def __call__(self, x):
        x = nn.Conv(64, (7, 7), 2, use_bias=False)(x)
        x = nn.relu(nn.BatchNorm(use_running_average=False)(x))
        x = nn.max_pool(x, (3, 3), (2, 2), "SAME")
        for stage, blocks in enumerate(self.blocks):
            for block in range(blocks):
                stride = 2 if stage and not block else 1
                x = Bottleneck(64 * 2**stage, stride)(x)
        return nn.Dense(1000)(jnp.mean(x, axis=(1, 2)))


class VisionTransformer(nn.Module):
    depth: int = 12
    width: int = 768
    heads: int = 12

    @nn.compact
    def __call__(self, x):
        x = nn.Conv(self.width, (16, 16), 16)(x)
        x = x.reshape(x.shape[0], -1, self.width)
        shape = (1, x.shape[1], self.width)
        x = x + self.param("position", nn.initializers.normal(0.02), shape)
        for _ in range(self.depth):
            y = nn.LayerNorm()(x)
            x = x + nn.MultiHeadDotProductAttention(self.heads)(y)
            y = nn.gelu(nn.Dense(4 * self.width)(nn.LayerNorm()(x)))
            x = x + nn.Dense(self.width)(y)
        return nn.Dense(1000)(jnp.mean(nn.LayerNorm()(x), axis=1))


class Plain(nn.Module):
    """Layers of one width without a norm."""

    depth: int = 50
    width: int = 128
    activation: Any = nn.relu

    @nn.compact
    def __call__(self, x):
        for _ in range(self.depth):
            x = self.activation(nn.Dense(self.width)(x))
        return nn.Dense(10)(x)


NETWORKS = {
    "mlp-50": (Plain(), (128, 128)),
    "resnet-50": (ResNet(), (8, 64, 64, 3)),
    "vit-b": (VisionTransformer(), (4, 64, 64, 3)),
}


def built(name: str) -> Any:
    """``(f, params, *args)`` of a network, with real weights and normal data."""
    module, shape = NETWORKS[name]
    x = jax.random.normal(jax.random.key(1), shape)
    variables = jax.jit(module.init)(jax.random.key(0), x)
    return jaxinit.from_linen(module, jax.block_until_ready(variables), x)
