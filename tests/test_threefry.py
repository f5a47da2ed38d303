"""Random bits on the host and unrolled for CPUs: JAX's own, bit for bit."""

import functools
import re

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.extend.random import threefry2x32_p
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from jaxinit import _threefry
from jaxinit._threefry import LayoutError, fast_key

equal = np.testing.assert_array_equal
data = jax.random.key_data
words = st.integers(0, 2**32 - 1)
KEY = jax.random.key(20)
EXTREME_KEYS = np.array(
    [[0, 0], [0, 1], [2**32 - 1, 2**32 - 1], [2**31, 7], [13, 0]], np.uint32
)
SHAPES = [(), (5,), (2, 1, 3, 5), (3, 0), (0, 2**33)]


def fast(sample):
    """The same function of a key, drawing with the fast key."""
    return lambda key: sample(fast_key(key))


def assert_same_draws(sample, key=KEY, transform=jax.jit):
    """The draws, their types and shardings are those of jax.random."""
    theirs, ours = transform(sample)(key), transform(fast(sample))(key)
    for one, other in zip(*map(jax.tree.leaves, (ours, theirs)), strict=True):
        equal(np.asarray(one), np.asarray(other))
        assert jax.typeof(one) == jax.typeof(other)
        assert one.sharding == other.sharding


def normal(key, shape=(3, 4)):
    return jax.random.normal(key, shape)


# --- on the host


@settings(max_examples=25, deadline=None)
@given(key=st.tuples(words, words), high=words, low=words)
def test_hash_on_the_host_is_jax_s_for_every_counter(key, high, low):
    ours = _threefry.threefry2x32(np.array(key, np.uint32), high, low)
    theirs = threefry2x32_p.bind(*(jnp.uint32(word) for word in (*key, high, low)))
    equal(ours, theirs)


@settings(max_examples=25, deadline=None)
@given(key=st.tuples(words, words), number=words)
def test_fold_in_on_the_host_is_jax_s(key, number):
    key = np.array(key, np.uint32)
    equal(_threefry.fold_in(key, number), jax.random.fold_in(key, number))


def test_fold_in_takes_integers_modulo_two_to_the_32():
    equal(_threefry.fold_in([1, 2], -1), _threefry.fold_in([1, 2], 2**32 - 1))
    with jax.enable_x64(True):
        theirs = jax.random.fold_in(jnp.array([1, 2], np.uint32), jnp.int64(2**40 + 5))
    equal(_threefry.fold_in([1, 2], 2**40 + 5), theirs)


def test_many_keys_are_folded_with_many_numbers_at_once():
    folded = _threefry.fold_in(EXTREME_KEYS[:, None], np.arange(3))
    for i, key in enumerate(EXTREME_KEYS):
        for j in range(3):
            equal(folded[i, j], jax.random.fold_in(jnp.array(key), j))


@pytest.mark.parametrize("shape", [2, 1, 7, (3, 2), (), (0,)])
def test_split_on_the_host_is_jax_s(shape):
    split = _threefry.split(EXTREME_KEYS, shape)
    for ours, key in zip(split, EXTREME_KEYS, strict=True):
        equal(ours, data(jax.random.split(jax.random.wrap_key_data(key), shape)))


@pytest.mark.parametrize("dtype", ["int8", "int16", "int32", "uint32", "int64"])
def test_seed_on_the_host_is_jax_s(dtype, x64):
    seeds = np.array([0, 1, -1, 100], "int64").astype(dtype)
    if dtype == "int64":
        seeds = np.array([0, -1, 2**40 + 3, -(2**50)])
    ours = _threefry.seed(seeds)
    for row, number in zip(ours, seeds, strict=True):
        equal(row, data(jax.random.key(jnp.asarray(number))))


@pytest.mark.parametrize("bit_width", [8, 16, 32, 64])
def test_bits_on_the_host_are_jax_s_from_any_start(bit_width, x64):
    for key in EXTREME_KEYS:
        theirs = jax.random.bits(
            jax.random.wrap_key_data(key), (3, 5, 7), f"uint{bit_width}"
        )
        equal(_threefry.random_bits(key, bit_width, 105), theirs.ravel())
        part = _threefry.random_bits(key, bit_width, 20, start=31)
        equal(part, theirs.ravel()[31:51])
        assert part.dtype == theirs.dtype


