"""Write a tree as safetensors: whole or not at all, and saying where it comes from.

The header is built here and the leaves are written one after the other, since the
library's writer wants all of them in host memory at once. The library is the judge: the
finished file must open with it before it takes the place of the old one.
"""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import secrets
import struct
from collections.abc import Generator, Mapping
from importlib.metadata import version
from typing import Any

import jax
import numpy as np
from safetensors import SafetensorError, safe_open

from jaxinit._errors import CheckpointError
from jaxinit.transfer._checkpoints._safetensors import DTYPES, OWN_NAMES, check_own_name
from jaxinit.transfer._limits import Budget, Limits
from jaxinit.transfer._origin import Origin
from jaxinit.transfer._plan import Plan
from jaxinit.transfer._regions import native
from jaxinit.transfer._source import Leaf, Source, as_source

PROVENANCE = "jaxinit.provenance"
_NAMES = {native(dtype): name for name, dtype in DTYPES.items()}


def save(
    path: str | os.PathLike[str],
    tree: Any,
    *,
    provenance: Mapping[str, Any] | Any = None,
) -> None:
    """Write the leaves of a tree, or of a Source, as one safetensors file, atomically.

    The file is written under another name beside `path`, forced to the disk, and then
    renamed: a process that is killed leaves the old file or the new one, never a part
    (and perhaps a file `.name.*.tmp`, to be deleted). Leaves are fetched one at a time.

    Names are those of the tree, `encoder/kernel` or `batch_stats:norm/mean`, and
    `open_checkpoint` gives them back. State of random-number streams is not written;
    its names are listed in the metadata. `provenance` is any JSON value, or a report
    (what has a `to_dict`); of that of a merge, the sha256 of the files, the rules and
    the fate of every leaf are kept. It is stored with the versions of the libraries in
    `open_checkpoint(path).metadata["jaxinit.provenance"]`, as JSON.

    Raises:
      CheckpointError: a leaf has a type that safetensors does not have, has no values,
        or is spread over processes; provenance is no JSON; the system refuses to write.

    >>> import numpy as np, os, tempfile
    >>> from jaxinit.transfer import open_checkpoint
    >>> path = os.path.join(tempfile.mkdtemp(), "head.safetensors")
    >>> save(path, {"kernel": np.ones((3, 2))}, provenance={"from": "scratch"})
    >>> open_checkpoint(path)["kernel"].shape
    (3, 2)
    """
    source = as_source(tree, argument="tree")
    target = pathlib.Path(os.path.realpath(path))
    metadata = {
        OWN_NAMES: "full",
        PROVENANCE: _provenance(provenance, source),
        "format": "flax",
    }
    header = _header(source, metadata)
    try:
        with _replacing(target) as file:
            file.write(struct.pack("<Q", len(header)) + header)
            for _, leaf in _in_file_order(source):
                file.write(_content(leaf))
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path}: cannot be written: {error}") from error


@contextlib.contextmanager
def _replacing(target: pathlib.Path) -> Generator[Any]:
    """A file to write to, which takes the place of `target` if all goes well."""
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(8)}.tmp")
    try:  # opened inside: an interruption can come as soon as the file is there
        flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY
        with open(os.open(temporary, flags, 0o666), "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        with safe_open(temporary, framework="numpy"):
            pass  # judged by the library before anybody sees it
        os.replace(temporary, target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    _sync_directory(target.parent)


def _sync_directory(folder: pathlib.Path) -> None:
    """The rename itself is safe from a loss of power only once its folder is written.

    Where folders cannot be opened, as on Windows, there is no such call.
    """
    if not hasattr(os, "O_DIRECTORY"):
        return
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _in_file_order(source: Source) -> list[tuple[str, Leaf]]:
    """Wide types first, so that every leaf starts at a multiple of its item size."""
    return sorted(source.items(), key=lambda item: -item[1].dtype.itemsize)


def _header(source: Source, metadata: dict[str, str]) -> bytes:
    budget = Budget(Limits(), Origin(None, label="tree"))
    starts: dict[str, int] = {}
    at = 0
    for name, leaf in _in_file_order(source):
        starts[name] = at
        at += leaf.nbytes
    entries: dict[str, Any] = {"__metadata__": metadata}
    for name, leaf in source.items():
        check_own_name(name, budget)
        if leaf.dtype not in _NAMES:
            raise CheckpointError(
                f"{leaf}: safetensors has no type for {leaf.dtype}; cast it before"
            )
        start = starts[name]
        entries[name] = {
            "dtype": _NAMES[leaf.dtype],
            "shape": list(leaf.shape),
            "data_offsets": [start, start + leaf.nbytes],
        }
    text = json.dumps(entries, separators=(",", ":")).encode()
    return text + b" " * (-len(text) % 8)


def _content(leaf: Leaf) -> memoryview:
    try:
        values = leaf.read(nonfinite="allow")
    except RuntimeError as error:
        reason = f"{leaf}: cannot be fetched: {error}; gather it on one process first"
        raise CheckpointError(reason) from error
    flat = np.ascontiguousarray(values).reshape(-1)
    return flat.astype(flat.dtype.newbyteorder("<"), copy=False).view(np.uint8).data


def _provenance(provenance: Any, source: Source) -> str:
    if isinstance(provenance, Plan):
        provenance = provenance.provenance()
    elif hasattr(provenance, "to_dict"):
        provenance = provenance.to_dict()
    record = {
        "jaxinit": version("jaxinit"),
        "jax": jax.__version__,
        "numpy": np.__version__,
        "random_state": list(source.random_state),
        "record": provenance,
    }
    try:
        return json.dumps(record, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise CheckpointError(f"provenance must be JSON: {error}") from error
