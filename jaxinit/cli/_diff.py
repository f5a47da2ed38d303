"""`jaxinit diff`: in what two checkpoints differ."""

from __future__ import annotations

import dataclasses
from collections import Counter
from typing import Annotated, Any

import typer

from jaxinit.cli._options import File, Json, Only, Traceback
from jaxinit.cli._outcome import Outcome, counted

COLUMNS = ("leaf", "differs", "first", "second", "largest", "relative")


def diff(
    first: File,
    second: File,
    only: Only = None,
    rtol: Annotated[
        float,
        typer.Option(
            "--rtol",
            min=0.0,
            help="Differences up to this share of the largest value are none.",
        ),
    ] = 0.0,
    atol: Annotated[
        float, typer.Option("--atol", min=0.0, help="And those up to this are none.")
    ] = 0.0,
    ignore_dtype: Annotated[
        bool, typer.Option("--ignore-dtype", help="Compare values of different types.")
    ] = False,
    everything: Annotated[
        bool, typer.Option("--all", help="Show the leaves that are equal as well.")
    ] = False,
    as_json: Json = False,
    traceback: Traceback = False,
) -> Outcome:
    """Compare two checkpoints, leaf by leaf.

    Names, shapes, dtypes and values, whatever the formats. `largest` is the largest
    absolute difference in a leaf, `relative` the same over the largest value in the
    first. NaN equals NaN. Exit code 1 means that they differ.

    \b
    Examples:
      jaxinit diff before.safetensors after.safetensors
      jaxinit diff model.pth merged.safetensors --only 'head/.*' --all
      jaxinit diff full.safetensors half.safetensors --ignore-dtype --rtol 0.01
    """
    from jaxinit import transfer
    from jaxinit._paths import Name
    from jaxinit._report import Report
    from jaxinit._rules import select

    one, other = transfer.open_checkpoint(first), transfer.open_checkpoint(second)
    names = {Name.parse(name): name for name in (*one, *other)}
    chosen = [names[name] for name in select(only, names, argument="--only")]
    rows = [
        _compared(one.get(name), other.get(name), name, rtol, atol, ignore_dtype)
        for name in chosen
    ]
    different = [row for row in rows if row["differs"]]
    shown = rows if everything else different
    count = f"{len(different)} of {counted(len(rows), 'leaf')}"
    verb = "differs" if len(different) == 1 else "differ"
    report = Report(
        f"{first} against {second}: {count} {verb}",
        columns=COLUMNS,
        rows=tuple(tuple(row.values()) for row in shown),
        notes=_counts(different),
    )
    data = {**report.to_dict(), "equal": not different}
    return Outcome(_readable(report), data, found=bool(different))


def _counts(different: list[dict[str, Any]]) -> tuple[str, ...]:
    counts = Counter(row["differs"] for row in different)
    told = ", ".join(f"{number} {what}" for what, number in counts.items())
    return (f"leaves by what differs: {told}",) if len(counts) > 1 else ()


def _compared(
    one: Any, other: Any, name: str, rtol: float, atol: float, ignore_dtype: bool
) -> dict[str, Any]:
    row: dict[str, Any] = dict.fromkeys(COLUMNS)
    row |= {"leaf": name, "differs": "", "first": _kind(one), "second": _kind(other)}
    if one is None or other is None:
        return row | {"differs": f"only in the {'second' if one is None else 'first'}"}
    if one.shape != other.shape:
        return row | {"differs": "shape"}
    if object in (one.dtype, other.dtype):
        return row | {"differs": "dtype" * (one.dtype != other.dtype)}
    from jaxinit.transfer._comparison._errors import error_of

    values = one.read(nonfinite="allow"), other.read(nonfinite="allow")
    largest, relative = error_of(*values)
    scale = largest / relative if 0 < relative < float("inf") else 0.0
    differs = []
    if one.dtype != other.dtype and not ignore_dtype:
        differs.append("dtype")
    if not largest <= atol + rtol * scale:
        differs.append("values")
    told = {"differs": ", ".join(differs), "largest": largest, "relative": relative}
    return row | told


def _kind(leaf: Any) -> str | None:
    if leaf is None:
        return None
    return f"{leaf.dtype.name} ({', '.join(map(str, leaf.shape))})"


def _readable(report: Any) -> Any:
    """What differs in words, and errors in three digits."""
    rows = []
    for leaf, differs, first, second, *errors in report.rows:
        kinds = f"{first} → {second}" if first and second and first != second else ""
        told = f"{differs or 'no'}: {kinds}" if kinds else differs or "no"
        errors = ["" if error is None else f"{error:.3g}" for error in errors]
        rows.append((leaf, told, *errors))
    columns = ("leaf", "differs", "largest", "relative") if rows else ()
    return dataclasses.replace(report, columns=columns, rows=tuple(rows))
