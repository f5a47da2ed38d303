"""The leaves of a source as rows: what is measured, and how a person reads it."""

from __future__ import annotations

import dataclasses
from typing import Any

from jaxinit._tables import amount

_CHUNK = 1 << 20


def measured(leaf: Any) -> tuple[float | None, int]:
    """Root mean square of the finite numbers, and how many are not finite."""
    import numpy as np

    if leaf.dtype == object or leaf.size == 0:
        return None, 0
    flat = np.asarray(leaf.read(nonfinite="allow")).reshape(-1)
    squares, bad = 0.0, 0
    for start in range(0, flat.size, _CHUNK):
        chunk = flat[start : start + _CHUNK]
        wide = chunk.astype(np.complex128 if chunk.dtype.kind == "c" else np.float64)
        finite = np.isfinite(wide)
        bad += int(wide.size - finite.sum())
        squares += float((np.abs(wide[finite]) ** 2).sum())
    return ((squares / (flat.size - bad)) ** 0.5 if bad < flat.size else None), bad


def nonfinite(leaf: Any, bad: int) -> Any:
    from jaxinit._report import Finding

    return Finding(
        "error",
        leaf.name,
        f"{bad} of {leaf.size} values are NaN or infinite.",
        "Take an earlier checkpoint of the run, or repair what made them.",
        code="nonfinite",
    )


def readable(report: Any) -> Any:
    """The report with bytes as people read them; the other one keeps the numbers."""
    units = {"bytes": amount, "rms": lambda cell: f"{cell:.3g}"}
    rows = [
        [
            units[column](cell) if column in units and cell is not None else cell
            for column, cell in zip(report.columns, row, strict=True)
        ]
        for row in report.rows
    ]
    return dataclasses.replace(report, rows=tuple(map(tuple, rows)))
