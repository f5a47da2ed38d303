"""Open a checkpoint of any format: by what it holds, not by how it is called."""

from __future__ import annotations

import contextlib
import importlib
import os
import pathlib
from collections.abc import Generator
from typing import Any, Literal, get_args

from jaxinit._errors import CheckpointError
from jaxinit.transfer._limits import Limits
from jaxinit.transfer._names import check_separator
from jaxinit.transfer._source import Source

Format = Literal["safetensors", "torch", "msgpack", "npz", "orbax", "index"]

# What `torch.save` writes first in its older form: a pickle of its magic number.
_LEGACY_TORCH = tuple(
    b"\x80" + bytes([protocol]) + frame + b"\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."
    for protocol in (2, 3, 4, 5)
    for frame in (b"", b"\x95\x0d\x00\x00\x00\x00\x00\x00\x00")
)


_LIMITS = Limits()


def open_checkpoint(
    path: str | os.PathLike[str],
    *,
    format: Format | None = None,
    separator: str | None = None,
    limits: Limits = _LIMITS,
) -> Source:
    """The leaves of a checkpoint, by name, each read when it is asked for.

    Formats: safetensors, in one file or in several with an `*.index.json`; files of
    `torch.save` in both of its forms, without torch; msgpack of Flax; npz; directories
    of Orbax. The content decides which it is, unless `format` says it. A directory that
    holds one index or one checkpoint stands for it.

    Names are paths, as everywhere: `encoder/0/weight`. Keys of safetensors and torch
    files are joined by ".", those of npz files by "/", the others are nested;
    `separator` says where it is otherwise. Keys below "params" are those of linen
    variables: the first key is the collection.

    A shape is known before any number is read, and `limits` are checked before anything
    is allocated. No code of a file ever runs: a torch file may hold tensors and plain
    containers, and nothing else.

    Returns:
      A mapping from the full name of each leaf to a Leaf with `shape` and `dtype`. Its
      `read(index, dtype=...)` gives a slice on the host, and `place(sharding,
      dtype=...)` a sharded array whose shards are read one by one.

    Raises:
      CheckpointError: the file is of no known format, is damaged, lies about itself,
        asks for more than the limits, holds other things than arrays; it names the
        file and the reason.

    >>> import numpy as np, os, tempfile
    >>> path = os.path.join(tempfile.mkdtemp(), "weights.npz")
    >>> np.savez(path, **{"dense/kernel": np.ones((3, 2)), "dense/bias": np.zeros(2)})
    >>> source = open_checkpoint(path)
    >>> {name: leaf.shape for name, leaf in source.items()}
    {'dense/kernel': (3, 2), 'dense/bias': (2,)}
    >>> source["dense/kernel"].read((slice(0, 1),), dtype="float32")
    array([[1., 1.]], dtype=float32)
    """
    check_separator(separator)
    where = pathlib.Path(path)
    if format is not None and format not in get_args(Format):
        raise CheckpointError(
            f"format must be one of {get_args(Format)}, got {format!r}"
        )
    with _named(where):
        if where.is_dir() and format in (None, "index"):
            where = _index_in(where) or where
        if not where.exists():
            raise CheckpointError(f"{where}: does not exist")
        found = format or recognize(where)
        if found != "orbax" and not where.is_file():
            raise CheckpointError(f"{where}: is no file, and {found} is read from one")
        if found == "orbax" and not where.is_dir():
            raise CheckpointError(f"{where}: is a file; Orbax writes directories")
        return _reader(found, where)(where, separator=separator, limits=limits)


@contextlib.contextmanager
def _named(path: pathlib.Path) -> Generator[None]:
    """Errors of the system, with the name of the file; what is nested ends here too."""
    try:
        yield
    except CheckpointError:
        raise
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error}") from error
    except RecursionError as error:
        raise CheckpointError(f"{path}: is nested too deeply to be read") from error
    except MemoryError as error:
        raise CheckpointError(f"{path}: does not fit into memory") from error


def _reader(format: str, path: pathlib.Path) -> Any:
    name = format
    if format == "torch":
        name = "torch_zip" if _head(path).startswith(b"PK") else "torch_legacy"
    if format == "index":
        name = "sharded"
    # Imported here: a format brings its library along, and Orbax is a large one.
    module = importlib.import_module(f"jaxinit.transfer._checkpoints._{name}")
    return module.read


def _head(path: pathlib.Path) -> bytes:
    with path.open("rb") as file:
        return file.read(64)


def _index_in(path: pathlib.Path) -> pathlib.Path | None:
    """The index of a checkpoint in several files, or its only file, in a directory."""
    for pattern in ("*.index.json", "*.safetensors"):
        found = sorted(path.glob(pattern))
        if len(found) == 1:
            return found[0]
        if found:
            names = ", ".join(file.name for file in found[:4])
            raise CheckpointError(f"{path}: holds {names}; open one of them")
    return None


def recognize(path: pathlib.Path) -> Format:
    """The format of a file or directory, by what it holds."""
    if path.is_dir():
        from jaxinit.transfer._checkpoints._orbax import is_orbax

        if is_orbax(path):
            return "orbax"
        raise CheckpointError(
            f"{path}: is a directory without an index.json, a safetensors file or the "
            "files of Orbax"
        )
    if not path.is_file():
        raise CheckpointError(f"{path}: is neither a file nor a directory")
    head = _head(path)
    if head.startswith(b"PK\3\4") or head.startswith(b"PK\5\6"):
        return _zip_format(path)
    if head.startswith(_LEGACY_TORCH):
        return "torch"
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") <= path.stat().st_size:
        return "safetensors"
    if head.lstrip()[:1] == b"{":
        return "index"
    if not head.startswith((b"\x89HDF", b"\x93NUMPY")) and _is_map(head):
        return "msgpack"
    raise CheckpointError(f"{path}: {_advice(head)}")


def _is_map(head: bytes) -> bool:
    """Whether msgpack would read a map here, whose first key is a text."""
    skip = {0xDE: 3, 0xDF: 5}.get(head[0], 1) if head else 0
    key = head[skip : skip + 1]
    is_map = bool(head) and (0x81 <= head[0] <= 0x8F or skip > 1)
    return is_map and (b"\xa0" <= key <= b"\xbf" or b"\xd9" <= key <= b"\xdb")


def _zip_format(path: pathlib.Path) -> Format:
    """npz if the first member is an array. The readers check the archive themselves."""
    with path.open("rb") as file:
        head = file.read(30 + (1 << 16))
    name = head[30 : 30 + int.from_bytes(head[26:28], "little")]
    return "npz" if name.endswith(b".npy") or len(head) < 30 else "torch"


def _advice(head: bytes) -> str:
    if head.startswith(b"\x89HDF"):
        return "is HDF5, which is not read; save it as safetensors or npz"
    if head.startswith(b"\x93NUMPY"):
        return (
            "is npy, one array or the leaves of an Equinox module, and has no names; "
            "save it with names, numpy.savez(path, **{name: array})"
        )
    if head[:1] == b"\x80":
        return (
            "is a pickle that torch.save did not write; pickles run code and are not "
            "read, so save it as safetensors or npz"
        )
    return (
        f"is of no format that is known here, it starts with {head[:8]!r}; say format= "
        "if you know it: safetensors, torch, msgpack, npz, orbax or index"
    )
