"""One changed import line: the names, signatures and bits of JAX and Flax."""

import inspect

import flax.linen
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import CASES

from jaxinit import initializers

theirs = jax.nn.initializers
KEY = jax.random.key(11)
PEERS = [case for case in CASES if case.peer is not None]
AXES = [
    {"in_axis": -2, "out_axis": -1},
    {"in_axis": 1, "out_axis": 0},
    {"in_axis": (0, 1), "out_axis": -1},
    {"in_axis": -1, "out_axis": (0, 1)},
    {"in_axis": 1, "out_axis": 2, "batch_axis": 0},
    {"in_axis": 2, "out_axis": 1, "batch_axis": (0,)},
    {"in_axis": 0},  # one spatial axis
    {"out_axis": 0},
]


def same(first, second):
    np.testing.assert_array_equal(np.asarray(first), np.asarray(second), strict=True)


@pytest.mark.parametrize(
    "module", [jax.nn.initializers, flax.linen.initializers], ids=lambda m: m.__name__
)
def test_every_name_is_here(module):
    names = {name for name in dir(module) if not name.startswith("_")}
    assert names <= set(initializers.__all__)


@pytest.mark.parametrize("name", sorted(set(dir(theirs)) & set(initializers.__all__)))
def test_positional_arguments_keep_their_order_and_defaults(name):
    peer, our = getattr(theirs, name), getattr(initializers, name)
    if name == "Initializer":
        our, peer = our.__call__, peer.__call__
    wanted = inspect.signature(peer).parameters
    got = inspect.signature(our).parameters
    positional = {n: p for n, p in got.items() if p.kind is not p.KEYWORD_ONLY}
    assert list(positional) == list(wanted)
    for parameter, values in wanted.items():
        assert positional[parameter].default == values.default
        assert positional[parameter].kind == values.kind


@pytest.mark.parametrize("case", PEERS, ids=str)
@pytest.mark.parametrize("jitted", [False, True], ids=["eager", "jitted"])
def test_bits_are_those_of_jax(case, jitted):
    ours, peer = case.build(), case.peer()
    dtypes = [jnp.float32] + [jnp.complex64] * (case.complex_kurtosis is not None)
    if case.name == "orthogonal":
        dtypes.append(jnp.complex64)
    for dtype in dtypes:
        if jitted:
            our_draw, peer_draw = (
                jax.jit(f, static_argnums=(1, 2)) for f in (ours, peer)
            )
        else:
            our_draw, peer_draw = ours, peer
        same(our_draw(KEY, case.shape, dtype), peer_draw(KEY, case.shape, dtype))


@pytest.mark.parametrize("case", PEERS, ids=str)
def test_bits_are_those_of_jax_in_64_bit_mode(case, x64):
    ours, peer = case.build(), case.peer()
    dtypes = [jnp.float64] + [jnp.complex128] * (case.complex_kurtosis is not None)
    for dtype in [*dtypes, None]:
        same(ours(KEY, case.shape, dtype), peer(KEY, case.shape, dtype))


@pytest.mark.parametrize("axes", AXES, ids=str)
def test_bits_are_those_of_jax_for_every_role_of_the_axes(axes):
    shape = (6, 10, 14)
    for mode in ("fan_in", "fan_out", "fan_avg", "fan_geo_avg"):
        ours = initializers.variance_scaling(1.3, mode, "uniform", **axes)
        peer = theirs.variance_scaling(1.3, mode, "uniform", **axes)
        same(ours(KEY, shape), peer(KEY, shape))


def test_embedding_tables_keep_the_idiom_of_flax():
    ours = initializers.variance_scaling(1.0, "fan_in", "normal", out_axis=0)
    peer = theirs.variance_scaling(1.0, "fan_in", "normal", out_axis=0)
    same(ours(KEY, (100, 48)), peer(KEY, (100, 48)))
    assert initializers.fans((100, 48), out_axis=0) == (48.0, 48.0)


def test_the_dtype_of_the_builder_counts_where_the_call_gives_none():
    init = initializers.he_normal(dtype=jnp.bfloat16)
    assert init(KEY, (8, 8)).dtype == jnp.bfloat16
    assert init(KEY, (8, 8), jnp.float32).dtype == jnp.float32
    inner = initializers.scaled(init, 2.0)
    assert inner(KEY, (8, 8)).dtype == jnp.bfloat16


def test_arguments_may_be_given_by_name():
    init = initializers.normal()
    same(
        init(key=KEY, shape=(3,), dtype=jnp.float32, out_sharding=None), init(KEY, (3,))
    )


def test_one_integer_is_the_shape_of_a_vector():
    same(initializers.normal()(KEY, 3), theirs.normal()(KEY, 3))


def test_integers_may_be_constant():
    for name in ("zeros", "ones"):
        same(
            getattr(initializers, name)(KEY, (2,), jnp.int32),
            getattr(theirs, name)(KEY, (2,), jnp.int32),
        )
    same(
        initializers.constant(np.arange(3))(KEY, (2, 3), jnp.int32),
        theirs.constant(np.arange(3))(KEY, (2, 3), jnp.int32),
    )


def test_a_protocol_check_of_jax_recognises_ours():
    assert isinstance(initializers.he_normal(), theirs.Initializer)


def test_traced_options_work_inside_the_trace():
    @jax.jit
    def draw(stddev):
        return initializers.normal(stddev)(KEY, (4,))

    @jax.jit
    def expected(stddev):
        return theirs.normal(stddev)(KEY, (4,))

    same(draw(0.3), expected(0.3))
    slope = jax.grad(lambda s: initializers.normal(s)(KEY, ()))(0.3)
    np.testing.assert_allclose(slope, initializers.normal(1.0)(KEY, ()), rtol=1e-6)
