"""npz: a zip archive of npy files. numpy reads the headers, and never a pickle.

Members that `numpy.savez` stored are read in place, slice by slice; compressed ones are
expanded when they are read, and only as far as the archive said they would be.
"""

from __future__ import annotations

import io
import math
import zipfile
from typing import Any

import jax.numpy as jnp
import numpy as np

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
    found: dict[str, tuple[zipfile.ZipInfo, int, Region]] = {}
    with open_archive(path, budget) as archive:
        for info in archive.infolist():
            if not info.filename.endswith(".npy"):
                raise budget.refuse(f"the member {info.filename[:200]!r} is no array")
            key = info.filename.removesuffix(".npy")
            found[key] = (info, *_member(archive, info, key, budget))
    names = name_leaves([split_key(k, separator or "/", budget) for k in found], budget)
    leaves: dict[str, Leaf] = {}
    for name, (key, (info, skip, region)) in zip(names, found.items(), strict=True):
        if is_stored(info):
            leaves[name] = RegionLeaf(name=name, key=key, region=region, origin=origin)
        else:
            leaves[name] = _CompressedLeaf(
                name, key, region, origin, info, skip, budget
            )
    return Source(leaves, format="npz", origins=(origin,))


def _member(
    archive: zipfile.ZipFile, info: zipfile.ZipInfo, key: str, budget: Budget
) -> tuple[int, Region]:
    """How long the header of a member is, and the array that it describes."""
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
    return head.tell(), region


def _is_plain(dtype: np.dtype) -> bool:
    """Whether a type is one number, and one that JAX knows."""
    known = dtype.kind != "V" or dtype == jnp.bfloat16
    return known and dtype.names is None and dtype.subdtype is None


def _fortran(shape: tuple[int, ...], itemsize: int) -> tuple[int, ...]:
    strides = [itemsize]
    for length in shape[:-1]:
        strides.append(strides[-1] * length)
    return tuple(strides[: len(shape)])


class _CompressedLeaf(Leaf):
    """A leaf that has to be expanded as a whole before any of it can be read."""

    def __init__(
        self,
        name: str,
        key: str,
        region: Region,
        origin: Origin,
        info: zipfile.ZipInfo,
        skip: int,
        budget: Budget,
    ) -> None:
        dtype = native(region.dtype)
        super().__init__(
            name=name, key=key, shape=region.shape, dtype=dtype, origin=origin
        )
        self.region, self.info, self.skip, self.budget = region, info, skip, budget

    def _read(self, index: tuple[slice, ...]) -> np.ndarray:
        self.budget.eager(self.info.file_size, f"the compressed {self.key!r}")
        limits = Budget(self.budget.limits, self.origin)
        with (
            open_archive(self.region.file, limits) as archive,
            archive.open(self.info) as member,
        ):
            member.read(self.skip)
            content = member.read(self.nbytes)
            member.read(1)  # the end of the member is where its sum is checked
        if len(content) < self.nbytes:
            raise self.budget.refuse(f"{self.key!r} expands to {len(content)} bytes")
        values = np.ndarray(
            self.shape, self.region.dtype, content, strides=self.region.strides
        )[index]
        return check_booleans(np.array(values, self.dtype, order="C"), self)
