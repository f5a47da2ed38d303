"""Spectra and matrices of state space models, by the properties they are chosen for."""

import math
import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special

from jaxinit import initializers, testing

KEY = jax.random.key(0)
ORDER = 12


# ----------------------------------------------------------------------------- HiPPO


def legendre_coefficients(function, count):
    """Of a function on [0, 1], in the orthonormal shifted Legendre polynomials."""
    points, weights = special.roots_sh_legendre(40)
    orders = np.arange(count)[:, None]
    basis = np.sqrt(2 * orders + 1) * special.eval_sh_legendre(orders, points)
    return basis @ (weights * function(points))


def assert_projects(matrix, inputs):
    """That t x' = A x + B u carries the coefficients of the past of u.

    Those of the monomial u(s) = s^p on [0, t] grow as t^p, so that at t = 1 the
    equation reads p x = A x + B, for every p.
    """
    for power in range(len(inputs)):
        expected = legendre_coefficients(lambda s, p=power: s**p, len(inputs))
        state = np.linalg.solve(power * np.eye(len(inputs)) - matrix, inputs)
        np.testing.assert_allclose(state, expected, rtol=0, atol=1e-9)


def legs(build, *shape):
    return np.asarray(build()(KEY, shape, jnp.float64))


def test_hippo_projects_the_past_onto_legendre_polynomials(x64):
    matrix = legs(initializers.hippo_legs, ORDER, ORDER)
    assert_projects(matrix, legs(initializers.hippo_legs_input, ORDER))


def test_a_matrix_that_does_not_project_would_be_noticed(x64):
    matrix = legs(initializers.hippo_legs, ORDER, ORDER)
    inputs = legs(initializers.hippo_legs_input, ORDER)
    for wrong, at in ((matrix.T, inputs), (matrix, inputs[::-1]), (-matrix, inputs)):
        with pytest.raises(AssertionError, match="Not equal"):
            assert_projects(wrong, at)


def test_the_eigenvalues_of_hippo_are_those_of_s4d_real(x64):
    eigenvalues = np.linalg.eigvals(legs(initializers.hippo_legs, ORDER, ORDER))
    rates = -np.exp(legs(initializers.s4d_real, ORDER))
    np.testing.assert_allclose(np.sort(eigenvalues)[::-1], rates, rtol=1e-12)
    np.testing.assert_allclose(rates, -np.arange(1, ORDER + 1), rtol=1e-14)


def test_the_normal_part_is_hippo_plus_a_matrix_of_rank_one(x64):
    matrix = legs(initializers.hippo_legs, ORDER, ORDER)
    normal = legs(initializers.hippo_legs_normal, ORDER, ORDER)
    vector = legs(initializers.hippo_legs_low_rank, ORDER)
    np.testing.assert_allclose(matrix + np.outer(vector, vector), normal, atol=1e-14)
    np.testing.assert_array_equal(normal + normal.T, -np.eye(ORDER))
    np.testing.assert_allclose(np.linalg.eigvals(normal).real, -0.5, atol=1e-12)


def test_leading_axes_repeat_the_matrix_and_other_axes_the_vector():
    for build in (initializers.hippo_legs, initializers.hippo_legs_normal):
        one = build()(KEY, (4, 4))
        np.testing.assert_array_equal(
            build()(KEY, (2, 3, 4, 4)), np.tile(one, (2, 3, 1, 1))
        )
    for build in (
        initializers.hippo_legs_input,
        initializers.hippo_legs_low_rank,
        initializers.s4d_real,
        initializers.s4d_lin_imaginary,
    ):
        one = build()(KEY, (4,))
        np.testing.assert_array_equal(build()(KEY, (3, 4)), np.tile(one, (3, 1)))
        turned = build(axis=0)(KEY, (4, 3))
        np.testing.assert_array_equal(turned, np.tile(one, (3, 1)).T)


# ------------------------------------------------------------------------------- S4D


def test_s4d_lin_is_a_fourier_basis_that_decays(x64):
    """On [-1, 1] the undamped modes are orthonormal: those of a Fourier series."""
    frequencies = legs(initializers.s4d_lin_imaginary, ORDER)
    points, weights = special.roots_legendre(64)
    modes = np.exp(1j * np.outer(frequencies, points))
    gram = (modes * weights / 2) @ modes.conj().T
    np.testing.assert_allclose(gram, np.eye(ORDER), atol=1e-12)


