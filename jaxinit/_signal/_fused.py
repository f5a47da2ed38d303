"""Weights side by side in one array, told by how the program parts their product."""

from __future__ import annotations

from typing import Any

from jaxinit._primitives import TRANSPARENT
from jaxinit._signal._frames import Frame

_PASSED = TRANSPARENT | {"add", "add_any"}


def blocks_of(frame: Frame, var: Any) -> int:
    """Into how many equal parts the last dimension is split; 1 if it is not.

    Sums are passed, as those of a recurrent cell's two products.
    """
    while True:
        readers = [frame.eqns[number] for number in frame.readers.get(var, [])]
        if len(readers) != 1 or var in frame.program.jaxpr.outvars:
            break
        (eqn,) = readers
        if eqn.primitive.name not in _PASSED:
            break
        if eqn.outvars[0].aval.shape != var.aval.shape:
            break
        var = eqn.outvars[0]
    shape = var.aval.shape
    if not shape or var in frame.program.jaxpr.outvars:
        return 1
    last = len(shape) - 1
    if [eqn.primitive.name for eqn in readers] == ["split"]:
        params = readers[0].params
        even = params["axis"] == last and len(set(params["sizes"])) == 1
        return len(params["sizes"]) if even else 1
    cuts = [_cut(eqn, last) for eqn in readers]
    if not cuts or shape[last] % len(cuts):
        return 1
    size = shape[last] // len(cuts)
    even = {(start, start + size) for start in range(0, shape[last], max(size, 1))}
    return len(cuts) if set(cuts) == even else 1


def _cut(eqn: Any, last: int) -> tuple[int, int] | None:
    """What a slice takes along the last dimension, if it takes all of the others."""
    if eqn.primitive.name != "slice" or eqn.params["strides"] is not None:
        return None
    start, limit = eqn.params["start_indices"], eqn.params["limit_indices"]
    whole = eqn.invars[0].aval.shape
    if any(start[:last]) or tuple(limit[:last]) != tuple(whole[:last]):
        return None
    return start[last], limit[last]
