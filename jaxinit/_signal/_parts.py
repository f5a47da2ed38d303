"""Weights side by side in one array, as a fused kernel: which part of the product each
of them makes.

A part is an axis of the product with the first index and that behind the last; None
stands for the whole product.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from jax import lax

Part = tuple[int, int, int]


def part_of(eqn: Any, operand: int, span: Part | None) -> Part | None:
    """The part of a product made by the weights that fill a span of an operand.

    None where the span lies along a dimension that is summed over: each of the weights
    beside each other is in all of the product then.
    """
    if span is None:
        return None
    dim, start, stop = span
    axis = _axis(eqn, operand, dim)
    return None if axis is None else (axis, start, stop)


def _axis(eqn: Any, operand: int, dim: int) -> int | None:
    """The axis of the product that a dimension of an operand becomes."""
    if eqn.primitive.name == "conv_general_dilated":
        numbers = eqn.params["dimension_numbers"]
        return numbers.out_spec[1] if dim == numbers.rhs_spec[0] else None
    if eqn.primitive.name != "dot_general":
        return None
    summed, batch = eqn.params["dimension_numbers"]
    if dim in summed[operand]:
        return None
    if dim in batch[operand]:
        return list(batch[operand]).index(dim)
    free = [
        [n for n in range(eqn.invars[side].aval.ndim) if n not in (*s, *b)]
        for side, (s, b) in enumerate(zip(summed, batch, strict=True))
    ]
    before = len(batch[0]) + (len(free[0]) if operand == 1 else 0)
    return before + free[operand].index(dim)


def piece(array: Any, part: Part | None) -> Any:
    """That part of an array."""
    return array if part is None else lax.slice_in_dim(array, *part[1:], axis=part[0])


def label(part: Part | None) -> str:
    """Names a part, so that records can be kept for each."""
    return "" if part is None else "@" + ":".join(map(str, part))


def resized(shape: Sequence[int], part: Part | None) -> tuple[int, ...]:
    """The shape of that part of an array."""
    sizes = list(shape)
    if part is not None:
        sizes[part[0]] = part[2] - part[1]
    return tuple(sizes)


def separate(parts: Mapping[Any, Part | None]) -> list[tuple[Part | None, list[Any]]]:
    """The smallest parts that do not overlap, with what lies in each.

    >>> separate({"a": (1, 0, 4), "b": (1, 4, 8), "c": (1, 6, 9)})
    [((1, 0, 4), ['a']), ((1, 4, 9), ['b', 'c'])]
    >>> separate({"a": (1, 0, 4), "b": None})
    [(None, ['a', 'b'])]
    """
    told = [part for part in parts.values() if part is not None]
    if len(told) < len(parts) or len({axis for axis, _, _ in told}) > 1:
        return [(None, list(parts))]
    groups: list[tuple[Part, list[Any]]] = []
    for what, (axis, start, stop) in sorted(zip(parts, told, strict=True), key=_start):
        if groups and start < groups[-1][0][2]:
            (_, first, last), members = groups.pop()
            groups.append(((axis, first, max(last, stop)), [*members, what]))
        else:
            groups.append(((axis, start, stop), [what]))
    return list(groups)


def _start(item: tuple[Any, Part]) -> tuple[int, int]:
    return item[1][1:]
