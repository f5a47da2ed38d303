"""Adapters keep what they promise, and refuse what they cannot do."""

import ast
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from jaxinit.transfer import adapters

RECORD = np.load(pathlib.Path(__file__).parent / "fixtures" / "adapters.npz")
EPS = float(np.finfo(np.float32).eps)


def recorded(kind):
    return [*_recorded(kind)]


def _recorded(kind):
    for key in RECORD.files:
        parts = key.split(":")
        if parts[0] == kind and parts[-1] == "output":
            options = [ast.literal_eval(part) for part in parts[1:-1]]
            yield key.removesuffix(":output"), options


def relative(found, expected):
    return np.abs(np.asarray(found) - expected).max() / np.abs(expected).max()


# What they promise


def response(kernel, pictures):
    return jax.lax.conv_general_dilated(
        pictures,
        jnp.asarray(kernel),
        (1, 1),
        "VALID",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        precision=jax.lax.Precision.HIGHEST,
    )


KERNEL = jax.random.normal(jax.random.key(0), (3, 3, 3, 8))


@pytest.mark.parametrize("channels", [1, 4])
def test_a_grey_picture_gives_what_it_gave_in_colour(channels):
    grey = jax.random.normal(jax.random.key(1), (1, 8, 8, 1))
    kernel = adapters.inflate_channels(KERNEL, channels=channels, mode="sum")
    found = response(kernel, jnp.repeat(grey, channels, -1))
    expected = response(KERNEL, jnp.repeat(grey, 3, -1))
    np.testing.assert_allclose(found, expected, atol=27 * EPS * 27)


def test_independent_channels_keep_the_variance_and_correlated_ones_the_signal():
    options = {"channels": 12, "mode": "tile"}
    apart = adapters.inflate_channels(KERNEL, **options, variance="independent")
    together = adapters.inflate_channels(KERNEL, **options)
    # Of independent unit inputs the variance is the sum of squares, of equal ones the
    # square of the sum.
    squares = [float((kernel**2).sum()) for kernel in (apart, together, KERNEL)]
    np.testing.assert_allclose(squares[0], squares[2], rtol=1e-6)
    np.testing.assert_allclose(squares[1], squares[2] / 4, rtol=1e-6)
    np.testing.assert_allclose(
        together.sum((0, 1, 2)), KERNEL.sum((0, 1, 2)), atol=1e-5
    )


def test_new_channels_of_zeros_change_nothing():
    kernel = adapters.inflate_channels(KERNEL, channels=5, mode="zero")
    np.testing.assert_array_equal(kernel[:, :, :3], KERNEL)
    assert not kernel[:, :, 3:].any()


@pytest.mark.parametrize("mode", ["mean", "center"])
def test_a_volume_of_equal_slices_gives_what_a_slice_gave(mode):
    kernel = adapters.inflate_depth(KERNEL, depth=3, mode=mode)
    np.testing.assert_allclose(kernel.sum(0), KERNEL, rtol=4 * EPS)
    center = kernel[1] if mode == "center" else kernel[1] * 3
    np.testing.assert_allclose(center, KERNEL, rtol=4 * EPS)


def test_a_resized_patch_gives_what_the_patch_gave():
    kernel = jax.random.normal(jax.random.key(0), (8, 8, 3, 4)) / 14
    patch = jax.random.normal(jax.random.key(1), (8, 8, 3))
    resize = jax.jit(jax.image.resize, static_argnums=(1, 2))
    larger = resize(patch, (16, 16, 3), "cubic")
    resized = adapters.resize_patch_kernel(kernel, size=(16, 16))
    found = np.tensordot(larger, resized, 3)
    expected = np.tensordot(patch, kernel, 3)
    assert relative(found, expected) < 1e-5
    # The kernel resized as a picture does not.
    naive = resize(kernel, (16, 16, 3, 4), "cubic")
    assert relative(np.tensordot(larger, naive, 3), expected) > 0.5


def test_a_shorter_table_of_positions_may_keep_the_first_ones():
    table = jnp.arange(12.0).reshape(6, 2)
    found = adapters.resize_positions(table, length=4, prefix=1, method="truncate")
    np.testing.assert_array_equal(found, table[:4])


@pytest.mark.parametrize("axis", [0, -1])
def test_new_words_are_the_mean_of_the_old_ones(axis):
    table = jax.random.normal(jax.random.key(0), (5, 4)).astype(jnp.bfloat16)
    table = table if axis == 0 else table.T
    found = jnp.moveaxis(adapters.extend_vocabulary(table, size=7, axis=axis), axis, 0)
    old = jnp.moveaxis(table, axis, 0)
    np.testing.assert_array_equal(found[:5], old)
    mean = np.asarray(old, np.float64).mean(0)
    np.testing.assert_allclose(np.asarray(found[5:], float), [mean] * 2, rtol=2**-8)
    assert found.dtype == jnp.bfloat16


