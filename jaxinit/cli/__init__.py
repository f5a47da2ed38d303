"""The command line, ``jaxinit``: needs the extra `cli`.

Exit codes: 0 fine, 1 findings, 2 wrong use. Results go to standard output, complaints
and progress to standard error; ``--json`` is for programs. No module of this folder
imports JAX before a verb runs, so that help and completion answer at once.
"""

from __future__ import annotations

from typing import Annotated

import typer

from jaxinit import __version__
from jaxinit.cli._audit import audit
from jaxinit.cli._demo import demo
from jaxinit.cli._diff import diff
from jaxinit.cli._initializers import initializers
from jaxinit.cli._inspect import inspect
from jaxinit.cli._materialize import materialize
from jaxinit.cli._merge import merge
from jaxinit.cli._plan import plan
from jaxinit.cli._verb import verb

__all__ = ["app"]

# Each verb is a function in a file of its own that returns an Outcome.
VERBS = (
    demo,
    audit,
    inspect,
    diff,
    plan,
    merge,
    materialize,
    initializers,
    # A further verb: its import above, and its name here.
)

app = typer.Typer(
    name="jaxinit",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
for _function in VERBS:
    app.command(name=_function.__name__)(verb(_function))


def _version(asked: bool):
    if asked:
        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def main(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_version, is_eager=True, help="Print the version."
        ),
    ] = False,
):
    """Functional initialization and transfer learning for JAX and Flax.

    \b
    A start:
      jaxinit inspect model.pth
      jaxinit audit net.py:build --input 8,224,224,3
      jaxinit plan model.pth net.py:build --input 1,224,224,3 --rules rules.json

    Exit codes: 0 fine, 1 findings, 2 wrong use. Every verb takes --json, which alone
    then stands on standard output, and --traceback.
    """
