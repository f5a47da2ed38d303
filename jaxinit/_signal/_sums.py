"""Products that are added to each other before an activation takes their sum."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from jax.extend.core import Literal as Constant

from jaxinit._primitives import TRANSPARENT
from jaxinit._signal._frames import Frame
from jaxinit._signal._parts import Part
from jaxinit._signal._products import product_rule
from jaxinit._signal._weights import Value

PASSING = TRANSPARENT | {
    "broadcast_in_dim",
    "convert_element_type",
    "psum",
    "psum_invariant",
    "reshape",
    "squeeze",
    "transpose",
}
SUMS = frozenset({"add", "add_any"})
_CUTS = frozenset({"slice", "split"})


def passed(frame: Frame, var: Any) -> Any:
    """The variable behind steps that only rearrange its elements."""
    while True:
        readers = frame.readers.get(var, [])
        if len(readers) != 1 or var in frame.program.jaxpr.outvars:
            return var
        eqn = frame.eqns[readers[0]]
        if eqn.primitive.name not in PASSING or len(eqn.outvars) != 1:
            return var
        if eqn.outvars[0].aval.size != var.aval.size:
            return var
        var = eqn.outvars[0]


def taken(frame: Frame, var: Any, part: Part | None) -> Any:
    """The part of a variable, where the program cuts exactly that out; else itself."""
    for number in frame.readers.get(var, []) if part is not None else ():
        for span, piece in _cuts(frame.eqns[number], len(var.aval.shape)):
            if span == part:
                return passed(frame, piece)
    return var


def _cuts(eqn: Any, rank: int) -> list[tuple[Part, Any]]:
    """What an equation cuts out of its operand along one axis, and what it becomes."""
    shape, params = eqn.invars[0].aval.shape, eqn.params
    if eqn.primitive.name == "split":
        axis, start, found = params["axis"], 0, []
        for size, var in zip(params["sizes"], eqn.outvars, strict=True):
            found.append(((axis, start, start + size), var))
            start += size
        return found
    if eqn.primitive.name != "slice" or params["strides"] is not None:
        return []
    spans = [
        (axis, start, stop)
        for axis, (start, stop) in enumerate(
            zip(params["start_indices"], params["limit_indices"], strict=True)
        )
        if (start, stop) != (0, shape[axis])
    ]
    return [(spans[0], eqn.outvars[0])] if len(spans) == 1 else []


def sum_after(
    frame: Frame, start: Any, values: Mapping[Any, Value]
) -> tuple[int | None, int, Any]:
    """The sum that a product goes into: its last equation, its products, its variable.

    A sum with the signal itself, as beside a residual connection, is none: all that is
    added must be a product of a weight, of which nothing else is made, or a bias.
    """
    var, end, products = start, None, 1
    while True:
        readers = frame.readers.get(var, [])
        if len(readers) != 1 or var in frame.program.jaxpr.outvars:
            break
        eqn = frame.eqns[readers[0]]
        other = next((atom for atom in eqn.invars if atom is not var), None)
        if eqn.primitive.name not in SUMS or other is None:
            break
        more = _products_in(frame, other, values)
        if more is None or eqn.outvars[0].aval.shape != var.aval.shape:
            break
        products, end = products + more, readers[0]
        var = passed(frame, eqn.outvars[0])
    return (None, 1, start) if products == 1 else (end, products, var)


def _products_in(frame: Frame, atom: Any, values: Mapping[Any, Value]) -> int | None:
    """How many products of weights a variable is the sum of; 0 for a bias."""
    if isinstance(atom, Constant) or (atom in values and values[atom].is_parameter):
        return 0
    if atom not in frame.makers or atom in frame.program.jaxpr.outvars:
        return None
    eqn, readers = frame.eqns[frame.makers[atom]], frame.readers.get(atom, [])
    cut = all(frame.eqns[number].primitive.name in _CUTS for number in readers)
    if len(readers) != 1 and not cut:
        return None
    name = eqn.primitive.name
    if name in PASSING or name in _CUTS:
        return _products_in(frame, eqn.invars[0], values)
    own = [v for v in eqn.invars if not isinstance(v, Constant) and v in values]
    if product_rule(name) is not None:
        return 1 if sum(values[v].is_parameter for v in own) == 1 else None
    if name not in SUMS and name != "mul":
        return None
    found = [_products_in(frame, v, values) for v in eqn.invars]
    known = [count for count in found if count is not None]
    if name == "mul":  # a gated product is one as well
        return max(known, default=None)
    return sum(known) if len(known) == len(found) else None
