"""Random numbers that stand for whole arrays: one neuron, two examples, two places.

An array of the program is a sample of one of its elements: `COUNT` draws of the neuron,
for each of them its value for two examples of the batch at two places each (tokens,
pixels). What is equal along one of these has length 1 there. Which axes of the array run
over neurons, examples and places its factors tell.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

COUNT = 8192
FULL = (COUNT, 2, 2)  # (draws, examples, places)

# An axis runs over neurons, examples or places, or over what is independent of all
# that ("free": noise); "same" where the array repeats itself.
NEURON, EXAMPLE, PLACE, FREE, SAME = "neuron", "example", "place", "free", "same"
_RANK = {SAME: 0, FREE: 1, NEURON: 2, PLACE: 3, EXAMPLE: 3}
_COLUMN = {EXAMPLE: 1, PLACE: 2}


class Factor(NamedTuple):
    """A part of an axis: what it runs over, and how long it is."""

    role: str
    size: int


Axis = tuple[Factor, ...]
Axes = tuple[Axis, ...]


@dataclasses.dataclass(frozen=True, eq=False)
class Value:
    """A sample of one element of an array.

    Attributes:
      sample: of shape (draws, examples, places), each as in `FULL` or 1.
      axes: for each axis of the array its factors, the outermost first.
      weight: whether it is made of parameters and constants alone.
    """

    sample: np.ndarray
    axes: Axes
    weight: bool = False

    @property
    def wide(self) -> np.ndarray:
        """The sample in full shape and in float64."""
        return np.broadcast_to(np.asarray(self.sample, np.float64), FULL)

    def but(self, **changes: Any) -> Value:
        """The same with some attributes exchanged."""
        return dataclasses.replace(self, **changes)


@dataclasses.dataclass(frozen=True, eq=False)
class Stack:
    """What a loop gave, or is given, round by round: the first axis taken apart."""

    rounds: tuple[Any, ...]


def axes_for(roles: Sequence[str], shape: Sequence[int]) -> Axes:
    """One factor for each axis."""
    return tuple((Factor(r, n),) for r, n in zip(roles, shape, strict=True))


def roles_of(axes: Axes) -> set[str]:
    """What the axes run over."""
    return {factor.role for axis in axes for factor in axis if factor.size > 1}


def sizes_by_role(axes: Axes) -> dict[str, int]:
    """How many elements there are along the factors of each role."""
    sizes: dict[str, int] = {}
    for role, size in (factor for axis in axes for factor in axis):
        sizes[role] = sizes.get(role, 1) * size
    return sizes


def reshaped(axes: Axes, shape: Sequence[int]) -> Axes:
    """The factors of an array after a reshape; a factor that is cut keeps its role."""
    left = [factor for axis in axes for factor in axis if factor.size != 1]
    found = []
    for size in shape:
        axis: list[Factor] = []
        while size > 1:
            role, own = left.pop(0)
            if size % own == 0:
                part = own
            elif own % size == 0:
                part = size
                left.insert(0, Factor(role, own // size))
            else:
                # They interleave: one role for all that is involved.
                return _blurred(axes, shape)
            axis.append(Factor(role, part))
            size //= part
        found.append(tuple(axis) or (Factor(SAME, 1),))
    return tuple(found)


def _blurred(axes: Axes, shape: Sequence[int]) -> Axes:
    role = max(roles_of(axes) or {SAME}, key=lambda role: _RANK[role])
    return tuple((Factor(role, size),) for size in shape)


def joined(values: Sequence[Value]) -> tuple[list[np.ndarray], Axes]:
    """Samples of arrays that meet element by element, and the axes of what comes out.

    A parameter that meets the signal along an axis of places differs from place to
    place: there it takes a draw of its own for each.
    """
    rank = max(len(value.axes) for value in values)
    full = [value for value in values if len(value.axes) == rank]
    axes = tuple(
        max((value.axes[n] for value in full), key=_rank_of) for n in range(rank)
    )
    samples = []
    for value in values:
        sample = value.sample
        for mine, theirs in zip(value.axes, axes, strict=len(value.axes) == rank):
            own = {factor.role for factor in mine if factor.size > 1}
            others = {factor.role for factor in theirs if factor.size > 1}
            if own == {NEURON}:
                for role in sorted(others & set(_COLUMN)):
                    sample = spread(sample, _COLUMN[role])
        samples.append(sample)
    return samples, axes


def _rank_of(axis: Axis) -> int:
    return max((_RANK[f.role] for f in axis if f.size > 1), default=-1)


def spread(sample: np.ndarray, column: int) -> np.ndarray:
    """Another draw for the second example or place, where both have the same."""
    if sample.shape[0] == 1 or sample.shape[column] == 2:
        return sample
    other = np.roll(_shuffled(sample, 1 + column), 1, 0)
    return np.concatenate([sample, other], column)


def shuffled(value: Value, number: int) -> Value:
    """Other neurons of the same array: a constant permutation of the draws."""
    if value.sample.shape[0] == 1:
        return value
    return value.but(sample=_shuffled(value.sample, number))


def _shuffled(sample: np.ndarray, number: int) -> np.ndarray:
    return sample[_order(number)]


@functools.lru_cache(maxsize=256)
def _order(number: int) -> np.ndarray:
    return np.random.Generator(np.random.Philox(number)).permutation(COUNT)


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
        for role, column in _COLUMN.items():
            if sizes.get(role, 1) > 1:
                result = sizes[role] * pooled(result, column, sizes[role])
        count = sizes.get(NEURON, 1) * sizes.get(FREE, 1)
        if count > 1:
            if sample.shape[0] == 1:
                result = result * count
            else:
                mean, second = moments(result)
                spread_of = second - np.outer(mean, mean)
                result = self.gaussian(count * mean, count * spread_of)
        return result * sizes.get(SAME, 1)

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
                    share = _shared(doubled, _COLUMN.get(role))
                    doubled = self._greater(doubled, doubled, share)
            assert best is not None
            result = best
        return result

    def _greater(self, one: np.ndarray, other: np.ndarray, share: float) -> np.ndarray:
        """The greater of two draws that have a share of their variance in common."""
        other = other[self.generator.permutation(COUNT)]
        if share:
            mean = np.mean(one, 0)
            rest = math.sqrt(1 - share**2)
            other = mean + share * (one - mean) + rest * (other - mean)
        return np.maximum(one, other)


def moments(wide: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The mean of each column, and the mean product of each two."""
    columns = wide.reshape(COUNT, 4)
    with np.errstate(all="ignore"):
        return np.mean(columns, 0), columns.T @ columns / COUNT


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
