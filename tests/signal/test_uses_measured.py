"""Fans against second moments: each product of each model, run alone on noise."""

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

# The mean of n squares of products of standard normal numbers is off by a relative
# sqrt(8 / n) at most, in which n counts the least of weights, inputs and outputs that
# were drawn. 4% are then 4.5 standard errors: 7e-6 for each of some hundred measurements.
DRAWS = 100_000
ALLOWED = 0.04


@functools.cache
def traced(name):
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        f, params, *args = MODELS[name]()
        return trace_signal(f, params, *args).program, jaxinit.trace_uses(
            f, params, *args
        )


def equation_at(program, site):
    for step, role in zip(site[::2], [*site[1::2], None], strict=True):
        eqn = program.jaxpr.eqns[step]
        if role is not None:
            subs = {sub.role: sub for sub in _jaxpr.subprograms(eqn)}
            program = subs[role].program
    return eqn


MEASURED = {}


def second_moments(eqn, operand):
    """E[y²] and E[dx²] of an equation whose operands and cotangent are normal noise."""
    key = (str(eqn.params), str([v.aval for v in eqn.invars]), operand)
    if key not in MEASURED:
        shapes = [tuple(v.aval.shape) for v in eqn.invars]

        def apply(weight, signal):
            pair = (signal, weight) if operand == 1 else (weight, signal)
            return eqn.primitive.bind(*pair, **eqn.params)

        MEASURED[key] = moments_of(apply, shapes[operand], shapes[1 - operand])
    return MEASURED[key]


def moments_of(apply, weight_shape, signal_shape):
    def once(key):
        keys = jax.random.split(key, 3)
        weight = jax.random.normal(keys[0], weight_shape)
        signal = jax.random.normal(keys[1], signal_shape)
        y, pull = jax.vjp(lambda signal: apply(weight, signal), signal)
        (dx,) = pull(jax.random.normal(keys[2], y.shape))
        return jnp.mean(y**2), jnp.mean(dx**2)

    many = jax.vmap(once) if len(weight_shape) <= 2 else lambda keys: once(keys[0])
    least = min(math.prod(weight_shape), math.prod(signal_shape))
    runs = math.ceil(DRAWS / least)
    # Of many small ones several at once; XLA has no fast convolution of many kernels.
    at_once = 1 if len(weight_shape) > 2 else min(runs, 256)
    keys = jax.random.split(jax.random.key(7), (math.ceil(runs / at_once), at_once))
    with jax.default_matmul_precision("highest"):
        found = jax.jit(lambda keys: jax.lax.map(many, keys))(keys)
    return tuple(float(np.mean(part, dtype=np.float64)) for part in found)


@pytest.mark.parametrize("name", MODELS)
def test_average_taps_are_the_second_moments_of_the_product_alone(name):
    program, uses = traced(name)
    for path, several in uses.items():
        for use in several:
            if use.is_product and not use.transformed:
                y, dx = second_moments(equation_at(program, use.site), use.operand)
                # Parameters that lie side by side in one array share its outputs.
                assert y == pytest.approx(use.taps_in, rel=ALLOWED), path
                assert dx == pytest.approx(use.taps_out, rel=ALLOWED), path


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
    weight = jnp.pad(weight, ((0, 2), (0, 3)))
    return jnp.pad(x, ((0, 0), (0, 2)), constant_values=1.0) @ weight


def by_expert(weight, x):
    chosen = weight[jnp.arange(len(x)) % len(weight)]
    return jnp.einsum("bd,bdf->bf", x, chosen)


WHOLE = {
    "a multiplication and a sum": (in_two_steps, (1, 8, 6), (5, 8)),
    "patches": (local, (8, 9, 4), (2, 8, 3)),
    "shard_map": (sharded, (8, 12), (5, 8)),
    "shard_map after all_gather": (gathered, (8, 12), (5, 8)),
    "experts by number": (by_expert, (3, 8, 6), (9, 8)),
}


@pytest.mark.parametrize("name", WHOLE)
def test_a_product_of_several_equations_is_measured_as_one(name):
    apply, weight, signal = WHOLE[name]
    uses = jaxinit.trace_uses(apply, jnp.zeros(weight), jnp.zeros(signal))
    products = [use for use in uses[""] if use.is_product]
    assert len(products) == 1
    if "shard_map" in name:
        y, dx = np.mean([by_hand(apply, weight, signal, s) for s in range(60)], axis=0)
    else:
        y, dx = moments_of(apply, weight, signal)
    assert y == pytest.approx(products[0].taps_in, rel=ALLOWED)
    assert dx == pytest.approx(products[0].taps_out, rel=ALLOWED)


@functools.lru_cache(maxsize=1)
def compiled(apply):
    def run(weight, x, seed):
        y, pull = jax.vjp(lambda x: apply(weight, x), x)
        (dx,) = pull(jax.random.normal(jax.random.key(seed), y.shape))
        return jnp.mean(y**2), jnp.mean(dx**2)

    return jax.jit(run)


def by_hand(apply, weight, signal, seed):
    """On devices that simulate: one draw after the other, wide in the examples."""
    keys = jax.random.split(jax.random.key(seed))
    w = jax.random.normal(keys[0], weight)
    x = jax.random.normal(keys[1], (signal[0] * 100, *signal[1:]))
    return compiled(apply)(w, x, seed)


def test_a_wrong_fan_is_noticed():
    y, _ = moments_of(lambda w, x: x @ w, (8, 6), (5, 8))
    assert y != pytest.approx(9, rel=ALLOWED)


def test_zeros_around_a_weight_are_no_products():
    (use,) = jaxinit.trace_uses(padded, jnp.zeros((6, 5)), jnp.zeros((4, 6)))[""]
    y, _ = moments_of(padded, (6, 5), (4, 6))
    assert use.taps_in == pytest.approx(8 * 30 / 64)
    assert y == pytest.approx(use.taps_in, rel=ALLOWED)
