"""Every assertion passes on what is sound, at the stated rate, and fails on a fault."""

import dataclasses
import functools
import math

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.nn import initializers
from scipy import stats

import jaxinit.initializers
from jaxinit import testing
from jaxinit.testing import _arrays, _layers

KEY = jax.random.key(0)
NORMAL = np.random.default_rng(0).normal(size=(64, 32)).astype(np.float32)
normal_cdf = jax.scipy.stats.norm.cdf


def eagerly(assertion, *arrays, **options):
    assertion(*arrays, **options)


@functools.cache
def chexified(assertion, **options):
    """Compiled once for all calls with the same options and shapes."""
    jitted = jax.jit(lambda *traced: assertion(*traced, **options))
    return chex.chexify(jitted, async_check=False)


def under_chexify(assertion, *arrays, **options):
    chexified(assertion, **options)(*arrays)


@pytest.fixture(params=[eagerly, under_chexify])
def run(request):
    """Calls an assertion on arrays, directly or inside a jitted function."""
    return request.param


def assert_preserved(key, init, shape, **options):
    testing.assert_variance_preserved(init, shape, key=key, **options)


def edited(array, index, value):
    copy = np.array(array)
    copy[index] = value
    return copy


def failures(assertion, draws, **options):
    count = 0
    for draw in np.asarray(draws):
        try:
            assertion(draw, **options)
        except AssertionError:
            count += 1
    return count


def at_most_the_rate(count, trials, failure_rate):
    """False once in a million for assertions that fail at the rate exactly."""
    return count <= stats.binom.isf(1e-6, trials, failure_rate)


# ------------------------------------------------------------------- planted faults


def test_a_truncation_that_was_not_corrected_for_is_caught(run):
    draws = jax.random.truncated_normal(KEY, -2, 2, (256, 256))
    with pytest.raises(
        AssertionError, match=r"variance .* 0\.7[678]\d* times the stated 1"
    ):
        run(testing.assert_moments, draws, variance=1.0)
    with pytest.raises(AssertionError, match="do not follow the law"):
        run(testing.assert_follows, draws, cdf=normal_cdf)
    run(testing.assert_moments, draws / stats.truncnorm.std(-2, 2), variance=1.0)


def test_draws_made_in_bfloat16_are_caught_and_float32_draws_cast_pass(run):
    init, shape, variance = initializers.lecun_normal(), (1024, 1024), 1 / 1024
    narrow = init(KEY, shape, jnp.bfloat16)
    with pytest.raises(AssertionError, match=r"bfloat16 draws .* mean -0\.0005"):
        run(testing.assert_moments, narrow, variance=variance)
    with pytest.raises(AssertionError, match="do not have the stated mean 0"):
        run(testing.assert_moments, narrow)
    cast = init(KEY, shape, jnp.float32).astype(jnp.bfloat16)
    run(testing.assert_moments, cast, variance=variance)
    run(testing.assert_moments, cast)
    ours = jaxinit.initializers.lecun_normal()(KEY, shape, jnp.bfloat16)
    run(testing.assert_moments, ours, variance=variance)


def test_bfloat16_draws_with_few_values_are_caught_and_float32_draws_cast_follow(run):
    shape = (1 << 20,)
    narrow = jax.random.normal(KEY, shape, jnp.bfloat16)
    with pytest.raises(AssertionError, match="bfloat16 draws do not follow the law"):
        run(testing.assert_follows, narrow, cdf=normal_cdf)
    draws = jax.random.normal(KEY, shape)
    run(testing.assert_follows, draws.astype(jnp.bfloat16), cdf=normal_cdf)
    if run is eagerly:
        run(testing.assert_follows, draws.astype(jnp.float16), cdf=normal_cdf)


def test_draws_truncated_to_8_bits_instead_of_rounded_are_caught():
    draws = np.random.default_rng(1).normal(size=1 << 18).astype(np.float32)
    testing.assert_follows(draws.astype(jnp.float8_e4m3fn), stats.norm.cdf)
    fraction, exponent = np.frexp(draws)
    truncated = np.ldexp(np.trunc(fraction * 16) / 16, exponent)
    with pytest.raises(AssertionError, match="do not follow the law"):
        testing.assert_follows(truncated.astype(jnp.float8_e4m3fn), stats.norm.cdf)


def test_a_fan_out_in_place_of_the_fan_in_is_caught():
    sound, fault = (
        initializers.variance_scaling(1.0, mode, "normal")
        for mode in ("fan_in", "fan_out")
    )
    assert_preserved(KEY, sound, (32, 16))
    with pytest.raises(
        AssertionError, match=r"outputs is (2\.0|1\.9).*Compare the fan"
    ):
        assert_preserved(KEY, fault, (32, 16))
    draws = fault(KEY, (128, 64))
    testing.assert_moments(draws, variance=1 / 64)
    with pytest.raises(AssertionError, match=r"variance .* (2\.0|1\.9)\d* times"):
        testing.assert_moments(draws, variance=1 / 128)


