"""Assertions about the law of independent draws: its moments, its distribution."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxinit import _bounds
from jaxinit.testing._arrays import (
    as_floating,
    average,
    average_error,
    namespace,
    real_parts,
    require,
    wide_dtype,
)


def assert_moments(
    sample: Any,
    *,
    mean: complex = 0.0,
    variance: float | None = None,
    kurtosis: float | None = None,
    failure_rate: float = 1e-9,
):
    """Assert that independent draws have the stated mean and variance.

    With n draws of variance σ² the mean has standard error σ/√n, and the mean square
    about the stated mean σ²√((kurtosis − 1)/n). From a thousand draws on, the bounds
    are the normal quantile and that of the chi-square law of this spread; below, the
    Chernoff bounds of draws whose tails are no heavier than the normal's. For a larger
    kurtosis the thousand grows in proportion, and Chebyshev's inequality serves below.
    The rate is shared among the checks: two for real draws, five for complex ones.

    Assumed: the draws are independent; their law is symmetric about its mean (or the
    draws are so many that the normal quantile holds all the same). A mean and variance
    that are off by less than the bound pass: the message of a failure shows the bound.

    Numbers stored in d bits of precision may each be off by a relative u = 2^−d (2^−8
    for bfloat16, 2^−11 for float16), which leaves the mean of a law symmetric about
    zero where it is and moves the root mean square by at most the factor 1 ± u. The
    bounds are widened by that, by ``u(|mean| + σ)`` for another mean, and by the
    rounding of the sums themselves.

    Args:
      sample: draws of any shape, real or complex; 8- and 16-bit floats are widened.
      mean: the mean that is claimed.
      variance: the variance that is claimed; for complex draws ``E|x − mean|²``, and
        the pseudo-variance ``E(x − mean)²`` is then checked to be 0 (circular draws).
        None checks the mean alone, against the spread of the sample itself.
      kurtosis: at least ``E|x − mean|⁴ / variance²``. None is that of the normal law, 3
        or for complex draws 2, which also covers truncated normal, uniform and
        Rademacher draws; a law with heavier tails needs its own, sparse normal draws 3
        / density.
      failure_rate: the probability that sound draws fail.

    Raises:
      AssertionError: a moment is outside its bound, or a draw is not finite.
      ValueError: the sample is empty or neither floating nor complex, an option is out
        of its range, or there are so few draws that nothing could fail.

    >>> import jax
    >>> draws = jax.random.uniform(jax.random.key(0), (100_000,), minval=-1)
    >>> assert_moments(draws, variance=1 / 3, kurtosis=1.8)
    """
    _bounds.check_failure_rate(failure_rate)
    values = as_floating("sample", sample)
    parts = real_parts(values, wide_dtype(values))
    center = [float(mean.real), float(mean.imag)][: len(parts)]
    if len(parts) == 1 and mean.imag != 0:
        raise ValueError(f"mean is {mean!r} and the sample is real")
    kurtosis = 1 + 2 / len(parts) if kurtosis is None else kurtosis
    if not kurtosis >= 1:
        raise ValueError(f"kurtosis must be at least 1, as of any law; got {kurtosis}")
    if variance is None:
        limit = _bounds.self_normalized_limit(values.size, failure_rate / len(parts))
        if limit >= 1:
            raise ValueError(
                f"at a failure rate of {failure_rate:g}, {values.size} draws cannot "
                "contradict a mean without a variance; give the variance, more draws "
                "or a larger failure_rate"
            )
        _require_finite(parts)
        _require_mean(parts, center, values.dtype, limit, failure_rate)
        return
    if not 0 < variance < math.inf:
        raise ValueError(
            f"variance must be positive and finite, got {variance}; compare constants "
            "exactly instead"
        )
    limits = _bounds.moment_limits(
        values.size, failure_rate=failure_rate, parts=len(parts), kurtosis=kurtosis
    )
    _require_finite(parts)
    _require_moments(parts, center, float(variance), values.dtype, limits, failure_rate)


def assert_follows(
    sample: Any, cdf: Callable[[Any], Any], *, failure_rate: float = 1e-9
):
    """Assert that independent draws follow the law with this distribution function.

    ``sup |F_n − F| ≤ √(log(2/failure_rate) / 2n)``, the Dvoretzky-Kiefer-Wolfowitz
    inequality with Massart's constant: valid for every n and every law, and tight for
    continuous ones.

    Both sides of every step of F_n are compared, so ties and laws with atoms are right.
    A stored draw stands for the numbers that round to it: in 8 and 16 bits F is taken
    at the two ends of that interval, so draws of a continuous law in float32 that were
    then cast still follow it exactly, while draws made in 16 bits in another way do
    not. In 32 bits and more the draw itself and the number just below it are the ends.

    Args:
      sample: real draws of any shape.
      cdf: the distribution function F(x) = P(X ≤ x), elementwise on a flat array of 32
        or 64 bits; for traced samples a JAX function.
      failure_rate: the probability that sound draws fail.

    Raises:
      AssertionError: the distance is above the bound, or a draw is not finite.
      ValueError: the sample is empty or not real, `cdf` returns another shape, or there
        are so few draws that nothing could fail.

    >>> import jax
    >>> draws = jax.random.normal(jax.random.key(0), (10_000,))
    >>> assert_follows(draws, jax.scipy.stats.norm.cdf)
    """
    _bounds.check_failure_rate(failure_rate)
    values = as_floating("sample", sample, complex_too=False)
    count, xp, wide = values.size, namespace(values), wide_dtype(values)
    limit = _bounds.distance_limit(count, failure_rate)
    if limit >= 1:
        needed = math.floor(math.log(2 / failure_rate) / 2) + 1
        raise ValueError(
            f"at a failure rate of {failure_rate:g}, {count} draws cannot contradict a "
            f"law; give at least {needed} draws or a larger failure_rate"
        )
    drawn, below, above = _rounding_intervals(values.reshape(-1))
    low, high = (_evaluated(cdf, points).astype(wide) for points in (below, above))
    _require_finite([drawn])
    ranks = xp.arange(1, count + 1, dtype=wide)
    distances = xp.maximum(ranks / count - high, low - (ranks - 1) / count)
    worst = xp.argmax(distances)
    require(
        distances[worst] <= limit,
        f"{count} {values.dtype.name} draws do not follow the law: their distribution "
        "function is off by {:.6g} at {:.6g}, where cdf is {:.6g} and {:.6g} of the "
        f"draws are no larger; allowed is {limit:.6g} at a failure rate of "
        f"{failure_rate:g}. Compare the location and the scale of the draws with those "
        "of cdf first, with assert_moments",
        distances[worst],
        drawn[worst],
        high[worst],
        ranks[worst] / count,
    )


def _require_finite(parts: list[Any]):
    xp = namespace(parts[0])
    finite = xp.isfinite(parts[0])
    for part in parts[1:]:
        finite &= xp.isfinite(part)
    bad = (~finite).sum()
    require(bad == 0, f"{{}} of {finite.size} draws are not finite", bad)


def _require_moments(
    parts: list[Any],
    center: list[float],
    variance: float,
    dtype: np.dtype,
    limits: _bounds.MomentLimits,
    failure_rate: float,
):
    count, stddev = parts[0].size, math.sqrt(variance)
    offset = math.hypot(*center) / stddev
    relative, absolute = _bounds.rounding_error(dtype)
    stored = relative * math.hypot(offset, 1) + absolute / stddev
    noise = average_error(count, parts[0].dtype) * (1 + offset)
    mean_limit = limits.mean + noise + (stored if offset else 0.0)
    below, above = limits.square
    below *= max(0.0, 1 - stored - noise) ** 2
    above *= (1 + stored + noise) ** 2
    pseudo_limit = limits.pseudo + 2 * above * (stored + noise)

    deviations = [(p - at) / stddev for p, at in zip(parts, center, strict=True)]
    means = [average(part) for part in deviations]
    squares = [average(part * part) for part in deviations]
    square = sum(squares[1:], start=squares[0])
    sound = (square >= below) & (square <= above)
    for measured in means:
        sound &= abs(measured) <= mean_limit
    shown = [m * stddev + at for m, at in zip(means, center, strict=True)]
    shown.append(square)
    within = "within" if len(parts) == 1 else "each part within"
    claims = [
        f"mean {_field(parts)} (stated {_written(center)}, {within} "
        f"{mean_limit * stddev:.6g})",
        f"variance about the stated mean {{:.6g}} times the stated {variance:g} "
        f"(allowed {below:.6g} to {above:.6g} times)",
    ]
    if len(parts) == 2:
        product = average(deviations[0] * deviations[1])
        for measured in (squares[0] - squares[1], 2 * product):
            sound &= abs(measured) <= pseudo_limit
            shown.append(measured)
        claims.append(
            f"pseudo-variance {_field(parts)} times that (0 for circular draws, "
            f"{within} {pseudo_limit:.6g})"
        )
    require(
        sound,
        f"{count} {dtype.name} draws do not have the stated moments: "
        f"{'; '.join(claims)}. Failure rate {failure_rate:g}, {limits.method}. If the "
        "mean is off, look for draws made in 16 bits or a lopsided interval; if the "
        "variance is, for the wrong fan, a missing gain or an uncorrected truncation",
        *shown,
    )


def _require_mean(
    parts: list[Any],
    center: list[float],
    dtype: np.dtype,
    limit: float,
    failure_rate: float,
):
    """Each part of the mean, measured against the root mean square of that part."""
    count, xp = parts[0].size, namespace(parts[0])
    limit += average_error(count, parts[0].dtype)
    relative, absolute = _bounds.rounding_error(dtype)
    sound, shown = True, []
    for part, at in zip(parts, center, strict=True):
        deviations = part - at
        # Scaled by the largest, so that squares of tiny draws do not underflow.
        largest = xp.max(xp.abs(deviations))
        deviations = deviations / xp.where(largest == 0, 1, largest)
        measured = average(deviations) * largest
        spread = xp.sqrt(average(deviations * deviations)) * largest
        stored = relative * (abs(at) + spread) + absolute if at else 0.0
        allowed = spread * limit + stored
        sound &= abs(measured) <= allowed
        shown += [measured + at, allowed]
    claims = " and ".join(["{:.6g} within {:.6g}"] * len(parts))
    require(
        sound,
        f"{count} {dtype.name} draws do not have the stated mean {_written(center)}: "
        f"measured {claims} by the spread of the sample itself, at a failure rate of "
        f"{failure_rate:g}. Look for draws made in 16 bits or a lopsided interval",
        *shown,
    )


def _field(parts: list[Any]) -> str:
    return "{:.6g}" if len(parts) == 1 else "{:.6g}{:+.6g}j"


def _written(center: list[float]) -> str:
    return _field(center).format(*center)


def _rounding_intervals(values: Any) -> tuple[Any, Any, Any]:
    """The draws in order, and the ends of the interval that rounds to each of them."""
    xp, dtype = namespace(values), values.dtype
    narrow = dtype.itemsize < 4
    shown = np.dtype(np.float32) if narrow else dtype
    drawn = xp.sort(values.astype(shown))
    largest = xp.asarray(jnp.finfo(dtype).max, dtype)
    stored = drawn.astype(dtype)
    below = xp.nextafter(stored, -largest).astype(shown)
    above = xp.nextafter(stored, largest).astype(shown) if narrow else drawn
    if narrow:
        below, above = (drawn + below) / 2, (drawn + above) / 2
    # The numbers next to zero are subnormal, which some devices take for zero.
    tiny = xp.asarray(jnp.finfo(shown).tiny, shown)
    return drawn, xp.where(drawn == 0, -tiny, below), above


def _evaluated(cdf: Callable[[Any], Any], points: Any) -> Any:
    result = namespace(points).asarray(cdf(points))
    if result.shape != points.shape:
        raise ValueError(
            f"cdf was given {points.shape} points and returned an array of shape "
            f"{result.shape}; it must return one probability for each"
        )
    return result
