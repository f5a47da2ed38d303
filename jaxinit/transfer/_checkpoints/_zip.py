"""The directory of a zip archive, read with distrust: what npz and torch files share.

Python's zipfile does the reading. Before it may, the size of the directory is checked,
since an object is made of each entry; after it, that no member lies inside another,
stands twice, is encrypted or linked, or expands beyond the limits. (Overlapping members
are how a small archive becomes petabytes.)
"""

from __future__ import annotations

import contextlib
import os
import struct
import zipfile
import zlib
from collections.abc import Generator
from typing import Any

from jaxinit._errors import CheckpointError
from jaxinit.transfer._limits import Budget

_END = struct.Struct("<4s4H2LH")
_END64 = struct.Struct("<4sQ2H2L4Q")
_LOCATOR_SIZE = 20
_LOCAL = struct.Struct("<4s5H3L2H")
_ENTRY_BYTES = 46 + 128  # a central header, and a name of a tensor


@contextlib.contextmanager
def open_archive(path: Any, budget: Budget) -> Generator[zipfile.ZipFile]:
    """An archive whose directory has been checked; errors of reading name the file."""
    _check_directory_size(path, budget)
    try:
        with zipfile.ZipFile(path) as archive:
            _check_members(archive, budget)
            yield archive
    except CheckpointError:
        raise
    except (
        zipfile.BadZipFile,
        zlib.error,
        NotImplementedError,
        EOFError,
        OSError,
        RuntimeError,
        ValueError,
        OverflowError,
        struct.error,
    ) as error:
        raise budget.refuse(f"is no sound zip archive: {error}") from error


def _check_directory_size(path: Any, budget: Budget) -> None:
    """Find the end record as zipfile finds it, for the size that it claims."""
    with open(path, "rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(size - (1 << 16) - _END.size, 0))
        tail = file.read()
        at = len(tail) - _END.size
        if at < 0 or tail[at : at + 4] != b"PK\5\6" or tail[-2:] != b"\0\0":
            at = tail.rfind(b"PK\5\6")
        if at < 0 or len(tail) < at + _END.size:
            raise budget.refuse("has no zip directory at its end; is it truncated?")
        directory = _END.unpack_from(tail, at)[5]
        locator = at - _LOCATOR_SIZE
        if locator >= 0 and tail[locator : locator + 4] == b"PK\6\7":
            end64 = locator - _END64.size
            if end64 >= 0 and tail[end64 : end64 + 4] == b"PK\6\6":
                directory = _END64.unpack_from(tail, end64)[8]
    if directory > budget.limits.max_leaves * _ENTRY_BYTES + (1 << 16):
        found = f"{directory} bytes"
        raise budget.exceeded("the zip directory is too large", found, "max_leaves")


def _check_members(archive: zipfile.ZipFile, budget: Budget) -> None:
    seen: set[str] = set()
    end, total, stored = 0, 0, 0
    for info in sorted(archive.infolist(), key=lambda info: info.header_offset):
        if info.filename in seen:
            raise budget.refuse(f"the member {info.filename[:200]!r} stands twice")
        seen.add(info.filename)
        if info.flag_bits & 1:
            raise budget.refuse(f"the member {info.filename[:200]!r} is encrypted")
        if info.header_offset < end:
            raise budget.refuse(f"the member {info.filename[:200]!r} overlaps another")
        end = info.header_offset + _LOCAL.size + info.compress_size
        total, stored = total + info.file_size, stored + info.compress_size
    if total > budget.limits.max_bytes:
        raise budget.exceeded("too large", f"{total} bytes", "max_bytes")
    budget.expansion(total, stored, "the members")


def data_offset(archive: zipfile.ZipFile, info: zipfile.ZipInfo, budget: Budget) -> int:
    """Where the bytes of an uncompressed member start in the file."""
    file = archive.fp
    assert file is not None  # the archive is open
    file.seek(info.header_offset)
    local = file.read(_LOCAL.size)
    if len(local) < _LOCAL.size or local[:4] != b"PK\3\4":
        raise budget.refuse(f"the member {info.filename[:200]!r} has no local header")
    *_, name_length, extra_length = _LOCAL.unpack(local)
    if file.read(name_length) != info.orig_filename.encode(
        "utf-8" if info.flag_bits & 0x800 else "cp437"
    ):
        raise budget.refuse(f"the member {info.filename[:200]!r} has two names")
    offset = info.header_offset + _LOCAL.size + name_length + extra_length
    end = file.seek(0, os.SEEK_END)
    if info.compress_size != info.file_size or offset + info.file_size > end:
        raise budget.refuse(f"the member {info.filename[:200]!r} lies about its size")
    return offset


def is_stored(info: zipfile.ZipInfo) -> bool:
    """Whether a member lies in the file as it is."""
    return info.compress_type == zipfile.ZIP_STORED
