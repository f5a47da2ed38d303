"""What the demo found, in a terminal of 80 columns or in a pipe."""

from __future__ import annotations

import pathlib
from typing import Any

from jaxinit.demo import _deep, _experiment
from jaxinit.demo._page import headline
from jaxinit.demo._run import Found


def summary(found: Found, path: pathlib.Path) -> Any:
    """Something that rich prints."""
    from rich.console import Group
    from rich.text import Text

    start, deep, proof = found.start, found.deep, found.proof
    bits = "the same bits" if start.identical else "OTHER BITS, which is a bug"
    first = f"{start.materialize:.2f} s, by jit {start.jit:.2f} s, {bits}"
    logits = f"read without torch, logits off by {proof.relative:.0e} of the largest"
    lines = [
        f"first parameters  {first}",
        f"torch checkpoint  {logits}",
        f"{_deep.LAYERS} layers of ReLU on digits, accuracy:",
        *(f"  {name:<18}  {scores}" for name, scores in deep.scores.items()),
    ]
    if not proof.holds:
        lines.insert(2, "  which is MORE than rounding: the merge or the images differ")
    return Group(
        Text("\n".join(lines)),
        Text(f"\n{found.experiment.task.title}", style="bold"),
        _table(found.experiment),
        Text(f"\n{headline(found)}"),
        Text(f"The page, with plots and what did not help: {path}"),
    )


def _table(experiment: Any) -> Any:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE, show_edge=False, padding=(0, 1, 0, 0), pad_edge=False)
    table.add_column(f"accuracy, {experiment.tested} images", overflow="fold")
    for count in experiment.labels:
        table.add_column(f"{count} labels", justify="right")
    for name in _experiment.METHODS:
        scores = [experiment.scores[name, count] for count in experiment.labels]
        style = "bold" if name == _experiment.RECIPE else ""
        table.add_row(name, *map(str, scores), style=style)
    return table
