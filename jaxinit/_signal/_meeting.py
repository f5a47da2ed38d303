"""One equation with a parameter among its operands, and what may come of it."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Any

from jaxinit._signal._frames import Frame
from jaxinit._signal._record import Key, Record, add_elementwise
from jaxinit._signal._use import Kind
from jaxinit._signal._weights import Value, Weight


@dataclasses.dataclass(frozen=True, eq=False)
class Meeting:
    """An equation, and what is known of its operands."""

    record: Record
    frame: Frame
    number: int
    operands: list[Value]
    holds_programs: bool = False

    @property
    def eqn(self) -> Any:
        return self.frame.eqns[self.number]

    @property
    def name(self) -> str:
        return self.eqn.primitive.name

    @property
    def leaves(self) -> int:
        leaves = 0
        for value in self.operands:
            leaves |= value.leaves
        return leaves

    @property
    def data(self) -> bool:
        return any(value.data for value in self.operands)

    def result(self, weights: tuple[Weight, ...] = (), data: bool | None = None):
        data = self.data if data is None else data
        return Value(weights, self.leaves, data)

    def shape(self, operand: int) -> tuple[int, ...]:
        return tuple(self.eqn.invars[operand].aval.shape)

    def signal(self) -> list[Value]:
        """The results where the parameters have become part of the signal."""
        return [self.result(data=True)] * len(self.eqn.outvars)


def not_understood(meeting: Meeting, why: str | None = None) -> list[Value]:
    why = why or f"the primitive {meeting.name}"
    for operand, value in enumerate(meeting.operands):
        if value.is_parameter:
            for weight in value.weights:
                meeting.record.unknown(
                    weight, meeting.frame, meeting.number, operand, why
                )
    return meeting.signal()


def add(meeting: Meeting, kind: Kind, weight: Weight, operand: int) -> Key:
    return add_elementwise(
        meeting.record, kind, weight, meeting.frame, meeting.number, operand
    )


def placed(meeting: Meeting, places: Iterable[int]) -> list[Value]:
    for operand in places:
        value = meeting.operands[operand]
        if value.is_parameter:
            for weight in value.weights:
                add(meeting, "placed", weight, operand)
    return meeting.signal()
