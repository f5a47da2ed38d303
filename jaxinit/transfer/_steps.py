"""What happens to an array on its way from one layout to another, and the way back.

A step is plain data: a word and numbers. `select` steps take a part of an array (as a
view, so that the part can be written through it); the others keep every element.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Step:
    """One operation on an array: `kind` and its numbers.

    ("slice", (axis, start, stop)), ("index", (axis, i)), ("transpose", axes),
    ("flip", axes) or ("reshape", (rank before, *shape before, *shape after)).
    """

    kind: str
    numbers: tuple[int, ...]

    @property
    def selects(self) -> bool:
        """Whether the result is a part of the array only."""
        return self.kind in ("slice", "index")

    def __str__(self) -> str:
        match self.kind, self.numbers:
            case "slice", (axis, start, stop):
                return f"[{start}:{stop}] of axis {axis}"
            case "index", (axis, index):
                return f"[{index}] of axis {axis}"
            case "reshape", (rank, *shapes):
                return f"reshape {tuple(shapes[rank:])}"
        return f"{self.kind} {','.join(map(str, self.numbers))}"


def part(axis: int, start: int, stop: int) -> Step:
    """Elements `start` to `stop` of an axis."""
    return Step("slice", (axis, start, stop))


def element(axis: int, index: int) -> Step:
    """One element of an axis, which goes."""
    return Step("index", (axis, index))


def transpose(axes: Sequence[int]) -> Step:
    """The axes in another order, as in `numpy.transpose`."""
    return Step("transpose", tuple(axes))


def flip(axes: Sequence[int]) -> Step:
    """Each of the axes backwards."""
    return Step("flip", tuple(axes))


def reshape(before: Shape, after: Shape) -> Step:
    """The same elements, in their order, under another shape of the same size."""
    if math.prod(before) != math.prod(after):
        raise ValueError(f"{before} has not as many elements as {after}")
    return Step("reshape", (len(before), *before, *after))


def apply(steps: Iterable[Step], array: Any) -> Any:
    """The array after the steps, as a view of it where NumPy can give one."""
    for step in steps:
        match step.kind, step.numbers:
            case "slice", (axis, start, stop):
                array = array[(slice(None),) * axis + (slice(start, stop), ...)]
            case "index", (axis, index):
                array = array[(slice(None),) * axis + (index, ...)]
            case "transpose", axes:
                array = np.transpose(array, axes)
            case "flip", axes:
                array = np.flip(array, axes)
            case "reshape", (rank, *shapes):
                array = np.reshape(array, shapes[rank:])
            case kind, _:
                raise ValueError(f"there is no step {kind!r}")
    return array


def undo(steps: Sequence[Step], array: Any) -> Any:
    """The array that the steps, none of which selects, turned into the one given."""
    for step in reversed(steps):
        match step.kind, step.numbers:
            case "transpose", axes:
                array = np.transpose(array, np.argsort(axes))
            case "flip", axes:
                array = np.flip(array, axes)
            case "reshape", (rank, *shapes):
                array = np.reshape(array, shapes[:rank])
            case kind, _:
                raise ValueError(f"a step {kind!r} has no inverse")
    return array


def shape_after(steps: Iterable[Step], shape: Shape) -> Shape:
    """The shape of an array of this shape after the steps; ValueError if none can be.

    >>> shape_after([part(0, 0, 4), transpose((1, 0))], (12, 3))
    (3, 4)
    """
    for step in steps:
        match step.kind, step.numbers:
            case "slice", (axis, start, stop):
                if not (axis < len(shape) and 0 <= start <= stop <= shape[axis]):
                    raise ValueError(f"{shape} has no part {step}")
                shape = (*shape[:axis], stop - start, *shape[axis + 1 :])
            case "index", (axis, index):
                if not (axis < len(shape) and 0 <= index < shape[axis]):
                    raise ValueError(f"{shape} has no element {step}")
                shape = (*shape[:axis], *shape[axis + 1 :])
            case "transpose", axes:
                if sorted(axes) != list(range(len(shape))):
                    raise ValueError(f"{axes} are not the axes of {shape}")
                shape = tuple(shape[axis] for axis in axes)
            case "flip", axes:
                if any(axis >= len(shape) for axis in axes):
                    raise ValueError(f"{shape} has not the axes {axes}")
            case "reshape", (rank, *shapes):
                if shape != tuple(shapes[:rank]):
                    raise ValueError(f"{shape} is not {tuple(shapes[:rank])}")
                shape = tuple(shapes[rank:])
    return shape


def read_part(
    steps: Sequence[Step],
    shape: Shape,
    index: Sequence[slice],
    read: Callable[[tuple[slice, ...]], Any],
) -> Any:
    """A part of the array after the steps, from no more than it needs of that before.

    Args:
      steps: none of which reshapes.
      shape: of the array before the steps.
      index: the part, a slice with bounds for each axis of the result.
      read: gives a part of the array before the steps.

    >>> array = np.arange(12).reshape(3, 4)
    >>> steps = [transpose((1, 0)), flip((0,))]
    >>> read_part(steps, (3, 4), (slice(0, 1), slice(1, 3)), lambda part: array[part])
    array([[ 7, 11]])
    """
    shapes = [shape]
    for step in steps:
        shapes.append(shape_after([step], shapes[-1]))
    bounds = [(part.start, part.stop) for part in index]
    then: list[Step] = []  # what is still to be done to what is read
    for step, before in zip(reversed(steps), reversed(shapes[:-1]), strict=True):
        match step.kind, step.numbers:
            case "slice", (axis, start, _):
                bounds[axis] = (bounds[axis][0] + start, bounds[axis][1] + start)
                continue
            case "index", (axis, at):
                bounds.insert(axis, (at, at + 1))
                step = element(axis, 0)
            case "transpose", axes:
                bounds = [bounds[axes.index(axis)] for axis in range(len(axes))]
            case "flip", axes:
                for axis in axes:
                    first, last = bounds[axis]
                    bounds[axis] = (before[axis] - last, before[axis] - first)
            case kind, _:
                raise ValueError(f"a part of a {kind} is no part of what was before")
        then.append(step)
    return apply(reversed(then), read(tuple(slice(*bound) for bound in bounds)))


def axis_of(axis: int, rank: int) -> int:
    """A possibly negative axis as a position; ValueError where there is none."""
    if not -rank <= axis < rank:
        raise ValueError(f"an array of {rank} axes has no axis {axis}")
    return axis % rank
