"""Sine waves for weights: balanced, equally long, no two units alike."""

import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxinit import initializers as init
from jaxinit import testing

KEY = jax.random.key(11)


def wide(values):
    return np.asarray(values, np.float64)


def waves(inputs, units, batch=1):
    """The definition, term by term: sines of unit amplitude (batch, inputs, units)."""
    count = min((inputs - 1) // 2, math.ceil(units / 2))
    values = np.empty((batch, inputs, units))
    for b, j, i in np.ndindex(values.shape):
        frequency, slot = 1 + i % count, i // count
        slots = len(range(i % count, units, count))
        phase = math.pi * (slot + b / batch) / slots
        values[b, j, i] = math.sin(2 * math.pi * frequency * j / inputs + phase)
    return values


SIZES = [(65, 64), (64, 64), (16, 33), (16, 7), (3, 5), (4, 1)]


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_sinusoidal_units_are_the_waves_of_the_definition(size):
    inputs, units = size
    amplitude = math.sqrt(4 / (inputs + units))
    expected = amplitude * waves(inputs, units)[0]
    weight = init.sinusoidal()(KEY, size)
    # Relative to each number, since an angle within a quarter turn of zero is: two
    # roundings in the angle, four in a sine of two ulps, three in the amplitude and the
    # product with it. A sine of zero is zero.
    expected[abs(expected) < 1e-12] = 0
    np.testing.assert_allclose(wide(weight), expected, rtol=9 * 2.0**-24, atol=0)


def assert_balanced(columns, mean_square):
    """Zero sums, one mean square, no unit equal or opposite to another (float64)."""
    inputs, units = columns.shape
    amplitude = math.sqrt(2 * mean_square)
    bound = 8 * inputs * np.finfo(np.float64).eps
    np.testing.assert_allclose(columns.sum(axis=0), 0, atol=bound * amplitude)
    np.testing.assert_allclose((columns**2).mean(axis=0), mean_square, rtol=bound)
    gram = columns.T @ columns / (inputs * mean_square)
    closest = np.max(np.abs(gram - np.diag(np.diag(gram))), initial=0)
    # Phases π / S apart have the cosine cos(π / S), and S is at most the units.
    assert closest <= math.cos(math.pi / max(units, 2)) + bound


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_sinusoidal_units_are_balanced_equally_long_and_different(size, x64):
    weight = wide(init.sinusoidal(2.0, "fan_in")(KEY, size, jnp.float64))
    assert_balanced(weight, 2.0 / size[0])
    full = 2 * ((size[0] - 1) // 2)
    if size[1] <= full:
        testing.assert_orthogonal(weight, scale=math.sqrt(2.0))
    assert np.linalg.matrix_rank(weight) == min(size[1], full)


@pytest.mark.parametrize(
    ("shape", "options", "fan", "batch", "inputs"),
    [
        ((3, 3, 8, 32), {}, 72, 1, (0, 1, 2)),
        ((3, 3, 1, 64), {"groups": 64}, 9, 1, (0, 1, 2)),
        ((4, 4, 8, 6), {"strides": 2, "transposed": True}, 32, 1, (0, 1, 2)),
        ((5, 16, 24), {"batch_axis": 0}, 16, 5, (1,)),
        ((12, 8, 5), {"in_axis": 0, "out_axis": (1, 2)}, 12, 1, (0,)),
        ((4, 8, 32), {"equation": "bnh,nhd->bd"}, 32, 1, (0, 1)),
        ((4, 16, 8), {"equation": "bnd,ndh->bnh"}, 16, 4, (1,)),
    ],
    ids=lambda value: str(value) if isinstance(value, tuple | dict) else None,
)
def test_sinusoidal_waves_run_along_what_is_summed(
    shape, options, fan, batch, inputs, x64
):
    weight = init.sinusoidal(1.0, "fan_in", **options)(KEY, shape, jnp.float64)
    size = math.prod(shape[axis] for axis in inputs)
    front = 1 if batch > 1 else 0
    weight = np.moveaxis(wide(weight), inputs, range(front, front + len(inputs)))
    weight = weight.reshape(batch, size, -1)
    for matrix in weight:
        assert_balanced(matrix, 1 / fan)
    units = weight.shape[-1]
    expected = math.sqrt(2 / fan) * waves(size, units, batch)
    np.testing.assert_allclose(weight, expected, rtol=0, atol=1e-12)
    testing.assert_symmetry_broken(np.concatenate(weight, axis=-1))


def test_unbalanced_units_would_be_noticed(x64):
    good = wide(init.sinusoidal(1.0, "fan_in")(KEY, (16, 8), jnp.float64))
    assert_balanced(good, 1 / 16)
    random = wide(init.lecun_normal()(KEY, (16, 8), jnp.float64))
    opposite = good.copy()
    opposite[:, 1] = -opposite[:, 0]
    # The published frequencies, i for unit i, are constant at i = 16.
    published = np.outer(np.arange(16), np.arange(1, 33)) * 2 * np.pi / 16
    published = np.sin(published + np.pi * np.arange(1, 33) / 16) / math.sqrt(8)
    for planted in (random, opposite, published):
        with pytest.raises(AssertionError):
            assert_balanced(planted, 1 / 16)


# ----------------------------------------------------------------------------- errors

ERRORS = [
    (
        lambda: init.sinusoidal(mode="fanin"),
        "mode must be one of ('fan_in', 'fan_out', 'fan_avg', 'fan_geo_avg'), "
        "got 'fanin'",
    ),
    (lambda: init.sinusoidal(-1.0), "scale must be finite and not negative, got -1.0"),
    (
        lambda: init.sinusoidal()(KEY, (2, 64)),
        "sinusoidal needs at least 3 inputs for a wave of sum 0, got 2 in shape "
        "(2, 64)",
    ),
    (
        lambda: init.sinusoidal(batch_axis=0).check_shape((3000, 64, 4096)),
        "sinusoidal cannot tell the waves of a weight of shape (3000, 64, 4096) apart "
        "in float32: 12288000 units, 64 inputs each",
    ),
    (
        lambda: init.sinusoidal().check_shape((10**5, 10**5)),
        "sinusoidal cannot tell the waves of a weight of shape (100000, 100000) apart "
        "in float32: 100000 units, 100000 inputs each",
    ),
    (
        lambda: init.sinusoidal()(KEY, (3, 4), jnp.complex64),
        "dtype of sinusoidal must be floating, got complex64",
    ),
    (
        lambda: init.sinusoidal()(KEY, (8,)),
        "Can't compute input and output sizes of a 1-dimensional weights tensor with "
        "default in_axis. Must be at least 2D or specify in_axis explicitly. "
        "Got shape (8,)",
    ),
]


@pytest.mark.parametrize(
    ("act", "text"), ERRORS, ids=lambda v: None if callable(v) else str(v)[:60]
)
def test_what_does_not_fit_is_named(act, text):
    with pytest.raises((ValueError, TypeError), match=f"^{re.escape(text)}$"):
        act()
