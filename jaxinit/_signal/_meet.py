"""Which rule an equation with a parameter among its operands goes to."""

from __future__ import annotations

from jaxinit._primitives import CUMULATIVE, REDUCTIONS, TRANSPARENT
from jaxinit._signal._contract import contraction
from jaxinit._signal._elementwise import ALIKE, elementwise
from jaxinit._signal._lookups import concatenate, dynamic_slice, gather, stack, written
from jaxinit._signal._meeting import Meeting, not_understood
from jaxinit._signal._products import product_rule
from jaxinit._signal._structure import REDUCE, STRUCTURE
from jaxinit._signal._weights import Value


def visit(meeting: Meeting) -> list[Value]:
    """What is known of the results; uses are noted on the way."""
    name = meeting.name
    if product_rule(name) is not None:
        return contraction(meeting)
    if name in TRANSPARENT:
        return [*meeting.operands]
    if name == "gather":
        return gather(meeting)
    if name == "dynamic_slice":
        return dynamic_slice(meeting)
    if name in STRUCTURE or name in CUMULATIVE:
        return _structural(meeting)
    if name in REDUCTIONS:
        return _reduction(meeting)
    if name == "concatenate":
        return concatenate(meeting)
    if name == "stack":
        return stack(meeting)
    if name == "dynamic_update_slice" or name.startswith("scatter"):
        return written(meeting)
    if name in ALIKE and not meeting.holds_programs:
        return [elementwise(meeting)]
    return not_understood(meeting)


def _structural(meeting: Meeting) -> list[Value]:
    rule = STRUCTURE[meeting.name]
    results = []
    for number in range(len(meeting.eqn.outvars)):
        # `sort` and `psum` take several operands, and give one result for each.
        source = meeting.operands[0 if meeting.name == "split" else -1]
        if len(meeting.operands) == len(meeting.eqn.outvars):
            source = meeting.operands[number]
        elif meeting.name != "split":
            source = meeting.operands[0]
        found = source.map(lambda w, n=number: rule(meeting.eqn, w, n))
        results.append(meeting.result(found.weights))
    return results


def _reduction(meeting: Meeting) -> list[Value]:
    """Of a parameter a statistic is left; a reduced signal is signal."""
    if meeting.data or "axes" not in meeting.eqn.params:
        if not meeting.data:
            return not_understood(meeting)
        return [meeting.result()] * len(meeting.eqn.outvars)
    found = meeting.operands[0].map(lambda weight: REDUCE(meeting.eqn, weight, 0))
    return [meeting.result(found.weights)] * len(meeting.eqn.outvars)
