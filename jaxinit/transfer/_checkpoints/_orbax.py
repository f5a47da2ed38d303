"""Orbax directories, read by Orbax itself: its storage (OCDBT, zarr) is no one file.

Shapes and types come from the metadata first, and are held against the limits; then
each leaf is restored alone, straight to its sharding when it has one. Orbax is imported
when such a directory is opened, and not before.
"""

from __future__ import annotations

import contextlib
import math
import pathlib
from collections.abc import Generator, Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import Sharding

from jaxinit._errors import CheckpointError
from jaxinit.transfer._checkpoints._safetensors import parse_json
from jaxinit.transfer._limits import Budget, Limits
from jaxinit.transfer._names import Keys, check_keys, name_leaves
from jaxinit.transfer._origin import Origin
from jaxinit.transfer._source import Leaf, Nonfinite, Source

# Each restore reads the metadata of the whole tree again, so leaves that are read one
# after the other are fetched in batches of this size and kept for their turn.
_BATCH_BYTES = 64 << 20
_METADATA = "_METADATA"


def is_orbax(path: pathlib.Path) -> bool:
    """Whether a directory looks like one of Orbax: a tree, an item, or a manager's."""
    return (
        any((path / name).exists() for name in (_METADATA, "_CHECKPOINT_METADATA"))
        or bool(_items(path))
        or any(child.name.isdecimal() for child in path.iterdir())
    )


def read(path: Any, *, separator: str | None, limits: Limits) -> Source:
    """The leaves of an Orbax directory; keys are those of its tree."""
    import orbax.checkpoint as ocp

    origin = Origin(pathlib.Path(path))
    budget = Budget(limits, origin)
    folder = _tree_folder(pathlib.Path(path).absolute(), budget)
    _check_metadata(folder, budget)
    checkpointer = ocp.Checkpointer(ocp.PyTreeCheckpointHandler())
    with _refusals(budget):
        metadata: Any = checkpointer.metadata(folder)
        if metadata.item_metadata is None:
            raise budget.refuse("Orbax cannot read the metadata of its tree")
        found, treedef = jax.tree_util.tree_flatten_with_path(
            metadata.item_metadata.tree, is_leaf=lambda node: node is None
        )
    store = _Store(checkpointer, folder, treedef, budget)
    listed: list[tuple[int, Keys]] = []
    texts: dict[str, Any] = {}
    for place, (path_keys, entry) in enumerate(found):
        keys = tuple(_text(key) for key in path_keys)
        dtype, shape = getattr(entry, "dtype", None), getattr(entry, "shape", None)
        if dtype is None or shape is None:
            texts["/".join(keys)] = None  # no array; what it is, Orbax alone knows
            store.leaves.append(((), np.dtype(bool), False))
            continue
        dtype = np.dtype(dtype)
        lengths = budget.leaf("/".join(keys), tuple(shape), dtype)
        _check_chunks(entry, lengths, dtype, "/".join(keys), budget)
        store.leaves.append((lengths, dtype, True))
        listed.append((place, keys))
    budget.expansion(budget.nbytes, origin.nbytes or 0)
    paths = [
        tuple(p for k in keys for p in (k.split(separator) if separator else [k]))
        for _, keys in listed
    ]
    leaves: dict[str, Leaf] = {}
    for name, (place, keys) in zip(name_leaves(paths, budget), listed, strict=True):
        leaves[name] = _OrbaxLeaf(store, place, name=name, key="/".join(keys))
    return Source(leaves, format="orbax", origins=(origin,), metadata=texts)


def _items(path: pathlib.Path) -> list[str]:
    return sorted(c.name for c in path.iterdir() if (c / _METADATA).is_file())


def _tree_folder(path: pathlib.Path, budget: Budget) -> pathlib.Path:
    """The folder of the tree itself: this one, or that of the only item in it."""
    if (path / _METADATA).is_file():
        return path
    items = _items(path)
    if len(items) == 1:
        return path / items[0]
    if items:
        raise budget.refuse(
            f"holds several trees: open one of {', '.join(items)} in it"
        )
    if steps := sorted(c.name for c in path.iterdir() if c.name.isdecimal()):
        raise budget.refuse(
            f"holds the steps {', '.join(steps[-5:])} of a training run: open one of "
            "them, the path with its number"
        )
    raise budget.refuse(f"holds no tree of Orbax: no file {_METADATA} in it")


def _check_metadata(folder: pathlib.Path, budget: Budget) -> None:
    """Hold the names against the limits before Orbax makes paths of files from them."""
    for file in ("_sharding", "array_metadatas/process_0"):
        if (folder / file).is_file():
            budget.header((folder / file).stat().st_size, file)
    budget.header((folder / _METADATA).stat().st_size, _METADATA)
    metadata = parse_json((folder / _METADATA).read_bytes(), budget)
    entries = metadata.get("tree_metadata")
    if not isinstance(entries, dict) or len(entries) > budget.limits.max_leaves:
        raise budget.exceeded(
            f"{_METADATA} has no leaves, or too many", len(entries or ()), "max_leaves"
        )
    for name, entry in entries.items():
        keys = entry.get("key_metadata") if isinstance(entry, dict) else None
        if not isinstance(keys, list) or not all(isinstance(k, dict) for k in keys):
            raise budget.refuse(f"{_METADATA} does not say the keys of {name[:200]!r}")
        check_keys([str(key.get("key")) for key in keys] or ["root"], budget)


