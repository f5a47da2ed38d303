"""The command line, ``jaxinit``: needs the extra `cli`.

Exit codes: 0 fine, 1 findings, 2 wrong use. Results go to standard output, complaints
to standard error; ``--json`` is for programs.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
import re
from typing import Annotated

import typer
from pylatexenc.latex2text import LatexNodes2Text
from rich.console import Console
from rich.table import Table
from rich.text import Text

from jaxinit import __version__, _catalogue

app = typer.Typer(
    name="jaxinit",
    help="Functional initialization and transfer learning for JAX and Flax.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
)


def _console() -> Console:
    """Standard output: as wide as the terminal, 80 columns where it is none."""
    console = Console(highlight=False)
    return console if console.is_terminal else Console(width=80, highlight=False)


def _version(asked: bool):
    if asked:
        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def main(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True)
    ] = False,
):
    """Functional initialization and transfer learning for JAX and Flax."""


@app.command()
def initializers(
    name: Annotated[str | None, typer.Argument(help="Show this one in full.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    markdown: Annotated[bool, typer.Option(help="Print the page of the docs.")] = False,
):
    """List the initializers: formula, use and source.

    Examples: `jaxinit initializers`, `jaxinit initializers he_normal`,
    `jaxinit initializers --json`.
    """
    entries = _catalogue.catalogue()
    if name is not None:
        entries = [_named(name)]
    if as_json:
        shown = [dataclasses.asdict(entry) for entry in entries]
        typer.echo(json.dumps(shown[0] if name is not None else shown, indent=2))
    elif markdown:
        typer.echo(_catalogue.as_markdown(entries), nl=False)
    elif name is not None:
        _show(entries[0])
    else:
        _list(entries)


def _named(name: str) -> _catalogue.Entry:
    entry = _catalogue.find(name)
    if entry is None:
        known = [n for e in _catalogue.catalogue() for n in (e.name, *e.aliases)]
        close = difflib.get_close_matches(name, known)
        hint = f"; did you mean {' or '.join(close)}?" if close else ""
        typer.echo(f"jaxinit: there is no initializer {name!r}{hint}", err=True)
        raise typer.Exit(2)
    return entry


def _list(entries: list[_catalogue.Entry]):
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
    _console().print(table)


def _show(entry: _catalogue.Entry):
    console = _console()
    console.print(Text(entry.call, style="bold"))
    console.print()
    console.print(Text(_unmarked(entry.text)))


def _plain(latex: str) -> str:
    """A formula in one line of text."""
    text = LatexNodes2Text().latex_to_text(latex)
    return " ".join(text.split())


def _unmarked(text: str) -> str:
    return re.sub(r":\w+:`~?([^`]+)`", r"\1", text.replace("``", ""))
