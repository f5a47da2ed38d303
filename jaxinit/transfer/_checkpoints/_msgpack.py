"""Flax msgpack: what `flax.serialization.to_bytes` and `msgpack_serialize` write.

The file is walked token by token here, and not handed to the msgpack library: the
library builds whole objects, several times the size of the file, and makes room for as
many elements as an array claims to have before it sees one. A walk allocates nothing,
notices keys that stand twice, and finds where the bytes of each array lie, so that
leaves are as lazy as those of safetensors.
"""

from __future__ import annotations

import math
import mmap
import os
from collections.abc import Iterator
from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxinit.transfer._checkpoints._msgpack_tokens import Token, Tokens
from jaxinit.transfer._limits import Budget, Limits
from jaxinit.transfer._names import Keys, name_leaves
from jaxinit.transfer._origin import Origin
from jaxinit.transfer._regions import Region, RegionLeaf, check_booleans, native
from jaxinit.transfer._source import Leaf, Source, ValueLeaf

_NDARRAY, _COMPLEX, _SCALAR = 1, 2, 3  # the extension types of flax
_CHUNKED = "__msgpack_chunked_array__"


def read(path: Any, *, separator: str | None, limits: Limits) -> Source:
    """The leaves of a msgpack file of Flax; keys are those of its nested maps."""
    origin = Origin(path)
    budget = Budget(limits, origin)
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        if not size:
            raise budget.refuse("is empty")
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            walk = _Walk(Tokens(content, 0, size, budget), str(path), budget)
            tree = walk.node(())
            if walk.tokens.at != size:
                left = size - walk.tokens.at
                raise budget.refuse(f"has {left} bytes after the end of its tree")
    if not isinstance(tree, dict):
        raise budget.refuse("holds one value and no tree of named leaves")
    budget.expansion(budget.nbytes, size)
    values = list(_flatten(tree, separator))
    texts = {"/".join(k): v for k, v in values if v is None or isinstance(v, str)}
    found = [(k, v) for k, v in values if v is not None and not isinstance(v, str)]
    names = name_leaves([keys for keys, _ in found], budget)
    leaves: dict[str, Leaf] = {}
    for name, (keys, value) in zip(names, found, strict=True):
        shared = {"name": name, "key": "/".join(keys), "origin": origin}
        match value:
            case Region():
                leaves[name] = RegionLeaf(region=value, **shared)
            case _Chunks():
                leaves[name] = _ChunkedLeaf(chunks=value, **shared)
            case _:
                leaves[name] = ValueLeaf(value=value, **shared)
    return Source(leaves, format="msgpack", origins=(origin,), metadata=texts)


class _Chunks:
    """An array that flax cut into flat pieces, since it was larger than 2^30 bytes."""

    def __init__(self, shape: tuple[int, ...], pieces: list[Region]) -> None:
        self.shape, self.pieces = shape, pieces


class _ChunkedLeaf(Leaf):
    def __init__(self, *, chunks: _Chunks, **shared: Any) -> None:
        self.pieces = chunks.pieces
        super().__init__(
            shape=chunks.shape, dtype=native(chunks.pieces[0].dtype), **shared
        )

    def _read(self, index: tuple[slice, ...]) -> np.ndarray:
        # Only the rows that are asked for: row-major pieces are runs of flat indices.
        row = math.prod(self.shape[1:])
        first, last = index[0].start * row, index[0].stop * row
        values = np.empty(last - first, self.dtype)
        at = 0
        for piece in self.pieces:
            (length,) = piece.shape
            start, stop = max(first, at), min(last, at + length)
            if start < stop:
                part = piece.read((slice(start - at, stop - at),))
                values[start - first : stop - first] = part
            at += length
        rows = values.reshape((index[0].stop - index[0].start, *self.shape[1:]))
        return check_booleans(rows[(slice(None), *index[1:])], self)


