"""Where a parameter's elements lie while the program only rearranges them.

Every dimension of an array remembers which axes of the stored parameter it runs along:
a list of factors, outermost first, each with its axes and its size. A broadcast
dimension runs along no axis. What cannot be kept apart is blended into one factor with
the axes of all; so the algebra never fails, and never claims more than it knows.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

NO_AXES: frozenset[int] = frozenset()


class Factor(NamedTuple):
    """A factor of a dimension's size, and the stored axes it runs along."""

    axes: frozenset[int]
    size: int


Dim = tuple[Factor, ...]


@dataclasses.dataclass(frozen=True)
class Weight:
    """A parameter, as it lies in an array.

    Attributes:
      leaf: the number of the parameter.
      dims: for each dimension of the array the factors of its size.
      transformed: whether it went through arithmetic other than a cast.
      scales: whether the array is multiplied by c where the leaf is.
      reduced: whether only a reduction of it is left.
      density: the share of the array's elements that are not padding.
      factor: the root mean square of the constants it was multiplied by.
      inner: factors that were summed over in a product with another parameter.
      side: which operand of that product it was; None once that no longer matters.
      made: that product: where it is, and the parameter as it lay in the operand.
      stacked: axes along which loops run.
      looped: whether a loop reads it unchanged in every round.
      count: in how many rounds it is read; None if nobody knows.
      shards: axes that are split over devices here, with the number of parts.
      span: the dimension and the range that it fills, beside others.
      gathered: a look-up by constant indices that it went through.
      pending: a use that was noted, and is none if this turns out to be the weight of a
        product.
    """

    leaf: int
    dims: tuple[Dim, ...]
    transformed: bool = False
    scales: bool = True
    reduced: bool = False
    density: float = 1.0
    factor: float = 1.0
    inner: Dim = ()
    side: int | None = None
    made: Any = None
    stacked: frozenset[int] = NO_AXES
    looped: bool = False
    count: int | None = 1
    shards: tuple[tuple[int, int], ...] = ()
    span: tuple[int, int, int] | None = None
    gathered: Any = None
    pending: Any = None

    def but(self, **changes: Any) -> Weight:
        return dataclasses.replace(self, **changes)

    @property
    def is_spread(self) -> bool:
        """Whether some dimension repeats it."""
        beside = None if self.span is None else self.span[0]
        return any(
            not f.axes and f.size > 1
            for n, dim in enumerate(self.dims)
            if n != beside
            for f in dim
        )

    @property
    def extents(self) -> int:
        """Along how many dimensions it has several elements."""
        return sum(any(f.axes and f.size > 1 for f in dim) for dim in self.dims)


class Value(NamedTuple):
    """What is known of an array.

    Attributes:
      weights: the parameters of which it is made, if they can still be seen in it.
      leaves: which parameters it was computed from, as bits of a number.
      data: whether it depends on data.
      smooth: from which parameters it was computed so that a gradient flows back.
    """

    weights: tuple[Weight, ...] = ()
    leaves: int = 0
    data: bool = False
    smooth: int = 0

    @property
    def is_parameter(self) -> bool:
        """Whether it was computed from parameters and constants alone."""
        return bool(self.leaves) and not self.data

    def map(self, change: Callable[[Weight], Weight | None]) -> Value:
        weights = tuple(w for w in map(change, self.weights) if w is not None)
        return self._replace(weights=weights)


CONSTANT = Value()


def dims_of(shape: Sequence[int]) -> tuple[Dim, ...]:
    """The dimensions of a parameter as it is stored."""
    return tuple((Factor(frozenset({axis}), n),) for axis, n in enumerate(shape))


def spread(size: int) -> Dim:
    """A dimension along which nothing changes."""
    return (Factor(NO_AXES, size),)


def axes_of(dims: Iterable[Dim]) -> frozenset[int]:
    """The stored axes that dimensions run along."""
    return frozenset(axis for dim in dims for factor in dim for axis in factor.axes)


def size_of(dims: Iterable[Dim]) -> int:
    return math.prod(factor.size for dim in dims for factor in dim)


def resized(dim: Dim, size: int) -> Dim:
    """The dimension with another size; the same object if it has this size."""
    return dim if size_of([dim]) == size else (Factor(axes_of([dim]), size),)


def reshaped(dims: Sequence[Dim], shape: Sequence[int]) -> tuple[Dim, ...]:
    """The dimensions after a reshape: elements keep their order."""
    old = [size_of([dim]) for dim in dims]
    if 0 in old or 0 in shape:
        return tuple((Factor(axes_of(dims), size),) for size in shape)
    result: list[Dim] = []
    i = j = 0
    # Runs of dimensions with equal products correspond to each other.
    while i < len(old) or j < len(shape):
        start, first = i, j
        before, after = math.prod(old[i : i + 1]), math.prod(shape[j : j + 1])
        i, j = i + 1, j + 1
        while before != after:
            if before < after:
                before, i = before * old[i], i + 1
            else:
                after, j = after * shape[j], j + 1
        result += _regrouped(dims[start:i], shape[first:j])
    return tuple(result)


def _regrouped(dims: Sequence[Dim], shape: Sequence[int]) -> list[Dim]:
    factors = [factor for dim in dims for factor in dim if factor.size > 1]
    result: list[Dim] = []
    for wanted in shape:
        taken: list[Factor] = []
        need = wanted
        while need > 1:
            axes, size = factors[0] if factors else Factor(NO_AXES, 0)
            if size and need % size == 0:
                taken.append(factors.pop(0))
                need //= size
            elif size and size % need == 0:
                taken.append(Factor(axes, need))
                factors[0] = Factor(axes, size // need)
                need = 1
            else:
                blend = axes_of(dims)
                return [(Factor(blend, size),) for size in shape]
        result.append(tuple(taken) or (Factor(NO_AXES, 1),))
    return result


def merged(weights: Iterable[Weight], **changes: Any) -> tuple[Weight, ...]:
    """The weights of several operands of one elementwise operation, one for each leaf.

    Where a leaf meets itself (``w - mean(w)``) the array that holds most of it leads.
    """
    best: dict[int, Weight] = {}
    for weight in weights:
        known = best.get(weight.leaf)
        if known is None or _rank(weight) > _rank(known):
            best[weight.leaf] = weight
    return tuple(weight.but(**changes) for weight in best.values())


def _rank(weight: Weight) -> tuple[bool, int]:
    return not weight.reduced, size_of(
        (f,) for dim in weight.dims for f in dim if f.axes
    )
