"""In which order the axes of an array run, there and here."""

from __future__ import annotations

import math

from jaxinit.transfer._rules import Layout
from jaxinit.transfer._steps import (
    Shape,
    Step,
    flip,
    reshape,
    shape_after,
    transpose,
)

_KERNELS = ("kernel", "w")


def said_steps(rule: Layout, found: Shape, wanted: Shape) -> list[Step]:
    """The steps of a layout rule; ValueError where they do not fit the array."""
    steps: list[Step] = []
    if rule.unflatten is not None:
        steps.append(reshape(found, rule.unflatten))
    if rule.transpose is not None:
        steps.append(transpose(rule.transpose))
    if rule.flip:
        steps.append(flip(rule.flip))
    before = shape_after(steps, found)
    if rule.reshape and before != wanted:
        steps.append(reshape(before, wanted))
    return steps


def torch_steps(
    path: str, found: Shape, wanted: Shape, *, transposed: bool
) -> list[Step]:
    """The steps from torch's layout to that of Flax, for the leaf of this path.

    linear (out, in) -> (in, out); convolutions (out, in, *window) -> (*window, in,
    out); a ConvTranspose without transpose_kernel (in, out, *window) -> (*window, in,
    out) with the window backwards. Then heads are split off where the target has them.
    """
    steps: list[Step] = []
    rank = len(found)
    if path.rpartition("/")[2] in _KERNELS and rank >= 2:
        window = range(2, rank)
        if transposed:
            steps.append(transpose((*window, 0, 1)))
            if rank > 2:
                steps.append(flip(range(rank - 2)))
        else:
            steps.append(transpose((*window, 1, 0)))
    before = shape_after(steps, found)
    if before != wanted and _splits(before, wanted):
        steps.append(reshape(before, wanted))
    return steps


def _splits(before: Shape, wanted: Shape) -> bool:
    """Whether a vector, or one side of a matrix, is only written out in more axes."""
    if len(before) == 1:
        return math.prod(wanted) == before[0] and len(wanted) > 1
    return (
        len(before) == 2
        and len(wanted) > 2
        and any(
            (math.prod(wanted[:i]), math.prod(wanted[i:])) == before
            for i in range(1, len(wanted))
        )
    )


def is_ambiguous(source: str, path: str, found: Shape) -> bool:
    """Whether torch's layout would fit as well as the plain one, and nobody said which.

    So it is for a leaf that the source calls `weight` and the target `kernel`, when the
    shape is the same both ways: a square matrix.
    """
    names = source.rpartition("/")[2], path.rpartition("/")[2]
    if names[0] != "weight" or names[1] not in _KERNELS or len(found) < 2:
        return False
    return (
        shape_after(torch_steps(path, found, found, transposed=False), found) == found
    )