def dense_draw(key, shape):
    return jax.random.normal(key, (512,)).reshape(shape) / 8  # model * heads inputs


def einsum_draw(key, shape):
    return jax.random.normal(key, (512,)).reshape(shape) / 4  # model inputs


def test_the_fan_of_an_einsum_kernel_taken_for_a_dense_one_is_caught():
    # (model, heads, size): the usual axes take model * heads for the fan-in.
    shape, axes = (16, 4, 8), {"in_axis": 0, "out_axis": (1, 2)}
    with pytest.raises(AssertionError, match=r"outputs is 0\.2[45].*Compare the fan"):
        under_chexify(assert_preserved, KEY, init=dense_draw, shape=shape, **axes)
    assert_preserved(KEY, einsum_draw, shape, **axes)
    assert_preserved(KEY, dense_draw, shape)


def test_duplicated_units_are_caught(run):
    kernel = NORMAL.reshape(16, 16, 8)
    run(testing.assert_symmetry_broken, {"head": {"kernel": kernel}})
    twins = edited(kernel, (..., 6), kernel[..., 2])
    with pytest.raises(AssertionError) as caught:
        run(testing.assert_symmetry_broken, {"head": {"kernel": twins}})
    assert "leaf 'head/kernel' has 7 different units of 8" in str(caught.value)
    assert "units 2 and 6" in str(caught.value) or "[2, 6]" in str(caught.value)


def test_a_bias_is_caught(run):
    draws = NORMAL + 0.2
    with pytest.raises(
        AssertionError, match=r"mean 0\.[12]\d+ \(stated 0, within 0\.13"
    ):
        run(testing.assert_moments, draws, variance=1.0)
    with pytest.raises(AssertionError, match=r"stated mean 0: measured 0\.[12]"):
        run(testing.assert_moments, draws)
    with pytest.raises(AssertionError, match="do not follow the law"):
        run(testing.assert_follows, draws, cdf=normal_cdf)
    testing.assert_moments(draws, mean=0.2, variance=1.0)
    testing.assert_moments(draws, mean=0.2)


# ------------------------------------------------------ sound draws, over many keys


@functools.partial(jax.jit, static_argnums=(0, 1))
def for_200_seeds(init, shape):
    keys = jax.random.split(jax.random.key(1), 200)
    return jax.vmap(lambda key: init(key, shape))(keys)


@pytest.mark.parametrize(
    ("init", "options"),
    [
        (initializers.lecun_normal(), {"variance": 1 / 64}),
        (initializers.he_uniform(), {"variance": 2 / 64, "kurtosis": 1.8}),
    ],
)
def test_moments_of_sound_draws_pass_for_every_seed(init, options):
    draws = for_200_seeds(init, (64, 64))
    for some in (draws, draws[:, :, 0]):  # many draws, and few
        assert failures(testing.assert_moments, some, **options) == 0
        assert failures(testing.assert_moments, some) == 0


def test_the_other_assertions_pass_on_sound_draws_for_every_seed():
    draws = for_200_seeds(initializers.normal(1.0), (64, 64))
    assert failures(testing.assert_follows, draws, cdf=stats.norm.cdf) == 0
    assert failures(testing.assert_symmetry_broken, draws) == 0
    draws = for_200_seeds(initializers.orthogonal(), (2, 3, 4, 6))
    assert failures(testing.assert_orthogonal, draws) == 0


HE_UNIFORM = initializers.he_uniform()
SMALL = {"activation": jax.nn.relu, "replicates": 32, "examples": 16}


def test_variance_is_preserved_for_every_seed():
    for key in jax.random.split(KEY, 200):  # compiled once
        assert_preserved(key, HE_UNIFORM, (16, 8), **SMALL)


# --------------------------------------------------- the failure rate that is stated


def complex_normal(generator, size):
    parts = generator.normal(size=(2, *size)) / math.sqrt(2)
    return parts[0] + 1j * parts[1]


@pytest.mark.parametrize(
    ("draw", "options"),
    [
        (lambda g, size: g.normal(size=size), {"variance": 1.0}),
        (lambda g, size: g.normal(size=size), {}),
        (lambda g, size: g.normal(5, 3, size), {"mean": 5, "variance": 9}),
        (lambda g, size: g.uniform(-1, 1, size), {"variance": 1 / 3, "kurtosis": 1.8}),
        (complex_normal, {"variance": 1.0}),
        (complex_normal, {}),
    ],
)
def test_moments_of_many_draws_fail_at_the_stated_rate(draw, options):
    draws = draw(np.random.default_rng(2), (2000, 1000))
    count = failures(testing.assert_moments, draws, failure_rate=0.05, **options)
    assert at_most_the_rate(count, 2000, 0.05)
    # Tight: five standard deviations below the rate. The square of uniform draws is
    # less skewed than that of normal ones, and its lower limit is crossed more rarely.
    assert count >= 0.027 * 2000


def sparse(generator, size):
    return generator.normal(size=size) * (generator.uniform(size=size) < 0.25)