class _Walk:
    """Nested maps as dictionaries, arrays as the regions where they lie."""

    def __init__(self, tokens: Tokens, file: str, budget: Budget) -> None:
        self.tokens, self.file, self.budget = tokens, file, budget

    def node(self, keys: Keys) -> Any:
        """The value at this position: a dictionary, a region, a number, a text."""
        self.budget.depth(len(keys), "/".join(keys[:4]))
        token = self.tokens.next()
        where = "/".join(keys)
        match token.kind:
            case "map":
                return self._map(token, keys)
            case "array":
                return {
                    str(place): self.node((*keys, str(place)))
                    for place in range(token.value)
                }
            case "ext":
                return self._extension(token, where)
            case "str":
                return self._text(token)
            case "bin":
                raise self.budget.refuse(f"{where[:200]!r} holds bytes and no array")
        return token.value

    def _map(self, token: Token, keys: Keys) -> Any:
        found: dict[str, Any] = {}
        for _ in range(token.value):
            key = self._key(self.tokens.next())
            if key in found:
                shown = "/".join((*keys, key))[:200]
                raise self.budget.refuse(f"the key {shown!r} stands twice")
            found[key] = self.node((*keys, key))
        return self._join(found, "/".join(keys)) if _CHUNKED in found else found

    def _key(self, token: Token) -> str:
        if token.kind == "str":
            return self._text(token)
        if token.kind == "int":
            return str(token.value)
        raise self.budget.refuse(f"byte {token.start}: a key is a {token.kind}")

    def _text(self, token: Token) -> str:
        self.budget.header(token.end - token.start, "a text")
        try:
            return self.tokens.content_of(token).decode()
        except UnicodeDecodeError as error:
            raise self.budget.refuse(f"byte {token.start}: {error}") from error

    def _extension(self, token: Token, where: str) -> Any:
        if token.value in (_NDARRAY, _SCALAR):
            return self._array(token, where)
        if token.value == _COMPLEX:
            parts = self._inside(token, where)
            pair = [parts.next() for _ in range(parts.next().value == 2 and 2)]
            if len(pair) == 2 and all(part.kind in ("float", "int") for part in pair):
                return complex(pair[0].value, pair[1].value)
        raise self.budget.refuse(
            f"{where[:200]!r} is an extension {token.value} that flax does not write so"
        )

    def _inside(self, token: Token, where: str) -> Tokens:
        inside = Tokens(self.tokens.content, token.start, token.end, self.budget)
        if token.end == token.start or inside.content[token.start] >> 4 != 0x9:
            raise self.budget.refuse(f"{where[:200]!r} is no array of flax")
        return inside

    def _array(self, token: Token, where: str) -> Region:
        """An array as flax packs it: [shape, name of the type, bytes]."""
        inside = self._inside(token, where)
        outer, axes = inside.next(), inside.next()
        if outer.value != 3 or axes.kind != "array" or axes.value > 64:
            raise self.budget.refuse(f"{where[:200]!r} is no array of flax")
        shape = [inside.next() for _ in range(axes.value)]
        name, content = inside.next(), inside.next()
        kinds = {"int"} | {axis.kind for axis in shape}
        if kinds != {"int"} or name.kind != "str" or content.kind not in ("bin", "str"):
            raise self.budget.refuse(f"{where[:200]!r} is no array of flax")
        dtype = self._dtype(self._text(name), where)
        lengths = self.budget.leaf(where, [axis.value for axis in shape], dtype)
        claimed = math.prod(lengths) * dtype.itemsize
        if content.end != token.end or claimed != content.end - content.start:
            raise self.budget.refuse(
                f"{where[:200]!r} claims the shape {lengths} of {dtype}, {claimed} "
                f"bytes, and has {content.end - content.start}"
            )
        return Region(file=self.file, offset=content.start, dtype=dtype, shape=lengths)

    def _dtype(self, name: str, where: str) -> np.dtype:
        known = name.isidentifier() and len(name) < 32
        try:
            dtype = jnp.dtype(name) if known else np.dtype(object)
        except TypeError:
            dtype = np.dtype(object)
        number = jnp.issubdtype(dtype, np.number) or dtype.kind == "b"
        if not number or dtype.itemsize == 0 or dtype.name != name:
            raise self.budget.refuse(
                f"{where[:200]!r} has the type {name[:40]!r}, which is none of JAX"
            )
        return dtype

    def _join(self, found: dict[str, Any], where: str) -> _Chunks:
        axes, pieces = found.get("shape"), found.get("chunks")
        if not isinstance(axes, dict) or not isinstance(pieces, dict) or not pieces:
            raise self.budget.refuse(f"{where[:200]!r} is no chunked array of flax")
        order = [
            [part.get(str(i)) for i in range(len(part))] for part in (axes, pieces)
        ]
        shape = self.budget.shape(where, order[0])
        regions = order[1]
        flat = all(isinstance(r, Region) and len(r.shape) == 1 for r in regions)
        if not flat or len({r.dtype for r in regions}) != 1 or not shape:
            raise self.budget.refuse(f"{where[:200]!r} is no chunked array of flax")
        if sum(r.shape[0] for r in regions) != math.prod(shape):
            raise self.budget.refuse(
                f"the chunks of {where[:200]!r} do not fill its shape {shape}"
            )
        return _Chunks(shape, regions)


def _flatten(
    tree: dict[str, Any], separator: str | None, prefix: Keys = ()
) -> Iterator[tuple[Keys, Any]]:
    """Every value with the keys that lead to it."""
    for key, value in tree.items():
        keys = (*prefix, *(key.split(separator) if separator else [key]))
        if isinstance(value, dict):
            yield from _flatten(value, separator, keys)
        else:
            yield keys, value
