"""What a verb returns, and how it reaches the terminal, a pipe or a program."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import dataclass
from typing import Any, TextIO

_WIDTH = 80  # of what is no terminal


@dataclass(frozen=True)
class Outcome:
    """The result of a verb.

    `shown` is for people, a text or anything that rich prints; `data` is for programs,
    as `json.dumps` takes it; `found` says whether there is something to complain about,
    which is exit code 1; `said` is for standard error.
    """

    shown: Any
    data: Any
    found: bool = False
    said: tuple[str, ...] = ()


class Failure(Exception):
    """What the user can mend; its text is all that is shown of it."""


def show(outcome: Outcome, *, as_json: bool) -> None:
    """Write the outcome: one JSON value on standard output, or text for people."""
    for line in outcome.said:
        complain(line)
    if as_json:
        # Where letters cannot be written they are escaped: a "?" would be another name.
        escaped = not _encoding().lower().startswith("utf")
        text = json.dumps(outcome.data, indent=2, allow_nan=False, ensure_ascii=escaped)
        write(text + "\n")
    else:
        write(outcome.shown if isinstance(outcome.shown, str) else _drawn(outcome))


def write(text: str) -> None:
    """Write to standard output; whoever reads it may stop reading (`| head`)."""
    encoding = _encoding()
    try:
        # A terminal that has no such letter gets another one, not a traceback.
        sys.stdout.write(text.encode(encoding, "replace").decode(encoding))
        sys.stdout.flush()
    except BrokenPipeError:
        # What Python still holds goes nowhere, or it would complain when it ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _encoding() -> str:
    return getattr(sys.stdout, "encoding", None) or "utf-8"


def complain(text: str) -> None:
    """A line on standard error, which names the program."""
    sys.stderr.write(f"jaxinit: {text}\n")


def console(stream: TextIO) -> Any:
    """A console as wide as the terminal, and 80 columns where there is none."""
    from rich.console import Console

    made = Console(file=stream, highlight=False)
    if not made.is_terminal:
        width = os.environ.get("COLUMNS", "")
        made.width = int(width) if width.isdecimal() and int(width) else _WIDTH
    return made


def _drawn(outcome: Outcome) -> str:
    drawing = console(sys.stdout)
    with drawing.capture() as captured:
        drawing.print(outcome.shown)
    text = captured.get()
    if drawing.is_terminal:
        return text
    # Tables pad their lines to the full width, which a pipe has no use for.
    return "\n".join(line.rstrip() for line in text.split("\n"))


def counted(number: int, what: str) -> str:
    """ "1 leaf", "2 leaves"."""
    plural = f"{what[:-1]}ves" if what.endswith("f") else f"{what}s"
    return f"{number} {what if number == 1 else plural}"