def test_bfloat16_blurs_the_spectrum_as_the_docstrings_warn():
    rates = initializers.s4d_real()(KEY, (256,), jnp.bfloat16)
    assert len(np.unique(np.asarray(rates, np.float32))) == 104
    assert len(np.unique(np.asarray(initializers.s4d_real()(KEY, (256,))))) == 256
    stored = jnp.asarray(math.log(-math.log(0.999)), jnp.bfloat16)
    ends = [jnp.nextafter(stored, jnp.asarray(end, jnp.bfloat16)) for end in (9, -9)]
    radii = [math.exp(-math.exp(float(value))) for value in (ends[0], stored, ends[1])]
    assert [round(1 / (1 - radius)) for radius in radii] == [968, 999, 1031]


# ------------------------------------------------------------------------------- LRU

RINGS = [(0.0, 1.0), (0.9, 0.999), (0.4, 0.4001)]


def eigenvalues(nu, theta):
    """As a linear recurrent unit makes them from its two leaves."""
    first, second = jax.random.split(KEY)
    moduli = np.exp(-np.exp(np.asarray(nu(first, (64, 256)), np.float64)))
    return moduli, np.exp(np.asarray(theta(second, (64, 256)), np.float64))


def uniform(low, high):
    return lambda values: np.clip((values - low) / (high - low), 0, 1)


@pytest.mark.parametrize("ring", RINGS, ids=str)
def test_eigenvalues_are_spread_evenly_over_the_area_of_the_ring(ring):
    moduli, phases = eigenvalues(initializers.lru_nu(*ring), initializers.lru_theta())
    testing.assert_follows(moduli**2, uniform(ring[0] ** 2, ring[1] ** 2))
    testing.assert_follows(phases, uniform(0, 2 * math.pi))


def test_eigenvalues_that_are_even_in_the_radius_would_be_noticed():
    radii = np.random.default_rng(0).uniform(0, 1, 16384)
    with pytest.raises(AssertionError, match="do not follow"):
        testing.assert_follows(radii**2, uniform(0, 1))
    _, phases = eigenvalues(initializers.lru_nu(), initializers.lru_theta(math.pi))
    with pytest.raises(AssertionError, match="do not follow"):
        testing.assert_follows(phases, uniform(0, 2 * math.pi))


class Unlucky:
    """Stands in for ``jax.random.uniform``: the ends of what it can return."""

    def __init__(self, share):
        self.share = share

    def __call__(self, key, shape=(), dtype=float, *args, **kwargs):
        return jnp.full(shape, self.share, dtype)


@pytest.mark.parametrize("share", [0.0, 1 - 2.0**-23])
def test_no_draw_is_infinite_or_outside_the_disk(share, monkeypatch):
    monkeypatch.setattr(jax.random, "uniform", Unlucky(share))
    for ring in RINGS:
        decay = initializers.lru_nu(*ring)(KEY, ())
        assert jnp.isfinite(decay)
        radius = math.exp(-math.exp(float(decay)))
        assert ring[0] - 1e-6 <= radius <= ring[1] + 1e-6
    assert jnp.isfinite(initializers.lru_theta()(KEY, ()))


def test_the_digits_of_eigenvalues_near_one_are_kept(monkeypatch):
    monkeypatch.setattr(jax.random, "uniform", Unlucky(2.0**-20))
    decay = initializers.lru_nu(0.3, 1.0)(KEY, ())
    # |λ|² is 1 - (1 - 0.3²) u, and the middle of the step of u is 2^-20 + 2^-24.
    expected = math.log(-math.log1p(-0.91 * (2.0**-20 + 2.0**-24)) / 2)
    np.testing.assert_allclose(decay, expected, rtol=1e-6)


def test_traced_options_draw_what_numbers_draw():
    def draws(r_max, phase, longest):
        return (
            initializers.lru_nu(0.5, r_max)(KEY, (8,)),
            initializers.lru_theta(phase)(KEY, (8,)),
            initializers.mamba_dt_bias(1e-3, longest)(KEY, (8,)),
        )

    traced = jax.jit(draws)(0.9, 1.0, 0.1)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5),
        traced,
        draws(0.9, 1.0, 0.1),
    )


