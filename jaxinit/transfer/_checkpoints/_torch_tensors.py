"""What the pickles of torch say: storages, and tensors that view them.

Storages are numbered runs of bytes; a tensor is a view of one, given by offset, shape
and strides, and several tensors may share one. Both are only described here. Where a
storage lies in the file, the two file forms say.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxinit.transfer._checkpoints import _torch_plain
from jaxinit.transfer._checkpoints._torch_pickle import Global, Machine
from jaxinit.transfer._limits import Budget
from jaxinit.transfer._names import Keys, name_leaves, split_key
from jaxinit.transfer._origin import Origin
from jaxinit.transfer._regions import Region, RegionLeaf
from jaxinit.transfer._source import Source

_STORAGES = {
    "Double": "float64",
    "Float": "float32",
    "Half": "float16",
    "BFloat16": "bfloat16",
    "Long": "int64",
    "Int": "int32",
    "Short": "int16",
    "Char": "int8",
    "Byte": "uint8",
    "Bool": "bool",
    "ComplexFloat": "complex64",
    "ComplexDouble": "complex128",
}
_DTYPES = {
    **{name: name for name in _STORAGES.values()},
    **{name: name for name in ("uint16", "uint32", "uint64")},
    **{name: name for name in ("float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz")},
    **{name: name for name in ("float8_e5m2fnuz", "float8_e8m0fnu")},
    "double": "float64",
    "float": "float32",
    "half": "float16",
    "long": "int64",
    "int": "int32",
    "short": "int16",
}
_REBUILDS = {"_rebuild_tensor", "_rebuild_tensor_v2", "_rebuild_tensor_v3"}
_PARAMETERS = {"_rebuild_parameter", "_rebuild_parameter_with_state"}
_TENSOR_TYPES = {
    Global("torch", "Tensor"),
    Global("torch.nn.parameter", "Parameter"),
    Global("torch.nn.parameter", "Buffer"),
}
_FROM_TYPE = Global("torch._tensor", "_rebuild_from_type_v2")
_SIZE = Global("torch", "Size")
_DEVICE = Global("torch", "device")
_PLAIN = {*_TENSOR_TYPES, *_torch_plain.PLAIN, _FROM_TYPE, _SIZE, _DEVICE}


@dataclass(frozen=True)
class Storage:
    """A run of bytes: its number in the file, the type of its elements, how many.

    A storage without a type of its own (`dtype` None) is counted in bytes. One that is
    a part of another starts at `start`, in elements, and `whole` is the other's length.
    """

    key: str
    dtype: np.dtype | None
    length: int
    start: int
    whole: int

    @property
    def itemsize(self) -> int:
        """How many bytes an element takes."""
        return self.dtype.itemsize if self.dtype else 1


@dataclass(frozen=True)
class Tensor:
    """A view of a storage; offset and strides count elements."""

    storage: Storage
    dtype: np.dtype
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


def allowed(found: Global) -> bool:
    """Whether a pickle of tensors and plain containers may name this."""
    if found.module == "torch._utils":
        return found.name in _REBUILDS | _PARAMETERS
    return found in _PLAIN or _storage_type(found) is not None or _is_dtype(found)


def machine(budget: Budget, storages: dict[str, Storage] | None = None) -> Machine:
    """What reads the pickle of a torch file into Tensors and plain containers.

    Every storage that the pickle mentions is entered into `storages`.
    """
    known: dict[str, Storage] = {} if storages is None else storages

    def persistent(identity: Any) -> Storage:
        found = _storage(identity)
        first = known.setdefault(found.key, found)
        if (first.dtype, first.whole) != (found.dtype, found.whole):
            raise budget.refuse(f"describes storage {found.key[:40]!r} in two ways")
        return found

    def build(function: Global, arguments: tuple[Any, ...]) -> Any:
        return _build(function, arguments, budget)

    return Machine(allowed=allowed, build=build, persistent=persistent, budget=budget)


def _is_dtype(found: Global) -> bool:
    return found.module == "torch" and found.name in _DTYPES


def _storage_type(found: Global) -> str | None:
    """The name of the type, "" for a storage of bytes, None for no storage."""
    if found == Global("torch.storage", "UntypedStorage"):
        return ""
    if found.module in ("torch", "torch.cuda") and found.name.endswith("Storage"):
        return _STORAGES.get(found.name.removesuffix("Storage"))
    return None


def _storage(identity: Any) -> Storage:
    match identity:
        case ("storage", Global() as kind, str(key), _, int(length), *rest):
            name = _storage_type(kind)
            dtype = jnp.dtype(name) if name else None
            if name is None or length < 0 or len(rest) > 1:
                raise ValueError(f"storage {key[:40]!r} is of no type that is known")
            match rest:
                case [] | [None]:
                    return Storage(key, dtype, length, 0, length)
                case [(str(), int(start), int(size))] if 0 <= start <= length - size:
                    return Storage(key, dtype, size, start, length)
    raise ValueError("a storage is described by something else")


def _build(function: Global, arguments: tuple[Any, ...], budget: Budget) -> Any:
    if function in (_SIZE, _DEVICE):
        (content,) = arguments[:1]
        return content
    if function == _FROM_TYPE:
        inner, kind, inner_arguments, _ = arguments
        if not isinstance(inner, Global) or kind not in _TENSOR_TYPES:
            raise ValueError(f"a tensor of the type {kind}")
        return _build(inner, inner_arguments, budget)
    if function.name in _PARAMETERS:
        if not isinstance(arguments[0], Tensor):
            raise ValueError("a parameter that is no tensor")
        return arguments[0]
    if function.name in _REBUILDS:
        return _tensor(arguments, budget, typed=function.name.endswith("v3"))
    return _torch_plain.build(function, arguments)


def _tensor(arguments: tuple[Any, ...], budget: Budget, *, typed: bool) -> Tensor:
    storage, offset, shape, strides, *rest = arguments
    if not isinstance(storage, Storage):
        raise ValueError("a tensor without a storage")
    dtype = storage.dtype
    if typed:
        kind = rest[2]
        if not isinstance(kind, Global) or not _is_dtype(kind):
            raise ValueError("a tensor of a type that is not known")
        dtype = jnp.dtype(_DTYPES[kind.name])
    if dtype is None:
        raise ValueError("a tensor of no type")
    lengths = budget.shape(f"storage {storage.key[:40]}", shape)
    steps = budget.shape(f"storage {storage.key[:40]}", strides)
    if type(offset) is not int or offset < 0 or len(steps) != len(lengths):
        raise ValueError("a tensor whose offset and strides are none")
    have = storage.length
    if storage.dtype != dtype:
        have = storage.length * storage.itemsize // dtype.itemsize
        if storage.start:
            raise ValueError("a view of another type into a part of a storage")
    reach = sum((n - 1) * step for n, step in zip(lengths, steps, strict=True))
    if 0 not in lengths and offset + reach >= have:
        raise budget.refuse(
            f"a tensor of the shape {lengths} reaches element {offset + reach} of "
            f"storage {storage.key[:40]!r}, which has {have}"
        )
    return Tensor(storage, dtype, offset + storage.start, lengths, steps)


def _tensors(
    tree: Any, budget: Budget
) -> tuple[list[tuple[Keys, Tensor]], dict[str, Any]]:
    """The tensors with the keys that lead to them, and what else the file says."""
    tensors: list[tuple[Keys, Tensor]] = []
    metadata: dict[str, Any] = {}
    for keys, value in _walk(tree, (), budget, [0]):
        if isinstance(value, Tensor):
            budget.leaf("/".join(keys), value.shape, value.dtype)
            tensors.append((keys, value))
        elif value is None or isinstance(value, (bool, int, float, str)):
            metadata["/".join(keys)] = value
    return tensors, metadata


def _walk(
    node: Any, keys: Keys, budget: Budget, visited: list[int]
) -> Iterator[tuple[Keys, Any]]:
    # A container may stand in many places: what is counted is places, not containers.
    visited[0] += 1
    if visited[0] > 16 * budget.limits.max_leaves + 1024:
        raise budget.exceeded("too many values", visited[0], "max_leaves")
    budget.depth(len(keys), "/".join(keys[:4]))
    if isinstance(node, dict):
        for key, value in node.items():
            yield from _walk(value, (*keys, str(key)), budget, visited)
    elif isinstance(node, (list, tuple)):
        for place, value in enumerate(node):
            yield from _walk(value, (*keys, str(place)), budget, visited)
    else:
        yield keys, node


def source_of(
    tree: Any,
    place: Callable[[Storage], int],
    *,
    path: Any,
    separator: str | None,
    budget: Budget,
    swapped: bool = False,
) -> Source:
    """The tensors of an unpickled tree as leaves; `place` says where a storage lies."""
    origin: Origin = budget.origin
    found, metadata = _tensors(tree, budget)
    if any(keys == () for keys, _ in found):
        raise budget.refuse(
            "holds one tensor, without a name; save a dictionary, "
            'torch.save({"weight": tensor}, path)'
        )
    budget.expansion(budget.nbytes, path.stat().st_size)
    apart = [
        tuple(part for key in keys for part in split_key(key, separator or ".", budget))
        for keys, _ in found
    ]
    leaves = {}
    for name, (keys, tensor) in zip(name_leaves(apart, budget), found, strict=True):
        dtype = tensor.dtype.newbyteorder(">") if swapped else tensor.dtype
        region = Region(
            file=str(path),
            offset=place(tensor.storage) + tensor.offset * dtype.itemsize,
            dtype=dtype,
            shape=tensor.shape,
            strides=tuple(step * dtype.itemsize for step in tensor.strides),
        )
        key = (separator or ".").join(keys)
        leaves[name] = RegionLeaf(name=name, key=key, region=region, origin=origin)
    return Source(leaves, format="torch", origins=(origin,), metadata=metadata)