LAWS = [
    (lambda g, size: g.normal(size=size), 1.0, None),
    (lambda g, size: g.uniform(-1, 1, size), 1 / 3, None),
    (lambda g, size: g.uniform(-1, 1, size), 1 / 3, 1.8),
    (lambda g, size: g.choice([-1.0, 1.0], size), 1.0, 1.0),
    (sparse, 0.25, 12.0),
    (complex_normal, 1.0, None),
]


@pytest.mark.parametrize("size", [1, 20])
@pytest.mark.parametrize(("draw", "variance", "kurtosis"), LAWS)
def test_moments_of_few_draws_fail_at_most_at_the_stated_rate(
    draw, variance, kurtosis, size
):
    draws = draw(np.random.default_rng(3), (1000, size))
    options = {"variance": variance, "kurtosis": kurtosis, "failure_rate": 0.05}
    count = failures(testing.assert_moments, draws, **options)
    assert at_most_the_rate(count, 1000, 0.05)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_draws_fail_to_follow_their_law_at_the_stated_rate(dtype):
    draws = np.random.default_rng(4).uniform(size=(1000, 500)).astype(np.float32)
    options = {"cdf": lambda x: np.clip(x, 0, 1), "failure_rate": 0.05}
    count = failures(testing.assert_follows, draws.astype(dtype), **options)
    assert at_most_the_rate(count, 1000, 0.05)
    # Rounding leaves fewer places for the largest distance, so a little less often.
    assert count >= 0.02 * 1000


def test_variance_fails_to_be_preserved_at_the_stated_rate():
    count, trials = 0, 500
    for key in jax.random.split(jax.random.key(3), trials):
        try:
            assert_preserved(key, HE_UNIFORM, (16, 8), failure_rate=0.05, **SMALL)
        except AssertionError:
            count += 1
    assert at_most_the_rate(count, trials, 0.05)
    assert count >= 0.02 * trials


# ------------------------------------------------------------------------- moments


def test_circular_complex_draws_pass_and_real_ones_made_complex_do_not(run):
    draws = complex_normal(np.random.default_rng(5), (40, 50)).astype(np.complex64)
    run(testing.assert_moments, draws / 2, variance=0.25)
    run(testing.assert_moments, draws / 2 + (2 - 1j), mean=2 - 1j, variance=0.25)
    flat = (draws.real / math.sqrt(2)).astype(np.complex64)
    with pytest.raises(
        AssertionError, match=r"pseudo-variance (1\.|0\.9)\d+[+-]0j times"
    ):
        run(testing.assert_moments, flat, variance=0.25)
    with pytest.raises(
        AssertionError, match=r"mean .*j \(stated 2-1j, each part within"
    ):
        run(testing.assert_moments, draws / 2 + 2, mean=2 - 1j, variance=0.25)
    run(testing.assert_moments, draws + 1j, mean=1j)
    with pytest.raises(AssertionError, match=r"measured .* and .* by the spread"):
        run(testing.assert_moments, draws, mean=1j)


def test_draws_that_are_not_finite_are_counted(run):
    draws = edited(edited(NORMAL, (3, slice(2)), np.inf), (0, 0), np.nan)
    for options in ({"variance": 1.0}, {}):
        with pytest.raises(AssertionError, match="3 of 2048 draws are not finite"):
            run(testing.assert_moments, draws, **options)
    with pytest.raises(AssertionError, match="3 of 2048 draws are not finite"):
        run(testing.assert_follows, draws, cdf=normal_cdf)
    spoilt = NORMAL.astype(np.complex64)
    spoilt.imag = draws
    with pytest.raises(AssertionError, match="3 of 2048 draws are not finite"):
        run(testing.assert_moments, spoilt)


@pytest.mark.parametrize("scale", [1e-25, 1e25])
def test_moments_of_tiny_and_huge_draws_neither_vanish_nor_overflow(run, scale):
    draws = np.float32(scale) * NORMAL
    run(testing.assert_moments, draws, variance=scale**2)
    with pytest.raises(AssertionError, match="stated moments"):
        run(testing.assert_moments, 2 * draws, variance=scale**2)
    run(testing.assert_moments, draws)
    with pytest.raises(AssertionError, match="stated mean"):
        run(testing.assert_moments, draws + np.float32(scale) / 2)


def test_draws_that_all_equal_the_stated_mean_have_it(run):
    run(testing.assert_moments, np.full((64, 32), 2.5, np.float32), mean=2.5)


def test_the_bounds_allow_for_what_storing_in_16_bits_changes(run):
    # Signs of a magnitude that rounds by all of half a unit in the last place: the mean
    # square is off by 2u, with no spread at all to hide it.
    magnitude = 1 + 2.0**-8 - 1e-7
    signs = np.where(NORMAL > 0, 1, -1).astype(np.float32)
    stored = (magnitude * signs).astype(jnp.bfloat16)
    run(testing.assert_moments, stored, variance=magnitude**2, kurtosis=1)
    run(testing.assert_moments, math.sqrt(0.3) * signs, variance=0.3, kurtosis=1)
    wide = stored.astype(np.float32)  # now exact numbers with another variance
    with pytest.raises(AssertionError, match="stated moments"):
        run(testing.assert_moments, wide, variance=magnitude**2, kurtosis=1)