# ----------------------------------------------------------------------------- Mamba


def steps_of(init):
    return np.logaddexp(0, np.asarray(init(KEY, (64, 256)), np.float64))


def test_step_sizes_are_even_in_the_logarithm():
    logarithms = np.log(steps_of(initializers.mamba_dt_bias()))
    testing.assert_follows(logarithms, uniform(math.log(1e-3), math.log(0.1)))


def test_step_sizes_that_are_even_themselves_would_be_noticed():
    steps = np.random.default_rng(0).uniform(1e-3, 0.1, 16384)
    with pytest.raises(AssertionError, match="do not follow"):
        testing.assert_follows(np.log(steps), uniform(math.log(1e-3), math.log(0.1)))


def test_no_step_is_below_the_floor():
    steps = steps_of(initializers.mamba_dt_bias(1e-5, 0.1, dt_floor=1e-3))
    np.testing.assert_allclose(steps.min(), 1e-3, rtol=1e-5)
    # Half of the decades lie below the floor: binomial, 16384 draws, six sigma.
    assert abs(np.mean(steps < 1.0001e-3) - 0.5) < 0.025


def test_the_projection_adds_a_third_to_the_step_sizes():
    rank, channels = 16, 4096
    layer = nn.Dense(channels, kernel_init=initializers.mamba_dt_projection())
    inputs = jnp.ones((1, rank))
    outputs = layer.apply(layer.init(KEY, inputs), inputs)
    # A sum of 16 uniform draws: independent over channels, kurtosis 3 - 1.2 / 16.
    testing.assert_moments(outputs, variance=1 / 3)
    assert jnp.abs(layer.init(KEY, inputs)["params"]["kernel"]).max() <= 0.25


# ---------------------------------------------------------------------------- errors

ERRORS = [
    (
        lambda: initializers.hippo_legs()(KEY, (3, 4)),
        "hippo_legs needs a shape (..., N, N), got (3, 4)",
    ),
    (
        lambda: initializers.hippo_legs_normal()(KEY, (3,)),
        "hippo_legs_normal needs a shape (..., N, N), got (3,)",
    ),
    (
        lambda: initializers.s4d_real(axis=1)(KEY, (3,)),
        "axis 1 of s4d_real does not exist in shape (3,)",
    ),
    (
        lambda: initializers.hippo_legs()(KEY, (3, 3), jnp.complex64),
        "dtype of hippo_legs must be floating, got complex64",
    ),
    (
        lambda: initializers.lru_nu(0.5, 1.5),
        "r_max must lie between 0 and 1, got 1.5",
    ),
    (
        lambda: initializers.lru_nu(-0.5, 0.5),
        "r_min must lie between 0 and 1, got -0.5",
    ),
    (
        lambda: initializers.lru_nu(0.9, 0.9),
        "r_min must be below r_max, got 0.9 and 0.9",
    ),
    (lambda: initializers.lru_theta(0), "max_phase must be positive, got 0"),
    (lambda: initializers.mamba_dt_bias(0), "dt_min must be positive, got 0"),
    (
        lambda: initializers.mamba_dt_bias(0.1, 0.01),
        "dt_min must be below dt_max, got 0.1 and 0.01",
    ),
    (
        lambda: initializers.mamba_dt_bias(dt_floor=-1),
        "dt_floor must be finite and not negative, got -1",
    ),
    (
        lambda: initializers.mamba_dt_bias(dt_max=[0.1]),
        "dt_max must be a real number, got (0.1,)",
    ),
    (
        lambda: initializers.mamba_dt_bias(dt_floor=np.zeros(2)),
        "dt_floor must be a real number, got array([0., 0.])",
    ),
]


@pytest.mark.parametrize(
    ("act", "text"), ERRORS, ids=lambda v: None if callable(v) else str(v)[:60]
)
def test_errors_name_the_argument(act, text):
    with pytest.raises((ValueError, TypeError), match=f"^{re.escape(text)}$"):
        act()
