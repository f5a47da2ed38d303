"""Models of many kinds, small: a function that initializes each, and its arguments."""

from functools import partial

import equinox as eqx
import haiku as hk
import jax
import jax.numpy as jnp
from flax import linen as nn
from flax import nnx

KEY = jax.random.key(0)
IMAGE, TOKENS = jnp.ones((1, 8, 8, 3)), jnp.ones((1, 4, 12))
WORDS = jnp.ones((1, 4), jnp.int32)


class Residual(nn.Module):
    """A residual stage with batch statistics, a stride, and a grouped convolution."""

    @nn.compact
    def __call__(self, x):
        norm = partial(nn.BatchNorm, use_running_average=False)
        y = nn.relu(norm()(nn.Conv(16, (3, 3), (2, 2), use_bias=False)(x)))
        y = nn.relu(norm()(nn.Conv(16, (3, 3), feature_group_count=16)(y)))
        y = norm(scale_init=nn.initializers.zeros)(nn.Conv(32, (1, 1))(y))
        return nn.Dense(10)((y + nn.Conv(32, (1, 1), (2, 2))(x)).mean((1, 2)))


class Block(nn.Module):
    heads: int = 3

    @nn.compact
    def __call__(self, x, _=None):
        y = nn.LayerNorm()(x)
        x = x + nn.MultiHeadDotProductAttention(self.heads)(y, y)
        y = nn.Dense(4 * x.shape[-1], kernel_init=nn.initializers.normal(0.02))(x)
        return x + nn.Dense(x.shape[-1])(nn.gelu(y)), None


class Decoder(nn.Module):
    """Tied embeddings, learned positions, dropout with a key of its own."""

    @nn.compact
    def __call__(self, words):
        embed = nn.Embed(50, 12, embedding_init=nn.initializers.normal(0.02))
        place = self.param("place", nn.initializers.normal(0.01), (4, 12))
        x = nn.Dropout(0.1, deterministic=False)(embed(words) + place[None])
        for _ in range(2):
            x, _ = Block()(x)
        return embed.attend(nn.RMSNorm()(x))


class Stack(nn.Module):
    """Layers under scan and remat, with their dropout and batch statistics."""

    @nn.compact
    def __call__(self, x):
        layers = nn.scan(
            nn.remat(Block),
            variable_axes={"params": 0},
            split_rngs={"params": True},
            length=3,
        )
        return nn.Dense(2)(layers()(x, None)[0])


