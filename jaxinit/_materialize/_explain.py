"""How every leaf of an init function is made, as a report."""

from __future__ import annotations

import collections
from collections.abc import Mapping

from jaxinit._materialize._plan import Full, Given, Making
from jaxinit._materialize._programs import Compiled
from jaxinit._materialize._steps import Chain
from jaxinit._paths import Flat
from jaxinit._report import Report


def explain(flat: Flat, makings: Mapping[int, Making]) -> Report:
    """A row for each leaf: what it is, how it is made, and why not faster."""
    names: dict[object, str] = {}
    rows = []
    for index, (name, aval) in enumerate(flat.items()):
        how, program, why = _told(makings.get(index), names)
        rows.append(
            (name.full, str(tuple(aval.shape)), str(aval.dtype), how, program, why)
        )
    counts = collections.Counter(row[3] for row in rows)
    summary = ", ".join(f"{count} {how}" for how, count in counts.most_common())
    return Report(
        title="materialize",
        columns=("leaf", "shape", "dtype", "made", "program", "why not faster"),
        rows=tuple(rows),
        notes=(f"{len(rows)} leaves: {summary}; {len(set(names.values()))} programs",),
    )


def _told(making: Making | None, names: dict[object, str]) -> tuple[str, str, str]:
    if making is None:
        return "not asked for", "", ""
    if isinstance(making, Chain):
        return (
            "in chunks",
            names.setdefault(making.steps, f"chain {len(names) + 1}"),
            "",
        )
    if isinstance(making, Compiled):
        label = names.setdefault(making.program.name, f"program {len(names) + 1}")
        return "compiled", label, making.why
    if isinstance(making, Full):
        return "constant", "", ""
    assert isinstance(making, Given)
    return making.how, "", ""