def test_the_bounds_of_a_mean_allow_for_its_own_rounding(run):
    mean = 1 + 2.0**-8 - 1e-4  # all draws round to the same side, to 1
    draws = (mean + 1e-5 * NORMAL).astype(jnp.bfloat16)
    assert (draws == 1).all()
    run(testing.assert_moments, draws, mean=mean, variance=1e-10)
    run(testing.assert_moments, draws, mean=mean)
    for options in ({"variance": 1e-10}, {}):
        with pytest.raises(AssertionError, match=r"stated (mean|moments)"):
            testing.assert_moments(draws.astype(np.float32), mean=mean, **options)


def test_a_traced_mean_over_millions_is_summed_in_blocks():
    values = np.random.default_rng(0).uniform(0, 1, 3_000_001).astype(np.float32)
    compiled = jax.jit(_arrays.average).lower(values).compile()
    exact = values.astype(np.float64).mean()
    error = abs(float(compiled(values)) - exact)
    assert error <= exact * _arrays.average_error(values.size, np.dtype(np.float32))
    # One reduction for each of the four levels: none of them was merged with another.
    assert compiled.as_text().count(" reduce(") >= 4


def test_traced_moments_are_accumulated_in_64_bits_where_those_are_enabled(x64):
    draws = 1 + 1e-9 * np.random.default_rng(0).normal(size=4000)
    options = {"mean": 1.0, "variance": 1e-18}
    under_chexify(testing.assert_moments, draws, **options)
    with pytest.raises(AssertionError, match="4000 float64 draws"):
        under_chexify(testing.assert_moments, draws + 1e-9, **options)


def test_a_message_carries_what_was_measured_stated_and_allowed(run):
    draws = np.random.default_rng(6).uniform(7, 8, 5000).astype(np.float32)
    with pytest.raises(AssertionError) as caught:
        run(testing.assert_moments, draws, variance=0.25, failure_rate=1e-6)
    text = str(caught.value)
    for part in (
        "5000 float32 draws",
        "mean 7.5",
        "(stated 0, within 0.0355",
        "times the stated 0.25 (allowed 0.9",
        "Failure rate 1e-06, normal and chi-square quantiles.",
        "the wrong fan, a missing gain or an uncorrected truncation",
    ):
        assert part in text


# -------------------------------------------------------------------- distributions


def rectified_cdf(x):
    return jnp.where(x < 0, 0, normal_cdf(x))


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_laws_with_atoms_are_followed(run, dtype):
    draws = np.maximum(np.random.default_rng(7).normal(size=4096), 0)
    run(testing.assert_follows, draws.astype(dtype), cdf=rectified_cdf)
    fault = edited(draws, draws < 0.2, 0)  # the same support, a larger atom
    with pytest.raises(AssertionError, match=r"where cdf is 0\.5 and 0\.59"):
        run(testing.assert_follows, fault.astype(dtype), cdf=rectified_cdf)
    fault = edited(draws, draws == 0, -0.0) + (draws == 0) * -1e-3  # just below it
    with pytest.raises(AssertionError, match="do not follow the law"):
        run(testing.assert_follows, fault.astype(dtype), cdf=rectified_cdf)


def test_a_law_of_atoms_alone_is_followed():
    dice = np.random.default_rng(8).integers(1, 7, 4000).astype(np.float32)
    testing.assert_follows(dice, lambda x: np.clip(np.floor(x) / 6, 0, 1))
    with pytest.raises(AssertionError, match="do not follow the law"):
        testing.assert_follows(dice, lambda x: np.clip(np.floor(x) / 5, 0, 1))


def test_the_distance_to_a_law_is_that_of_kolmogorov_and_smirnov(run):
    draws = NORMAL + np.float32(0.15)
    distance = stats.kstest(draws.reshape(-1).astype(np.float64), "norm").statistic
    with pytest.raises(AssertionError, match="off by ") as caught:
        run(testing.assert_follows, draws, cdf=normal_cdf, failure_rate=0.5)
    text = str(caught.value)
    measured = float(text.split("off by ")[1].split()[0])
    # The distribution function is evaluated in float32, and printed with six digits.
    assert measured == pytest.approx(distance, abs=1e-6)
    limit = math.sqrt(math.log(2 / 0.5) / 2 / draws.size)
    assert f"allowed is {limit:.6g} at a failure rate of 0.5" in text


# ----------------------------------------------------------------- variance preserved


def test_the_exact_gain_preserves_variance_for_any_activation():
    points, weights = np.polynomial.hermite_e.hermegauss(101)
    values = np.asarray(jax.nn.gelu(points), np.float64)
    square = float(weights @ values**2 / weights.sum())
    init = initializers.variance_scaling(1 / square, "fan_in", "truncated_normal")
    assert_preserved(KEY, init, (24, 12), activation=jax.nn.gelu)