class Nested(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.remat_scan(partial(nn.Dense, 12), lengths=(2, 3))()(x)


class Experts(nn.Module):
    """A router and experts in one array, by vmap and by hand."""

    @nn.compact
    def __call__(self, x):
        scores = nn.softmax(nn.Dense(4, use_bias=False)(x))
        expert = nn.vmap(
            partial(nn.Dense, 12),
            variable_axes={"params": 0},
            split_rngs={"params": True},
            in_axes=None,
            out_axes=0,
            axis_size=4,
        )
        own = nn.initializers.variance_scaling(
            1.0, "fan_in", "truncated_normal", batch_axis=(0,)
        )
        weight = self.param("weight", own, (4, 12, 24))
        y = jnp.einsum("btd,edf->ebtf", x, weight)
        return jnp.einsum("ebtd,bte->btd", expert()(x), scores), y


class Generator(nn.Module):
    """Upwards to an image of three channels, whose last axes are short."""

    @nn.compact
    def __call__(self, x):
        x = nn.Dense(2 * 2 * 8)(x).reshape(-1, 2, 2, 8)
        x = nn.ConvTranspose(8, (4, 4), (2, 2))(nn.relu(x))
        x = nn.GroupNorm(4)(x)
        return nn.Conv(3, (3, 3), kernel_init=nn.initializers.he_uniform())(x)


class Recurrent(nn.Module):
    @nn.compact
    def __call__(self, x):
        y = nn.RNN(nn.OptimizedLSTMCell(8))(x)
        z = nn.Bidirectional(nn.RNN(nn.GRUCell(5)), nn.RNN(nn.GRUCell(5)))(x)
        return nn.Dense(3)(jnp.concatenate([y, z], -1))


class Normalized(nn.Module):
    """Weights that carry a norm with them, and state that needs a forward pass."""

    @nn.compact
    def __call__(self, x):
        x = nn.WeightNorm(nn.Dense(8))(x)
        return nn.SpectralNorm(nn.Dense(6))(x, update_stats=True)


class StateSpace(nn.Module):
    """Parameters that are functions of draws: logarithms, products, ranges."""

    @nn.compact
    def __call__(self, x):
        def step(key, shape):
            dt = jnp.exp(jax.random.uniform(key, shape) * jnp.log(100.0) - 6.9)
            return dt + jnp.log(-jnp.expm1(-jnp.clip(dt, 1e-4)))

        def decay(key, shape):
            return jnp.log(jnp.broadcast_to(jnp.arange(1.0, shape[1] + 1), shape))

        def ring(key, shape):
            u = jax.random.uniform(key, shape)
            return jnp.log(-0.5 * jnp.log(u * (0.99**2 - 0.8**2) + 0.8**2))

        dt = self.param("dt", step, (12,))
        log_a = self.param("A_log", decay, (12, 4))
        ring = self.param("nu_log", ring, (40,))
        return x * dt, log_a, ring


class Half(nn.Module):
    """16-bit parameters."""

    @nn.compact
    def __call__(self, x):
        x = nn.Dense(16, param_dtype=jnp.bfloat16)(x)
        return nn.Dense(5, param_dtype=jnp.float16)(x)


class Graph(nn.Module):
    """Message passing over edges."""

    @nn.compact
    def __call__(self, nodes, senders, receivers):
        for _ in range(2):
            message = nn.relu(nn.Dense(12)(nodes))[senders]
            total = jax.ops.segment_sum(message, receivers, nodes.shape[0])
            nodes = nn.LayerNorm()(nodes + nn.Dense(12)(total))
        return nn.Dense(1)(nodes.mean(0))


class Modern(nnx.Module):
    def __init__(self, rngs):
        self.embed = nnx.Embed(20, 8, rngs=rngs)
        self.attention = nnx.MultiHeadAttention(2, 8, decode=False, rngs=rngs)
        self.conv = nnx.Conv(3, 4, (3, 3), rngs=rngs)
        self.norm = nnx.BatchNorm(4, rngs=rngs)
        self.einsum = nnx.Einsum("btd,dnh->btnh", (8, 2, 4), (2, 4), rngs=rngs)
        self.dropout = nnx.Dropout(0.5, rngs=rngs)
        self.lora = nnx.LoRA(8, 2, 8, rngs=rngs)
        self.cell = nnx.OptimizedLSTMCell(4, 4, rngs=rngs)


def nnx_stack(key):
    """Layers stacked by vmap, as nnx does before a scan."""

    @nnx.split_rngs(splits=3)
    @nnx.vmap(in_axes=(0,), out_axes=0)
    def layers(rngs):
        return nnx.Linear(6, 6, rngs=rngs)

    return nnx.state(layers(nnx.Rngs(key)))


def haiku(f, *args):
    return hk.transform_with_state(f).init, (jax.random.PRNGKey(3), *args)


def haiku_residual(x):
    return hk.nets.ResNet(
        (1, 1, 1, 1),
        3,
        channels_per_group=(8, 8, 8, 8),
        bottleneck=False,
        use_projection=(True, True, True, True),
    )(x, is_training=True)


def haiku_recurrent(x):
    y, _ = hk.dynamic_unroll(hk.LSTM(6), x[0], hk.LSTM(6).initial_state(None))
    return hk.nets.MLP((8, 3))(hk.LayerNorm(-1, True, True)(y))


def equinox(make):
    return (lambda key: eqx.filter(make(key), eqx.is_array)), (KEY,)


def linen(module, *args):
    return module.init, ({"params": KEY, "dropout": jax.random.key(9)}, *args)


EDGES = jnp.array([0, 1, 2, 3]), jnp.array([1, 2, 3, 0])
ZOO = {
    "residual": linen(Residual(), IMAGE),
    "decoder": linen(Decoder(), WORDS),
    "scan and remat": linen(Stack(), TOKENS),
    "remat_scan": linen(Nested(), TOKENS),
    "experts": linen(Experts(), TOKENS),
    "generator": linen(Generator(), jnp.ones((1, 5))),
    "recurrent": linen(Recurrent(), TOKENS),
    "normalized": linen(Normalized(), TOKENS),
    "state space": linen(StateSpace(), TOKENS),
    "16 bits": linen(Half(), TOKENS),
    "graph": linen(Graph(), jnp.ones((4, 12)), *EDGES),
    "nnx": (lambda key: nnx.state(Modern(nnx.Rngs(key))), (KEY,)),
    "nnx stack": (nnx_stack, (KEY,)),
    "haiku residual": haiku(haiku_residual, IMAGE),
    "haiku recurrent": haiku(haiku_recurrent, TOKENS),
    "equinox perceptron": equinox(lambda key: eqx.nn.MLP(4, 3, 8, 2, key=key)),
    "equinox attention": equinox(lambda key: eqx.nn.MultiheadAttention(2, 8, key=key)),
    "equinox recurrent": equinox(lambda key: eqx.nn.LSTMCell(4, 6, key=key)),
}
