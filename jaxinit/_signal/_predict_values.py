"""Random numbers that stand for whole arrays: one neuron, two examples, two places.

An array of the program is a sample of one of its elements: `COUNT` draws of the neuron,
for each of them its value for two examples of the batch at two places each (tokens,
pixels). What is equal along one of these has length 1 there. Which axes of the array
run over neurons, examples and places its factors tell.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

COUNT = 8192
FULL = (COUNT, 2, 2)  # (draws, examples, places)

# An axis runs over neurons, examples or places, or over what is independent of all
# that ("free": noise); "same" where the array repeats itself.
NEURON, EXAMPLE, PLACE, FREE, SAME = "neuron", "example", "place", "free", "same"
_RANK = {SAME: 0, FREE: 1, NEURON: 2, PLACE: 3, EXAMPLE: 3}
COLUMN = {EXAMPLE: 1, PLACE: 2}


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
      root: what it is the square of, if it is one.
      mixed: whether it was put together, along neurons, of arrays that may differ, so
        that a part of it is not like the whole.
    """

    sample: np.ndarray
    axes: Axes
    weight: bool = False
    root: Value | None = None
    mixed: bool = False

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
                for role in sorted(others & set(COLUMN)):
                    sample = spread(sample, COLUMN[role])
        samples.append(sample)
    return samples, axes


def _rank_of(axis: Axis) -> int:
    return max((_RANK[f.role] for f in axis if f.size > 1), default=-1)


def spread(sample: np.ndarray, column: int) -> np.ndarray:
    """Another draw for the second example or place, where both have the same."""
    if sample.shape[0] == 1 or sample.shape[column] == 2:
        return sample
    other = np.roll(others(sample, 1 + column), 1, 0)
    return np.concatenate([sample, other], column)


def shuffled(value: Value, number: int) -> Value:
    """Other neurons of the same array: a constant permutation of the draws."""
    if value.sample.shape[0] == 1:
        return value
    return value.but(sample=others(value.sample, number))


def others(sample: np.ndarray, number: int) -> np.ndarray:
    """The draws in another order, a constant one for each number."""
    return sample[_order(number)]


@functools.lru_cache(maxsize=256)
def _order(number: int) -> np.ndarray:
    return np.random.Generator(np.random.Philox(number)).permutation(COUNT)