def test_new_words_follow_the_mean_and_the_covariance_of_the_old_ones():
    old = jax.random.normal(jax.random.key(0), (40, 3)) @ jnp.array(
        [[1.0, 0.9, 0.0], [0.0, 0.3, 0.0], [0.0, 0.0, 2.0]]
    )
    key, new = jax.random.key(1), 20_000
    table = adapters.extend_vocabulary(old, size=40 + new, mode="covariance", key=key)
    rows = np.asarray(table[40:], np.float64)
    words = np.asarray(old, np.float64)
    mean, covariance = words.mean(0), np.cov(words, rowvar=False)
    # Whitened with the old moments, new words are standard normal in every direction;
    # 9 tests fail together at most once in 10^9 runs.
    white = np.linalg.solve(np.linalg.cholesky(covariance), (rows - mean).T)
    bound = stats.norm.isf(1e-9 / 18)
    assert np.abs(white.mean(1)).max() < bound / np.sqrt(new)
    products = white @ white.T / new - np.eye(3)
    assert np.abs(products).max() < bound * np.sqrt(2 / new)
    half = adapters.extend_vocabulary(
        old, size=41, mode="covariance", key=key, scale=0.5
    )
    full = adapters.extend_vocabulary(old, size=41, mode="covariance", key=key)
    halves = [np.asarray(drawn[40]) - mean for drawn in (half, full)]
    np.testing.assert_allclose(halves[0], halves[1] / 2, atol=1e-6)


def test_units_are_taken_at_equal_distances_along_every_axis():
    large = jnp.arange(48.0).reshape(8, 6)
    found = adapters.select_units(large, shape=(4, 4))
    rows, columns = [0, 2, 4, 6], [0, 2, 3, 5]
    np.testing.assert_array_equal(found, large[jnp.array(rows)][:, jnp.array(columns)])
    chosen = adapters.select_units(large, shape=(2, 6), units={0: [7, 1]})
    np.testing.assert_array_equal(chosen, large[jnp.array([7, 1])])


CALLS = [
    ("inflate_channels", KERNEL, {"channels": 1, "mode": "sum"}),
    ("inflate_channels", KERNEL, {"channels": 5, "mode": "tile"}),
    ("inflate_depth", KERNEL, {"depth": 2, "mode": "mean"}),
    (
        "resize_position_grid",
        jnp.ones((1, 5, 3)),
        {"old_grid": (2, 2), "new_grid": (3, 1), "prefix": 1},
    ),
    ("resize_positions", jnp.ones((4, 3)), {"length": 6}),
    ("resize_patch_kernel", KERNEL, {"size": (4, 2)}),
    ("extend_vocabulary", jnp.ones((4, 3)), {"size": 6}),
    ("select_units", jnp.ones((4, 6)), {"shape": (2, 3)}),
]


@pytest.mark.parametrize(("name", "array", "options"), CALLS)
def test_adapters_keep_the_dtype_and_run_inside_jit_vmap_and_grad(name, array, options):
    def adapter(array):
        return getattr(adapters, name)(array, **options)

    @jax.jit
    def all_three(array):
        gradient = jax.grad(lambda a: adapter(a).astype(jnp.float32).sum())(array)
        return adapter(array), jax.vmap(adapter)(array[None]), gradient

    array = array.astype(jnp.bfloat16)
    plain, mapped, gradient = all_three(array)
    assert plain.dtype == jnp.bfloat16
    assert np.isfinite(np.asarray(plain, float)).all()
    # What is fused may round in another place, before the one cast.
    np.testing.assert_allclose(
        np.asarray(mapped[0], float), np.asarray(plain, float), rtol=2**-7
    )
    assert gradient.shape == array.shape


@pytest.mark.parametrize(
    ("name", "array", "options", "message"),
    [
        (
            "inflate_channels",
            KERNEL,
            {"channels": 1, "mode": "mean"},
            "mode must be one",
        ),
        (
            "inflate_channels",
            KERNEL,
            {"channels": 2, "mode": "zero"},
            "3 cannot become 2",
        ),
        (
            "inflate_channels",
            KERNEL,
            {"channels": 0, "mode": "sum"},
            "channels must be",
        ),
        (
            "inflate_channels",
            KERNEL,
            {"channels": 1, "mode": "sum", "variance": "independent"},
            'defined for mode="tile" alone',
        ),
        ("inflate_depth", KERNEL, {"depth": 0, "mode": "mean"}, "depth must be 1"),
        (
            "resize_position_grid",
            jnp.ones((145, 2)),
            {"old_grid": (12, 12), "new_grid": (7, 7)},
            "has 145 rows, not 0 of a prefix and 144",
        ),
        (
            "resize_position_grid",
            jnp.ones((144, 2)),
            {"old_grid": 12, "new_grid": (7, 7)},
            "old_grid must be a height and a width",
        ),
        (
            "resize_positions",
            jnp.ones((4, 2)),
            {"length": 5, "method": "truncate"},
            "cannot make 5 rows of 4",
        ),
        (
            "resize_positions",
            jnp.ones((4, 2)),
            {"length": 2, "prefix": 3},
            "prefix must",
        ),
        ("resize_patch_kernel", jnp.ones((4, 4)), {"size": (2, 2)}, "kernel must be"),
        ("extend_vocabulary", jnp.ones((4, 2)), {"size": 3}, "at least the 4 words"),
        (
            "extend_vocabulary",
            jnp.ones((4, 2)),
            {"size": 5, "mode": "covariance"},
            "key is needed to draw new words",
        ),
        ("select_units", jnp.ones(4), {"shape": (5,)}, "has no part of shape"),
        (
            "select_units",
            jnp.ones(4),
            {"shape": (1,), "units": {0: [4]}},
            "from 0 to 3",
        ),
        ("select_units", jnp.ones(4), {"shape": (2, 2)}, "has no part of shape"),
        ("inflate_depth", jnp.ones(4, int), {"depth": 1, "mode": "mean"}, "floating"),
    ],
)
def test_bad_input_gets_an_error_that_says_what_is_wrong(name, array, options, message):
    with pytest.raises(ValueError, match=message):
        getattr(adapters, name)(array, **options)
