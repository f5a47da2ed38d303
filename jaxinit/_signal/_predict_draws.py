"""Random numbers for samples, and what becomes of samples in sums and maxima."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxinit._signal._predict_values import (
    COLUMN,
    COUNT,
    EXAMPLE,
    FREE,
    FULL,
    NEURON,
    PLACE,
    SAME,
    others,
)

# So many neurons are summed one by one.
FEW = 64


class Draws:
    """Random numbers with exact moments, always the same ones for a seed."""

    def __init__(self, seed: int):
        self.generator = np.random.Generator(np.random.Philox(seed))

    def gaussian(self, mean: Any, covariance: np.ndarray) -> np.ndarray:
        """Draws of the four columns with exactly this mean and covariance.

        To each draw belongs its opposite, so that odd moments vanish as they should.
        """
        half = self.generator.standard_normal((COUNT // 2, 4))
        half = half @ np.linalg.inv(np.linalg.cholesky(half.T @ half * 2 / COUNT)).T
        draws = self.generator.permutation(np.concatenate([half, -half]))
        size = np.max(np.abs(covariance))
        if not 0 < size < math.inf:
            root = np.full((4, 4), 0.0 if size == 0 else math.nan)
        else:
            values, vectors = np.linalg.eigh(covariance / size)
            values = np.where(values > 1e-14, values, 0.0)
            root = np.sqrt(size) * (vectors * np.sqrt(values)) @ vectors.T
        return np.reshape(mean, (1, 2, 2)) + (draws @ root).reshape(FULL)

    def uniform(self, low: int, high: int, dtype: Any, shape: Any = FULL) -> np.ndarray:
        """Whole numbers from `low` to `high`, without the latter."""
        return self.generator.integers(low, high, shape, np.uint64).astype(dtype)

    def chance(self, shape: Sequence[int]) -> np.ndarray:
        """Numbers between 0 and 1."""
        return self.generator.random(shape)

    def total(self, sample: np.ndarray, sizes: Mapping[str, int]) -> np.ndarray:
        """The sum of so many elements of each role.

        Along places and examples an element consists of what the neuron has in common
        there, which adds up, and of the rest, which partly cancels; along neurons of
        the mean, and of noise sqrt(n) times as large as that of one.
        """
        result = np.broadcast_to(np.asarray(sample, np.float64), FULL)
        for role, column in COLUMN.items():
            if sizes.get(role, 1) > 1:
                result = sizes[role] * pooled(result, column, sizes[role])
        return self.over_neurons(result, sizes)

    def over_neurons(self, result: np.ndarray, sizes: Mapping[str, int]) -> np.ndarray:
        """The part of :meth:`total` that is neither of examples nor of places."""
        count = sizes.get(NEURON, 1) * sizes.get(FREE, 1)
        if count > 1:
            result = self.summed(result, count)
        return result * sizes.get(SAME, 1)

    def summed(self, wide: np.ndarray, count: int) -> np.ndarray:
        """The sum over so many neurons.

        Of a few, that of this one and of others, the same ones whatever is summed: so
        a layer of eight has a variance that fits to its mean. Of many, draws with the
        mean and the covariance that the sum has; of numbers that are not negative,
        log-normal ones, that are not either.
        """
        if np.all(wide == wide[:1]):
            return wide * count
        if count <= FEW:
            return wide + sum(others(wide, 20_000 + n) for n in range(1, count))
        mean, second = moments(wide)
        covariance = count * (second - np.outer(mean, mean))
        mean = count * mean
        if np.min(wide) >= 0 and np.all(mean > 0):
            logarithm = np.log1p(covariance / np.outer(mean, mean))
            shift = np.log(mean) - np.diag(logarithm) / 2
            return np.exp(self.gaussian(shift, logarithm))
        return self.gaussian(mean, covariance)

    def maximum(self, sample: np.ndarray, sizes: Mapping[str, int]) -> np.ndarray:
        """The greatest of so many elements, by repeated pairing."""
        result = np.broadcast_to(np.asarray(sample, np.float64), FULL)
        for role, size in sizes.items():
            if role == SAME or size == 1:
                continue
            doubled, best, left = result, None, size
            while left:
                if left & 1:
                    best = doubled if best is None else self._greater(best, doubled, 0)
                left >>= 1
                if left:
                    share = _shared(doubled, COLUMN.get(role))
                    doubled = self._greater(doubled, doubled, share)
            assert best is not None
            result = best
        return result

    def best_of_others(self, wide: np.ndarray, count: int) -> np.ndarray:
        """The greatest element of so many other places of the same neuron."""
        share = _shared(wide, COLUMN[PLACE])
        best = np.full(FULL, -math.inf)
        for _ in range(count):
            best = np.maximum(best, self._other(wide, wide, share))
        return best

    def _greater(self, one: np.ndarray, other: np.ndarray, share: float) -> np.ndarray:
        return np.maximum(one, self._other(one, other, share))

    def _other(self, one: np.ndarray, other: np.ndarray, share: float) -> np.ndarray:
        """Another draw, that has a share of its variance in common with this one."""
        other = other[self.generator.permutation(COUNT)]
        if not share:
            return other
        mean, rest = np.mean(one, 0), math.sqrt(1 - share**2)
        return mean + share * (one - mean) + rest * (other - mean)


def moments(wide: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The mean of each column, and the mean product of each two."""
    columns = wide.reshape(COUNT, 4)
    with np.errstate(all="ignore"):
        return np.mean(columns, 0), columns.T @ columns / COUNT


