"""An error in a few lines: what it says, and the line of the user's that made it."""

from __future__ import annotations

import os
import pathlib
import sysconfig
import traceback

from jaxinit.cli._outcome import Failure

_MOST_LINES = 12
_PACKAGE = str(pathlib.Path(__file__).parent.parent) + os.sep
_LIBRARIES = tuple(
    {sysconfig.get_path(kind) for kind in ("stdlib", "platstdlib", "purelib")}
)


def told(error: BaseException) -> str:
    """The error for its reader; the file and line if it arose in the reader's code."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = isinstance(error, ValueError) and frames and _is_ours(frames[-1])
    if isinstance(error, Failure) or ours:
        return _shortened(str(error) or type(error).__name__)
    if isinstance(error, SyntaxError) and error.filename:
        line = (error.text or "").strip()
        said = f"{type(error).__name__}: {error.msg}"
        return f"{said}\n  {nearby(error.filename)}, line {error.lineno}\n    {line}"
    said = _shortened(f"{type(error).__name__}: {error}".rstrip(": "))
    own = [frame for frame in frames if not _is_ours(frame) and not _is_library(frame)]
    if not own:
        return said
    frame = own[-1]
    where = f"{nearby(frame.filename)}, line {frame.lineno}, in {frame.name}"
    return f"{said}\n  {where}\n    {frame.line}"


def nearby(path: str) -> str:
    """A path as seen from the current directory, if it lies below it."""
    with_parents = pathlib.Path(path).absolute()
    here = pathlib.Path.cwd()
    below = with_parents.is_relative_to(here)
    return str(with_parents.relative_to(here)) if below else str(path)


def _is_ours(frame: traceback.FrameSummary) -> bool:
    return frame.filename.startswith(_PACKAGE)


def _is_library(frame: traceback.FrameSummary) -> bool:
    installed = "site-packages" in frame.filename or "dist-packages" in frame.filename
    generated = frame.filename.startswith("<")
    return installed or generated or frame.filename.startswith(_LIBRARIES)


def _shortened(text: str) -> str:
    lines = text.splitlines()
    if len(lines) <= _MOST_LINES:
        return text
    return "\n".join([*lines[:_MOST_LINES], f"({len(lines) - _MOST_LINES} more lines)"])
