"""Where an audit draws its lines, and why there.

Each line lies where sound networks are known not to come: He-initialized ReLU stacks on
batches of 16, transformers with the norm in front, residual gates that start at zero,
Flax's defaults at ordinary depth. What depends on chance is not compared with a
constant but with what chance gives for this batch (see :func:`expected_dead`).
"""

from __future__ import annotations

import dataclasses
import functools
import math

import numpy as np


@dataclasses.dataclass(frozen=True)
class Threshold:
    """From where on something is a warning, from where on an error, and why."""

    what: str
    warning: float
    error: float
    reason: str


GAIN_LOW = Threshold(
    "gain rms(w) sqrt(fan_in) over the least that is wanted, if the signal stays low",
    0.4,
    0.25,
    "LeCun scaling in front of ReLU, Flax's default, has 0.71; PyTorch's default 0.41. "
    "0.25 loses a factor of four in a single layer. Only if the mean of both fans in "
    "place of fan_in is low as well: Glorot scaling is low where layers widen, as its "
    "gradient is where they narrow. And only where no norm and no other "
    "branch restores the signal behind it: GPT-2's 0.02 in narrow models, and residual "
    "branches scaled by depth, are as low and are sound.",
)
GAIN_HIGH = Threshold(
    "gain over the most that is wanted, where the signal stays high or saturates, or "
    "a loop applies the weight to what came of it",
    2.5,
    4.0,
    "The largest gain that is recommended anywhere is 5/3 (tanh), He scaling in front "
    "of a linear layer has 1.41. 2.5 in a row of ten layers is a factor of 10^4.",
)
FAN_MATCH = Threshold(
    "standard errors between rms(w)^2 and the value for a wrong fan",
    4.0,
    4.0,
    "One sound weight in 16,000 is further off by chance. So is a wrong fan told from "
    "a deliberate scale, from a gain of 0.85 down and 1.18 up.",
)
SIGNAL_RANGE = Threshold(
    "factor by which the signal falls or grows from one weight to all that follow",
    5e3,
    1e5,
    "Four LeCun layers with ReLU lose a factor of 4, ten a factor of 32, ten with GELU "
    "a thousand, and train. Images of 0..255 in front of the first norm are 130 times "
    "what follows.",
)
GRADIENT_RANGE = Threshold(
    "largest over smallest gradient among layers with the same role",
    1e4,
    1e6,
    "Healthy transformers with the norm in front span 0.01 to 17 between different "
    "roles, and a factor of 10 within one. A tanh net at the edge of chaos, 50 layers "
    "deep, spans 100; ten LeCun layers with GELU, half the slope each, span 2600.",
)
DEAD = Threshold(
    "share of dead units beyond what chance gives",
    0.1,
    0.3,
    "Of sound ReLU units, (1/2)^n are dead on n independent examples, and up to half "
    "where deep layers see all examples as one; 21% in layer 10 of a He net at batch "
    "16. The expectation follows from the cosine between examples, and 5 standard "
    "errors of a share among that many units are added.",
)
SATURATED = Threshold(
    "share of pre-activations where the slope is below 5% of its maximum",
    0.4,
    0.6,
    "tanh at a pre-activation of rms 1 has 3% there, at rms 2, beyond any sound start, "
    "28%; normal(1) weights at width 64 have 79%.",
)
DUPLICATES = Threshold(
    "share of units that equal another unit",
    0.02,
    0.5,
    "Continuous draws never give equal units of 4 or more weights. A width that was "
    "grown by copying has half of them.",
)
COLLAPSE = Threshold(
    "mean cosine between examples at the last weight",
    0.95,
    math.inf,
    "Never more than a remark: He-initialized ReLU nets of 50 layers have 0.986 and "
    "train.",
)

TABLE = (
    GAIN_LOW,
    GAIN_HIGH,
    FAN_MATCH,
    SIGNAL_RANGE,
    GRADIENT_RANGE,
    DEAD,
    SATURATED,
    DUPLICATES,
    COLLAPSE,
)


@functools.lru_cache(maxsize=4096)
def expected_dead(examples: float, cosine: float, low: float, high: float) -> float:
    r"""The share of sound units that are dead on this many examples.

    Pre-activations of different units are independent, those of one unit on n examples
    are taken as normal with unit variance and common correlation c, the measured
    cosine: :math:`z_i = \sqrt c\, u + \sqrt{1-c}\, v_i`. Then, with the tails of the
    activation at `low` and `high` (in units of the rms),

    .. math:: P = \mathrm{E}_u[P(z \le low \text{ or } z \ge high \mid u)^n]

    >>> round(expected_dead(3, 0.0, 0.0, math.inf), 3)
    0.125
    >>> round(expected_dead(16, 0.9, 0.0, math.inf), 2)
    0.28
    """
    cosine = min(max(cosine, 0.0), 1.0 - 1e-6)
    points, weights = _normal_points()
    shared, own = math.sqrt(cosine) * points, math.sqrt(1.0 - cosine)
    tails = zip((low - shared) / own, (shared - high) / own, strict=True)
    flat = np.asarray([_below(left) + _below(right) for left, right in tails])
    return float(np.sum(weights * flat**examples) / np.sum(weights))


@functools.cache
def _normal_points() -> tuple[np.ndarray, np.ndarray]:
    """Points and weights of the normal distribution: eigenvalues, found once."""
    return np.polynomial.hermite_e.hermegauss(128)


def _below(bound: float) -> float:
    """The share of a standard normal signal below a bound.

    By Python's own function: importing SciPy's takes a tenth of a small audit.
    """
    return math.erfc(-bound / math.sqrt(2.0)) / 2.0


def unexpected_dead(dead: float, *, expected: float, units: int) -> float:
    """By how much a share of dead units exceeds what chance gives; 0 if it does not."""
    spread = math.sqrt(max(expected * (1.0 - expected), 1e-4) / units)
    return max(0.0, dead - min(expected + 5.0 * spread, 1.0))


def unexpected_flat(idle: float, *, low: float, high: float) -> float:
    """The share of flat values beyond that of a standard normal signal."""
    expected = _below(low) + _below(-high)
    return max(0.0, (idle - expected) / (1.0 - expected))
