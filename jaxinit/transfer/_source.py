"""What a merge reads from: named leaves that know their shape before they are read.

A file, a directory or a tree in memory: each becomes a Source, a mapping from the full
name of a leaf to a Leaf. Shapes and types are known at once; numbers are read when they
are asked for, one leaf or one slice of it at a time.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from typing import Any, Literal, TypeGuard

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Sharding

from jaxinit._errors import CheckpointError, MergeError
from jaxinit._paths import flatten
from jaxinit.transfer._finite import explain, is_finite
from jaxinit.transfer._origin import Origin

Nonfinite = Literal["error", "allow"]


class Leaf(ABC):
    """One array of a source: its shape and type now, its values on request.

    `name` is its full name, `key` what the file itself calls it, and `origin` the file.
    A subclass says in `_read` how a slice is read; whatever derives a leaf from another
    (a transpose, a part of it) is a subclass too.
    """

    def __init__(
        self, *, name: str, key: str, shape: tuple[int, ...], dtype: Any, origin: Origin
    ) -> None:
        self.name = name
        self.key = key
        self.shape = tuple(shape)
        self.dtype = np.dtype(dtype)
        self.origin = origin

    @property
    def ndim(self) -> int:
        """How many axes the leaf has."""
        return len(self.shape)

    @property
    def size(self) -> int:
        """How many numbers the leaf holds."""
        size = 1
        for length in self.shape:
            size *= length
        return size

    @property
    def nbytes(self) -> int:
        """How many bytes the leaf takes, as it is stored."""
        return self.size * self.dtype.itemsize

    @abstractmethod
    def _read(self, index: tuple[slice, ...]) -> np.ndarray:
        """The slice as the file holds it, one slice of step 1 for each axis."""

    def read(
        self, index: Any = ..., *, dtype: Any = None, nonfinite: Nonfinite = "error"
    ) -> np.ndarray:
        """The values, or a slice of them, on the host, and in another type if asked.

        `index` is what `jax.Array` shards are indexed with: `...`, a slice, or a tuple
        of slices of step 1. A NaN or an infinity, in the file or made by the cast, is a
        CheckpointError; `nonfinite="allow"` lets it pass.
        """
        found = self._read(whole_index(index, self.shape))
        wanted = found.dtype if dtype is None else np.dtype(dtype)
        with np.errstate(over="ignore", invalid="ignore"):
            values = found.astype(wanted, copy=False)
        if nonfinite == "error" and not is_finite(values):
            raise CheckpointError(f"{self}: {explain(found, wanted)}")
        return values

    def place(
        self, sharding: Sharding, *, dtype: Any = None, nonfinite: Nonfinite = "error"
    ) -> jax.Array:
        """The leaf as a sharded array; each shard is read for itself."""
        wanted = self.dtype if dtype is None else np.dtype(dtype)
        held = jax.dtypes.canonicalize_dtype(wanted)
        if held != wanted:
            raise CheckpointError(
                f"{self}: JAX would hold {wanted} as {held}, since 64-bit types are "
                f"off; say dtype={held.name!r}, or enable them (jax_enable_x64)"
            )
        return self._place(sharding, wanted, nonfinite)

    def _place(
        self, sharding: Sharding, dtype: np.dtype, nonfinite: Nonfinite
    ) -> jax.Array:
        shards: dict[str, np.ndarray] = {}

        def shard(index: Any) -> np.ndarray:
            where = repr(index)  # replicas ask for the same slice
            if where not in shards:
                shards[where] = self.read(index, dtype=dtype, nonfinite=nonfinite)
            return shards[where]

        return jax.make_array_from_callback(self.shape, sharding, shard)

    def _arrived(self, found: jax.Array, values: jax.Array, nonfinite: str) -> None:
        """Refuse values on devices that are not finite; `found` is before the cast."""
        if nonfinite == "allow" or not jnp.issubdtype(values.dtype, jnp.inexact):
            return
        pairs = zip(found.addressable_shards, values.addressable_shards, strict=True)
        for before, after in pairs:
            if after.replica_id == 0 and not bool(jnp.isfinite(after.data).all()):
                reason = explain(np.asarray(before.data), values.dtype)
                raise CheckpointError(f"{self}: {reason}")

    def __str__(self) -> str:
        return f"{self.origin}: {self.name}"

    def __repr__(self) -> str:
        return f"<Leaf {self.name} {self.dtype}{list(self.shape)} of {self.origin}>"


class Source(Mapping[str, Leaf]):
    """Leaves by their full names, in the order of the file or tree.

    `metadata` is what the file says besides arrays (strings of a safetensors header,
    the numbers and strings of a torch checkpoint), `origins` the files read, and
    `random_state` the names of random-number state, which is listed and never a leaf.
    """

    def __init__(
        self,
        leaves: Mapping[str, Leaf],
        *,
        format: str,
        origins: tuple[Origin, ...],
        metadata: Mapping[str, Any] | None = None,
        random_state: tuple[str, ...] = (),
    ) -> None:
        self._leaves = dict(leaves)
        self.format = format
        self.origins = origins
        self.metadata = dict(metadata or {})
        self.random_state = random_state

    def __getitem__(self, name: str) -> Leaf:
        return self._leaves[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._leaves)

    def __len__(self) -> int:
        return len(self._leaves)

    @property
    def nbytes(self) -> int:
        """How many bytes all leaves take, as they are stored."""
        return sum(leaf.nbytes for leaf in self.values())

    def provenance(self) -> dict[str, Any]:
        """Where the leaves come from: format, and path, size, sha256 of each file."""
        files = [origin.record() for origin in self.origins]
        return {"format": self.format, "files": files}

    def __repr__(self) -> str:
        where = ", ".join(str(origin) for origin in self.origins[:1])
        return f"<Source {self.format} of {len(self)} leaves, {where}>"


class ValueLeaf(Leaf):
    """A leaf that is in memory already: an array, a number, or a shape alone."""

    def __init__(self, *, name: str, key: str, value: Any, origin: Origin) -> None:
        if not hasattr(value, "dtype"):
            value = np.asarray(value)
            # A number of Python has no width of its own: the one that JAX gives it.
            value = _narrowed(value, jax.dtypes.canonicalize_dtype(value.dtype))
        shape, dtype = value.shape, value.dtype
        super().__init__(name=name, key=key, shape=shape, dtype=dtype, origin=origin)
        self.value = value

    def _read(self, index: tuple[slice, ...]) -> np.ndarray:
        if isinstance(self.value, jax.ShapeDtypeStruct):
            raise CheckpointError(f"{self}: only its shape is known, it has no values")
        return np.asarray(self.value[index])

    def _place(
        self, sharding: Sharding, dtype: np.dtype, nonfinite: Nonfinite
    ) -> jax.Array:
        if not isinstance(self.value, jax.Array):
            return super()._place(sharding, dtype, nonfinite)
        values = self.value.astype(dtype)  # JAX moves it, and may know a short way
        self._arrived(self.value, values, nonfinite)
        return jax.device_put(values, sharding)


def as_source(tree: Any, *, argument: str = "source") -> Source:
    """The tree as a source, named as everywhere; a Source is returned as it is.

    Any pytree: linen variables, an nnx State, a plain dictionary. Its leaves may be
    those of another source, and a dictionary of these alone has its keys: full names.
    `argument` names it in errors.
    """
    if isinstance(tree, Source):
        return tree
    if _holds_leaves_alone(tree):
        origins = tuple(dict.fromkeys(leaf.origin for leaf in tree.values()))
        return Source(tree, format="tree", origins=origins)
    if isinstance(tree, (str, os.PathLike)):
        raise MergeError(
            f"{argument}: is the text or path {str(tree)!r}; write "
            f"open_checkpoint({str(tree)!r})"
        )
    foreign = _leaf_of_torch(tree)
    if foreign is not None:
        raise MergeError(
            f"{argument}: holds tensors of torch, such as {foreign!r}; save them, "
            "torch.save(model.state_dict(), path), and give open_checkpoint(path)"
        )
    origin = Origin(None, label=argument)
    flat = flatten(tree, argument=argument)
    leaves = {
        name.full: value
        if isinstance(value, Leaf)
        else ValueLeaf(name=name.full, key=name.full, value=value, origin=origin)
        for name, value in flat.items()
        if not flat.is_random_state(name)
    }
    listed = tuple(name.full for name in flat.names if flat.is_random_state(name))
    found = dict.fromkeys(leaf.origin for leaf in leaves.values()) or (origin,)
    return Source(leaves, format="tree", origins=tuple(found), random_state=listed)


def _holds_leaves_alone(tree: Any) -> TypeGuard[Mapping[str, Leaf]]:
    """Whether it is a part of a source: `{name: leaf for ... in source.items()}`."""
    return (
        isinstance(tree, Mapping)
        and bool(tree)
        and all(isinstance(k, str) and isinstance(v, Leaf) for k, v in tree.items())
    )


def _leaf_of_torch(tree: Any) -> str | None:
    """The path of the first leaf that is a tensor of torch, if there is one."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        if type(leaf).__module__.partition(".")[0] == "torch":
            return jax.tree_util.keystr(path, simple=True, separator="/")
    return None


def _narrowed(value: np.ndarray, dtype: np.dtype) -> np.ndarray:
    with np.errstate(over="ignore"):
        narrow = value.astype(dtype)
    exact = value.dtype.kind == "f" or bool((narrow == value).all())
    return narrow if exact else value


def whole_index(index: Any, shape: tuple[int, ...]) -> tuple[slice, ...]:
    """An index as one slice for each axis, with bounds that are numbers."""
    parts = index if isinstance(index, tuple) else (index,)
    if Ellipsis in parts:
        at = parts.index(Ellipsis)
        filler = (slice(None),) * (len(shape) - len(parts) + 1)
        parts = parts[:at] + filler + parts[at + 1 :]
    parts += (slice(None),) * (len(shape) - len(parts))
    if len(parts) > len(shape) or not all(isinstance(part, slice) for part in parts):
        raise TypeError(f"index must be slices for the shape {shape}, got {index!r}")
    bounds = [part.indices(n) for part, n in zip(parts, shape, strict=True)]
    if any(step != 1 for _, _, step in bounds):
        raise TypeError(f"index must have slices of step 1, got {index!r}")
    return tuple(slice(start, max(start, stop)) for start, stop, _ in bounds)
