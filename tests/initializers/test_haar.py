"""Orthogonal without a factorization: orthonormal, and of the Haar distribution."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from replicates import half_width

from jaxinit import initializers, testing
from jaxinit.initializers import _haar

KEY = jax.random.key(9)
SHAPES = [(8, 8), (12, 5), (5, 12), (1, 4), (3, 3, 4, 6)]


def draws(n, count=20_000):
    """Many square matrices, by the method under test."""
    keys = jax.random.split(KEY, count)
    make = jax.jit(jax.vmap(lambda key: _haar.haar(key, n, n, jnp.float32)))
    return np.asarray(make(keys), np.float64)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16], ids=lambda d: d.__name__)
def test_the_smaller_side_is_orthonormal(shape, dtype):
    init = initializers.orthogonal(2.0, method="householder")
    testing.assert_orthogonal(init(KEY, shape, dtype), scale=2.0)


def test_double_precision_is_orthonormal_to_its_own_rounding(x64):
    weight = initializers.orthogonal(method="householder")(KEY, (40, 30), jnp.float64)
    testing.assert_orthogonal(weight)


def test_both_forms_of_the_product_are_one_matrix():
    below = jnp.tril(jax.random.normal(KEY, (9, 5)), -1)
    taus = 2 / (1 + jnp.sum(below**2, axis=0))
    by_lapack = _haar._by_lapack(below, taus)
    by_solve = _haar._by_triangular_solve(below, taus)
    np.testing.assert_allclose(by_lapack, by_solve, atol=9 * 16 * 2.0**-23)


def haar_moments(matrices):
    """Statistics that the Haar measure fixes, each with its expected value."""
    n = matrices.shape[-1]
    trace = np.trace(matrices, axis1=1, axis2=2)
    squared = np.trace(matrices @ matrices, axis1=1, axis2=2)
    corner, last = matrices[:, 0, 0], matrices[:, -1, -1]
    return {
        "trace": (trace, 0.0),
        "trace squared": (trace**2, 1.0),
        "trace to the fourth": (trace**4, 3.0),
        "trace of the square": (squared, 1.0),
        "entry": (corner, 0.0),
        "entry squared": (corner**2, 1 / n),
        "last entry squared": (last**2, 1 / n),
        "entry to the fourth": (corner**4, 3 / (n * (n + 2))),
        "last entry to the fourth": (last**4, 3 / (n * (n + 2))),
        "determinant": (np.linalg.det(matrices), 0.0),
    }


def outside(moments):
    """The statistics whose mean is not what it should be, at a rate of 1e-6 each."""
    return [
        name
        for name, (values, expected) in moments.items()
        if abs(values.mean() - expected) > half_width(values, 1e-6)
    ]


def test_entries_and_traces_have_the_moments_of_haar():
    assert outside(haar_moments(draws(5))) == []


def test_without_the_signs_it_would_not_be_haar():
    """QR as LAPACK leaves it has a diagonal of one sign, and a trace that is not 0."""
    gaussian = np.random.default_rng(0).normal(size=(20_000, 5, 5))
    assert "trace" in outside(haar_moments(np.linalg.qr(gaussian)[0]))


def test_accelerators_multiply_and_solve_instead_of_reflecting():
    def draw(key):
        return initializers.orthogonal(method="householder")(key, (8, 8))

    lowered = jax.jit(draw).trace(KEY).lower(lowering_platforms=("tpu",))
    text = lowered.as_text()
    assert "triangular_solve" in text
    assert "householder" not in text.lower()


def test_the_default_keeps_the_bits_of_jax():
    ours, theirs = initializers.orthogonal(), jax.nn.initializers.orthogonal()
    np.testing.assert_array_equal(ours(KEY, (16, 8)), theirs(KEY, (16, 8)))
    other = initializers.orthogonal(method="householder")
    assert not np.array_equal(other(KEY, (16, 8)), theirs(KEY, (16, 8)))


def test_an_unknown_method_and_complex_draws_are_errors():
    with pytest.raises(
        ValueError, match="method must be 'qr' or 'householder', got 'svd'"
    ):
        initializers.orthogonal(method="svd")
    with pytest.raises(
        ValueError, match="dtype of orthogonal must be floating, got comp"
    ):
        initializers.orthogonal(method="householder", dtype=jnp.complex64)