@pytest.mark.parametrize(
    ("shape", "roles", "equation"),
    [
        ((5, 3), {}, "ni,io->no"),
        ((2, 3, 8, 4), {}, "nhwi,hwio->no"),
        ((3, 6, 5), {"batch_axis": 0}, "nbi,bio->bno"),
        ((4, 6), {"in_axis": 1, "out_axis": 0}, "ni,oi->no"),
        (
            (4, 2, 5, 3, 2),
            {"in_axis": (0, 2), "out_axis": (3, -1), "batch_axis": 1},
            "nabc,abcde->bnde",
        ),
    ],
)
def test_the_sum_over_inputs_uses_each_axis_in_its_role(shape, roles, equation):
    roles = {"in_axis": -2, "out_axis": -1, "batch_axis": (), **roles}
    summed, outputs, batch = _layers._roles(shape, **roles)
    generator = np.random.default_rng(9)
    kept = [size for axis, size in enumerate(shape) if axis not in outputs]
    weight, inputs = generator.normal(size=shape), generator.normal(size=(7, *kept))
    layer = _layers._Contraction(tuple(summed), tuple(batch))
    with jax.default_matmul_precision("highest"):
        actual = layer(weight.astype(np.float32), inputs.astype(np.float32))
    expected = np.einsum(equation, inputs, weight)
    np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-5)


def test_a_real_layer_can_be_checked_with_weights_drawn_in_16_bits():
    given = []

    def convolution(weight, inputs):  # without padding
        given.append((weight.dtype, weight.shape, inputs.shape[1:]))
        numbers = ("NWC", "WIO", "NWC")
        return jax.lax.conv_general_dilated(
            inputs, weight, (1,), "VALID", dimension_numbers=numbers
        )

    init = initializers.lecun_normal()
    options = {"apply": convolution, "input_shape": (7, 6), "dtype": jnp.bfloat16}
    assert_preserved(KEY, init, (3, 6, 8), replicates=64, **options)
    assert set(given) == {(np.dtype(np.float32), (3, 6, 8), (7, 6))}


def test_complex_weights_are_measured_by_their_magnitude():
    assert_preserved(KEY, initializers.lecun_normal(), (16, 8), dtype=jnp.complex64)


def test_an_initializer_without_a_hash_or_random_numbers_can_be_checked():
    @dataclasses.dataclass  # equality without a hash
    class Constant:
        value: float

        def __call__(self, key, shape):
            return jnp.full(shape, self.value)

    # Of this size, XLA's product fused with the constant has been wrong on CPU.
    assert_preserved(KEY, Constant(0.5), (4, 4), replicates=1024)


# ------------------------------------------------------------------------ orthogonal


def orthonormal(rows, columns):
    """Orthonormal columns, or rows if there are fewer of those."""
    draws = np.random.default_rng(1).normal(size=(rows, columns))
    tall = draws if rows >= columns else draws.T
    factor = np.linalg.qr(tall)[0].astype(np.float32)
    return factor if rows >= columns else factor.T


