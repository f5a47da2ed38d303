"""Checkpoints in several files: `*.index.json` says which file holds which tensor.

The names of files come from the index, and an index may come from anybody: each must be
a bare name, in the folder of the index. (It may be a symbolic link there, which is how
download caches store files.)
"""

from __future__ import annotations

import os
import pathlib
from typing import Any

from jaxinit.transfer._checkpoints._safetensors import parse_json
from jaxinit.transfer._limits import Budget, Limits
from jaxinit.transfer._names import name_leaves, split_key
from jaxinit.transfer._open import open_checkpoint, recognize
from jaxinit.transfer._origin import Origin
from jaxinit.transfer._source import Leaf, Source


def read(path: Any, *, separator: str | None, limits: Limits) -> Source:
    """The leaves of all the files that an index names."""
    path = pathlib.Path(path)
    budget = Budget(limits, Origin(path))
    size = path.stat().st_size
    budget.header(size, "the index")
    index = parse_json(path.read_bytes(), budget)
    weight_map = index.get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise budget.refuse('has no "weight_map" that names the file of each tensor')
    shards: dict[str, Source] = {}
    for file in dict.fromkeys(map(str, weight_map.values())):
        shard = _shard(path, file, budget)
        if (format := recognize(shard)) not in ("safetensors", "torch"):
            raise budget.refuse(f"names the file {file!r}, which is of format {format}")
        shards[file] = open_checkpoint(
            shard, format=format, separator=separator, limits=limits
        )
    held: dict[str, Leaf] = {}
    for file, source in shards.items():
        for leaf in source.values():
            if weight_map.get(leaf.key) != file:
                raise budget.refuse(
                    f"{file} holds {leaf.key!r}, which the index places in "
                    f"{weight_map.get(leaf.key)!r}"
                )
            held[leaf.key] = leaf
    if lost := [key for key in weight_map if key not in held]:
        raise budget.refuse(
            f"{weight_map[lost[0]]} does not hold {lost[0]!r}, and {len(lost) - 1} "
            "other tensors of the index are missing"
        )
    for key, leaf in held.items():
        budget.leaf(key, leaf.shape, leaf.dtype)
    # Names are given once more over all files: whether keys are those of linen
    # variables shows only in all of them together.
    names = name_leaves([split_key(k, separator or ".", budget) for k in held], budget)
    for name, leaf in zip(names, held.values(), strict=True):
        leaf.name = name
    origins = (budget.origin, *(o for s in shards.values() for o in s.origins))
    metadata = index.get("metadata")
    return Source(
        {leaf.name: leaf for leaf in held.values()},
        format=f"sharded {next(iter(shards.values())).format}",
        origins=origins,
        metadata=metadata if isinstance(metadata, dict) else {},
    )


def _shard(path: pathlib.Path, file: Any, budget: Budget) -> pathlib.Path:
    bare = isinstance(file, str) and file not in ("", ".", "..") and file.isprintable()
    if not bare or any(mark in file for mark in ("/", "\\", ":", os.sep)):
        raise budget.refuse(
            f"names the file {file!r}; a shard must be a bare name, beside the index"
        )
    shard = path.parent / file
    if not shard.is_file():
        raise budget.refuse(f"names the file {file!r}, which is not beside it")
    return shard
