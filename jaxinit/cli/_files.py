"""The files that verbs read and write besides checkpoints."""

from __future__ import annotations

import difflib
import os
import pathlib
import secrets
from collections.abc import Sequence
from dataclasses import fields
from typing import Any

from jaxinit.cli._outcome import Failure


def opened(path: pathlib.Path, format: Any, separator: str | None) -> Any:
    """The checkpoint, as the options say that it is to be read."""
    from jaxinit import transfer

    return transfer.open_checkpoint(path, format=format, separator=separator)


def read_text(path: pathlib.Path, what: str) -> str:
    """The text of a file; `what` says in errors what it was wanted for."""
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise Failure(f"{what}: {path} is no text: {error}") from None
    except OSError as error:
        raise Failure(f"{what}: {path}: {error.strerror}") from None


def check_free(path: pathlib.Path | None, *, force: bool) -> None:
    """Refuse a path that cannot be written to, before the work is done."""
    if path is None:
        return
    if path.is_dir():
        raise Failure(f"{path} is a directory; name a file")
    if path.exists() and not force:
        raise Failure(f"{path} is there already; say --force to write over it")
    if not path.parent.is_dir():
        raise Failure(f"there is no directory {path.parent} to write {path.name} to")


def write_text(path: pathlib.Path, text: str) -> None:
    """Write a file whole or not at all."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
    try:
        temporary.write_text(text, encoding="utf-8")
        os.replace(temporary, path)
    except OSError as error:
        raise Failure(f"{path} cannot be written: {error.strerror}") from None
    finally:
        temporary.unlink(missing_ok=True)


def rules_of(path: pathlib.Path | None) -> list[Any]:
    """The rules in a JSON file; none without one."""
    from jaxinit import transfer

    if path is None:
        return []
    text = read_text(path, "--rules")
    try:
        return transfer.rules_from_json(text)
    except ValueError as error:
        raise Failure(f"{path}: {error}") from None


def policy_of(texts: Sequence[str] | None) -> Any:
    """The policy that `--policy KIND=CHOICE` changes; the strict one without any."""
    from jaxinit import transfer

    known = [field.name for field in fields(transfer.Policy)]
    choices: dict[str, Any] = {}
    for text in texts or ():
        kind, equals, choice = text.partition("=")
        if not equals:
            raise Failure(f"--policy {text!r} is not KIND=CHOICE; write missing=allow")
        if kind not in known:
            close = difflib.get_close_matches(kind, known, n=1)
            meant = (
                f"did you mean {close[0]}?" if close else f"it is {', '.join(known)}"
            )
            raise Failure(f"--policy {text!r}: there is no {kind!r}; {meant}")
        choices[kind] = choice
    return transfer.Policy(**choices)
