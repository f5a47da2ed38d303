"""npz: a zip archive of npy files. numpy reads the headers, and never a pickle.

Members that `numpy.savez` stored are read in place, slice by slice; compressed ones are
expanded when they are read, and only as far as the archive said they would be. The
check sum of a member holds for the whole of it, and is compared when the whole is read.
"""

from __future__ import annotations

import io
import math
import zipfile
import zlib
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxinit._errors import CheckpointError
from jaxinit.transfer._checkpoints._zip import data_offset, is_stored, open_archive
from jaxinit.transfer._limits import Budget, Limits
from jaxinit.transfer._names import name_leaves, split_key
from jaxinit.transfer._origin import Origin
from jaxinit.transfer._regions import Region, RegionLeaf, check_booleans, native
from jaxinit.transfer._source import Leaf, Source

_NPY_HEADER = 10_000  # numpy's own bound on a header that it evaluates
_VERSIONS = {(1, 0): np.lib.format.read_array_header_1_0}
_VERSIONS[(2, 0)] = np.lib.format.read_array_header_2_0
# numpy saves types that it does not know as raw bytes; of two bytes only one is common.
_RAW = {np.dtype("V2"): np.dtype(jnp.bfloat16)}


def read(path: Any, *, separator: str | None, limits: Limits) -> Source:
    """The leaves of an npz file; keys are joined by "/" unless `separator` is given."""
    origin = Origin(path)
    budget = Budget(limits, origin)
    found: dict[str, _Member] = {}
    with open_archive(path, budget) as archive:
        for info in archive.infolist():
            if not info.filename.endswith(".npy"):
                raise budget.refuse(f"the member {info.filename[:200]!r} is no array")
            key = info.filename.removesuffix(".npy")
            found[key] = _member(archive, info, key, budget)
    names = name_leaves([split_key(k, separator or "/", budget) for k in found], budget)
    expanded: dict[str, np.ndarray] = {}
    leaves: dict[str, Leaf] = {}
    for name, (key, member) in zip(names, found.items(), strict=True):
        if is_stored(member.info):
            leaves[name] = _StoredLeaf(name, key, member, budget)
        else:
            leaves[name] = _CompressedLeaf(name, key, member, budget, expanded)
    return Source(leaves, format="npz", origins=(origin,))


@dataclass(frozen=True)
class _Member:
    """A member of the archive, its npy header, and the array that this describes."""

    info: zipfile.ZipInfo
    head: bytes
    region: Region


def _member(
    archive: zipfile.ZipFile, info: zipfile.ZipInfo, key: str, budget: Budget
) -> _Member:
    with archive.open(info) as member:
        head = io.BytesIO(member.read(12 + _NPY_HEADER))
    try:
        version = np.lib.format.read_magic(head)
        if version not in _VERSIONS:
            raise ValueError(f"its npy version is {version}")
        shape, fortran, dtype = _VERSIONS[version](head, max_header_size=_NPY_HEADER)
    except (ValueError, SyntaxError, TypeError, EOFError, MemoryError) as error:
        reason = f"{key[:200]!r} has no npy header that can be trusted: {error}"
        raise budget.refuse(reason) from error
    dtype = _RAW.get(dtype, dtype)
    if dtype.hasobject or dtype.kind not in "biufcV" or not _is_plain(dtype):
        raise budget.refuse(
            f"{key[:200]!r} holds {dtype}, and only numbers are read; objects would be "
            "a pickle"
        )
    shape = budget.leaf(key, shape, dtype)
    claimed = head.tell() + math.prod(shape) * dtype.itemsize
    if claimed != info.file_size:
        raise budget.refuse(
            f"{key[:200]!r} claims the shape {shape} of {dtype}, {claimed} bytes with "
            f"its header, and has {info.file_size}"
        )
    start = data_offset(archive, info, budget) if is_stored(info) else 0
    strides = _fortran(shape, dtype.itemsize) if fortran else None
    region = Region(
        file=str(archive.filename),
        offset=start + head.tell(),
        dtype=dtype,
        shape=shape,
        strides=strides,
    )
    return _Member(info, head.getvalue()[: head.tell()], region)


def _is_plain(dtype: np.dtype) -> bool:
    """Whether a type is one number, and one that JAX knows."""
    known = dtype == jnp.bfloat16 if dtype.kind == "V" else dtype.itemsize <= 16
    wide = dtype.kind == "f" and dtype.itemsize > 8  # the long double of this machine
    return known and not wide and dtype.names is None and dtype.subdtype is None


def _fortran(shape: tuple[int, ...], itemsize: int) -> tuple[int, ...]:
    strides = [itemsize]
    for length in shape[:-1]:
        strides.append(strides[-1] * length)
    return tuple(strides[: len(shape)])


class _StoredLeaf(RegionLeaf):
    """A leaf that lies in the file as it is."""

    def __init__(self, name: str, key: str, member: _Member, budget: Budget) -> None:
        region, origin = member.region, budget.origin
        super().__init__(name=name, key=key, region=region, origin=origin)
        self.member = member

    @property
    def lies_in_rows(self) -> bool:
        """Never: only the whole can be held against its check sum."""
        return False

    def _read(self, index: tuple[slice, ...]) -> np.ndarray:
        values = super()._read(index)
        if values.shape == self.shape and self._is_plain():
            content = values.reshape(-1).view(np.uint8).data
            found = zlib.crc32(content, zlib.crc32(self.member.head))
            if found != self.member.info.CRC:
                raise CheckpointError(f"{self}: its check sum is another; damaged?")
        return values

    def _is_plain(self) -> bool:
        """Whether the values in memory are the bytes of the file."""
        return self.region.strides is None and self.region.dtype == self.dtype


class _CompressedLeaf(Leaf):
    """A leaf that has to be expanded as a whole before any of it can be read.

    Of all leaves that share `expanded`, the last that was read in parts stays there.
    """

    def __init__(
        self,
        name: str,
        key: str,
        member: _Member,
        budget: Budget,
        expanded: dict[str, np.ndarray],
    ) -> None:
        shape, dtype = member.region.shape, native(member.region.dtype)
        origin = budget.origin
        super().__init__(name=name, key=key, shape=shape, dtype=dtype, origin=origin)
        self.member, self.budget, self.expanded = member, budget, expanded

    def _read(self, index: tuple[slice, ...]) -> np.ndarray:
        if self.key not in self.expanded:
            self.expanded.clear()
            whole = self._expand()
            if whole[index].shape == self.shape:
                return check_booleans(np.array(whole, self.dtype, order="C"), self)
            self.expanded[self.key] = whole
        values = self.expanded[self.key][index]
        return check_booleans(np.array(values, self.dtype, order="C"), self)

    def _expand(self) -> np.ndarray:
        info, region = self.member.info, self.member.region
        self.budget.eager(info.file_size, f"the compressed {self.key!r}")
        limits = Budget(self.budget.limits, self.origin)
        with (
            open_archive(region.file, limits) as archive,
            archive.open(info) as member,
        ):
            member.read(len(self.member.head))
            content = member.read(self.nbytes)
            member.read(1)  # the end of the member is where its sum is checked
        if len(content) < self.nbytes:
            raise self.budget.refuse(f"{self.key!r} expands to {len(content)} bytes")
        return np.ndarray(self.shape, region.dtype, content, strides=region.strides)
