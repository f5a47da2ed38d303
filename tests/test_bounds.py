"""Bounds against the exact probability that they are crossed."""

from itertools import pairwise

import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from jaxinit import _bounds

RATES = [0.05, 1e-3, 1e-9]


def sums_of(values, probabilities, draws):
    """The exact law of the sum of draws of integers: its values and probabilities."""
    law = np.zeros(max(values) - min(values) + 1)
    law[np.asarray(values) - min(values)] = probabilities
    total = np.ones(1)
    for _ in range(draws):
        total = np.convolve(total, law)
    return np.arange(total.size) + draws * min(values), total


def crossing_rates(limits, draws):
    """How often normal draws cross the limit of the mean, and those of the square."""
    mean = 2 * stats.norm.sf(limits.mean * np.sqrt(draws))
    below, above = (limit * draws for limit in limits.square)
    return mean, stats.chi2.cdf(below, draws) + stats.chi2.sf(above, draws)


@pytest.mark.parametrize("failure_rate", RATES)
@pytest.mark.parametrize("draws", [1000, 10**5, 10**6])
def test_many_normal_draws_cross_their_limits_at_exactly_the_rate(draws, failure_rate):
    limits = _bounds.moment_limits(
        draws, failure_rate=failure_rate, parts=1, kurtosis=3.0
    )
    # scipy's own tails of a chi-square law this far out are good to about 1e-5.
    for rate in crossing_rates(limits, draws):
        np.testing.assert_allclose(rate, failure_rate / 2, rtol=1e-4)


@pytest.mark.parametrize("failure_rate", RATES)
@pytest.mark.parametrize("draws", [2 * 10**6, 10**8, 10**10])
def test_the_square_of_very_many_draws_is_nearly_normal(draws, failure_rate):
    limits = _bounds.moment_limits(
        draws, failure_rate=failure_rate, parts=1, kurtosis=3.0
    )
    z = stats.norm.isf(failure_rate / 4)
    skewness = 2 * (z**2 - 1) / 3 / draws  # first term of Cornish and Fisher (1938)
    for limit, sign in zip(limits.square, (-1, 1), strict=True):
        expected = sign * z * np.sqrt(2 / draws) + skewness
        np.testing.assert_allclose(limit - 1, expected, rtol=1e-5)


@pytest.mark.parametrize("failure_rate", RATES)
@pytest.mark.parametrize("draws", [1, 2, 3, 10, 100, 999])
def test_few_normal_draws_cross_their_limits_less_often(draws, failure_rate):
    limits = _bounds.moment_limits(
        draws, failure_rate=failure_rate, parts=1, kurtosis=3.0
    )
    assert "Chernoff" in limits.method
    for rate in crossing_rates(limits, draws):
        assert 0 < rate <= failure_rate / 2


@pytest.mark.parametrize("failure_rate", RATES)
@pytest.mark.parametrize("draws", [1, 4, 30, 300, 999, 1000, 1500])
def test_the_mean_of_random_signs_stays_within_its_limit(draws, failure_rate):
    limits = _bounds.moment_limits(
        draws, failure_rate=failure_rate, parts=1, kurtosis=1.0
    )
    heads = np.floor((1 - limits.mean) * draws / 2 - 1e-9)
    # At a thousand draws the quantile of the normal law is right to a tenth.
    slack = 1.1 if draws >= 1000 else 1.0
    assert 2 * stats.binom.cdf(heads, draws, 0.5) <= failure_rate / 2 * slack
    assert limits.square[0] <= 1 <= limits.square[1]


@pytest.mark.parametrize("failure_rate", [0.05, 1e-3])
@pytest.mark.parametrize("draws", [1, 5, 40, 300])
def test_few_draws_of_large_kurtosis_stay_within_their_limits(draws, failure_rate):
    density = 0.1  # of random signs among zeros: variance 0.1, kurtosis 10
    limits = _bounds.moment_limits(
        draws, failure_rate=failure_rate, parts=1, kurtosis=1 / density
    )
    assert "Chebyshev" in limits.method
    half = density / 2
    sums, law = sums_of([-1, 0, 1], [half, 1 - density, half], draws)
    means = np.abs(sums) / draws / np.sqrt(density)
    assert law[means > limits.mean].sum() <= failure_rate / 2
    hits = np.arange(draws + 1) / draws / density
    law = stats.binom.pmf(np.arange(draws + 1), draws, density)
    below, above = limits.square
    assert law[(hits < below) | (hits > above)].sum() <= failure_rate / 2


def test_each_argument_holds_where_it_is_used():
    def method(draws, kurtosis, parts=1):
        return _bounds.moment_limits(
            draws, failure_rate=1e-3, parts=parts, kurtosis=kurtosis
        ).method

    assert "quantiles" in method(1000, 3.0)
    assert "quantiles" in method(1000, 1.8)
    assert "Chernoff" in method(999, 1.8)
    assert "Chernoff" in method(999, 2.0, parts=2)
    # Kurtosis 30 spreads the square as 2/29 as many normal draws would.
    assert "quantiles" in method(14_500, 30.0)
    assert "Chebyshev" in method(14_499, 30.0)
    assert "Chebyshev" in method(1500, 4.0, parts=2)


