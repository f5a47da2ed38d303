"""What every initializer of cases.py keeps, one test for each property."""

import copy
import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import CASES, COMPLEX_TRUNCATED

from jaxinit import initializers, testing

KEY = jax.random.key(7)
NARROW = [jnp.bfloat16, jnp.float16, jnp.float8_e4m3fn, jnp.float8_e5m2]
DRAWN = [case for case in CASES if not case.constant]
INDEPENDENT = [case for case in CASES if case.variance is not None]

each_case = pytest.mark.parametrize("case", CASES, ids=str)
each_drawn = pytest.mark.parametrize("case", DRAWN, ids=str)


def same(first, second):
    np.testing.assert_array_equal(np.asarray(first), np.asarray(second), strict=True)


def dtypes_of(case):
    return [jnp.float32] + [jnp.complex64] * (case.complex_kurtosis is not None)


@each_case
def test_the_result_has_the_shape_and_the_dtype_asked_for(case):
    init = case.build()
    for dtype in [None, *dtypes_of(case), *NARROW]:
        result = jax.eval_shape(lambda dtype=dtype: init(KEY, case.shape, dtype))
        assert result.shape == case.shape
        assert result.dtype == jnp.dtype(dtype or jnp.float32)


@each_case
def test_narrow_floats_are_float32_draws_cast(case):
    init = case.build()
    wide = init(KEY, case.shape)
    for dtype in NARROW:
        same(init(KEY, case.shape, dtype), wide.astype(dtype))


@each_case
def test_jit_equals_eager(case):
    init = case.build()
    for dtype in dtypes_of(case):
        eager = np.asarray(init(KEY, case.shape, dtype))
        jitted = np.asarray(
            jax.jit(init, static_argnums=(1, 2))(KEY, case.shape, dtype)
        )
        ulps = case.ulps
        if dtype == jnp.complex64:
            ulps = 64 if case.complex_kurtosis == COMPLEX_TRUNCATED else 3
        size = np.spacing(np.abs(eager).astype(np.float32))
        worst = np.max(np.abs(eager - jitted) / size)
        assert worst <= ulps, f"{dtype.__name__}: {worst} ulps"


@each_drawn
def test_a_key_decides_the_values(case):
    init = case.build()
    first = init(KEY, case.shape)
    same(first, init(KEY, case.shape))
    other = init(jax.random.key(8), case.shape)
    assert np.mean(np.asarray(first == other)) < 0.99


@each_drawn
def test_vmap_over_keys_equals_one_key_at_a_time(case):
    draw = jax.jit(lambda key: case.build()(key, case.shape))
    keys = jax.random.split(KEY, 3)
    together = jax.vmap(draw)(keys)
    apart = jnp.stack([draw(key) for key in keys])
    same(together, apart)


@pytest.mark.parametrize("case", INDEPENDENT, ids=str)
def test_entries_have_the_promised_moments(case):
    init = case.build()
    for dtype in [*dtypes_of(case), jnp.bfloat16, jnp.float16]:
        is_complex = dtype == jnp.complex64
        for seed in range(3):
            testing.assert_moments(
                init(jax.random.key(seed), case.shape, dtype),
                mean=case.mean,
                variance=case.variance(case.shape),
                kurtosis=case.complex_kurtosis if is_complex else case.kurtosis,
            )


@each_case
def test_zero_size_is_legal(case):
    init = case.build()
    for axis in range(len(case.shape)):
        shape = (*case.shape[:axis], 0, *case.shape[axis + 1 :])
        if case.name == "delta_orthogonal" and axis == 3:
            continue  # 16 inputs for 0 outputs is a contraction, which it refuses
        for dtype in (jnp.float32, jnp.bfloat16):
            result = init(KEY, shape, dtype)
            assert (result.shape, result.dtype) == (shape, jnp.dtype(dtype))


@pytest.mark.parametrize("shape", [(), (1,), (1000,)], ids=str)
def test_scalars_and_vectors_are_filled_where_no_fan_is_needed(shape):
    for name in ("normal", "uniform", "truncated_normal"):
        init = getattr(initializers, name)()
        same(init(KEY, shape), getattr(jax.nn.initializers, name)()(KEY, shape))
    assert initializers.ones(KEY, shape).shape == shape
    vector = initializers.variance_scaling(
        1.0, "fan_in", "normal", in_axis=(), out_axis=-1
    )
    if shape:
        assert vector(KEY, shape).shape == shape


@each_drawn
def test_legacy_keys_draw_what_typed_keys_draw(case):
    init = case.build()
    same(init(jax.random.PRNGKey(7), case.shape), init(KEY, case.shape))


@pytest.mark.parametrize("case", INDEPENDENT, ids=str)
def test_rbg_keys_keep_the_moments(case):
    draws = case.build()(jax.random.key(0, impl="rbg"), case.shape)
    testing.assert_moments(
        draws,
        mean=case.mean,
        variance=case.variance(case.shape),
        kurtosis=case.kurtosis,
    )


@each_case
def test_wide_dtypes_draw_natively_in_64_bit_mode(case, x64):
    init = case.build()
    draws = init(KEY, case.shape, jnp.float64)
    assert draws.dtype == jnp.float64
    if not case.constant and case.name not in ("sampler", "delta_orthogonal"):
        drawn = np.asarray(draws)[np.asarray(draws) != 0]  # some leave places empty
        assert np.mean(drawn == drawn.astype(np.float32)) < 0.01


@each_case
def test_initializers_are_values(case):
    first, second = case.build(), case.build()
    assert first == second
    assert hash(first) == hash(second)
    assert repr(first) == repr(second)
    assert pickle.loads(pickle.dumps(first)) == first
    assert copy.copy(first) is first
    assert copy.deepcopy({"kernel_init": first})["kernel_init"] is first
    same(pickle.loads(pickle.dumps(first))(KEY, case.shape), first(KEY, case.shape))


@each_case
def test_the_repr_is_the_call_that_builds_it(case):
    init = case.build()
    if case.name == "sampler":  # a function prints by its name, which is elsewhere
        assert repr(init) == "variance_scaling(1.0, 'fan_in', rademacher)"
        return
    namespace = {name: getattr(initializers, name) for name in initializers.__all__}
    assert eval(repr(init), namespace) == init


def test_no_two_cases_are_equal():
    built = {}
    for case in CASES:
        name = case.name.replace("kaiming", "he").replace("xavier", "glorot")
        built.setdefault(case.build(), set()).add(name)
    assert {len(names) for names in built.values()} == {1}
