"""Small versions of the networks people train, as shapes: nothing of them is run.

Each entry of MODELS makes ``(f, params, *args)`` of one, as `from_linen` and `from_nnx`
do; ODD says which leaves are used in a way of their own.
"""

import functools

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax import nnx

import jaxinit

KEY = jax.random.key(0)


def shape(*sizes, dtype="float32"):
    return jax.ShapeDtypeStruct(sizes, dtype)


def tokens(*sizes):
    return shape(*sizes, dtype="int32")


def linen(module, *args, **kwargs):
    rngs = {"params": KEY, "dropout": KEY}
    init = functools.partial(module.init, **kwargs)
    variables = jax.eval_shape(init, rngs, *args)
    return jaxinit.from_linen(module, variables, *args, rngs={"dropout": KEY}, **kwargs)


def of_nnx(build, *args):
    model = nnx.eval_shape(lambda: build(nnx.Rngs(0)))
    return jaxinit.from_nnx(model, *args)


class Residual(nn.Module):
    features: int
    strides: int = 1

    @nn.compact
    def __call__(self, x, train):
        norm = functools.partial(nn.BatchNorm, use_running_average=not train)
        y = nn.Conv(self.features, (3, 3), self.strides, use_bias=False)(x)
        y = nn.relu(norm(axis_name="batch")(y))
        y = nn.Conv(self.features, (3, 3), use_bias=False)(y)
        y = norm(scale_init=nn.initializers.zeros)(y)
        if x.shape != y.shape:
            x = nn.Conv(self.features, (1, 1), self.strides, use_bias=False)(x)
            x = norm()(x)
        return nn.relu(x + y)


class ResNet(nn.Module):
    @nn.compact
    def __call__(self, x, train=True):
        x = nn.relu(nn.Conv(8, (7, 7), 2, use_bias=False)(x))
        x = nn.max_pool(x, (3, 3), (2, 2), "SAME")
        for features, strides in ((8, 1), (12, 2)):
            x = Residual(features, strides)(x, train)
        return nn.Dense(10)(x.mean((1, 2)))


class Block(nn.Module):
    @nn.compact
    def __call__(self, x, memory=None, mask=None):
        attend = functools.partial(nn.MultiHeadDotProductAttention, 2)
        width = x.shape[-1]
        x = x + attend()(nn.LayerNorm()(x), mask=mask)
        if memory is not None:
            x = x + attend()(nn.LayerNorm()(x), memory)
        y = nn.gelu(nn.Dense(4 * width)(nn.LayerNorm()(x)))
        y = nn.Dropout(0.1, deterministic=False)(y)
        return x + nn.Dense(width)(y)


