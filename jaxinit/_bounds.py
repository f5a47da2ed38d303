"""From a stated failure rate to the bound: how far random draws may stray.

Everything here is a Python number computed on the host from sizes alone, so a bound is
the same whether the draws it is compared with are arrays or traced. Each bound is
two-sided: the rate is the probability that sound draws fall outside it on either side.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from scipy import special

# From here on the mean and the mean square of draws follow the normal and chi-square
# laws closely enough to use their quantiles far into the tails.
LARGE_SAMPLE = 1000


class MomentLimits(NamedTuple):
    """How far the moments of standardized draws (mean 0, E|z|² = 1) may be measured.

    Attributes:
      mean: each part of the mean lies within plus or minus this.
      square: the least and the largest mean of |z|².
      pseudo: each part of the mean of z² of circular complex draws lies within plus or
        minus this; no meaning for real draws.
      method: the argument behind the three, in words.
    """

    mean: float
    square: tuple[float, float]
    pseudo: float
    method: str


def moment_limits(
    draws: int, *, failure_rate: float, parts: int, kurtosis: float
) -> MomentLimits:
    """Limits that `draws` independent draws all respect but for the failure rate.

    The rate is shared equally among the checks (union bound): a mean per part, the mean
    square and, for complex draws, the two parts of the pseudo-variance. The mean square
    has relative variance (kurtosis − 1) / draws, that of a chi-square variable with
    ν = 2 draws / (kurtosis − 1) degrees of freedom over ν. Three arguments, in turn:

    - many draws (a thousand, more where the kurtosis is above the normal's by the
      ratio of ν): quantiles of the normal and of the chi-square law with ν degrees of
      freedom. Exact for normal draws, conservative for lighter tails.
    - fewer draws, kurtosis at most the normal's: Chernoff bounds, valid at every size
      for laws whose tails are no heavier than the normal's (E exp(tz) ≤ exp(t²/2)).
    - fewer draws, larger kurtosis: Chebyshev's inequality, valid at every size for
      every law with this kurtosis, and weak.

    Args:
      draws: how many, at least 1.
      failure_rate: the probability that some limit is crossed by sound draws.
      parts: 1 for real draws, 2 for circular complex ones.
      kurtosis: at least E|z|⁴, of which the normal law has 3 if real, 2 if complex.
    """
    rate = failure_rate / (2 if parts == 1 else 5)
    normal_kurtosis = 1 + 2 / parts
    excess = max(1.0, (kurtosis - 1) / (normal_kurtosis - 1))
    if draws >= LARGE_SAMPLE * excess:
        mean = -float(special.ndtri(rate / 2))
        freedom = math.inf if kurtosis == 1 else 2 * draws / (kurtosis - 1)
        square = chi_square_limits(freedom, rate)
        # z² of circular draws has E(Re z²)² = kurtosis / 2 and symmetric tails, lighter
        # than the upper tail of the chi-square law of the same variance.
        pseudo = chi_square_limits(4 * draws / kurtosis, rate)[1] - 1
        method = "normal and chi-square quantiles"
    elif excess == 1:
        log = math.log(2 / rate)
        mean = math.sqrt(2 * log)
        # Above: Laurent and Massart (2000), Lemma 1. Below: E exp(−t|z|²) is at most
        # exp(−t + t² kurtosis / 2), because |z|² is never negative.
        freedom = parts * draws
        pseudo = 2 * math.sqrt(log / freedom) + 2 * log / freedom
        below = math.sqrt(2 * normal_kurtosis * log / draws)
        square = (max(0.0, 1 - below), 1 + pseudo)
        method = "Chernoff bounds for tails no heavier than the normal's"
    else:
        mean = 1 / math.sqrt(rate)
        spread = math.sqrt((kurtosis - 1) / (draws * rate))
        square = (max(0.0, 1 - spread), 1 + spread)
        pseudo = math.sqrt(kurtosis / (2 * draws * rate))
        method = f"Chebyshev's inequality for a kurtosis of {kurtosis:g}"
    return MomentLimits(mean / math.sqrt(parts * draws), square, pseudo, method)


def chi_square_limits(freedom: float, failure_rate: float) -> tuple[float, float]:
    """The two quantiles of a chi-square variable over its degrees of freedom."""
    if freedom > 1e6:
        # Wilson and Hilferty (1931): its cube root is normal. Off by 1 / freedom here,
        # where inverting the incomplete gamma function loses digits.
        z, spread = -float(special.ndtri(failure_rate / 2)), 2 / (9 * freedom)
        low, high = (1 - spread + sign * z * math.sqrt(spread) for sign in (-1, 1))
        return low**3, high**3
    half = freedom / 2
    low = float(special.gammaincinv(half, failure_rate / 2))
    high = float(special.gammainccinv(half, failure_rate / 2))
    return low / half, high / half


def self_normalized_limit(draws: int, failure_rate: float) -> float:
    """How large |mean| / √(mean square) of draws symmetric about zero may be.

    The normal quantile for a thousand draws and more; below that √(2 log(2/rate)),
    which holds at every size for every symmetric law (Efron 1969). The ratio is never
    above 1, so a limit of 1 and more means that nothing could fail.
    """
    if draws >= LARGE_SAMPLE:
        limit = -float(special.ndtri(failure_rate / 2))
    else:
        limit = math.sqrt(2 * math.log(2 / failure_rate))
    return limit / math.sqrt(draws)


def distance_limit(draws: int, failure_rate: float) -> float:
    """How far an empirical distribution function may be from its law, anywhere.

    √(log(2/rate) / (2 draws)): the Dvoretzky-Kiefer-Wolfowitz inequality with the
    constant of Massart (1990); it holds at every size and for every law.
    """
    return math.sqrt(math.log(2 / failure_rate) / (2 * draws))


def student_limit(replicates: int, failure_rate: float) -> float:
    """How many standard errors the mean of independent replicates may be off."""
    return -float(special.stdtrit(replicates - 1, failure_rate / 2))


def rounding_error(dtype: np.dtype) -> tuple[float, float]:
    """What storing a number may change: relative to it, and absolutely near zero."""
    info = jnp.finfo(dtype)
    return float(info.eps) / 2, float(info.smallest_subnormal) / 2


def check_failure_rate(failure_rate: float):
    """Refuse a failure rate that is no probability strictly between 0 and 1."""
    if not 0 < failure_rate < 1:
        raise ValueError(
            f"failure_rate must lie strictly between 0 and 1, got {failure_rate!r}; it "
            "is the probability that sound draws fail the assertion"
        )
