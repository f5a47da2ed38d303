"""Convolutions with delta and dirac, and sub-pixel ones with ICNR."""

import functools
import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxinit import initializers as init
from jaxinit import testing

KEY = jax.random.key(13)


def wide(values):
    return np.asarray(values, np.float64)


def whole(key, shape, dtype=None, out_sharding=None):
    """Small whole numbers, whose sums of products are exact in any order."""
    return (jax.random.bits(key, shape, jnp.uint8) % 9).astype(dtype) - 4


def inputs_of(*shape):
    return np.random.default_rng(2).integers(-8, 9, shape).astype(np.float32)


def convolved(base, inputs, features, size, **options):
    """The output of a real convolution without bias, and its kernel."""
    options |= {"use_bias": False, "precision": "highest"}
    layer = nn.Conv(features, size, kernel_init=base, **options)
    outputs, variables = jax.jit(layer.init_with_output)(KEY, inputs)
    return np.asarray(outputs), np.asarray(variables["params"]["kernel"])


# ------------------------------------------------------------------------------ delta


@pytest.mark.parametrize("shape", [(3, 8, 16), (4, 5, 8, 8), (3, 1, 2, 4, 8)], ids=str)
def test_delta_of_orthogonal_is_delta_orthogonal_bit_for_bit(shape):
    kernel = init.delta(init.orthogonal(1.5))(KEY, shape)
    theirs = jax.nn.initializers.delta_orthogonal(1.5)(KEY, shape)
    np.testing.assert_array_equal(kernel, theirs)