@pytest.mark.parametrize("draws", [3, 500, 5000])
@pytest.mark.parametrize("kurtosis", [1.0, 2.0, 3.0, 12.0])
@pytest.mark.parametrize("parts", [1, 2])
def test_limits_widen_as_the_rate_falls(draws, kurtosis, parts):
    rows = [
        _bounds.moment_limits(draws, failure_rate=rate, parts=parts, kurtosis=kurtosis)
        for rate in (0.1, 1e-3, 1e-6, 1e-12)
    ]
    for wide, wider in pairwise(rows):
        assert wide.mean < wider.mean
        assert wide.pseudo < wider.pseudo
        assert wide.square[0] >= wider.square[0]
        assert wide.square[1] <= wider.square[1]


@pytest.mark.parametrize("draws", [20, 999, 1000, 30_000])
def test_circular_complex_normal_draws_cross_their_limits_at_most_at_the_rate(draws):
    limits = _bounds.moment_limits(draws, failure_rate=0.05, parts=2, kurtosis=2.0)
    rates = [
        2 * stats.norm.sf(limits.mean * np.sqrt(2 * draws)),
        stats.chi2.cdf(limits.square[0] * 2 * draws, 2 * draws)
        + stats.chi2.sf(limits.square[1] * 2 * draws, 2 * draws),
        # Re z² = (a² − b²) / 2 with normal a, b: for sums a variance-gamma law, here
        # as the difference of two gamma laws, integrated over one of them.
        2 * difference_of_gammas_exceeds(limits.pseudo * draws, draws / 2),
    ]
    for rate in rates:
        assert rate <= 0.01 * (1 + 1e-6)
    if draws >= 1000:
        assert min(rates) >= 0.008


def difference_of_gammas_exceeds(threshold, shape):
    points = (np.arange(20_000) + 0.5) / 20_000
    return stats.gamma.sf(threshold + stats.gamma.ppf(points, shape), shape).mean()


@pytest.mark.parametrize("failure_rate", RATES)
@pytest.mark.parametrize("draws", [4, 50, 999, 1000, 4000])
def test_the_self_normalized_mean_of_random_signs_stays_within(draws, failure_rate):
    limit = _bounds.self_normalized_limit(draws, failure_rate)
    heads = np.floor((1 - limit) * draws / 2 - 1e-9)  # the mean square is 1 exactly
    slack = 1.1 if draws >= 1000 else 1.0
    assert 2 * stats.binom.cdf(heads, draws, 0.5) <= failure_rate * slack


@pytest.mark.parametrize("draws", [2, 10, 100, 10_000])
@pytest.mark.parametrize("failure_rate", [0.05, 1e-3])
def test_the_distance_limit_holds_at_every_size_and_is_tight(draws, failure_rate):
    limit = _bounds.distance_limit(draws, failure_rate)
    exact = stats.kstwo.sf(limit, draws)
    assert exact <= failure_rate
    if draws == 10_000:
        assert exact >= 0.95 * failure_rate


@pytest.mark.parametrize("failure_rate", RATES)
@pytest.mark.parametrize("replicates", [2, 32, 4096])
def test_the_student_limit_is_crossed_at_exactly_the_rate(replicates, failure_rate):
    limit = _bounds.student_limit(replicates, failure_rate)
    crossed = 2 * stats.t.sf(limit, replicates - 1)
    np.testing.assert_allclose(crossed, failure_rate, rtol=1e-6)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16, jnp.float8_e4m3fn])
def test_the_rounding_error_is_reached_and_never_passed(dtype):
    relative, absolute = _bounds.rounding_error(np.dtype(dtype))
    largest = float(jnp.finfo(dtype).smallest_normal) * 4
    grid = np.linspace(0, 2 * largest, 200_001).astype(np.float32)
    grid = np.concatenate([grid, np.linspace(1, 2, 100_001, dtype=np.float32)])
    error = np.abs(grid.astype(dtype).astype(np.float64) - grid)
    bound = np.maximum(relative * grid, absolute)
    assert (error <= bound * (1 + 1e-6)).all()
    normal = grid >= 1
    # Half a unit in the last place, of the number just above a power of two.
    assert (error[normal] / grid[normal]).max() > 0.98 * relative / (1 + relative)
    assert (error[~normal] / bound[~normal]).max() > 0.98


@pytest.mark.parametrize("failure_rate", [0, 1, -1e-9, 1.5, float("nan")])
def test_a_failure_rate_that_is_no_probability_is_refused(failure_rate):
    with pytest.raises(ValueError, match="failure_rate must lie strictly between"):
        _bounds.check_failure_rate(failure_rate)
