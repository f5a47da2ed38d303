"""How one leaf of a target is made from leaves of a source, as plain data."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from jaxinit.transfer._steps import Shape, Step, apply, axis_of, shape_after, undo

JoinKind = Literal["concatenate", "stack", "sum"]


@dataclass(frozen=True)
class Piece:
    """A leaf of the source, or a part of it, by full name, and what is done to it."""

    source: str
    steps: tuple[Step, ...] = ()

    def and_then(self, *steps: Step) -> Piece:
        """The piece with further steps."""
        return dataclasses.replace(self, steps=(*self.steps, *steps))

    @property
    def selection(self) -> tuple[Step, ...]:
        """The steps that say which part of the source it is; they come first."""
        return tuple(step for step in self.steps if step.selects)

    @property
    def bijection(self) -> tuple[Step, ...]:
        """The steps that follow, each of which can be undone."""
        return tuple(step for step in self.steps if not step.selects)


@dataclass(frozen=True)
class Join:
    """How several pieces become one array."""

    kind: JoinKind
    axis: int = 0


@dataclass(frozen=True)
class Recipe:
    """Pieces, how they are joined, and the steps after that."""

    pieces: tuple[Piece, ...]
    join: Join | None = None
    then: tuple[Step, ...] = ()

    @property
    def sources(self) -> tuple[str, ...]:
        """The full names of the source leaves, each once."""
        return tuple(dict.fromkeys(piece.source for piece in self.pieces))

    @property
    def layered(self) -> bool:
        """Whether its pieces are layers, each with a layout of its own."""
        return self.join is not None and self.join.kind == "stack"

    def select(self, *steps: Step) -> Recipe:
        """The same part of every piece."""
        return dataclasses.replace(
            self, pieces=tuple(piece.and_then(*steps) for piece in self.pieces)
        )

    def arranged(self, steps: Sequence[Step]) -> Recipe:
        """The recipe followed by a layout: of each piece before they are stacked."""
        if self.join is None or self.layered:
            return self.select(*steps)
        return dataclasses.replace(self, then=(*self.then, *steps))

    def shape(self, shape_of: Callable[[str], Shape]) -> Shape:
        """The shape of the result; ValueError where the pieces do not fit."""
        shapes = [shape_after(p.steps, shape_of(p.source)) for p in self.pieces]
        return shape_after(self.then, _joined_shape(self.join, shapes))

    def unit_shape(self, shape_of: Callable[[str], Shape]) -> Shape:
        """The shape that has a layout: of one layer, where pieces are stacked."""
        if not self.layered:
            return self.shape(shape_of)
        return shape_after(self.pieces[0].steps, shape_of(self.pieces[0].source))

    def make(self, read: Callable[[str], Any]) -> Any:
        """The array, from a function that reads a source leaf by its full name."""
        arrays = [apply(piece.steps, read(piece.source)) for piece in self.pieces]
        match self.join:
            case None:
                (array,) = arrays
            case Join("sum"):
                array = sum(arrays[1:], start=arrays[0])
            case Join("stack", axis):
                array = np.stack(arrays, axis)
            case Join(_, axis):
                array = np.concatenate(arrays, axis)
        return apply(self.then, array)

    def unmake(
        self, array: Any, shape_of: Callable[[str], Shape]
    ) -> list[tuple[Piece, Any]]:
        """For each piece the array it was, layout undone; a sum has no way back."""
        array = undo(self.then, array)
        match self.join:
            case None:
                arrays = [array]
            case Join("sum"):
                raise ValueError("a sum cannot be taken apart")
            case Join("stack", axis):
                arrays = [np.take(array, i, axis) for i in range(len(self.pieces))]
            case Join(_, axis):
                sizes = [
                    shape_after(p.steps, shape_of(p.source))[axis] for p in self.pieces
                ]
                arrays = np.split(array, np.cumsum(sizes)[:-1], axis)
        if len(arrays) != len(self.pieces):
            raise ValueError(f"{len(arrays)} arrays for {len(self.pieces)} pieces")
        return [
            (piece, undo(piece.bijection, part))
            for piece, part in zip(self.pieces, arrays, strict=True)
        ]

    def __str__(self) -> str:
        """What is done, in a few words; "" for a leaf taken as it is."""
        words = [str(step) for step in self.pieces[0].bijection]
        if self.join is None:
            words = [str(step) for step in self.pieces[0].steps]
        elif self.join.kind == "sum":
            words.append("sum")
        else:
            words.append(f"{self.join.kind} {len(self.pieces)}")
        return ", ".join([*words, *map(str, self.then)])

    @classmethod
    def from_dict(cls, data: Any) -> Recipe:
        """The recipe from the fields that a JSON text holds."""
        pieces = tuple(
            Piece(piece["source"], _steps(piece["steps"])) for piece in data["pieces"]
        )
        join = None if data["join"] is None else Join(**data["join"])
        return cls(pieces, join, _steps(data["then"]))


def _steps(data: Any) -> tuple[Step, ...]:
    return tuple(Step(step["kind"], tuple(step["numbers"])) for step in data)


def _joined_shape(join: Join | None, shapes: list[Shape]) -> Shape:
    first = shapes[0]
    if join is None:
        return first
    if join.kind == "sum" and len(set(shapes)) == 1:
        return first
    axis = axis_of(join.axis, len(first) + (join.kind == "stack"))
    ranks = {len(shape) for shape in shapes}
    if join.kind == "concatenate":
        others = {(*shape[:axis], *shape[axis + 1 :]) for shape in shapes}
        if ranks == {len(first)} and len(others) == 1:
            size = sum(shape[axis] for shape in shapes)
            return (*first[:axis], size, *first[axis + 1 :])
    elif join.kind == "stack" and len(set(shapes)) == 1:
        return (*first[:axis], len(shapes), *first[axis:])
    raise ValueError(f"shapes {shapes} cannot be joined by {join.kind} on axis {axis}")