def _check_chunks(
    entry: Any, shape: tuple[int, ...], dtype: np.dtype, key: str, budget: Budget
) -> None:
    """A chunk is expanded as a whole, even for an array that is smaller than it."""
    chunk = getattr(getattr(entry, "storage", None), "chunk_shape", None) or shape
    if any(part > max(length, 1) for part, length in zip(chunk, shape, strict=False)):
        raise budget.refuse(
            f"{key[:200]!r} has the shape {shape} and chunks of {tuple(chunk)}"
        )
    budget.eager(math.prod(chunk) * dtype.itemsize, f"a chunk of {key[:200]!r}")


@contextlib.contextmanager
def _refusals(budget: Budget) -> Generator[None]:
    """Whatever Orbax raises, as an error that names the directory.

    Orbax passes on the errors of three libraries, and what a damaged file sets off in
    them is of any type.
    """
    try:
        yield
    except CheckpointError:
        raise
    except Exception as error:
        reason = f"Orbax cannot read it: {type(error).__name__}: {str(error)[:500]}"
        raise budget.refuse(reason) from error


class _Store:
    """One directory that restores chosen leaves of its tree."""

    def __init__(
        self, checkpointer: Any, folder: pathlib.Path, treedef: Any, budget: Budget
    ) -> None:
        self.checkpointer, self.folder = checkpointer, folder
        self.treedef, self.budget = treedef, budget
        self.leaves: list[tuple[tuple[int, ...], np.dtype, bool]] = []
        self.batch: dict[int, np.ndarray] = {}

    def nbytes(self, place: int) -> int:
        """How many bytes a leaf takes."""
        shape, dtype, _ = self.leaves[place]
        return math.prod(shape) * dtype.itemsize

    def restore(self, wanted: Mapping[int, Any]) -> dict[int, Any]:
        """The leaves at these places, each as its arguments of Orbax say."""
        import orbax.checkpoint as ocp

        places = range(len(self.leaves))
        item = [0 if place in wanted else ocp.PLACEHOLDER for place in places]
        arguments = [wanted.get(place, ocp.RestoreArgs()) for place in places]
        with _refusals(self.budget):
            tree = self.checkpointer.restore(
                self.folder,
                args=ocp.args.PyTreeRestore(
                    item=self.treedef.unflatten(item),
                    restore_args=self.treedef.unflatten(arguments),
                ),
            )
            found = self.treedef.flatten_up_to(tree)
        for place in wanted:
            shape, dtype, _ = self.leaves[place]
            if not hasattr(found[place], "dtype") or found[place].shape != shape:
                raise self.budget.refuse(
                    f"leaf {place} is restored as {type(found[place]).__name__}, not "
                    f"in the shape {shape} of {dtype} that its metadata says"
                )
        return {place: found[place] for place in wanted}

    def fetch(self, first: int) -> np.ndarray:
        """A leaf on the host, and with it those after it that fit into a batch.

        A batch is kept until another is fetched: shards are read one by one.
        """
        if first not in self.batch:
            import orbax.checkpoint as ocp

            self.batch = {}
            self.budget.eager(self.nbytes(first), f"leaf {first}")
            places, total = [first], self.nbytes(first)
            for place in range(first + 1, len(self.leaves)):
                total += self.nbytes(place)
                if total > _BATCH_BYTES:
                    break
                if self.leaves[place][2]:
                    places.append(place)
            arguments = ocp.RestoreArgs(restore_type=np.ndarray)
            self.batch = self.restore(dict.fromkeys(places, arguments))
        return np.asarray(self.batch[first])


class _OrbaxLeaf(Leaf):
    def __init__(self, store: _Store, place: int, *, name: str, key: str) -> None:
        shape, dtype, _ = store.leaves[place]
        origin = store.budget.origin
        super().__init__(name=name, key=key, shape=shape, dtype=dtype, origin=origin)
        self.store, self.at = store, place

    def _read(self, index: tuple[slice, ...]) -> np.ndarray:
        whole = self.store.fetch(self.at)
        return np.array(whole[index], self.dtype)  # the batch stays as it is

    def _place(
        self, sharding: Sharding, dtype: np.dtype, nonfinite: Nonfinite
    ) -> jax.Array:
        import orbax.checkpoint as ocp

        if self.nbytes <= _BATCH_BYTES:
            return super()._place(sharding, dtype, nonfinite)
        arguments = ocp.ArrayRestoreArgs(sharding=sharding, global_shape=self.shape)
        found = self.store.restore({self.at: arguments})[self.at]
        values = found.astype(dtype)
        self._arrived(found, values, nonfinite)
        return values


def _text(key: Any) -> str:
    return str(getattr(key, "key", getattr(key, "idx", getattr(key, "name", key))))
