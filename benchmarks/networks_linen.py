"""ResNet-50, GPT-2 small and ViT-B/16 as linen modules, with Flax's usual initializers.

`NETWORKS` maps a name to a function without arguments: the init function, its inputs.
"""

from functools import partial

import jax.numpy as jnp
from flax import linen as nn

zeros = nn.initializers.zeros


class Bottleneck(nn.Module):
    width: int
    stride: int = 1

    @nn.compact
    def __call__(self, x):
        conv = partial(nn.Conv, use_bias=False)
        norm = partial(nn.BatchNorm, use_running_average=False)
        strides = (self.stride, self.stride)
        y = nn.relu(norm()(conv(self.width, (1, 1))(x)))
        y = nn.relu(norm()(conv(self.width, (3, 3), strides)(y)))
        y = norm(scale_init=zeros)(conv(4 * self.width, (1, 1))(y))
        if x.shape != y.shape:
            x = norm()(conv(4 * self.width, (1, 1), strides)(x))
        return nn.relu(x + y)


class ResNet(nn.Module):
    blocks: tuple[int, ...] = (3, 4, 6, 3)

    @nn.compact
    def __call__(self, x):
        x = nn.Conv(64, (7, 7), (2, 2), use_bias=False)(x)
        x = nn.relu(nn.BatchNorm(use_running_average=False)(x))
        x = nn.max_pool(x, (3, 3), (2, 2), "SAME")
        for stage, blocks in enumerate(self.blocks):
            for block in range(blocks):
                stride = 2 if stage > 0 and block == 0 else 1
                x = Bottleneck(64 * 2**stage, stride)(x)
        return nn.Dense(1000)(x.mean((1, 2)))


class Block(nn.Module):
    """A transformer's layer, norms first."""

    kernel_init: nn.initializers.Initializer = nn.initializers.lecun_normal()

    @nn.compact
    def __call__(self, x):
        dense = partial(nn.Dense, kernel_init=self.kernel_init)
        y = nn.LayerNorm()(x)
        heads = x.shape[-1] // 64
        x = x + nn.MultiHeadDotProductAttention(heads, kernel_init=self.kernel_init)(y)
        y = nn.LayerNorm()(x)
        return x + dense(x.shape[-1])(nn.gelu(dense(4 * x.shape[-1])(y)))


class GPT(nn.Module):
    depth: int = 12
    width: int = 768
    words: int = 50257

    @nn.compact
    def __call__(self, tokens):
        normal = nn.initializers.normal
        embed = nn.Embed(self.words, self.width, embedding_init=normal(0.02))
        places = self.param("places", normal(0.01), (1024, self.width))
        x = embed(tokens) + places[: tokens.shape[1]]
        for _ in range(self.depth):
            x = Block(normal(0.02))(x)
        return embed.attend(nn.LayerNorm()(x))


class ViT(nn.Module):
    depth: int = 12
    width: int = 768

    @nn.compact
    def __call__(self, x):
        x = nn.Conv(self.width, (16, 16), (16, 16), padding="VALID")(x)
        x = x.reshape(x.shape[0], -1, self.width)
        places = (1, *x.shape[1:])
        x = x + self.param("places", nn.initializers.normal(0.02), places)
        for _ in range(self.depth):
            x = Block()(x)
        return nn.Dense(1000)(nn.LayerNorm()(x).mean(1))


def gpt(**sizes):
    return GPT(**sizes).init, (jnp.ones((1, 64), jnp.int32),)


NETWORKS = {
    "resnet50": lambda: (ResNet().init, (jnp.ones((1, 224, 224, 3)),)),
    "gpt2": gpt,
    "vit": lambda: (ViT().init, (jnp.ones((1, 224, 224, 3)),)),
}
