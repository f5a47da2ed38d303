"""Transposed convolutions that enlarge by linear interpolation."""

import re

import flax.linen as nn
import jax
import numpy as np
import pytest

from jaxinit import initializers as init

KEY = jax.random.key(13)


def enlarged(inputs, size, strides, base=None):
    """Through a real transposed convolution that keeps the channels."""
    base = init.bilinear() if base is None else base
    channels = inputs.shape[-1]
    options = {"use_bias": False, "precision": "highest"}
    layer = nn.ConvTranspose(channels, size, strides, kernel_init=base, **options)
    return np.asarray(jax.jit(layer.init_with_output)(KEY, inputs)[0])


def coordinates(length, size, stride):
    """Where output pixels lie between the inputs, with the padding of "SAME".

    An output o meets input i at tap stride · i - o + before, and the tent of that input
    has its peak at tap (size - 1) / 2. `before` is what jax.lax documents: half of
    size + stride - 2, rounded up, or all but one tap where strides leave gaps.
    """
    before = size - 1 if stride > size - 1 else -(-(size + stride - 2) // 2)
    return (np.arange(stride * length) - before + (size - 1) / 2) / stride


def ramp(*axes):
    """A sum of different slopes along the axes, and a second channel going down."""
    grids = np.meshgrid(*axes, indexing="ij")
    values = sum(2.0**index * grid for index, grid in enumerate(grids)) + 4
    return np.stack([values, -values], axis=-1)[None]


@pytest.mark.parametrize(
    ("size", "strides"),
    [
        ((4,), (2,)),
        ((3,), (2,)),
        ((8,), (4,)),
        ((5,), (3,)),
        ((6,), (3,)),
        ((1,), (1,)),
        ((4, 3), (2, 2)),
        ((4, 8), (2, 4)),
        ((3, 2, 4), (2, 1, 2)),
    ],
    ids=str,
)
def test_bilinear_draws_straight_lines_between_the_pixels(size, strides):
    length = 5
    inputs = ramp(*[np.arange(length)] * len(size)).astype(np.float32)
    outputs = enlarged(inputs, size, strides)
    at = [coordinates(length, *pair) for pair in zip(size, strides, strict=True)]
    inside = [np.flatnonzero((x >= 0) & (x <= length - 1)) for x in at]
    kept = outputs[np.ix_([0], *inside, [0, 1])]
    expected = ramp(*(x[i] for x, i in zip(at, inside, strict=True)))
    assert kept.size >= np.prod([stride * (length - 1) for stride in strides])
    # Halves and quarters are exact; thirds are rounded, and so are their two products,
    # with inputs up to 8, and the sum.
    bound = 0 if 3 not in strides else 4 * 2.0**-24
    np.testing.assert_allclose(kept, expected, rtol=0, atol=8 * bound)
    ones = enlarged(np.ones_like(inputs), size, strides)[np.ix_([0], *inside, [0, 1])]
    np.testing.assert_allclose(ones, 1.0, rtol=0, atol=bound)


def test_bilinear_is_the_resize_of_jax_away_from_the_rim():
    inputs = np.random.default_rng(0).normal(size=(1, 6, 6, 3)).astype(np.float32)
    outputs = enlarged(inputs, (4, 4), (2, 2))
    resized = jax.image.resize(inputs, (1, 12, 12, 3), "linear")
    # Either sums four products of numbers below 4 with weights that sum to 1.
    inside = slice(1, -1)
    np.testing.assert_allclose(
        outputs[:, inside, inside],
        resized[:, inside, inside],
        rtol=0,
        atol=2 * 4 * 4 * 2.0**-24,
    )


def test_bilinear_in_a_larger_kernel_needs_to_be_told_the_strides():
    inputs = ramp(np.arange(5)).astype(np.float32)
    told = enlarged(inputs, (6,), (2,), init.bilinear(strides=2))
    np.testing.assert_array_equal(told, enlarged(inputs, (4,), (2,)))
    taps = np.asarray(init.bilinear(strides=[2, 2])(KEY, (6, 3, 1, 1)))[..., 0, 0]
    expected = np.outer([0, 0.25, 0.75, 0.75, 0.25, 0], [0.5, 1, 0.5])
    np.testing.assert_array_equal(taps, expected)
    assert init.bilinear(strides=2)(KEY, (0, 4, 3, 3)).shape == (0, 4, 3, 3)
    # Read from the kernel, it is an enlargement by 3: weights that sum to 1.5 here.
    untold = enlarged(np.ones_like(inputs), (6,), (2,))
    np.testing.assert_allclose(untold[0, 3:-3], 1.5, rtol=2.0**-22)


def test_bilinear_keeps_channels_apart():
    kernel = np.asarray(init.bilinear(groups=3)(KEY, (4, 4, 1, 3)))
    np.testing.assert_array_equal(kernel, np.repeat(kernel[..., :1], 3, axis=-1))
    full = np.asarray(init.bilinear()(KEY, (4, 4, 3, 2)))
    np.testing.assert_array_equal(full, kernel[..., :1] * np.eye(3, 2))


# ----------------------------------------------------------------------------- errors

ERRORS = [
    (
        lambda: init.bilinear(strides=0),
        "strides must be integers of at least 1, or None, got 0",
    ),
    (
        lambda: init.bilinear(groups=1.0),
        "groups must be an integer of at least 1, got 1.0",
    ),
    (
        lambda: init.bilinear()(KEY, (4, 4)),
        "bilinear needs a shape (*spatial, in, out) of at least 3 axes, got (4, 4)",
    ),
    (
        lambda: init.bilinear(strides=2)(KEY, (4, 2, 3, 3)),
        "bilinear with strides 2 needs 3 or 4 taps, got 2 in shape (4, 2, 3, 3)",
    ),
    (
        lambda: init.bilinear(strides=(2, 2))(KEY, (4, 3, 3)),
        "strides (2, 2) names 2 axes, but a kernel of shape (4, 3, 3) has 1 spatial "
        "axes",
    ),
]


@pytest.mark.parametrize(
    ("act", "text"), ERRORS, ids=lambda v: None if callable(v) else str(v)[:60]
)
def test_what_does_not_fit_is_named(act, text):
    with pytest.raises((ValueError, TypeError), match=f"^{re.escape(text)}$"):
        act()