def test_bits_beyond_two_to_the_32_elements_use_the_high_word():
    ours = _threefry.random_bits(EXTREME_KEYS[3], 32, 4, start=2**32 - 2)
    high, low = np.array([0, 0, 1, 1]), np.array([2**32 - 2, 2**32 - 1, 0, 1])
    key_high, key_low = jnp.array(EXTREME_KEYS[3])
    hashed = threefry2x32_p.bind(
        key_high, key_low, jnp.asarray(high, np.uint32), jnp.asarray(low, np.uint32)
    )
    equal(ours, hashed[0] ^ hashed[1])


def test_the_other_layout_is_refused_not_approximated():
    message = "jax_threefry_partitionable is False.*draw with jax.random"
    with jax.threefry_partitionable(False):
        with pytest.raises(LayoutError, match=message):
            _threefry.random_bits([0, 1], 32, 4)
        with pytest.raises(LayoutError, match=message):
            _threefry.split([0, 1])
        folded = jax.random.fold_in(
            jax.random.wrap_key_data(jnp.array([0, 1], "uint32")), 3
        )
        equal(_threefry.fold_in([0, 1], 3), data(folded))
        by_name = _threefry.split([0, 1], partitionable=True)
    equal(by_name, _threefry.split([0, 1]))
    with pytest.raises(LayoutError, match=message):
        _threefry.split([0, 1], partitionable=False)


@pytest.mark.parametrize("nonsense", [1.5, True, "key"])
def test_only_integers_are_hashed(nonsense):
    with pytest.raises(TypeError, match="keys, counters and seeds are integers, got"):
        _threefry.fold_in([0, 1], nonsense)


def test_an_unknown_width_is_an_error():
    with pytest.raises(ValueError, match="bit_width must be 8, 16, 32 or 64, got 12"):
        _threefry.random_bits([0, 1], 12, 4)


# --- with a fast key


def test_bits_of_every_shape_are_the_same():
    assert_same_draws(lambda key: [jax.random.bits(key, shape) for shape in SHAPES])


@pytest.mark.parametrize("partitionable", [True, False])
def test_bits_of_every_width_and_layout_are_the_same(partitionable, x64):
    def sample(key):
        return [jax.random.bits(key, (5, 3), f"uint{w}") for w in (8, 16, 32, 64)]

    with jax.threefry_partitionable(partitionable):
        assert_same_draws(sample)


@pytest.mark.parametrize("partitionable", [True, False])
def test_split_and_fold_in_are_the_same(partitionable):
    def sample(key):
        keys = [jax.random.split(key, shape) for shape in (2, (2, 3), ())]
        return [data(k) for k in (*keys, jax.random.fold_in(key, 2**32 - 1))]

    with jax.threefry_partitionable(partitionable):
        assert_same_draws(sample)


def test_eager_calls_are_the_same():
    def sample(key):
        key, other = jax.random.split(key)
        draws = normal(jax.random.fold_in(key, 3)), jax.random.bits(other, (4,))
        return [*draws, data(other)]

    assert_same_draws(sample, transform=lambda f: f)


def test_bits_are_the_same_without_jit(x64):
    for width in ("uint8", "uint32", "uint64"):
        sample = functools.partial(jax.random.bits, shape=(3, 5), dtype=width)
        expected = sample(KEY)
        with jax.disable_jit():
            equal(fast(sample)(KEY), expected)


def test_the_two_layouts_do_differ():
    sample = jax.jit(fast(lambda key: jax.random.bits(key, (8,))))
    with jax.threefry_partitionable(False):
        other = sample(KEY)
    assert (sample(KEY) != other).any()


def test_a_seed_makes_the_same_key():
    impl = _threefry.unrolled_prng_impl
    equal(data(jax.random.key(2**31 - 1, impl=impl)), data(jax.random.key(2**31 - 1)))


