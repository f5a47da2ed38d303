"""Programs of every form that a model may take, and where their products are."""

import jax
import jax.numpy as jnp
from jax.sharding import AxisType, PartitionSpec

from jaxinit import _jaxpr

WIDTH, BATCH, LAYERS = 6, 8, 3


def products(program, within=()):
    """The sites of all matrix products of a program, from outside to inside."""
    found = []
    for number, eqn in enumerate(program.jaxpr.eqns):
        if eqn.primitive.name == "dot_general":
            found.append((*within, number))
        for sub in _jaxpr.subprograms(eqn):
            found += products(sub.program, (*within, number, sub.role))
    return found


def weights(key=0, layers=LAYERS):
    return 0.5 * jax.random.normal(jax.random.key(key), (layers, WIDTH, WIDTH))


def batch():
    return jax.random.normal(jax.random.key(9), (BATCH, WIDTH))


def layer(x, weight):
    return jnp.tanh(x @ weight)


def plain(weights, x):
    for number in range(LAYERS):
        x = layer(x, weights[number])
    return x


def jitted(weights, x):
    return jax.jit(lambda x: layer(jax.jit(layer)(x, weights[0]), weights[1]))(x)


def rematerialized(weights, x):
    policy = jax.checkpoint_policies.dots_saveable
    x = jax.checkpoint(layer)(x, weights[0])
    return jax.checkpoint(layer, policy=policy)(x, weights[1])


def scanned(weights, x):
    return jax.lax.scan(lambda x, w: (layer(x, w), None), x, weights)[0]


def scanned_backwards(weights, x):
    step = jax.checkpoint(layer)
    scan = jax.lax.scan(
        lambda x, w: (step(x, w), jnp.sum(x)), x, weights, reverse=True, unroll=2
    )
    return scan[0] + scan[1][0]


def nested(weights, x):
    def outer(x, _):
        return scanned(weights, x), None

    return jax.lax.scan(outer, x, None, length=2)[0]


def recurrent(weights, x):
    def step(carry, now):
        return jnp.tanh(carry @ weights[0] + now @ weights[1]), carry

    rows = jnp.broadcast_to(x, (4, BATCH, WIDTH))
    return jax.lax.scan(step, jnp.zeros_like(x), rows)[0]


def branching(weights, x):
    def first(x):
        return layer(x, weights[0])

    def second(x):
        return layer(layer(x, weights[1]), weights[2])

    return jax.lax.cond(jnp.sum(weights) > 1e9, first, second, x)


def looping(weights, x):
    """Of unknown length to JAX; forward only."""

    def step(state):
        number, x = state
        return number + 1, layer(x, weights[0])

    return jax.lax.while_loop(lambda state: state[0] < 3, step, (0, x))[1]


@jax.custom_vjp
def straight(x, weight):
    return jnp.round(x @ weight)


straight.defvjp(
    lambda x, w: (straight(x, w), (x, w)),
    lambda kept, g: (2 * g @ kept[1].T, 3 * kept[0].T @ g),
)


@jax.custom_jvp
def doubled(x, weight):
    return x @ weight


@doubled.defjvp
def _(primals, tangents):
    (x, weight), (dx, dw) = primals, tangents
    return x @ weight, 2 * dx @ weight + x @ dw


def custom_vjp(weights, x):
    return straight(layer(x, weights[0]), weights[1])


def custom_jvp(weights, x):
    return doubled(jax.nn.relu(x @ weights[0]), weights[1])


def mapped(weights, x):
    return jax.vmap(lambda row: plain(weights, row))(x)


def sharded(weights, x):
    mesh = jax.make_mesh((4,), ("data",), axis_types=(AxisType.Auto,))
    parts = PartitionSpec("data")

    def local(weights, x):
        return scanned(weights, layer(x, weights[0]))

    whole = jax.shard_map(
        local, mesh=mesh, in_specs=(PartitionSpec(), parts), out_specs=parts
    )
    return whole(weights, x)


DIFFERENTIABLE = [
    plain,
    jitted,
    rematerialized,
    scanned,
    scanned_backwards,
    nested,
    recurrent,
    branching,
    custom_vjp,
    custom_jvp,
    mapped,
    sharded,
]
