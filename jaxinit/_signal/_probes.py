"""The probes by which an audit sees products and what becomes of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from jaxinit._signal import _moments
from jaxinit._signal._activity import Tails
from jaxinit._signal._parts import Part, label
from jaxinit._signal._places import Place
from jaxinit._signal._taps import tapped, tapped_whole


def product_probe(place: Place, whole: bool) -> Any:
    """Looks at a product; if `whole`, hands it out as it is, with its data."""

    def probe(eqn: Any, operands: Any, results: Any, tap: Any) -> Any:
        data, part = operands[1 - (place.use.operand or 0)], place.use.part
        record = (
            _moments.arrays_of_product(results[0], data, part)
            if whole
            else _moments.of_product(results[0], data, part=part)
        )
        return results, _labelled(part, record)

    return probe


def signal_probe(
    features: tuple[int, ...],
    examples: int | None,
    ends: Tails,
    part: Part | None,
    whole: bool,
) -> Any:
    """Looks at a signal, and has its tap; if `whole`, hands it out as it is."""

    def probe(eqn: Any, operands: Any, results: Any, tap: Any) -> Any:
        (value,) = results
        if whole:
            record = _moments.array_of_signal(value, part)
        else:
            record = _moments.of_signal(
                value, part=part, features=features, examples=examples, ends=ends
            )
        if tap is not None:
            value = (tapped_whole if whole else tapped)(value, tap)
        return [value], _labelled(part, record)

    return probe


def _labelled(part: Part | None, record: Mapping[str, Any]) -> dict[str, Any]:
    return {name + label(part): value for name, value in record.items()}


def together(probes: Sequence[Any]) -> Any:
    """One probe that does what all of them do."""

    def probe(eqn: Any, operands: Any, results: Any, tap: Any) -> Any:
        record = {}
        for part in probes:
            results, found = part(eqn, operands, results, tap)
            record.update(found)
            if any(name.startswith(("gram", "signal")) for name in found):
                tap = None  # one is enough, where two products share a sum
        return results, record

    return probe
