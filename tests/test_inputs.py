"""The mean of the inputs: float64 numpy over all examples, whatever the batches."""

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint
import pytest

from jaxinit import inputs

IMAGES = np.random.default_rng(0).normal(1e3, 1.0, (37, 4, 5, 3))


def batches(*ends):
    return np.split(IMAGES, ends)


@pytest.mark.parametrize("ends", [(), (1,), (5, 10, 36), (0, 7)])
@pytest.mark.parametrize("axis", [0, (0, 1, 2), (0, 3)])
def test_mean_and_variance_are_those_of_all_examples(ends, axis):
    fitted = inputs.fit_mean(batches(*ends), axis=axis, variance=True)
    mean = IMAGES.mean(axis=axis, keepdims=True)[0]
    variance = IMAGES.var(axis=axis, keepdims=True)[0]
    assert fitted.mean.dtype == fitted.variance.dtype == jnp.float32
    # One rounding to float32, and float64 with a mean 1000 standard deviations away,
    # whose squares would have lost 20 bits.
    np.testing.assert_allclose(fitted.mean, mean, rtol=2**-24)
    np.testing.assert_allclose(fitted.variance, variance, rtol=2**-23)


def test_one_array_and_generators_are_batches_too():
    wanted = inputs.fit_mean(batches(5)).mean
    for given in (IMAGES, jnp.asarray(IMAGES), (batch for batch in batches(9))):
        # Each element of the mean rounds once; that of JAX's float32 images before too.
        found = inputs.fit_mean(given).mean
        np.testing.assert_allclose(found, wanted, rtol=2**-22)


def test_an_array_longer_than_a_slice_is_read_to_its_end():
    values = np.arange(2500.0)[:, None]
    fitted = inputs.fit_mean(values, variance=True)
    # Whole numbers, and a variance of (n^2 - 1) / 12, rounded to float32.
    assert float(fitted.mean[0]) == 1249.5
    assert float(fitted.variance[0]) == np.float32((2500**2 - 1) / 12)


def test_apply_subtracts_and_divides_in_float32():
    x = IMAGES[:2].astype(np.float32)
    fitted = inputs.fit_mean(IMAGES)
    np.testing.assert_array_equal(fitted.apply(x), x - np.asarray(fitted.mean))
    scaled = inputs.fit_mean(IMAGES, variance=True)
    wanted = (x - np.asarray(scaled.mean, np.float64)) / np.sqrt(scaled.variance)
    np.testing.assert_allclose(scaled.apply(x), wanted, rtol=4 * 2**-24)


def test_training_data_get_mean_0_and_variance_1():
    fitted = inputs.fit_mean(IMAGES, variance=True)
    values = np.asarray(fitted.apply(IMAGES.astype(np.float32)), np.float64)
    # x and the mean round to float32 at a size of 1000, deviations are of size 1.
    rounding = 1e3 * 2**-23
    np.testing.assert_allclose(values.mean(0), 0, atol=2 * rounding)
    np.testing.assert_allclose(values.var(0), 1, atol=20 * rounding)


def test_pixels_that_never_vary_are_not_divided():
    constant = np.stack([np.full(3, 7.0), np.array([7.0, 8.0, 9.0])])
    fitted = inputs.fit_mean(constant, variance=True)
    assert fitted.apply(np.float32([[9.0, 8.0, 9.0]])).tolist() == [[2.0, 1.0, 1.0]]


@pytest.mark.parametrize(
    ("dtype", "wanted"),
    [
        (jnp.uint8, jnp.float32),
        (jnp.bool_, jnp.float32),
        (jnp.bfloat16, jnp.bfloat16),
        (jnp.float16, jnp.float16),
        (jnp.float32, jnp.float32),
    ],
)
def test_whole_numbers_become_floats_and_floats_keep_their_dtype(dtype, wanted):
    fitted = inputs.fit_mean(np.array([[0.5, 1.5]]))
    assert fitted.apply(jnp.ones((4, 2), dtype)).dtype == wanted