@pytest.mark.parametrize(
    ("shape", "axis"), [((24, 6), -1), ((6, 24), -1), ((24, 6), 0), ((2, 3, 4, 10), -1)]
)
def test_orthogonal_weights_pass_and_one_changed_number_fails(run, shape, axis):
    matrix = 2 * orthonormal(math.prod(shape) // shape[axis], shape[axis])
    matrix = matrix.T if axis == 0 else matrix.reshape(shape)
    run(testing.assert_orthogonal, matrix, axis=axis, scale=-2.0)
    matrix = edited(matrix, (1,) * len(shape), 0.7)
    with pytest.raises(AssertionError, match="are not orthonormal up to rounding"):
        run(testing.assert_orthogonal, matrix, axis=axis, scale=-2.0)


def test_the_tolerance_for_16_bits_is_that_of_their_rounding():
    matrix = orthonormal(40, 30)
    for dtype, tolerance in ((jnp.bfloat16, 2**-7), (jnp.float16, 2**-10)):
        testing.assert_orthogonal(matrix.astype(dtype))
        worse = matrix * (1 + tolerance)
        with pytest.raises(AssertionError, match=f"allowed {tolerance:.2g}"):
            testing.assert_orthogonal(worse.astype(dtype))
        testing.assert_orthogonal(worse.astype(dtype), tolerance=3 * tolerance)


def test_complex_unitary_matrices_pass_and_their_transposed_products_do_not(run):
    draws = complex_normal(np.random.default_rng(2), (12, 5))
    unitary = np.linalg.qr(draws)[0].astype(np.complex64)
    run(testing.assert_orthogonal, unitary)
    run(testing.assert_orthogonal, unitary.T)
    # Orthogonal without conjugation: rows of a complex rotation are not unit vectors.
    angle = 1 + 1j
    cos, sin = np.cos(angle), np.sin(angle)
    rotation = np.asarray([[cos, -sin], [sin, cos]], np.complex64)
    np.testing.assert_allclose(rotation.T @ rotation, np.eye(2), atol=1e-5)
    with pytest.raises(AssertionError, match="not orthonormal"):
        run(testing.assert_orthogonal, rotation)


def test_the_pair_that_is_furthest_from_orthogonal_is_named(run):
    matrix = np.eye(6, dtype=np.float32)[:, :4]
    matrix[5, [1, 3]] = 0.25
    with pytest.raises(AssertionError) as caught:
        run(testing.assert_orthogonal, matrix)
    text = str(caught.value)
    assert "the columns of the matrix (shape (6, 4), columns along axis -1)" in text
    assert "product of columns 1 and 1 is off by 0.0625 times scale²" in text
    assert "has norm 1.03078, and scale is 1" in text
    with pytest.raises(
        AssertionError, match=r"rows 0 and 0 is off by 0\.75 .* norm 1,"
    ):
        run(testing.assert_orthogonal, np.eye(3, 5, dtype=np.float32), scale=2.0)
    with pytest.raises(AssertionError, match="off by nan"):
        run(testing.assert_orthogonal, edited(matrix, (0, 0), np.nan))


# -------------------------------------------------------------------------- symmetry


def test_all_zero_weights_are_caught_even_with_one_unit(run):
    for shape in ((4, 3), (4, 1)):
        with pytest.raises(AssertionError, match=r"the array of shape .* is all zeros"):
            run(testing.assert_symmetry_broken, jnp.zeros(shape))
    run(testing.assert_symmetry_broken, jnp.ones((4, 1)))


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.complex64, jnp.float8_e5m2])
def test_units_are_compared_exactly_in_every_dtype(run, dtype):
    kernel = NORMAL[:5, :6]
    if dtype == jnp.complex64:
        kernel = np.round(kernel).astype(np.complex64) + 1j * kernel
    kernel = kernel.astype(dtype)
    run(testing.assert_symmetry_broken, kernel)
    twins = kernel.copy()
    twins[:, 4] = twins[:, 0]
    with pytest.raises(AssertionError, match="5 different units of 6"):
        run(testing.assert_symmetry_broken, twins)
    # One unit in the last place of the last number, and the two units differ again.
    last = twins[-1:, 4:5].view(np.uint8)
    last[..., 4 if dtype == jnp.complex64 else 0] ^= 1
    run(testing.assert_symmetry_broken, twins)


def test_zeros_of_either_sign_are_equal_and_signs_of_numbers_are_not(run):
    kernel = jnp.asarray([[1.0, 1.0], [0.0, -0.0]])
    with pytest.raises(AssertionError, match="1 different units of 2"):
        run(testing.assert_symmetry_broken, kernel)
    run(testing.assert_symmetry_broken, jnp.asarray([[1.0, 1.0], [2.0, -2.0]]))


def test_equal_units_are_listed_in_groups():
    kernel = np.random.default_rng(0).normal(size=(3, 40))
    kernel[:, [5, 9, 2]] = kernel[:, [1]]
    kernel[:, 20:33] = kernel[:, [20]]
    expected = r"equal are the units \[1, 2, 5, 9\], \[20, .* 27, \.\.\. 13 in all\]\."
    with pytest.raises(AssertionError, match=expected):
        testing.assert_symmetry_broken(kernel)
    with pytest.raises(AssertionError, match=r"\[8, 9\] and 3 more groups"):
        testing.assert_symmetry_broken(np.repeat(kernel[:, 12:20], 2, axis=1))


def test_every_kernel_of_a_tree_is_checked_and_nothing_else(run):
    kernel = NORMAL[:4, :3]
    tree = {
        "params": {
            "layers": [{"kernel": kernel, "bias": jnp.zeros(3)}],
            "steps": jnp.zeros((2, 2), jnp.int32),
            "empty": jnp.zeros((0, 3)),
        }
    }
    run(testing.assert_symmetry_broken, tree)
    tree["params"]["layers"].append({"kernel{0}%s": edited(kernel, 2, kernel[1])})
    testing.assert_symmetry_broken(tree)
    with pytest.raises(AssertionError, match=r"leaf 'layers/1/kernel\{0\}%s' has 3 "):
        run(testing.assert_symmetry_broken, tree, axis=0)


# ------------------------------------------------------------------- identical trees


def tree_of_everything():
    payload = np.asarray([0x7FC00001, 0x80000000, 5], np.uint32).view(np.float32)
    return {
        "floats": jnp.asarray([[1.5, -0.0], [jnp.nan, jnp.inf]]),
        "payload": payload,
        "half": jnp.asarray([1, 2], jnp.bfloat16),
        "complex": jnp.asarray([1 + 2j, jnp.nan], jnp.complex64),
        "integers": np.asarray([-1, 2**31 - 1], np.int32),
        "flags": jnp.asarray([True, False]),
        "key": jax.random.key(7),
        "empty": jnp.zeros((0, 2)),
        "scalar": jnp.float32(2),
    }