class ViT(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.Conv(8, (4, 4), strides=4)(x)
        x = x.reshape(x.shape[0], -1, 8)
        token = self.param("cls", nn.initializers.zeros, (1, 1, 8))
        x = jnp.concatenate([jnp.tile(token, (len(x), 1, 1)), x], 1)
        x = x + self.param("positions", nn.initializers.normal(), (1, *x.shape[1:]))
        x = Block()(Block()(x))
        return nn.Dense(10, kernel_init=nn.initializers.zeros)(nn.LayerNorm()(x)[:, 0])


class Mixer(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.Conv(6, (4, 4), strides=4)(x).reshape(len(x), -1, 6)
        for _ in range(2):
            y = jnp.swapaxes(nn.LayerNorm()(x), 1, 2)
            y = nn.Dense(x.shape[1])(nn.gelu(nn.Dense(12)(y)))
            x = x + jnp.swapaxes(y, 1, 2)
            y = nn.LayerNorm()(x)
            x = x + nn.Dense(6)(nn.gelu(nn.Dense(24)(y)))
        return nn.Dense(5)(x.mean(1))


class Translator(nn.Module):
    """Encoder and decoder, one table of words for both and for the head."""

    @nn.compact
    def __call__(self, source, target):
        embed = nn.Embed(30, 8)
        length = target.shape[1]
        table = self.param("positions", nn.initializers.normal(), (16, 8))
        encoded = Block()(embed(source) * 8**0.5 + table[: source.shape[1]])
        x = embed(target) * 8**0.5 + table[:length]
        x = Block()(x, encoded, nn.make_causal_mask(target))
        return embed.attend(nn.LayerNorm()(x))


class Recurrent(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.RNN(nn.LSTMCell(6))(nn.Embed(20, 5)(x))
        x = nn.RNN(nn.OptimizedLSTMCell(7))(x)
        x = nn.Bidirectional(nn.RNN(nn.GRUCell(4)), nn.RNN(nn.SimpleCell(4)))(x)
        return nn.Dense(3)(x[:, -1])


class GraphNet(nn.Module):
    @nn.compact
    def __call__(self, nodes, edges, senders, receivers):
        nodes, edges = nn.Dense(6)(nodes), nn.Dense(6)(edges)
        for _ in range(2):
            ends = jnp.concatenate([nodes[senders], nodes[receivers], edges], -1)
            edges = nn.relu(nn.Dense(6)(ends))
            sums = jax.ops.segment_sum(edges, receivers, len(nodes))
            nodes = nodes + nn.Dense(6)(jnp.concatenate([nodes, sums], -1))
        return nn.Dense(2)(nodes.sum(0, keepdims=True))


class VAE(nn.Module):
    @nn.compact
    def __call__(self, x, key):
        y = nn.relu(nn.Dense(9)(x))
        mean, log_variance = nn.Dense(3)(y), nn.Dense(3)(y)
        z = mean + jnp.exp(0.5 * log_variance) * jax.random.normal(key, mean.shape)
        y = nn.Dense(x.shape[-1])(nn.relu(nn.Dense(9)(z)))
        return jax.nn.sigmoid(y), mean, log_variance


class Experts(nn.Module):
    @nn.compact
    def __call__(self, x):  # (tokens, width)
        gates = nn.softmax(nn.Dense(4, use_bias=False)(x))
        route = jax.nn.one_hot(jnp.argmax(gates, -1), 4, dtype=x.dtype)
        init = nn.initializers.lecun_normal(batch_axis=0)
        wide = self.param("wide", init, (4, 8, 16))
        narrow = self.param("narrow", init, (4, 16, 8))
        own = jnp.einsum("te,td->etd", route, x)
        own = nn.relu(jnp.einsum("etd,edf->etf", own, wide))
        own = jnp.einsum("etf,efd->etd", own, narrow)
        return jnp.einsum("etd,te->td", own, gates)


class Layers(nn.Module):
    """Layers in one array: a scan over remat."""

    @nn.compact
    def __call__(self, x):
        body = nn.remat(lambda module, x, _: (Block(name="block")(x), None))
        scan = nn.scan(
            body,
            variable_axes={"params": 0},
            split_rngs={"params": True, "dropout": True},
            length=3,
        )
        return scan(self, x, None)[0]


class Nested(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.remat_scan(nn.Dense, lengths=(2, 3))(features=8)(x)


class UNet(nn.Module):
    @nn.compact
    def __call__(self, x):
        down = nn.relu(nn.GroupNorm(2)(nn.Conv(4, (3, 3))(x)))
        low = nn.relu(nn.Conv(8, (3, 3), strides=2)(down))
        low = nn.relu(nn.Conv(8, (3, 3), kernel_dilation=2)(low))
        up = nn.relu(nn.ConvTranspose(4, (4, 4), strides=(2, 2))(low))
        return nn.Conv(1, (1, 1))(jnp.concatenate([down, up], -1))


class Depthwise(nn.Module):
    @nn.compact
    def __call__(self, x):
        for strides in (1, 2):
            width = x.shape[-1]
            x = nn.Conv(width, (3, 3), strides, feature_group_count=width)(x)
            x = nn.relu6(nn.Conv(2 * width, (1, 1))(x))
        squeezed = nn.sigmoid(nn.Dense(x.shape[-1])(x.mean((1, 2), keepdims=True)))
        return nn.Conv(4, (3, 3), feature_group_count=2)(x * squeezed)


class Normed(nnx.Module):
    def __init__(self, rngs):
        self.conv = nnx.Conv(3, 8, (3, 3), strides=2, rngs=rngs)
        self.norm = nnx.BatchNorm(8, rngs=rngs)
        self.dropout = nnx.Dropout(0.5, rngs=rngs)
        self.up = nnx.ConvTranspose(8, 4, (2, 2), strides=2, rngs=rngs)
        self.head = nnx.Linear(4, 3, rngs=rngs)

    def __call__(self, x):
        x = self.dropout(nnx.relu(self.norm(self.conv(x))))
        return self.head(self.up(x).mean((1, 2)))


class Decoder(nnx.Module):
    """Layers in one array, query, key and value in one kernel, a tied head."""

    def __init__(self, rngs):
        self.embed = nnx.Embed(20, 8, rngs=rngs)

        @nnx.split_rngs(splits=3)
        @nnx.vmap(in_axes=0, out_axes=0)
        def layers(rngs):
            return DecoderLayer(rngs)

        self.layers = layers(rngs)
        self.norm = nnx.RMSNorm(8, rngs=rngs)

    def __call__(self, x):
        @nnx.scan(in_axes=(nnx.Carry, 0), out_axes=nnx.Carry)
        def forward(x, layer):
            return layer(x)

        return self.embed.attend(self.norm(forward(self.embed(x), self.layers)))


class DecoderLayer(nnx.Module):
    def __init__(self, rngs):
        self.norm = nnx.LayerNorm(8, rngs=rngs)
        self.fused = nnx.Einsum("btd,dknh->kbtnh", (8, 3, 2, 4), rngs=rngs)
        self.out = nnx.LinearGeneral((2, 4), 8, axis=(-2, -1), rngs=rngs)
        self.gate = nnx.Linear(8, 16, use_bias=False, rngs=rngs)
        self.up = nnx.Linear(8, 16, use_bias=False, rngs=rngs)
        self.down = nnx.Linear(16, 8, use_bias=False, rngs=rngs)

    def __call__(self, x):
        query, key, value = self.fused(self.norm(x))
        x = x + self.out(nnx.dot_product_attention(query, key, value))
        return x + self.down(nnx.silu(self.gate(x)) * self.up(x))


class Sequence(nnx.Module):
    def __init__(self, rngs):
        self.first = nnx.RNN(nnx.OptimizedLSTMCell(3, 6, rngs=rngs))
        self.second = nnx.RNN(nnx.GRUCell(6, 5, rngs=rngs))

    def __call__(self, x):
        return self.second(self.first(x))


IMAGE = shape(2, 16, 16, 3)
GRAPH = shape(5, 4), shape(9, 2), tokens(9), tokens(9)

MODELS = {
    "ResNet": lambda: linen(ResNet(), IMAGE),
    "ResNet in evaluation": lambda: linen(ResNet(), IMAGE, train=False),
    "ViT": lambda: linen(ViT(), IMAGE),
    "Mixer": lambda: linen(Mixer(), IMAGE),
    "translator": lambda: linen(Translator(), tokens(2, 6), tokens(2, 5)),
    "recurrent": lambda: linen(Recurrent(), tokens(2, 7)),
    "graph": lambda: linen(GraphNet(), *GRAPH),
    "VAE": lambda: linen(VAE(), shape(4, 12), KEY),
    "experts": lambda: linen(Experts(), shape(7, 8)),
    "scan of remat": lambda: linen(Layers(), shape(2, 5, 8)),
    "remat_scan": lambda: linen(Nested(), shape(2, 8)),
    "UNet": lambda: linen(UNet(), IMAGE),
    "depthwise": lambda: linen(Depthwise(), IMAGE),
    "nnx BatchNorm": lambda: of_nnx(Normed, IMAGE),
    "nnx decoder": lambda: of_nnx(Decoder, tokens(2, 6)),
    "nnx recurrent": lambda: of_nnx(Sequence, shape(2, 5, 3)),
}
