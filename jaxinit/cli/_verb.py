"""From a function that returns an Outcome to a command with exit codes."""

from __future__ import annotations

import contextlib
import functools
import sys
import traceback as tracebacks
from collections.abc import Callable
from typing import Any

import typer

from jaxinit.cli._blame import told
from jaxinit.cli._outcome import Failure, Outcome, complain, show


def verb(function: Callable[..., Outcome]) -> Callable[..., None]:
    """The function as a command: prints what it returns, and ends with 0, 1 or 2.

    An error that holds a report, as that of a merge does, is a finding. What the user's
    own modules print goes to standard error, since standard output is for the result.
    """

    @functools.wraps(function)
    def command(**options: Any) -> None:
        as_json = bool(options.get("as_json"))
        try:
            with contextlib.redirect_stdout(sys.stderr):
                outcome = function(**options)
        except SystemExit as stop:
            complain(f"the model's own code ended with exit code {stop.code}")
            raise typer.Exit(2) from stop
        except Exception as error:
            if options.get("traceback"):
                tracebacks.print_exc()
            report = getattr(error, "report", None)
            if report is None:
                hint = "" if options.get("traceback") else _hint(error)
                complain(told(error) + hint)
                raise typer.Exit(2) from error
            outcome = Outcome(report, report.to_dict(), found=True)
        show(outcome, as_json=as_json)
        raise typer.Exit(int(outcome.found))

    return command


def _hint(error: Exception) -> str:
    from jaxinit import _errors

    ours = isinstance(error, ValueError) and hasattr(_errors, type(error).__name__)
    plain = isinstance(error, Failure) and error.__cause__ is None
    return "" if ours or plain else "\n--traceback shows all of it"