def test_identical_trees_pass_and_each_changed_leaf_is_named(run):
    tree = tree_of_everything()
    run(testing.assert_trees_identical, tree, tree_of_everything())
    changed = {
        "floats": tree["floats"].at[0, 1].set(0.0),
        "payload": np.asarray([0x7FC00002, 0x80000000, 5], np.uint32).view(np.float32),
        "half": jnp.asarray([1, 2.25], jnp.bfloat16),
        "complex": jnp.asarray([1 - 2j, jnp.nan], jnp.complex64),
        "integers": np.asarray([-1, 2**31 - 3], np.int32),
        "flags": jnp.asarray([True, True]),
        "key": jax.random.key(8),
        "scalar": jnp.float32(2.5),
    }
    expected = {
        "floats": r"differs in 1 of 4 elements, first at \[0, 1\]; .* difference is 0 ",
        "payload": r"differs in 1 of 3 elements, first at \[0\]; .* difference is nan ",
        "half": r"differs in 1 of 2 elements, first at \[1\]; .* difference is 0.25 ",
        "complex": r"first at \[0\]; the largest difference is 4 ",
        "integers": r"first at \[1\]; the largest difference is 2",
        "flags": r"leaf 'flags' \(bool\[2\]\) differs in 1 of 2 elements, first at \[1",
        "key": r"leaf 'key' \(key<fry>\[\]\) differs in 1 of 2 elements",
        "scalar": r"differs in 1 of 1 elements, first at \[\]; .* difference is 0.5",
    }
    for name, leaf in changed.items():
        with pytest.raises(AssertionError, match=f"leaf '{name}'.*") as caught:
            run(testing.assert_trees_identical, tree, {**tree, name: leaf})
        assert caught.match(expected[name])


def test_only_leaves_that_differ_count_towards_the_largest_difference():
    first = np.asarray([np.nan, 1.0, 2.0])
    with pytest.raises(AssertionError, match=r"largest difference is 0\.5 "):
        testing.assert_trees_identical(first, first + np.asarray([0, 0, 0.5]))


@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        ({"a": 1, "b": 2}, {"a": 1, "c": 2}, "only first has 'b'; only second has 'c'"),
        ([np.ones(2)], (np.ones(2),), "the same leaves in different containers"),
        (
            np.ones(2),
            np.ones((2, 1)),
            r"the array is float64\[2\] in first, float64\[2, 1",
        ),
        ({"a": 1}, {"a": 1.0}, "leaf 'a' is int in first, float in second"),
        ({"a": "x"}, {"a": "y"}, "leaf 'a' .* differs"),
        ({"a": 2**80}, {"a": 2**81}, "leaf 'a' is 1208925819614629174706176 in first"),
        (
            {"a": jax.random.key(0, impl="rbg")},
            {"a": jax.random.key(0)},
            r"leaf 'a' is key<rbg>\[\] in first, key<fry>\[\] in second",
        ),
    ],
)
def test_trees_that_differ_in_kind_fail_with_the_difference(first, second, message):
    testing.assert_trees_identical(first, first)
    with pytest.raises(AssertionError, match=message):
        testing.assert_trees_identical(first, second)


def test_a_traced_tree_is_compared_with_a_concrete_one():
    concrete = {"w": np.arange(3, dtype=np.float32)}

    @functools.partial(chex.chexify, async_check=False)
    @jax.jit
    def check(traced):
        testing.assert_trees_identical(concrete, traced)
        testing.assert_trees_identical(traced, concrete)

    check(concrete)
    with pytest.raises(AssertionError, match="leaf 'w'"):
        check({"w": concrete["w"] + 1})


# --------------------------------------------------------------- static and dynamic


STATIC = [
    (testing.assert_moments, (0,), {}, "sample is empty"),
    (testing.assert_moments, (4,), {"failure_rate": 0.0}, "failure_rate must lie"),
    (testing.assert_moments, (40,), {}, "40 draws cannot contradict a mean"),
    (testing.assert_moments, (4,), {"variance": 0.0}, "variance must be positive"),
    (
        testing.assert_moments,
        (4,),
        {"variance": 1.0, "kurtosis": 0.5},
        "kurtosis must be at least 1",
    ),
    (testing.assert_moments, (4,), {"mean": 1j}, "mean is 1j and the sample is real"),
    (testing.assert_follows, (0,), {"cdf": abs}, "sample is empty"),
    (testing.assert_follows, (10,), {"cdf": abs}, "give at least 11 draws"),
    (testing.assert_follows, (50,), {"cdf": jnp.sum}, "cdf was given .* one probabili"),
    (
        testing.assert_follows,
        (4,),
        {"cdf": abs, "failure_rate": 2},
        "failure_rate must",
    ),
    (testing.assert_orthogonal, (3,), {}, "matrix must have at least two axes"),
    (testing.assert_orthogonal, (3, 0), {}, "matrix is empty"),
    (testing.assert_orthogonal, (3, 2), {"axis": 2}, "which has no axis 2"),
    (testing.assert_orthogonal, (3, 2), {"scale": 0}, "scale must not be 0"),
    (testing.assert_symmetry_broken, (3,), {}, "no floating leaf of two or more axes"),
    (testing.assert_symmetry_broken, (3, 2), {"axis": -3}, "which has no axis -3"),
]


