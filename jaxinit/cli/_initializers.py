"""`jaxinit initializers`: the list, or one in full."""

from __future__ import annotations

import dataclasses
import difflib
import re
from typing import TYPE_CHECKING, Annotated, Any

import typer

from jaxinit.cli._options import Json, Traceback
from jaxinit.cli._outcome import Failure, Outcome

if TYPE_CHECKING:
    from jaxinit._catalogue import Entry


def initializers(
    name: Annotated[str | None, typer.Argument(help="Show this one in full.")] = None,
    as_json: Json = False,
    markdown: Annotated[
        bool, typer.Option("--markdown", help="Print the page of the docs.")
    ] = False,
    traceback: Traceback = False,
) -> Outcome:
    """List the initializers: formula, use and source.

    \b
    Examples:
      jaxinit initializers
      jaxinit initializers he_normal
      jaxinit initializers --json
    """
    from jaxinit import _catalogue

    entries = _catalogue.catalogue()
    if name is not None:
        entries = [_named(name)]
    data = [dataclasses.asdict(entry) for entry in entries]
    if markdown:
        return Outcome(_catalogue.as_markdown(entries), data)
    if name is not None:
        return Outcome(_in_full(entries[0]), data[0])
    return Outcome(_list(entries), data)


def _named(name: str) -> Entry:
    from jaxinit import _catalogue

    entry = _catalogue.find(name)
    if entry is None:
        known = [n for e in _catalogue.catalogue() for n in (e.name, *e.aliases)]
        close = difflib.get_close_matches(name, known)
        hint = f"; did you mean {' or '.join(close)}?" if close else ""
        raise Failure(f"there is no initializer {name!r}{hint}")
    return entry


def _list(entries: list[Entry]) -> Any:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, show_edge=False)
    table.add_column("initializer", no_wrap=True, max_width=22)
    table.add_column("use, formula and source", overflow="fold")
    for entry in entries:
        names = "\n".join((entry.name, *entry.aliases))
        said = Text(_unmarked(entry.use))
        if entry.formula:
            said.append(f"\n  {_plain(entry.formula)}", style="bold")
        if entry.source:
            said.append(f"\n  {_unmarked(entry.source)}", style="dim")
        table.add_row(Text(names), said)
    return table


def _in_full(entry: Entry) -> Any:
    from rich.text import Text

    text = Text(entry.call, style="bold")
    return text.append(f"\n\n{_unmarked(entry.text)}", style="not bold")


def _plain(latex: str) -> str:
    """A formula in one line of text."""
    from pylatexenc.latex2text import LatexNodes2Text

    text = LatexNodes2Text().latex_to_text(latex)
    return " ".join(text.split())


def _unmarked(text: str) -> str:
    return re.sub(r":\w+:`~?([^`]+)`", r"\1", text.replace("``", ""))
