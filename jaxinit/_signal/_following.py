"""What follows a product: its bias, other products, a normalization, an activation."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from jax.extend.core import Literal as Constant

from jaxinit._primitives import REDUCTIONS
from jaxinit._signal._activation import activation_after, identity
from jaxinit._signal._frames import Frame
from jaxinit._signal._fused import blocks_of
from jaxinit._signal._parts import Part
from jaxinit._signal._sums import PASSING, SUMS, passed, sum_after, taken
from jaxinit._signal._use import Site
from jaxinit._signal._weights import Value

_ROOTS = frozenset({"rsqrt", "sqrt", "pow"})


@dataclasses.dataclass(frozen=True, eq=False)
class Following:
    """What a product runs into; the fields are those of a use."""

    bias_site: Site | None = None
    sum_site: Site | None = None
    summed: int = 1
    feeds_norm: bool = False
    activation: Callable[[Any], Any] | None = None
    activation_name: str = ""
    blocks: int = 1


def following(
    frame: Frame, number: int, values: Mapping[Any, Value], part: Part | None = None
) -> Following:
    """What follows the first result of an equation in its frame, or a part of it."""
    start = passed(frame, frame.eqns[number].outvars[0])
    bias = _bias(frame, start, values)
    if bias is not None:
        start = passed(frame, frame.eqns[bias].outvars[0])
    site = None if bias is None else frame.sites[bias]
    blocks = blocks_of(frame, start)
    if _feeds_norm(frame, start, values):
        return Following(site, None, 1, True, identity, "identity", blocks)
    end, summed, start = sum_after(frame, taken(frame, start, part), values)
    last = None if end is None else frame.sites[end]
    return Following(site, last, summed, False, *activation_after(frame, start), blocks)


def _bias(frame: Frame, var: Any, values: Mapping[Any, Value]) -> int | None:
    """The equation that adds parameters to the variable, and is all that reads it."""
    readers = frame.readers.get(var, [])
    if len(readers) != 1 or var in frame.program.jaxpr.outvars:
        return None
    eqn = frame.eqns[readers[0]]
    if eqn.primitive.name not in SUMS:
        return None
    other = next((atom for atom in eqn.invars if atom is not var), None)
    if other is None or isinstance(other, Constant) or not values[other].is_parameter:
        return None
    return readers[0]


def _feeds_norm(frame: Frame, start: Any, values: Mapping[Any, Value]) -> bool:
    """Whether all that is made of the variable is divided by its own root mean square.

    Followed are three sorts of values: functions of the elements, statistics of them,
    and roots of statistics. The first times the last is the normalized signal.
    """
    sorts: dict[Any, str] = {start: "elements"}
    found = False
    readers = frame.readers.get(start, [])
    if start in frame.program.jaxpr.outvars:
        return False
    for number in range(min(readers, default=len(frame.eqns)), len(frame.eqns)):
        eqn = frame.eqns[number]
        own = [
            sorts[v] for v in eqn.invars if not isinstance(v, Constant) and v in sorts
        ]
        if not own or not frame.live[number]:
            continue
        sort = _sort(eqn, own, values, sorts)
        if sort == "normalized":
            found = True
        elif sort is None:
            if "elements" in own:
                return False
        else:
            sorts.update((var, sort) for var in eqn.outvars)
            if sort == "elements" and eqn.outvars[0] in frame.program.jaxpr.outvars:
                return False
    return found


def _sort(
    eqn: Any, own: list[str], values: Mapping[Any, Value], sorts: Mapping[Any, str]
) -> str | None:
    name = eqn.primitive.name
    strangers = [
        v
        for v in eqn.invars
        if not isinstance(v, Constant)
        and v not in sorts
        and not _is_constant(v, values)
        and not values[v].is_parameter
    ]
    if strangers:
        return None
    if name in REDUCTIONS:
        return "statistic"
    if name in ("mul", "div") and {"elements", "root"} <= set(own):
        return "normalized"
    if "elements" in own:
        plain = name in ("add", "sub", "mul", "square", "integer_pow", "abs", "real")
        return "elements" if plain or name in PASSING else None
    return "root" if name in _ROOTS or "root" in own else "statistic"


def _is_constant(var: Any, values: Mapping[Any, Value]) -> bool:
    value = values.get(var)
    return value is not None and not value.leaves and not value.data
