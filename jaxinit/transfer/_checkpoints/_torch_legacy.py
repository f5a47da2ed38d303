"""torch files before version 1.6: five pickles and the storages, one after the other.

A magic number, the protocol, the system that wrote it, the tree, the numbers of the
storages; then each storage, its length first. The pickles are read by our own
interpreter, like those of the zip form.
"""

from __future__ import annotations

import os
import struct
from typing import Any

from jaxinit.transfer._checkpoints._torch_tensors import Storage, machine, source_of
from jaxinit.transfer._limits import Budget, Limits
from jaxinit.transfer._origin import Origin
from jaxinit.transfer._source import Source

MAGIC = 0x1950A86A20F9469CFC6C
_PROTOCOL = 1001


def read(path: Any, *, separator: str | None, limits: Limits) -> Source:
    """The tensors of a torch file in the older form."""
    budget = Budget(limits, Origin(path))
    with open(path, "rb") as file:
        stream = _Bounded(file, budget)
        if machine(budget).run(stream) != MAGIC:
            raise budget.refuse("is a pickle, and none that torch.save wrote")
        if machine(budget).run(stream) != _PROTOCOL:
            raise budget.refuse("has a protocol that torch never had")
        system = machine(budget).run(stream)
        if not isinstance(system, dict) or system.get("little_endian") is not True:
            raise budget.refuse("was not written on a little-endian machine")
        storages: dict[str, Storage] = {}
        tree = machine(budget, storages).run(stream)
        keys = machine(budget).run(stream)
        places = _places(file, keys, storages, budget)

    def place(storage: Storage) -> int:
        return places[storage.key]

    return source_of(tree, place, path=path, separator=separator, budget=budget)


def _places(
    file: Any, keys: Any, storages: dict[str, Storage], budget: Budget
) -> dict[str, int]:
    """Where each storage starts; they stand in the order of `keys`."""
    if not isinstance(keys, list) or sorted(map(str, keys)) != sorted(storages):
        raise budget.refuse("lists other storages than those that its tensors view")
    end = os.fstat(file.fileno()).st_size
    places: dict[str, int] = {}
    for key in keys:
        prefix = file.read(8)
        length = struct.unpack("<q", prefix)[0] if len(prefix) == 8 else -1
        storage, start = storages[key], file.tell()
        if storage.dtype is None:  # torch writes such a file and cannot read it either
            raise budget.refuse(f"storage {key[:40]!r} has no type in the older form")
        if length != storage.whole or start + length * storage.itemsize > end:
            raise budget.refuse(
                f"storage {key[:40]!r} has {length} elements, and its pickle claims "
                f"{storage.whole}; {end - start} bytes are left"
            )
        places[key] = start
        file.seek(start + length * storage.itemsize)
    return places


class _Bounded:
    """A file from which a pickle cannot read more at once than a pickle needs."""

    def __init__(self, file: Any, budget: Budget) -> None:
        self.file, self.budget = file, budget
        self.tell = file.tell

    def read(self, length: int) -> bytes:
        """So many bytes."""
        self.budget.header(length, "a text of its pickle")
        return self.file.read(length)

    def readline(self) -> bytes:
        """The bytes up to the end of the line."""
        return self.file.readline(self.budget.limits.max_header_bytes)
