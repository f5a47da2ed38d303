"""Small Flax models that the presets are tried on."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax import nnx

import jaxinit

WIDTH, HEADS, TOKENS = 32, 4, 50
KEY = jax.random.key(0)


class Mlp(nn.Module):
    gated: bool = False

    @nn.compact
    def __call__(self, x):
        hidden = nn.Dense(3 * WIDTH, name="w1")(x)
        if self.gated:
            hidden = nn.silu(hidden) * nn.Dense(3 * WIDTH, name="w3")(x)
        else:
            hidden = nn.gelu(hidden)
        return nn.Dense(x.shape[-1], name="w2")(hidden)


class Block(nn.Module):
    gated: bool = False
    gate: tuple | None = None

    @nn.compact
    def __call__(self, x, _=None):
        def joined(x, y, name):
            if self.gate is None:
                return x + y
            return x + self.param(name, nn.initializers.ones, self.gate) * y

        h = nn.LayerNorm(name="norm1")(x)
        y = nn.MultiHeadDotProductAttention(HEADS, name="attention")(h, h)
        x = joined(x, y, "gate1")
        y = Mlp(self.gated, name="mlp")(nn.LayerNorm(name="norm2")(x))
        return joined(x, y, "gate2"), None


class LanguageModel(nn.Module):
    depth: int = 3
    gated: bool = False
    scanned: bool = False
    tied: bool = False
    gate: tuple | None = None

    @nn.compact
    def __call__(self, tokens):
        table = nn.Embed(TOKENS, WIDTH, name="table")
        places = nn.Embed(16, WIDTH, name="places")
        x = table(tokens) + places(jnp.arange(tokens.shape[1]))[None]
        if self.scanned:
            stack = nn.scan(
                Block,
                variable_axes={"params": 0},
                split_rngs={"params": True},
                length=self.depth,
            )
            x, _ = stack(self.gated, self.gate, name="blocks")(x, None)
        else:
            for number in range(self.depth):
                x, _ = Block(self.gated, self.gate, name=f"blocks_{number}")(x)
        x = nn.LayerNorm(name="norm")(x)
        return table.attend(x) if self.tied else nn.Dense(TOKENS, name="head")(x)


class NnxBlock(nnx.Module):
    def __init__(self, rngs):
        self.norm1 = nnx.RMSNorm(WIDTH, rngs=rngs)
        self.attention = nnx.MultiHeadAttention(HEADS, WIDTH, decode=False, rngs=rngs)
        self.norm2 = nnx.RMSNorm(WIDTH, rngs=rngs)
        self.inner = nnx.Linear(WIDTH, 4 * WIDTH, rngs=rngs)
        self.outer = nnx.Linear(4 * WIDTH, WIDTH, rngs=rngs)

    def __call__(self, x):
        x = x + self.attention(self.norm1(x))
        return x + self.outer(nnx.gelu(self.inner(self.norm2(x))))


class NnxModel(nnx.Module):
    def __init__(self, rngs, depth=2):
        self.table = nnx.Embed(TOKENS, WIDTH, rngs=rngs)
        self.blocks = nnx.List(NnxBlock(rngs) for _ in range(depth))
        self.head = nnx.Linear(WIDTH, TOKENS, rngs=rngs)

    def __call__(self, tokens):
        x = self.table(tokens)
        for block in self.blocks:
            x = block(x)
        return self.head(x)


class PostNorm(nn.Module):
    """A layer of an encoder, or with a memory of a decoder, as DeepNorm has it."""

    alpha: float

    @nn.compact
    def __call__(self, x, memory=None):
        def attend(name, x, y):
            return nn.MultiHeadDotProductAttention(HEADS, name=name)(x, y)

        x = nn.LayerNorm()(self.alpha * x + attend("own", x, x))
        if memory is not None:
            x = nn.LayerNorm()(self.alpha * x + attend("other", x, memory))
        return nn.LayerNorm()(self.alpha * x + Mlp(name="mlp")(x))


class Translator(nn.Module):
    encoder: int
    decoder: int
    alphas: tuple

    @nn.compact
    def __call__(self, source, target):
        x = nn.Embed(TOKENS, WIDTH, name="source")(source)
        for number in range(self.encoder):
            x = PostNorm(self.alphas[0], name=f"encoder_{number}")(x)
        y = nn.Embed(TOKENS, WIDTH, name="target")(target)
        for number in range(self.decoder):
            y = PostNorm(self.alphas[1], name=f"decoder_{number}")(y, x)
        return nn.Dense(TOKENS, name="head")(y)


class ResNetBlock(nn.Module):
    features: int
    strides: int = 1
    multiplier: bool = False
    normalized: bool = True

    @nn.compact
    def __call__(self, x):
        def norm(y, name):
            if not self.normalized:
                return y
            return nn.BatchNorm(use_running_average=False, name=name)(y)

        y = nn.Conv(self.features, (3, 3), self.strides, name="first")(x)
        y = nn.relu(norm(y, "norm1"))
        y = norm(nn.Conv(self.features, (3, 3), name="second")(y), "norm2")
        if self.multiplier:
            y = y * self.param("multiplier", nn.initializers.ones, ())
        if x.shape != y.shape:
            x = nn.Conv(self.features, (1, 1), self.strides, name="shortcut")(x)
        return nn.relu(x + y)


class ResNet(nn.Module):
    multiplier: bool = False
    normalized: bool = True
    stages: tuple = ((8, 1), (8, 1), (16, 2), (16, 1))

    @nn.compact
    def __call__(self, x):
        x = nn.relu(nn.Conv(8, (3, 3), name="stem")(x))
        for number, (features, strides) in enumerate(self.stages):
            block = ResNetBlock(
                features, strides, self.multiplier, self.normalized, name=f"b{number}"
            )
            x = block(x)
        return nn.Dense(10, name="head")(x.mean((1, 2)))


TOKENS_IN = jnp.arange(14).reshape(2, 7)
IMAGES = jax.random.normal(jax.random.key(1), (4, 8, 8, 3))


def filled(shapes, seed=0):
    """Arrays of these shapes, none of them constant: what a model was started with."""
    generator = np.random.default_rng(seed)

    def fill(leaf):
        return jnp.asarray(generator.normal(1.0, 0.5, leaf.shape), leaf.dtype)

    return jax.tree.map(fill, shapes)


def split(model, *args):
    """A linen model as jaxinit takes it."""
    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        shapes = jax.eval_shape(model.init, KEY, *args)
    return jaxinit.from_linen(model, filled(shapes), *args)