def test_samplers_of_jax_random_draw_the_same():
    random = jax.random
    assert_same_draws(
        lambda key: [
            random.truncated_normal(key, -2.0, 2.0, (3, 5)),
            random.normal(key, (3, 5), np.complex64),
            random.uniform(key, (9,), minval=-0.3, maxval=0.4) * 0.3 + 0.1,
        ]
    )


def test_keys_may_be_batched():
    typed = jax.random.split(KEY, 6).reshape(2, 3)
    for keys in (typed, data(typed)):
        ours = jax.jit(jax.vmap(jax.vmap(fast(jax.random.bits))))(keys)
        equal(ours, jax.vmap(jax.vmap(jax.random.bits))(keys))
    equal(jax.vmap(jax.vmap(fast(jax.random.bits)))(typed), ours)


def test_raw_keys_are_taken_from_jax_and_numpy():
    raw = jax.random.PRNGKey(3)
    for key in (raw, np.asarray(raw)):
        assert_is_fast(fast_key(key))
        equal(normal(fast_key(key)), normal(raw))


def assert_is_fast(key):
    assert jax.random.key_impl(key) == _threefry.unrolled_prng_impl


def test_what_is_no_threefry_key_is_returned_as_it_is():
    others = [
        jax.random.key(0, impl="rbg"),
        fast_key(KEY),
        jnp.zeros((2,), np.int32),
        jnp.zeros((3,), np.uint32),
        jnp.zeros((5, 2), np.uint32),
        "key",
        None,
    ]
    for key in others:
        assert fast_key(key) is key


@pytest.mark.parametrize(
    ("option", "value", "key"),
    [
        ("jax_default_prng_impl", "rbg", jax.random.PRNGKey(0)),
        ("jax_legacy_prng_key", "error", jax.random.PRNGKey(0)),
        ("jax_legacy_prng_key", "warn", jax.random.PRNGKey(0)),
        ("jax_enable_custom_prng", True, jax.random.PRNGKey(0)),
        ("jax_debug_key_reuse", True, KEY),
    ],
)
def test_a_key_of_which_jax_has_something_to_say_is_left_to_it(option, value, key):
    assert fast_key(key) is not key
    before = getattr(jax.config, option)
    jax.config.update(option, value)
    try:
        assert fast_key(key) is key
    finally:
        jax.config.update(option, before)


def test_is_threefry_knows_both_kinds_and_no_other():
    assert _threefry.is_threefry(KEY.dtype)
    assert _threefry.is_threefry(fast_key(KEY).dtype)
    assert not _threefry.is_threefry(jax.random.key(0, impl="rbg").dtype)
    assert not _threefry.is_threefry(np.dtype("uint32"))


def test_shapes_are_known_without_drawing():
    big = jax.eval_shape(fast(functools.partial(normal, shape=(2**17, 2**17))), KEY)
    assert big.shape == (2**17, 2**17)


def test_gradients_pass_through_the_scale():
    def loss(scale, key):
        return (scale * jax.random.uniform(key, (5,))).sum()

    ours = jax.jit(jax.grad(lambda scale: loss(scale, fast_key(KEY))))(2.0)
    equal(ours, jax.jit(jax.grad(loss))(2.0, KEY))


# --- over a mesh


def mesh_of(kind):
    return jax.make_mesh((4, 2), ("a", "b"), axis_types=(kind, kind))


def test_draws_may_be_given_a_sharding():
    def sample(key):
        return jax.random.bits(key, (8, 6), out_sharding=P("a", "b"))

    with jax.set_mesh(mesh_of(AxisType.Explicit)):
        assert_same_draws(lambda key: [sample(key), normal(key)])
        assert_same_draws(sample, transform=lambda f: f)


def test_keys_may_be_sharded():
    mesh = mesh_of(AxisType.Explicit)
    keys = jax.device_put(jax.random.split(KEY, 8), NamedSharding(mesh, P("a")))
    with jax.set_mesh(mesh):
        assert_same_draws(normal, keys, lambda f: jax.jit(jax.vmap(f)))