def test_sixteen_bit_inputs_are_centred_in_float32_and_rounded_once():
    x = jax.random.normal(jax.random.key(0), (50, 2), jnp.bfloat16)
    fitted = inputs.fit_mean(np.array([[0.1, 0.2]]))
    wide = x.astype(jnp.float32) - fitted.mean[None]
    np.testing.assert_array_equal(fitted.apply(x), wide.astype(jnp.bfloat16))


def test_float64_stays_float64(x64):
    fitted = inputs.fit_mean(IMAGES, dtype=jnp.float64)
    np.testing.assert_array_equal(
        fitted.apply(IMAGES), IMAGES - np.asarray(fitted.mean)
    )


def test_one_example_vmap_and_axes_in_front():
    x = jnp.asarray(IMAGES[:6], jnp.float32)
    fitted = inputs.fit_mean(IMAGES, axis=(0, 1, 2), variance=True)
    wanted = fitted.apply(x)
    np.testing.assert_array_equal(jax.vmap(fitted.apply)(x), wanted)
    np.testing.assert_array_equal(fitted.apply(x[0]), wanted[0])
    stacked = fitted.apply(x.reshape(2, 3, 4, 5, 3))
    np.testing.assert_array_equal(stacked.reshape(6, 4, 5, 3), wanted)


def test_it_lives_in_the_jitted_step_as_an_argument_and_not_as_a_constant():
    traces = 0

    @jax.jit
    def step(mean, x):
        nonlocal traces
        traces += 1
        return mean.apply(x)

    x = jnp.asarray(IMAGES[:2], jnp.float32)
    for data in (IMAGES[:20], IMAGES[20:]):
        fitted = inputs.fit_mean(data)
        np.testing.assert_array_equal(step(fitted, x), x - fitted.mean[None])
    assert traces == 1


def test_it_is_saved_with_the_parameters(tmp_path):
    fitted = inputs.fit_mean(IMAGES, variance=True)
    saved = {"params": {"w": jnp.ones(2)}, "inputs": fitted}
    with orbax.checkpoint.StandardCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "saved", saved)
        checkpointer.wait_until_finished()
        empty = jax.tree.map(jnp.zeros_like, saved)
        restored = checkpointer.restore(tmp_path / "saved", empty)
    assert isinstance(restored["inputs"], inputs.Mean)
    np.testing.assert_array_equal(restored["inputs"].mean, fitted.mean)
    np.testing.assert_array_equal(restored["inputs"].variance, fitted.variance)


@pytest.mark.parametrize(
    ("given", "options", "message"),
    [
        ([], {}, "batches: there is no example"),
        ([np.zeros((0, 3))], {}, "batches: there is no example"),
        (
            [np.ones((2, 3)), np.ones((2, 4))],
            {},
            r"batches\[1\] holds examples of shape",
        ),
        (
            [np.ones(2), np.array([np.nan])],
            {},
            r"batches\[1\] holds numbers that are not",
        ),
        (np.ones((2, 3)), {"axis": 1}, "axis must hold 0, the examples"),
        (np.ones((2, 3)), {"axis": (0, 2)}, r"axes of a batch of shape \(2, 3\), got"),
        (3.0, {}, r"batches must be arrays \(examples, ...\), got 3.0"),
        ([3.0], {}, r"batches\[0\] is a number"),
    ],
)
def test_data_that_have_no_mean_are_refused(given, options, message):
    with pytest.raises(ValueError, match=message):
        inputs.fit_mean(given, **options)


def test_fitting_inside_jit_is_refused():
    with pytest.raises(ValueError, match="fit_mean runs on the host"):
        jax.jit(inputs.fit_mean)(jnp.ones((2, 3)))


@pytest.mark.parametrize("shape", [(2, 4), (), (3, 2)])
def test_examples_of_another_shape_are_refused(shape):
    fitted = inputs.fit_mean(np.ones((5, 3)))
    with pytest.raises(ValueError, match=r"x has shape .* examples of shape \(3,\)"):
        fitted.apply(jnp.ones(shape))
