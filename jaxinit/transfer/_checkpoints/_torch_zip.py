"""torch files since version 1.6: a zip archive of one pickle and one member a storage.

Members are stored uncompressed, so tensors are read in place.
"""

from __future__ import annotations

import io
import zipfile
from typing import Any

from jaxinit.transfer._checkpoints._torch_tensors import Storage, machine, source_of
from jaxinit.transfer._checkpoints._zip import data_offset, is_stored, open_archive
from jaxinit.transfer._limits import Budget, Limits
from jaxinit.transfer._origin import Origin
from jaxinit.transfer._source import Source


def read(path: Any, *, separator: str | None, limits: Limits) -> Source:
    """The tensors of a torch zip file."""
    budget = Budget(limits, Origin(path))
    with open_archive(path, budget) as archive:
        members = {info.filename: info for info in archive.infolist()}
        root = _root(members, budget)
        if root + "constants.pkl" in members:
            raise budget.refuse(
                "is a TorchScript program; load it with torch.jit.load and save its "
                "state_dict"
            )
        pickled = members[root + "data.pkl"]
        budget.header(pickled.file_size, "its pickle")
        stream = io.BytesIO(archive.read(pickled))
        tree = machine(budget).run(stream)
        order = members.get(root + "byteorder")
        swapped = order is not None and _byte_order(archive, order, budget) == b"big"
        places: dict[str, int] = {}

        def place(storage: Storage) -> int:
            if storage.key not in places:
                info = members.get(f"{root}data/{storage.key}")
                places[storage.key] = _place(archive, info, storage, budget)
            return places[storage.key]

        return source_of(
            tree,
            place,
            path=path,
            separator=separator,
            budget=budget,
            swapped=swapped,
        )


def _root(members: dict[str, zipfile.ZipInfo], budget: Budget) -> str:
    """The folder of the archive that holds everything else."""
    roots = [name.removesuffix("data.pkl") for name in members if _is_pickle(name)]
    if len(roots) != 1:
        raise budget.refuse(
            f"is a zip archive with {len(roots)} members data.pkl, where torch writes "
            "one and npz none but arrays"
        )
    return roots[0]


def _is_pickle(name: str) -> bool:
    return name == "data.pkl" or (name.count("/") == 1 and name.endswith("/data.pkl"))


def _byte_order(
    archive: zipfile.ZipFile, info: zipfile.ZipInfo, budget: Budget
) -> bytes:
    order = archive.read(info) if info.file_size < 16 else b""
    if order not in (b"little", b"big"):
        raise budget.refuse(f"its byte order is {order[:16]!r}")
    return order


def _place(
    archive: zipfile.ZipFile,
    info: zipfile.ZipInfo | None,
    storage: Storage,
    budget: Budget,
) -> int:
    needed = storage.whole * storage.itemsize
    if info is None:
        raise budget.refuse(f"has no member for storage {storage.key[:40]!r}")
    if not is_stored(info):
        raise budget.refuse(
            f"storage {storage.key[:40]!r} is compressed, which torch never does; "
            "unpack the archive and pack it without compression"
        )
    if info.file_size < needed:
        raise budget.refuse(
            f"storage {storage.key[:40]!r} has {info.file_size} bytes, and its pickle "
            f"claims {needed}"
        )
    return data_offset(archive, info, budget)