def pooled_square(wide: np.ndarray, sizes: Mapping[str, int]) -> np.ndarray:
    """The sum of squares over examples and places, for each neuron.

    The signal varies about the mean of a neuron as much in each neuron, so that only
    the square of that mean differs between them. (Two examples at two places are too
    few to find the variance of each neuron for itself, as batch normalization would.)
    """
    mean = wide
    for role, column in COLUMN.items():
        if sizes.get(role, 1) > 1:
            mean = pooled(mean, column, sizes[role])
    count = sizes.get(EXAMPLE, 1) * sizes.get(PLACE, 1)
    own = np.mean(wide**2, 0, keepdims=True) - np.mean(mean**2, 0, keepdims=True)
    for role, column in COLUMN.items():
        if sizes.get(role, 1) > 1:
            own = np.mean(own, column, keepdims=True)
    return count * (mean**2 + own)


def pooled(wide: np.ndarray, column: int, size: int, window: bool = False) -> Any:
    r"""The mean over so many examples or places, for each neuron.

    With two of them at hand, s their mean, d half their difference: s is scaled about
    its mean so that its variance is that of the mean of n, C + W / n for a covariance C
    and a variance C + W; the covariance between the two columns of the other kind is
    brought to its own value likewise, by scaling their sum and their difference.

    Args:
      wide: the sample in full shape.
      column: 1 for examples, 2 for places.
      size: n.
      window: whether the two become means over two windows that have nothing in
        common, instead of one over all.
    """
    both = np.moveaxis(wide, column, 2)  # (draws, kept, pooled)
    mean = np.mean(both, 0, keepdims=True)
    even, odd = _halves(both - mean, 1)
    parts = []
    for half in (even, odd):  # of the other kind of column: independent of each other
        common, own = _halves(half, 2)
        shared = np.mean(common**2) - np.mean(own**2)  # C
        rest = 2 * np.mean(own**2)  # W
        shared = max(shared, 0.0)
        if window:
            target, apart = shared + rest / (2 * size), rest / (2 * size)
            parts.append(_scaled(common, target) + _scaled(own, apart) * _SIGNS)
        else:
            parts.append(_scaled(common, shared + rest / size) * np.ones(2))
    even, odd = parts
    result = np.concatenate([even + odd, even - odd], 1)
    if not window:
        mean = np.mean(mean, 2, keepdims=True)
    return np.moveaxis(mean + result, 2, column)


_SIGNS = np.array([1.0, -1.0])


def _halves(array: np.ndarray, axis: int) -> tuple[np.ndarray, np.ndarray]:
    """Mean and half difference of the two along an axis, which stays."""
    one, other = np.split(array, 2, axis)
    return (one + other) / 2, (one - other) / 2


def _scaled(array: np.ndarray, variance: float) -> np.ndarray:
    now = np.mean(array**2)
    return array * math.sqrt(variance / now) if now > 0 else array


def _shared(wide: np.ndarray, column: int | None) -> float:
    """The correlation between two examples, or places, of one neuron."""
    if column is None:
        return 0.0
    both = wide - np.mean(wide, 0)
    one, other = np.split(both, 2, column)
    scale = np.sqrt(np.mean(one**2) * np.mean(other**2))
    return float(np.clip(np.mean(one * other) / scale, 0, 1)) if scale > 0 else 1.0
