"""Notes of how weights meet the signal, and the uses that they become."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable
from typing import Any

from jaxinit import _jaxpr
from jaxinit._signal._frames import Frame
from jaxinit._signal._products import Product
from jaxinit._signal._use import Kind, Use
from jaxinit._signal._weights import Dim, Weight, axes_of, size_of

Key = tuple[int, Any, int, str]  # leaf, site, operand, kind


@dataclasses.dataclass(frozen=True, eq=False)
class Note:
    """A use, and where in which frame it was seen."""

    use: Use
    frame: Frame
    number: int


class Record:
    """The uses that a walk has found, each once.

    Attributes:
      notes: by leaf, site, operand and kind.
      on: whether what is told is noted.
      constants_are_data: whether the signal is made of constants, there being no data.
    """

    def __init__(self) -> None:
        self.notes: dict[Key, Note] = {}
        self.on = True
        self.constants_are_data = False

    def note(
        self,
        kind: Kind,
        weight: Weight,
        frame: Frame,
        number: int,
        operand: int,
        **fields: Any,
    ) -> Key:
        """Note a use, unless the walk is only finding out what a loop carries."""
        key: Key = (weight.leaf, frame.sites[number], operand, kind)
        if not self.on:
            return key
        fields = {
            "batch_axis": tuple(sorted(weight.stacked)),
            "transformed": weight.transformed,
            "scales": weight.scales,
            "factor": weight.factor,
            **fields,
        }
        use = Use(
            kind=kind,
            stacked=tuple(sorted(weight.stacked)),
            count=weight.count,
            where=_jaxpr.source_location(frame.eqns[number], frame.within),
            site=frame.sites[number],
            operand=operand,
            **fields,
        )
        self.notes[key] = Note(use, frame, number)
        return key

    def drop(self, key: Any) -> None:
        """Forget a use that turned out to be part of another."""
        if self.on:
            self.notes.pop(key, None)

    def unknown(
        self, weight: Weight, frame: Frame, number: int, operand: int, why: str
    ) -> None:
        """Note that here the walk lost sight of a parameter."""
        self.drop(weight.pending)
        self.note("unknown", weight, frame, number, operand, detail=why)


def add_elementwise(
    record: Record, kind: Kind, weight: Weight, frame: Frame, number: int, operand: int
) -> Key:
    """A weight and the signal meet, one element of each."""
    if weight.reduced:
        return record.note("statistic", weight, frame, number, operand)
    if weight.gathered is not None:
        frame, number, operand, fields = weight.gathered
        return record.note("gather", weight, frame, number, operand, **fields)
    if weight.inner:
        return record.note(
            "unknown",
            weight,
            frame,
            number,
            operand,
            detail="a product of parameters, which is not multiplied with the signal",
        )
    fans = (1.0, 1.0) if kind in ("bias", "scale", "placed") else (None, None)
    return record.note(
        kind,
        weight,
        frame,
        number,
        operand,
        fan_in=fans[0],
        fan_out=fans[1],
        taps_in=fans[0],
        taps_out=fans[1],
        out_axis=tuple(sorted(axes_of(weight.dims) - weight.stacked)),
        detail=frame.eqns[number].primitive.name if fans[0] is None else "",
    )


def add_product(
    record: Record,
    product: Product,
    weight: Weight,
    frame: Frame,
    number: int,
    operand: int,
    **fields: Any,
) -> None:
    """A weight and the signal are multiplied, and summed."""
    record.drop(weight.pending)
    into, out, batch = _roles(product, weight)
    fan_in, fan_out = product.fan_in, product.fan_out
    taps_in = fan_in if product.taps_in is None else product.taps_in
    taps_out = fan_out if product.taps_out is None else product.taps_out
    if weight.reduced:
        record.note("statistic", weight, frame, number, operand)
        return
    if weight.inner:
        # Another parameter stands between this one and the input, or the output. In
        # `x @ (a @ b)` a meets the input. Where b does, the product was no weight but a
        # signal of its own (learned queries meet keys).
        inner, size = axes_of([weight.inner]), float(size_of([weight.inner]))
        expected = (0, None) if into else (1, None)
        if bool(into) == bool(out) or weight.side not in expected:
            record.unknown(weight, frame, number, operand, "a product of parameters")
            return
        if into:
            out, fan_out, taps_out = inner, size, size
        else:
            into, fan_in, taps_in = inner, size, size
    if weight.density < 1.0 and product.kind == "conv" and taps_in != fan_in:
        # Which of its taps are masked, and which meet the border more often?
        taps_in = taps_out = None
        fields["detail"] = "taps unknown: the kernel has a mask, the input a border"
    more_in = math.prod(parts for axis, parts in weight.shards if axis in into)
    more_out = math.prod(parts for axis, parts in weight.shards if axis in out)
    record.note(
        product.kind,
        weight,
        frame,
        number,
        operand,
        fan_in=fan_in * more_in,
        fan_out=fan_out * more_out,
        taps_in=None if taps_in is None else taps_in * more_in * weight.density,
        taps_out=None if taps_out is None else taps_out * more_out * weight.density,
        in_axis=tuple(sorted(into)),
        out_axis=tuple(sorted(out)),
        batch_axis=tuple(sorted(batch)),
        groups=product.groups,
        **fields,
    )


def _roles(
    product: Product, weight: Weight
) -> tuple[frozenset[int], frozenset[int], frozenset[int]]:
    """The stored axes that are summed over, of the outputs, and of the batch."""
    dims: dict[str, list[Dim]] = {"in": [], "out": [], "batch": [], "spatial": []}
    for role, dim in zip(product.roles, weight.dims, strict=True):
        if role == "out" and product.groups > 1:
            # Kernels that vmap laid side by side are independent of each other.
            lead, rest = _leading(dim, product.groups)
            if axes_of([lead]) & axes_of([rest]) or not axes_of([rest]):
                lead, rest = (), dim
            dims["batch"].append(lead)
            dims["out"].append(rest)
        else:
            dims[role].append(dim)
    into, out = axes_of(dims["in"]), axes_of(dims["out"])
    seen = into | out | axes_of(dims["spatial"]) | axes_of([weight.inner])
    batch = (axes_of(dims["batch"]) | weight.stacked) - seen
    return into, out, batch | weight.stacked


def _leading(dim: Dim, parts: int) -> tuple[Dim, Dim]:
    """The outermost factors whose sizes make up so many parts, and the others."""
    size, place = 1, 0
    while size < parts and place < len(dim):
        size, place = size * dim[place].size, place + 1
    return (dim[:place], dim[place:]) if size == parts else ((), dim)


def leftover(use: Use, rank: int) -> Use:
    """The use, with the axes of which one index is taken among those of the batch."""
    if use.kind == "conv":
        return use  # the others are spatial
    named = {*use.in_axis, *use.out_axis, *use.batch_axis}
    left = [axis for axis in range(rank) if axis not in named]
    batch = tuple(sorted({*use.batch_axis, *left}))
    return dataclasses.replace(use, batch_axis=batch)


def by_leaf(notes: Iterable[tuple[Key, Note]], leaves: int) -> list[list[Note]]:
    """The notes of each parameter, in the order of the program."""
    found: list[list[Note]] = [[] for _ in range(leaves)]
    for key, note in notes:
        found[key[0]].append(note)
    for several in found:
        several.sort(key=lambda note: _order(note.use.site))
    return found


def _order(site: tuple[Any, ...]) -> list[tuple[int, str]]:
    return [(part, "") if isinstance(part, int) else (0, part) for part in site]