@pytest.mark.parametrize(
    ("check", "partitionable"), [(True, True), (True, False), (False, True)]
)
def test_keys_may_vary_inside_shard_map(check, partitionable):
    mesh = jax.make_mesh((8,), ("a",), axis_types=(AxisType.Auto,))
    keys = jax.device_put(jax.random.split(KEY, 8), NamedSharding(mesh, P("a")))

    def sample(key):
        key = jax.random.fold_in(jax.random.split(key)[1], 3)
        return jax.random.bits(key, (4,))

    def mapped(f):
        rows = {"mesh": mesh, "in_specs": P("a"), "out_specs": P("a")}
        return jax.jit(jax.shard_map(jax.vmap(f), **rows, check_vma=check))

    with jax.threefry_partitionable(partitionable):
        assert_same_draws(sample, keys, mapped)


@pytest.mark.parametrize("spec", [P("a", "b"), P(None, "b"), P(("a", "b"))])
def test_each_device_draws_its_own_part_and_nothing_is_exchanged(spec):
    sharding = NamedSharding(mesh_of(AxisType.Auto), spec)
    sample = functools.partial(normal, shape=(64, 32))
    compiled = jax.jit(fast(sample), out_shardings=sharding).lower(KEY).compile()
    equal(compiled(KEY), sample(KEY))
    program = compiled.as_text()
    local = ",".join(map(str, sharding.shard_shape((64, 32))))
    sizes = set(re.findall(r"f32\[(\d+,\d+)\]", program))
    assert sizes == {local}
    for exchange in ("all-gather", "all-reduce", "all-to-all", "collective-permute"):
        assert exchange not in program


# --- how it is lowered


def lowered(sample, platform):
    traced = jax.jit(sample).trace(KEY)
    return traced.lower(lowering_platforms=(platform,)).as_text()


@pytest.mark.parametrize("platform", ["cuda", "rocm", "tpu"])
def test_other_platforms_keep_jax_s_own_threefry(platform):
    sample = functools.partial(jax.random.bits, shape=(64, 32))
    theirs, ours = lowered(sample, platform), lowered(fast(sample), platform)
    call = re.compile(r"call @threefry2x32|threefry2x32_ffi")
    assert len(call.findall(theirs)) == len(call.findall(ours)) == 1
    assert ours.count("shift_left") == theirs.count("shift_left") == 20
    assert ours.count("iota") == theirs.count("iota")


def test_cpus_get_the_rounds_written_out_in_one_fusion():
    sample = functools.partial(normal, shape=(64, 32))
    assert "while" in lowered(sample, "cpu")
    program = lowered(fast(sample), "cpu")
    assert "while" not in program
    # The rounds are there once, for scalars.
    assert program.count("stablehlo.map") == 1
    assert program.count("shift_left") == 20
    compiled = jax.jit(fast(sample)).lower(KEY).compile().as_text()
    assert compiled.count(" fusion(") == 1


def test_arrays_beyond_two_to_the_32_elements_are_left_to_jax():
    shape = (2**17, 2**16)
    sample = functools.partial(jax.random.bits, shape=shape)
    assert "xui64" in lowered(fast(sample), "cpu")
    assert "xui64" not in lowered(fast(lambda key: sample(key, shape=(4, 4))), "cpu")


def test_an_exported_program_chooses_where_it_runs():
    for platforms in (("cpu",), ("cpu", "cuda", "tpu")):
        program = jax.export.export(jax.jit(fast(normal)), platforms=platforms)(KEY)
        equal(program.call(KEY), normal(KEY))


def test_sizes_may_be_symbolic():
    rows = jax.ShapeDtypeStruct(jax.export.symbolic_shape("n, 3"), np.float32)

    def sample(key, like):
        return normal(fast_key(key), like.shape)

    exported = jax.export.export(jax.jit(sample))(KEY, rows)
    equal(exported.call(KEY, np.zeros((5, 3), np.float32)), normal(KEY, (5, 3)))
