"""`jaxinit inspect`: what a checkpoint holds."""

from __future__ import annotations

import json
from collections import Counter
from typing import Annotated, Any

import typer

from jaxinit._tables import amount
from jaxinit.cli._files import opened
from jaxinit.cli._leaves import measured, nonfinite, readable
from jaxinit.cli._options import File, Format, Json, Only, Separator, Traceback
from jaxinit.cli._outcome import Outcome, counted

_MOST_METADATA = 8
_PROVENANCE = "jaxinit.provenance"


def inspect(
    file: File,
    values: Annotated[
        bool,
        typer.Option(
            "--values", help="Read the numbers: root mean square, NaN and infinity."
        ),
    ] = False,
    only: Only = None,
    format: Format = None,
    separator: Separator = None,
    as_json: Json = False,
    traceback: Traceback = False,
) -> Outcome:
    """Show the leaves of a checkpoint: path, shape, dtype, bytes.

    Layers that are alike share a line. Without --values only the header is read. Exit
    code 1 means that --values found NaN or infinity.

    \b
    Examples:
      jaxinit inspect model.pth
      jaxinit inspect model.safetensors --values
      jaxinit inspect model.safetensors --only 'encoder/.*' --json
    """
    from jaxinit._paths import Name
    from jaxinit._report import Report
    from jaxinit._rules import select

    source = opened(file, format, separator)
    names = {Name.parse(name): name for name in source}
    leaves = [source[names[name]] for name in select(only, names, argument="--only")]
    rows, findings = [], []
    for leaf in leaves:
        row: dict[str, Any] = {
            "leaf": leaf.name,
            "shape": leaf.shape,
            "dtype": leaf.dtype.name,
        }
        row["bytes"] = leaf.nbytes
        if values:
            row["rms"], row["nonfinite"] = measured(leaf)
            if row["nonfinite"]:
                findings.append(nonfinite(leaf, row["nonfinite"]))
        rows.append(row)
    columns = ("leaf", "shape", "dtype", "bytes", *(("rms", "nonfinite") * values))
    sizes = sum(leaf.size for leaf in leaves), sum(leaf.nbytes for leaf in leaves)
    chosen = "" if len(leaves) == len(source) else f" of {len(source)}"
    report = Report(
        f"{file}: {source.format}, {counted(len(leaves), 'leaf')}{chosen}, "
        f"{amount(sizes[0], '')} numbers, {amount(sizes[1])}",
        columns=columns,
        rows=tuple(rows),
        findings=tuple(findings),
        notes=tuple(_notes(source)),
    )
    data = {**report.to_dict(), "metadata": _plain(source.metadata)}
    return Outcome(readable(report), data, found=bool(findings))


def _notes(source: Any) -> list[str]:
    notes = []
    metadata = dict(source.metadata)
    if record := _record(metadata.pop(_PROVENANCE, None)):
        notes += _provenance(record)
    metadata.pop("jaxinit.names", None)
    shown = [f"{key}={value!s:.60}" for key, value in metadata.items()]
    if shown:
        more = len(shown) - _MOST_METADATA
        rest = f", and {more} more (--json has all)" if more > 0 else ""
        notes.append(f"metadata: {', '.join(shown[:_MOST_METADATA])}{rest}")
    if source.random_state:
        notes.append(f"random-number state: {', '.join(source.random_state)}")
    return notes


def _record(text: Any) -> dict[str, Any] | None:
    """The provenance that `save` wrote; a file may hold any other text there."""
    try:
        record = json.loads(text) if isinstance(text, str) else None
    except ValueError:
        return None
    return record if isinstance(record, dict) else None


def _provenance(record: dict[str, Any]) -> list[str]:
    notes = [
        f"written by jaxinit {record.get('jaxinit')} with jax {record.get('jax')} "
        f"and numpy {record.get('numpy')}"
    ]
    merged = record.get("record")
    if not isinstance(merged, dict):
        return notes
    source = merged.get("source")
    for file in source.get("files", ()) if isinstance(source, dict) else ():
        if isinstance(file, dict):
            size, sha = file.get("bytes"), file.get("sha256")
            size = f", {amount(size)}" if isinstance(size, int) else ""
            notes.append(f"from {file.get('path')}{size}, sha256 {sha!s:.12}…")
    if isinstance(merged.get("targets"), dict):
        fates = Counter(map(str, merged["targets"].values()))
        notes.append(", ".join(f"{count} {fate}" for fate, count in fates.items()))
    if isinstance(merged.get("rules"), list) and merged["rules"]:
        notes.append(f"by the rules {', '.join(map(str, merged['rules']))}")
    return notes


def _plain(metadata: Any) -> dict[str, Any]:
    """The metadata as JSON takes it; what it cannot take as text."""
    try:
        return json.loads(json.dumps(dict(metadata), allow_nan=False, default=str))
    except (ValueError, TypeError):
        return {str(key): str(value) for key, value in metadata.items()}
