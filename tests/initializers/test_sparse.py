"""Sparse weights: exact counts of zeros, at places that are uniformly random."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from scipy import stats

from jaxinit import initializers as init
from jaxinit import testing

KEY = jax.random.key(11)

# Compiled as one program for each shape, which is quicker than each operation alone.
draw = jax.jit(
    lambda base, shape, dtype=jnp.float32: base(KEY, shape, dtype),
    static_argnums=(0, 1, 2),
)


@pytest.mark.parametrize(
    ("shape", "sparsity", "zeros"),
    [
        ((100, 8), 0.07, 7),  # 0.07 * 100 is 7.000000000000001
        ((10, 3), 0.25, 3),
        ((10, 3), 0, 0),
        ((3, 3, 8, 16), 0.5, 36),
        ((49, 2), 1 - 15 / 49, 34),  # the product is 34.00000000000001
    ],
    ids=str,
)
def test_every_unit_has_exactly_the_stated_number_of_zeros(shape, sparsity, zeros):
    weight = np.asarray(draw(init.sparse(init.normal(1.0), sparsity=sparsity), shape))
    counted = np.sum(weight.reshape(-1, shape[-1]) == 0, axis=0)
    np.testing.assert_array_equal(counted, zeros)


def test_sparse_keeps_what_its_base_draws_elsewhere():
    weight = draw(init.sparse(init.normal(0.5), sparsity=0.5), (256, 64))
    base = init.normal(0.5)(jax.random.split(KEY)[0], (256, 64))
    kept = weight != 0
    np.testing.assert_array_equal(weight[kept], base[kept])
    testing.assert_moments(weight[kept], variance=0.25)
    ones = init.sparse(init.ones, sparsity=0.5)(KEY, (4, 2), jnp.int32)
    assert ones.dtype == jnp.int32
    assert ones.sum() == 4


def places(base, key):
    """Which two of four inputs two units lost, as one number below 36."""
    lost = base(key, (4, 2)) == 0
    digits = jnp.sum(lost.astype(int) * 2 ** jnp.arange(4)[:, None], axis=0)
    names = jnp.array([3, 5, 6, 9, 10, 12])
    index = jnp.argmax(digits[:, None] == names[None, :], axis=-1)
    return 6 * index[0] + index[1]


def assert_uniform(counts, failure_rate=1e-9):
    statistic = stats.chisquare(counts).statistic
    quantiles = stats.chi2(len(counts) - 1).ppf(
        [failure_rate / 2, 1 - failure_rate / 2]
    )
    assert quantiles[0] < statistic < quantiles[1]


def count_places(base, draws):
    keys = jax.random.split(KEY, draws)
    drawn = jax.jit(jax.vmap(lambda key: places(base, key)))(keys)
    return np.bincount(np.asarray(drawn), minlength=36)


def test_all_places_are_equally_likely_and_units_independent():
    base = init.sparse(init.ones, sparsity=0.5)
    assert_uniform(count_places(base, 7200))


def test_places_that_are_not_equally_likely_would_be_noticed():
    favoured = np.ones(36) / 36
    favoured[7] *= 1.6
    shared = np.eye(6).ravel() / 6  # the same inputs lost by both units
    for planted in (favoured / favoured.sum(), shared):
        counts = np.random.default_rng(0).multinomial(7200, planted)
        with pytest.raises(AssertionError):
            assert_uniform(counts)


def test_sparse_weights_are_the_same_wherever_they_lie(x64):
    base = init.sparse(init.normal(1.0), sparsity=0.75)
    plain = np.asarray(draw(base, (64, 32), jnp.float64))
    assert np.mean(plain == plain.astype(np.float32)) < 0.76  # the rest has 53 bits
    mesh = jax.make_mesh(
        (4, 2), ("rows", "columns"), axis_types=(AxisType.Explicit,) * 2
    )
    spec = PartitionSpec("rows", "columns")
    with jax.set_mesh(mesh):
        laid_out = base(KEY, (64, 32), jnp.float64, spec)
    assert laid_out.sharding.is_equivalent_to(NamedSharding(mesh, spec), 2)
    np.testing.assert_array_equal(np.asarray(laid_out) == 0, plain == 0)


# ----------------------------------------------------------------------------- errors

ERRORS = [
    (
        lambda: init.sparse("normal", sparsity=0.5),
        "base of sparse must be an initializer (key, shape, dtype) -> array, "
        "got 'normal'",
    ),
    (
        lambda: init.sparse(init.ones, sparsity="half"),
        "sparsity must be a number, got 'half'",
    ),
    (
        lambda: init.sparse(init.ones, sparsity=1.0),
        "sparsity must be at least 0 and below 1, got 1.0; it is the share of the "
        "inputs of each unit that is zero",
    ),
    (
        lambda: init.sparse(init.ones, sparsity=0.5)(KEY, (4,)),
        "sparse needs a shape of at least 2 axes, got (4,); a vector has no inputs to "
        "choose from",
    ),
    (
        lambda: init.sparse(init.ones, sparsity=0.9)(KEY, (5, 2)),
        "sparsity 0.9 leaves none of the 5 inputs of each unit in a weight of shape "
        "(5, 2)",
    ),
    (
        lambda: init.sparse(init.he_normal(in_axis=3), sparsity=0.5)(KEY, (5, 2)),
        "in_axis 3 does not exist in a weight of shape (5, 2); name the axes: "
        "in_axis=, out_axis= (and batch_axis=)",
    ),
]


@pytest.mark.parametrize(
    ("act", "text"), ERRORS, ids=lambda v: None if callable(v) else str(v)[:60]
)
def test_what_does_not_fit_is_named(act, text):
    with pytest.raises((ValueError, TypeError), match=f"^{re.escape(text)}$"):
        act()