def test_delta_serves_any_number_of_axes_and_any_ratio_of_channels():
    for shape in [(3, 3, 16, 4), (3, 2, 1, 3, 4, 8)]:
        kernel = np.asarray(init.delta(init.scaled_orthogonal())(KEY, shape))
        centre = tuple((size - 1) // 2 for size in shape[:-2])
        scale = max(shape[-1] / shape[-2], 1.0) ** 0.5
        testing.assert_orthogonal(kernel[centre], scale=scale)
        assert np.count_nonzero(kernel) == np.count_nonzero(kernel[centre])
    assert init.delta(init.ones)(KEY, (3, 2, 2), jnp.int32).sum() == 4
    assert init.delta(init.normal(dtype=jnp.bfloat16)).dtype == jnp.bfloat16


@pytest.mark.parametrize("size", [(3,), (4,), (2, 5), (3, 4, 1)], ids=str)
def test_a_convolution_with_delta_multiplies_every_pixel_by_the_matrix(size):
    inputs = inputs_of(2, *(5,) * len(size), 3)
    outputs, kernel = convolved(init.delta(whole), inputs, 7, size)
    matrix = kernel[tuple((taps - 1) // 2 for taps in size)]
    np.testing.assert_array_equal(outputs, inputs @ matrix)
    assert np.any(matrix != 0)


def test_grouped_convolutions_take_a_delta_of_blocks():
    base = init.delta(init.blocked(init.orthogonal(), blocks=4))
    inputs = inputs_of(1, 5, 5, 16)
    outputs, kernel = convolved(base, inputs, 16, (3, 3), feature_group_count=4)
    assert kernel.shape == (3, 3, 4, 16)
    for group in np.split(kernel[1, 1], 4, axis=-1):
        testing.assert_orthogonal(group)
    # A squared norm is off by four times what assert_orthogonal allows an entry of QᵀQ,
    # and by the rounding of four products, twice.
    bound = 4 * (2 * 2.0**-24 + 2.0**-48 + 4 * 2.0**-23) + 2 * 4 * 2.0**-24
    squares = [np.sum(wide(values) ** 2, axis=-1) for values in (outputs, inputs)]
    np.testing.assert_allclose(*squares, rtol=bound)


# ------------------------------------------------------------------------------ dirac


@pytest.mark.parametrize(
    ("size", "groups"),
    [((3,), 1), ((4,), 2), ((3, 3), 1), ((5, 2), 4), ((3, 3), 8), ((3, 1, 4), 2)],
    ids=str,
)
def test_a_convolution_with_dirac_returns_its_input_exactly(size, groups):
    inputs = inputs_of(2, *(5,) * len(size), 8)
    options = {"feature_group_count": groups}
    outputs, kernel = convolved(init.dirac(groups=groups), inputs, 8, size, **options)
    np.testing.assert_array_equal(outputs, inputs)
    assert np.count_nonzero(kernel) == 8

    def moved(key, shape, dtype):
        return jnp.roll(init.dirac(groups=groups)(key, shape, dtype), 1, axis=0)

    assert np.any(convolved(moved, inputs, 8, size, **options)[0] != inputs)


@pytest.mark.parametrize(
    ("shape", "groups"),
    [((3, 3, 4, 8), 1), ((3, 3, 8, 4), 1), ((2, 2, 8), 4), ((1, 4, 4), 2)],
    ids=str,
)
def test_dirac_passes_the_first_channels_of_each_group(shape, groups):
    kernel = init.dirac(2.0, groups=groups)(KEY, shape)
    expected = np.zeros(shape, np.float32)
    n_in, per_group = shape[-2], shape[-1] // groups
    centre = tuple((size - 1) // 2 for size in shape[:-2])
    for group in range(groups):
        for channel in range(min(n_in, per_group)):
            expected[(*centre, channel, group * per_group + channel)] = 2.0
    np.testing.assert_array_equal(kernel, expected)


# ------------------------------------------------------------------------------- icnr

# The channels of two pixel shuffles, sub-pixels row by row.
SHUFFLES = {
    "channel_major": lambda x, c, r: np.moveaxis(
        x.reshape(*x.shape[:-1], c, *r), 3, -1
    ),
    "subpixel_major": lambda x, c, r: x.reshape(*x.shape[:-1], *r, c),
}


def shuffled(outputs, scale, layout):
    """(batch, height, width, channels · r₁ r₂) on the finer grid."""
    outputs = np.asarray(outputs)
    channels = outputs.shape[-1] // np.prod(scale)
    cells = SHUFFLES[layout](outputs, channels, scale)  # (..., r₁, r₂, channels)
    batch, height, width = outputs.shape[:3]
    fine = np.transpose(cells, (0, 1, 3, 2, 4, 5))
    return fine.reshape(batch, height * scale[0], width * scale[1], channels)


@functools.cache
def compiled(features):
    """A real 3 x 3 convolution with any kernel of so many outputs."""
    layer = nn.Conv(features, (3, 3), use_bias=False)
    return jax.jit(lambda kernel, x: layer.apply({"params": {"kernel": kernel}}, x))


@pytest.mark.parametrize("scale", [(2, 2), (2, 3)], ids=str)
@pytest.mark.parametrize("layout", list(SHUFFLES))
def test_a_shuffled_convolution_starts_as_nearest_neighbours(layout, scale):
    features = 5 * int(np.prod(scale))
    inputs = inputs_of(2, 4, 4, 3)
    kernel = init.icnr(whole, scale=scale, layout=layout)(KEY, (3, 3, 3, features))
    outputs = compiled(features)(kernel, inputs)
    coarse = compiled(5)(whole(KEY, (3, 3, 3, 5), jnp.float32), inputs)
    fine = np.repeat(np.repeat(coarse, scale[0], axis=1), scale[1], axis=2)
    np.testing.assert_array_equal(shuffled(outputs, scale, layout), fine)
    # Read in the other order, or drawn freely, it is a checkerboard.
    other = next(name for name in SHUFFLES if name != layout)
    assert np.any(shuffled(outputs, scale, other) != fine)
    free = compiled(features)(whole(KEY, (3, 3, 3, features), jnp.float32), inputs)
    cells = shuffled(free, scale, layout)
    assert np.any(cells[:, :: scale[0]] != cells[:, 1 :: scale[0]])


@pytest.mark.parametrize(
    ("shape", "scale", "pixels"),
    [((3, 4, 6), 3, 3), ((3, 3, 3, 4, 16), 2, 8), ((4, 24), (2, 3), 6)],
    ids=str,
)
def test_icnr_repeats_the_kernel_that_its_base_draws(shape, scale, pixels):
    base = init.he_normal()
    one = np.asarray(base(KEY, (*shape[:-1], shape[-1] // pixels)))
    repeated = {
        "channel_major": np.repeat(one, pixels, axis=-1),
        "subpixel_major": np.concatenate([one] * pixels, axis=-1),
    }
    for layout, expected in repeated.items():
        kernel = init.icnr(base, scale=scale, layout=layout)(KEY, shape)
        np.testing.assert_array_equal(kernel, expected)


# ----------------------------------------------------------------------------- errors


def icnr(base=init.ones, scale=2, layout="channel_major"):
    return init.icnr(base, scale=scale, layout=layout)


ERRORS = [
    (
        lambda: init.delta("normal"),
        "base of delta must be an initializer (key, shape, dtype) -> array, "
        "got 'normal'",
    ),
    (
        lambda: init.delta(init.ones)(KEY, (3, 4)),
        "delta needs a shape (*spatial, in, out) of at least 3 axes, got (3, 4)",
    ),
    (
        lambda: init.delta(init.he_normal(in_axis=-3))(KEY, (3, 4, 4)),
        "in_axis -3 does not exist in a weight of shape (4, 4); name the axes: "
        "in_axis=, out_axis= (and batch_axis=)",
    ),
    (
        lambda: init.delta(init.he_normal())(KEY, (3, 4, 4), jnp.int32),
        "dtype of delta must be floating or complex, got int32",
    ),
    (lambda: init.dirac(-1.0), "scale must be finite and not negative, got -1.0"),
    (lambda: init.dirac(np.ones(3)), "scale must be one number, got shape (3,)"),
    (lambda: init.dirac(groups=0), "groups must be an integer of at least 1, got 0"),
    (
        lambda: init.dirac()(KEY, (4, 4)),
        "dirac needs a shape (*spatial, in, out) of at least 3 axes, got (4, 4)",
    ),
    (
        lambda: init.dirac(groups=3)(KEY, (3, 4, 4)),
        "groups=3 does not divide the 4 outputs of a kernel of shape (3, 4, 4)",
    ),
    (lambda: icnr(scale=0), "scale must be integers of at least 1, got 0"),
    (
        lambda: icnr(scale=(2, 1.5)),
        "scale must be integers of at least 1, got (2, 1.5)",
    ),
    (
        lambda: icnr(layout="NCHW"),
        "layout must be one of ('channel_major', 'subpixel_major'), got 'NCHW'",
    ),
    (
        lambda: icnr("ones"),
        "base of icnr must be an initializer (key, shape, dtype) -> array, got 'ones'",
    ),
    (
        lambda: icnr()(KEY, (3, 3, 4, 6)),
        "icnr with scale 2 needs a multiple of 4 outputs, got 6 in shape (3, 3, 4, 6)",
    ),
    (
        lambda: icnr(scale=(2, 2))(KEY, (3, 4, 8)),
        "icnr with scale (2, 2) does not fit the 1 spatial axes of a kernel of shape "
        "(3, 4, 8); give one number for each axis that is enlarged",
    ),
    (
        lambda: icnr()(KEY, (4, 8)),
        "icnr with scale 2 does not fit the 0 spatial axes of a kernel of shape "
        "(4, 8); give one number for each axis that is enlarged",
    ),
    (
        lambda: icnr()(KEY, (8,)),
        "icnr needs a shape of at least 2 axes, got (8,); the last two are (in, out)",
    ),
]


@pytest.mark.parametrize(
    ("act", "text"), ERRORS, ids=lambda v: None if callable(v) else str(v)[:60]
)
def test_what_does_not_fit_is_named(act, text):
    with pytest.raises((ValueError, TypeError), match=f"^{re.escape(text)}$"):
        act()
