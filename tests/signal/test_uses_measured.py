"""Fans against the operation itself: each product of each model, run alone.

Of independent weights and inputs with variance 1, the second moment of an output is the
number of products in it. That number is what the same operation gives on ones, exactly;
and the number for an input is what its gradient is then.
"""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, PartitionSpec
from network_zoo import MODELS

import jaxinit
from jaxinit import _jaxpr
from jaxinit._signal._program import trace_signal


@functools.cache
def traced(name):
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        f, params, *args = MODELS[name]()
        uses = jaxinit.trace_uses(f, params, *args)
        return trace_signal(f, params, *args).program, uses


def equation_at(program, site):
    for step, role in zip(site[::2], [*site[1::2], None], strict=True):
        eqn = program.jaxpr.eqns[step]
        if role is not None:
            subs = {sub.role: sub for sub in _jaxpr.subprograms(eqn)}
            program = subs[role].program
    return eqn


COUNTED = {}


def counted_products(eqn, operand):
    """How many products an output, and the gradient of an input, has on average."""
    key = (str(eqn.params), str([v.aval for v in eqn.invars]), operand)
    if key not in COUNTED:
        shapes = [tuple(v.aval.shape) for v in eqn.invars]

        def apply(weight, signal):
            pair = (signal, weight) if operand == 1 else (weight, signal)
            return eqn.primitive.bind(*pair, **eqn.params)

        COUNTED[key] = on_ones(apply, shapes[operand], shapes[1 - operand])
    return COUNTED[key]


def on_ones(apply, weight, signal):
    @jax.jit
    def run(weight, signal):
        y, pull = jax.vjp(lambda signal: apply(weight, signal), signal)
        return y, *pull(jnp.ones(y.shape))

    found = run(jnp.ones(weight), jnp.ones(signal))
    return tuple(float(np.asarray(part, np.float64).mean()) for part in found)


# One model of each kind of product; compiling them all alone takes half a minute.
QUICK = {"depthwise", "UNet", "nnx decoder", "nnx recurrent", "experts"}
SLOW = [name for name in MODELS if name not in QUICK]


@pytest.mark.parametrize(
    "name", [*sorted(QUICK), *(pytest.param(n, marks=pytest.mark.long) for n in SLOW)]
)
def test_average_taps_are_the_products_that_the_equation_sums(name):
    program, uses = traced(name)
    checked = 0
    for path, several in uses.items():
        for use in several:
            if use.is_product and not use.transformed:
                y, dx = counted_products(equation_at(program, use.site), use.operand)
                assert use.taps_in == pytest.approx(y, rel=1e-6), path
                assert use.taps_out == pytest.approx(dx, rel=1e-6), path
                checked += 1
    assert checked >= 1


def in_two_steps(weight, x):
    return jnp.sum(x[:, :, None] * weight, axis=1)


def local(weight, x):
    return jax.lax.conv_general_dilated_local(
        x, weight, (1,), [(1, 1)], (3,), dimension_numbers=("NWC", "WIO", "NWC")
    )


def sharded(weight, x):
    mesh = jax.make_mesh((2, 4), ("a", "b"), axis_types=(AxisType.Auto,) * 2)
    split, whole = PartitionSpec("a", "b"), PartitionSpec(None, "b")
    return jax.shard_map(
        lambda w, x: jax.lax.psum(x @ w, "a"),
        mesh=mesh,
        in_specs=(split, PartitionSpec(None, "a")),
        out_specs=whole,
    )(weight, x)


def gathered(weight, x):
    """Shards put together before the product: nothing of it is split."""
    mesh = jax.make_mesh((4,), ("a",), axis_types=(AxisType.Auto,))
    return jax.shard_map(
        lambda w, x: x @ jax.lax.all_gather(w, "a", axis=0, tiled=True),
        mesh=mesh,
        in_specs=(PartitionSpec("a", None), PartitionSpec()),
        out_specs=PartitionSpec(),
        check_vma=False,
    )(weight, x)


def padded(weight, x):
    """Zeros around a weight, which meet inputs, and are no products."""
    return x @ jnp.pad(weight, ((0, 2), (0, 3)))


def by_expert(weight, x):
    chosen = weight[jnp.arange(len(x)) % len(weight)]
    return jnp.einsum("bd,bdf->bf", x, chosen)


WHOLE = {
    "a multiplication and a sum": (in_two_steps, (1, 8, 6), (5, 8)),
    "patches": (local, (8, 9, 4), (2, 8, 3)),
    "shard_map": (sharded, (8, 12), (5, 8)),
    "shard_map after all_gather": (gathered, (8, 12), (5, 8)),
    "padded": (padded, (6, 5), (4, 8)),
    "experts by number": (by_expert, (3, 8, 6), (9, 8)),
}


@pytest.mark.parametrize("name", WHOLE)
def test_a_product_of_several_equations_is_one_product(name):
    apply, weight, signal = WHOLE[name]
    uses = jaxinit.trace_uses(apply, jnp.zeros(weight), jnp.zeros(signal))[""]
    (use,) = [use for use in uses if use.is_product]
    y, dx = on_ones(apply, weight, signal)
    assert use.taps_in == pytest.approx(y, rel=1e-6)
    assert use.taps_out == pytest.approx(dx, rel=1e-6)


def conv(weight, x):
    return jax.lax.conv_general_dilated(
        x, weight, (2,), "SAME", dimension_numbers=("NWC", "WIO", "NWC")
    )


@pytest.mark.parametrize(
    ("apply", "weight", "signal"),
    [
        (jnp.matmul, (24, 32), (32, 16)),
        (conv, (3, 16, 24), (4, 9, 16)),
        (local, (16, 9, 4), (16, 16, 3)),
    ],
)
def test_products_on_ones_are_second_moments_on_noise(apply, weight, signal):
    """Within 4%, the mean of R runs being off by 5 of its standard errors at 6e-7.

    One run's mean of squares has, of n independent weights and inputs at least, a
    relative variance of at most 8 / n.
    """
    least = min(math.prod(weight), math.prod(signal))
    runs = math.ceil(8 / least * (5 / 0.04) ** 2)

    def swapped(weight, x):
        return apply(x, weight) if apply is jnp.matmul else apply(weight, x)

    if apply is jnp.matmul:
        weight, signal = signal, weight

    @jax.jit
    def one(key):
        keys = jax.random.split(key, 3)
        w, x = jax.random.normal(keys[0], weight), jax.random.normal(keys[1], signal)
        y, pull = jax.vjp(lambda x: swapped(w, x), x)
        (dx,) = pull(jax.random.normal(keys[2], y.shape))
        return jnp.mean(y**2), jnp.mean(dx**2)

    found = jax.lax.map(one, jax.random.split(jax.random.key(7), runs))
    y, dx = (float(np.asarray(part, np.float64).mean()) for part in found)
    counted = on_ones(swapped, weight, signal)
    assert (y, dx) == pytest.approx(counted, rel=0.04)
    # And the check can fail.
    assert y != pytest.approx(counted[0] * 1.1, rel=0.04)