@pytest.mark.parametrize(("assertion", "shape", "options", "message"), STATIC)
def test_what_needs_no_values_is_refused_at_once_everywhere(
    assertion, shape, options, message
):
    check = functools.partial(assertion, **options)
    with pytest.raises(ValueError, match=message):
        check(jnp.ones(shape))
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(check, jax.ShapeDtypeStruct(shape, jnp.float32))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"shape": (4, 0)}, r"shape \(4, 0\) has no elements"),
        ({"failure_rate": -1}, "failure_rate must lie"),
        ({"in_axis": 1}, "axis 1 of shape .* is named twice among in_axis=1"),
        ({"out_axis": 2}, r"out_axis=2 is out of range for shape \(4, 3\)"),
        ({"input_shape": (4,)}, "give apply too"),
        ({"replicates": 1}, "replicates must be at least 2, got 1"),
        ({"examples": 0}, "examples must be at least 1, got 0"),
        (
            {"init": lambda key, shape: jnp.ones(5)},
            r"of shape \(4, 3\), and returned float32\[5\]",
        ),
    ],
)
def test_options_of_a_layer_that_cannot_be_are_refused(options, message):
    init, shape = initializers.normal(1.0), (4, 3)
    with pytest.raises(ValueError, match=message):
        assert_preserved(KEY, **{"init": init, "shape": shape, **options})


@pytest.mark.parametrize("dtype", [jnp.int32, jnp.complex64])
def test_samples_of_another_kind_are_refused(dtype):
    draws = jnp.ones((100,), dtype)
    with pytest.raises(
        ValueError, match=f"sample must be floating, got {dtype.__name__}"
    ):
        testing.assert_follows(draws, stats.norm.cdf)
    if dtype == jnp.int32:
        for check in (testing.assert_moments, testing.assert_orthogonal):
            with pytest.raises(
                ValueError, match="must be floating or complex, got int32"
            ):
                check(draws)


CHECKS = [
    functools.partial(testing.assert_moments, variance=1.0),
    testing.assert_moments,
    functools.partial(testing.assert_follows, cdf=normal_cdf),
    testing.assert_orthogonal,
    testing.assert_symmetry_broken,
    lambda array: testing.assert_trees_identical(array, array),
    lambda array: assert_preserved(
        jax.random.wrap_key_data(array[0, :2].astype(jnp.uint32)),
        initializers.lecun_normal(),
        (4, 4),
    ),
]


@pytest.mark.parametrize("check", CHECKS)
def test_inside_jit_alone_chex_asks_for_chexify(check):
    with pytest.raises(RuntimeError, match=r"wrapped with `@chex\.chexify`"):
        jax.jit(check)(jnp.ones((16, 8)))


def test_chex_disables_these_assertions_with_its_own(run):
    chexified.cache_clear()  # chex decides while tracing
    chex.disable_asserts()
    try:
        run(testing.assert_moments, np.ones(100, np.float32), variance=1.0)
        run(testing.assert_symmetry_broken, np.zeros((2, 2), np.float32))
    finally:
        chexified.cache_clear()
        chex.enable_asserts()


def test_under_vmap_any_failing_row_fails():
    rows = np.random.default_rng(0).normal(size=(3, 2000)).astype(np.float32)
    check = jax.vmap(functools.partial(testing.assert_moments, variance=1.0))
    under_chexify(check, rows)
    with pytest.raises(AssertionError, match=r"mean (0\.9|1\.)\d+ \(stated 0"):
        under_chexify(check, edited(rows, 1, rows[1] + 1))


def test_sharded_arrays_are_checked_like_others(run):
    # Explicit axes, over which JAX neither sorts nor flattens.
    kinds = (jax.sharding.AxisType.Explicit,) * 2
    mesh = jax.make_mesh((4, 2), ("rows", "columns"), axis_types=kinds)
    spec = jax.sharding.PartitionSpec("rows", "columns")
    sharding = jax.sharding.NamedSharding(mesh, spec)
    draws = jax.device_put(NORMAL, sharding)
    orthogonal = jax.device_put(orthonormal(64, 32), sharding)
    with jax.set_mesh(mesh):
        run(testing.assert_moments, draws, variance=1.0)
        run(testing.assert_follows, draws, cdf=normal_cdf)
        run(testing.assert_symmetry_broken, draws)
        run(testing.assert_orthogonal, orthogonal)
        run(testing.assert_trees_identical, draws, draws)
        with pytest.raises(AssertionError, match="stated moments"):
            run(testing.assert_moments, draws, variance=2.0)
        with pytest.raises(AssertionError, match=r"the array .* differs in"):
            run(testing.assert_trees_identical, draws, orthogonal)
