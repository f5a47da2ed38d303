"""Parameters that are looked up, sliced by the signal, or put beside other elements."""

from __future__ import annotations

from typing import Any

from jaxinit._signal._meeting import Meeting, not_understood, placed
from jaxinit._signal._structure import STRUCTURE, gathered_dims
from jaxinit._signal._weights import (
    Value,
    Weight,
    axes_of,
    merged,
    resized,
    size_of,
    spread,
)


def gather(meeting: Meeting) -> list[Value]:
    source, indices = meeting.operands
    if not source.weights:
        return meeting.signal()
    found = []
    for weight in source.weights:
        dims, taken = gathered_dims(meeting.eqn, weight)
        numbers = meeting.eqn.params["dimension_numbers"]
        rows = axes_of(weight.dims[dim] for dim in numbers.collapsed_slice_dims)
        kept = axes_of(dims[dim] for dim in numbers.offset_dims) - rows
        fields = {
            "fan_in": 1.0,
            "fan_out": taken,
            "taps_in": 1.0,
            "taps_out": taken,
            "in_axis": tuple(sorted(rows - weight.stacked)),
            "out_axis": tuple(sorted(kept - weight.stacked)),
        }
        found.append(_looked_up(meeting, weight, dims, fields, indices.data))
    return [meeting.result(tuple(w for w in found if w is not None))]


def _looked_up(
    meeting: Meeting, weight: Weight, dims: Any, fields: dict[str, Any], by_data: bool
) -> Weight | None:
    where = meeting.frame, meeting.number, 0
    taken = weight.but(dims=dims, span=None)
    if weight.reduced:
        return taken
    if not by_data:
        return taken if meeting.data else taken.but(gathered=(*where, fields))
    if weight.pending is not None:
        return None
    key = meeting.record.note("gather", weight, *where, **fields)
    return taken.but(pending=key)


def dynamic_slice(meeting: Meeting) -> list[Value]:
    source, *starts = meeting.operands
    if not any(start.data for start in starts) or not source.weights:
        rule = STRUCTURE["dynamic_slice"]
        found = source.map(lambda weight: rule(meeting.eqn, weight, 0))
        return [meeting.result(found.weights)]
    shape = tuple(meeting.eqn.outvars[0].aval.shape)
    found = []
    for weight in source.weights:
        dims = tuple(map(resized, weight.dims, shape))
        cut = [old != new for old, new in zip(weight.dims, dims, strict=True)]
        rows = axes_of(d for d, c in zip(weight.dims, cut, strict=True) if c)
        kept = [d for d, c in zip(dims, cut, strict=True) if not c]
        dims = tuple(
            spread(1) if c and size_of([d]) == 1 else d
            for d, c in zip(dims, cut, strict=True)
        )
        fields = {
            "fan_in": 1.0,
            "fan_out": float(size_of(kept)),
            "taps_in": 1.0,
            "taps_out": float(size_of(kept)),
            "in_axis": tuple(sorted(rows - weight.stacked)),
            "out_axis": tuple(sorted(axes_of(kept) - weight.stacked)),
        }
        found.append(_looked_up(meeting, weight, dims, fields, True))
    return [meeting.result(tuple(w for w in found if w is not None))]


def concatenate(meeting: Meeting) -> list[Value]:
    dim, shape = meeting.eqn.params["dimension"], meeting.eqn.outvars[0].aval.shape
    if meeting.data:
        return placed(meeting, range(len(meeting.operands)))
    found, start = [], 0
    for operand, value in enumerate(meeting.operands):
        stop = start + meeting.shape(operand)[dim]
        for weight in value.weights:
            dims = tuple(map(resized, weight.dims, shape))
            span = (dim, start, stop)
            if weight.span is not None and weight.span[0] == dim:
                span = (dim, *(start + place for place in weight.span[1:]))
            found.append(weight.but(dims=dims, span=span))
        start = stop
    return [meeting.result(tuple(found))]


def stack(meeting: Meeting) -> list[Value]:
    """Beside each other along an axis of their own, as the kernels of experts."""
    axis, shape = meeting.eqn.params["axis"], meeting.eqn.outvars[0].aval.shape
    if meeting.data:
        return placed(meeting, range(len(meeting.operands)))
    found = []
    for number, value in enumerate(meeting.operands):
        for weight in value.weights:
            dims = (*weight.dims[:axis], spread(shape[axis]), *weight.dims[axis:])
            found.append(weight.but(dims=dims, span=(axis, number, number + 1)))
    return [meeting.result(tuple(found))]


def written(meeting: Meeting) -> list[Value]:
    """Some elements of an array are replaced, or added to."""
    first, last = 0, 1 if meeting.name == "dynamic_update_slice" else 2
    if meeting.data:
        return placed(meeting, (first, last))
    shape = tuple(meeting.eqn.outvars[0].aval.shape)
    found = list(meeting.operands[first].weights)
    if len(meeting.shape(last)) == len(shape):
        found += [
            weight.but(dims=tuple(map(resized, weight.dims, shape)), span=None)
            for weight in meeting.operands[last].weights
        ]
    elif meeting.operands[last].weights:
        return not_understood(meeting)
    return [meeting.result(merged(found, transformed=True))]
