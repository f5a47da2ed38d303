"""A file that leaves come from, and the fingerprint that provenance keeps of it."""

from __future__ import annotations

import functools
import hashlib
import pathlib
from typing import Any


class Origin:
    """A file, or a tree in memory, which has a label alone.

    The sha256 is computed when it is first asked for, and kept.
    """

    def __init__(self, path: pathlib.Path | None, *, label: str | None = None) -> None:
        self.path = path
        self.label = label or str(path)

    @functools.cached_property
    def sha256(self) -> str | None:
        """The hash of the file; of a directory, that of its files with their names."""
        if self.path is None:
            return None
        if not self.path.is_dir():
            return file_hash(self.path)
        lines = [
            f"{file_hash(file)}  {file.relative_to(self.path).as_posix()}\n"
            for file in sorted(self.path.rglob("*"))
            if file.is_file()
        ]
        return hashlib.sha256("".join(lines).encode()).hexdigest()

    @property
    def nbytes(self) -> int | None:
        """The size of the file, or of the files of the directory, in bytes."""
        if self.path is None:
            return None
        if not self.path.is_dir():
            return self.path.stat().st_size
        return sum(f.stat().st_size for f in self.path.rglob("*") if f.is_file())

    def record(self) -> dict[str, Any]:
        """Path, size and sha256, for a provenance record."""
        if self.path is None:
            return {"path": self.label}
        return {"path": self.label, "bytes": self.nbytes, "sha256": self.sha256}

    def __str__(self) -> str:
        return self.label

    def __repr__(self) -> str:
        return f"Origin({self.label!r})"


def file_hash(path: pathlib.Path) -> str:
    """The sha256 of a file, in constant memory."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
