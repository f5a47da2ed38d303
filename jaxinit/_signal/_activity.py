"""Where an activation is flat: units whose every input lies there learn nothing."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxinit.initializers import gain

# A tail goes on for ever: the one of leaky ReLU, though not steep, is no tail.
_FAR, _FLAT = 1e4, 1e-3
_NEAR = 5.0
# Fine enough to see where the slope of a function that changes over a length of 1 ends.
# Just beside zero, since the slope in a kink itself is a matter of taste.
_BESIDE_ZERO = 1e-30
_POINTS = np.sort(
    np.array(
        [*np.arange(-2000, 2001) / 100, -_BESIDE_ZERO, _BESIDE_ZERO, -_FAR, _FAR],
        np.float32,
    )
)
_STEEP = 0.05


class Tails(NamedTuple):
    """An activation is flat up to `low`, and from `high` on.

    Flat means that its slope is at most 5% of its largest one, all the way to infinity.
    ReLU is flat up to 0, GELU up to about -2.3, tanh beyond 2.18 on both sides.
    """

    low: float = -math.inf
    high: float = math.inf

    @property
    def any(self) -> bool:
        """Whether there are tails at all."""
        return self.low > -math.inf or self.high < math.inf

    @property
    def saturating(self) -> bool:
        """Whether it is flat far out on both sides, as tanh and the logistic function.

        ReLU6 is flat on both sides, too, but on one of them from 0 on: half of all
        values lie there, as those of ReLU do.
        """
        return -math.inf < self.low < -0.5 and 0.5 < self.high < math.inf


@functools.lru_cache(maxsize=1024)
def tails(activation: Callable[[Any], Any] | None) -> Tails:
    """The tails of an elementwise function; none where it cannot be told.

    >>> import jax
    >>> tails(jax.nn.relu)
    Tails(low=0.0, high=inf)
    >>> tails(jax.nn.leaky_relu).any
    False
    """
    if activation is None:
        return Tails()
    try:
        slopes = np.asarray(_slopes(activation))
    except (TypeError, ValueError):  # not a function of one real number
        return Tails()
    largest = np.max(np.abs(slopes[np.abs(_POINTS) <= _NEAR]))
    # What grows on and on, as exp does, is nowhere flat in proportion to its slopes.
    if not np.all(np.abs(slopes) <= 1.01 * largest):
        return Tails()
    steep = np.flatnonzero(~(np.abs(slopes) <= _STEEP * largest))
    if not steep.size:
        return Tails()
    first, last = steep[0], steep[-1]
    flat = np.abs(slopes[[0, -1]]) <= _FLAT * largest
    low = _end(first - 1) if first > 1 and flat[0] else -math.inf
    high = _end(last + 1) if last + 2 < _POINTS.size and flat[1] else math.inf
    return Tails(low, high)


def _end(place: int) -> float:
    point = float(_POINTS[place])
    return 0.0 if abs(point) < 1e-20 else point


def _slopes(activation: Callable[[Any], Any]) -> jax.Array:
    def slopes(points: jax.Array) -> jax.Array:
        return jax.jvp(activation, (points,), (jnp.ones_like(points),))[1]

    # One small program: step by step, each of its steps would be compiled alone.
    with jax.numpy_dtype_promotion("standard"):
        return jax.jit(slopes)(_POINTS)


@functools.lru_cache(maxsize=1024)
def wanted(activation: Callable[[Any], Any] | None) -> tuple[float, float]:
    """Between which gains a weight beside this activation may be.

    One side of the activation is behind it and one in front; a weight that a linear
    layer feeds wants 1, one that the activation feeds wants its gain.

    >>> import jax
    >>> wanted(jax.nn.relu)[0], round(wanted(jax.nn.relu)[1], 3)
    (1.0, 1.414)
    """
    try:
        own = 1.0 if activation is None else gain(activation)
    except (TypeError, ValueError):  # it has none: what it does depends on the size
        own = 1.0
    return min(1.0, own), max(1.0, own)
