"""safetensors: a JSON header that says where each tensor lies, then the tensors.

The `safetensors` library judges the header first, so that no file passes here that it
would refuse: shapes, offsets, gaps, overlaps. What it accepts and should not, a key
that stands twice, is refused by reading the header again, strictly. The tensors are
read from the offsets of the header and not through the library, which hands over whole
tensors and knows no 8-bit type of numpy.
"""

from __future__ import annotations

import json
import os
import struct
from collections import Counter
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from safetensors import SafetensorError, safe_open

from jaxinit._errors import CheckpointError
from jaxinit.transfer._limits import Budget, Limits
from jaxinit.transfer._names import check_keys, name_leaves, split_key
from jaxinit.transfer._origin import Origin
from jaxinit.transfer._regions import Region, RegionLeaf
from jaxinit.transfer._source import Source

# What `save` writes into the metadata: names are then full names already.
OWN_NAMES = "jaxinit.names"

DTYPES: dict[str, np.dtype] = {
    "BOOL": np.dtype(bool),
    "U8": np.dtype("u1"),
    "I8": np.dtype("i1"),
    "U16": np.dtype("<u2"),
    "I16": np.dtype("<i2"),
    "U32": np.dtype("<u4"),
    "I32": np.dtype("<i4"),
    "U64": np.dtype("<u8"),
    "I64": np.dtype("<i8"),
    "F16": np.dtype("<f2"),
    "F32": np.dtype("<f4"),
    "F64": np.dtype("<f8"),
    "C64": np.dtype("<c8"),
    "BF16": np.dtype(jnp.bfloat16),
    "F8_E4M3": np.dtype(jnp.float8_e4m3fn),
    "F8_E5M2": np.dtype(jnp.float8_e5m2),
    "F8_E8M0": np.dtype(jnp.float8_e8m0fnu),
}


def read(path: Any, *, separator: str | None, limits: Limits) -> Source:
    """The leaves of one safetensors file."""
    origin = Origin(path)
    budget = Budget(limits, origin)
    start, header = _header(path, budget)
    metadata = header.pop("__metadata__", None) or {}
    entries = {key: _region(path, key, start, header[key], budget) for key in header}
    if separator is None and metadata.get(OWN_NAMES) == "full":
        names = [check_own_name(key, budget) for key in entries]
    else:
        paths = [split_key(key, separator or ".", budget) for key in entries]
        names = name_leaves(paths, budget)
    leaves = {
        name: RegionLeaf(name=name, key=key, region=region, origin=origin)
        for name, (key, region) in zip(names, entries.items(), strict=True)
    }
    return Source(leaves, format="safetensors", origins=(origin,), metadata=metadata)


def check_own_name(full: str, budget: Budget) -> str:
    """A full name as `save` writes it, if it can be read as one."""
    collection, colon, path = full.partition(":")
    if full == "__metadata__" or (colon and not collection):
        raise budget.refuse(f"a leaf cannot be called {full[:200]!r} in this format")
    check_keys((path if colon and path else full).split("/"), budget)
    return full


def _header(path: Any, budget: Budget) -> tuple[int, dict[str, Any]]:
    """Where the data starts, and the header as JSON."""
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        prefix = file.read(8)
        if len(prefix) < 8:
            raise budget.refuse(f"is truncated: {len(prefix)} bytes are no header")
        (length,) = struct.unpack("<Q", prefix)
        if length > size - 8:
            raise budget.refuse(f"claims a header of {length} bytes and has {size - 8}")
        budget.header(length, "the header")
        text = file.read(length)
    _check_structure(text, budget)
    try:
        with safe_open(path, framework="numpy"):
            pass
    except (SafetensorError, OSError, ValueError) as error:
        raise budget.refuse(f"the safetensors library refuses it: {error}") from error
    return 8 + length, parse_json(text, budget)


def _check_structure(text: bytes, budget: Budget) -> None:
    """Refuse brackets and commas in numbers that no header needs, before parsing: each
    would become an object of Python.
    """
    for mark, each in ((b"{", 4), (b"[", 4), (b",", 64)):
        if text.count(mark) > each * budget.limits.max_leaves + 4096:
            shown = mark.decode()
            raise budget.exceeded(
                f"the header has too many {shown!r}", text.count(mark), "max_leaves"
            )


def parse_json(text: bytes, budget: Budget) -> dict[str, Any]:
    """A JSON object in which no key stands twice and every number is one."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            counts = Counter(key for key, _ in pairs)
            twice = counts.most_common(1)[0][0]
            raise budget.refuse(f"the key {twice[:200]!r} stands twice in the header")
        return found

    def constant(name: str) -> Any:
        raise budget.refuse(f"the header contains {name}")

    try:
        found = json.loads(text, object_pairs_hook=unique, parse_constant=constant)
    except RecursionError as error:
        raise budget.refuse("the header is nested too deeply") from error
    except CheckpointError:
        raise
    except ValueError as error:
        raise budget.refuse(f"the header is not JSON: {error}") from error
    if not isinstance(found, dict):
        raise budget.refuse(f"the header is no JSON object: {type(found).__name__}")
    return found


def _region(path: Any, key: str, start: int, entry: Any, budget: Budget) -> Region:
    fields = {"dtype", "shape", "data_offsets"}
    if not isinstance(entry, Mapping) or set(entry) != fields:
        raise budget.refuse(f"the entry of {key[:200]!r} must have {sorted(fields)}")
    dtype = DTYPES.get(entry["dtype"])
    if dtype is None:
        raise budget.refuse(
            f"{key[:200]!r} has the type {entry['dtype']!r}, which JAX cannot hold as "
            "it is stored; convert it before"
        )
    shape = budget.leaf(key, entry["shape"], dtype)
    begin, _ = entry["data_offsets"]
    return Region(file=str(path), offset=start + begin, dtype=dtype, shape=shape)
