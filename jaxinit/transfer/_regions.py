"""Leaves that lie in a file as they are in memory: read by slices, never as a whole.

What is contiguous is read straight into the array that is returned, which is aligned
so that JAX on a CPU takes it over without a copy. What is not contiguous (a
transposed view, a shard along a later axis) is copied out of a memory map, so that only
its own pages are read. The size of the file is checked before each read: a map of a
file that has shrunk would end the process.
"""

from __future__ import annotations

import contextlib
import math
import mmap
import os
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any

import numpy as np

from jaxinit._errors import CheckpointError
from jaxinit._memory import vector
from jaxinit.transfer._copying import rows_apart
from jaxinit.transfer._origin import Origin
from jaxinit.transfer._source import Leaf


@dataclass(frozen=True, kw_only=True)
class Region:
    """An array inside a file: where it starts, its stored type, its strides in bytes.

    Strides of None are those of an array in row-major order.
    """

    file: str
    offset: int
    dtype: np.dtype
    shape: tuple[int, ...]
    strides: tuple[int, ...] | None = None

    def read(self, index: tuple[slice, ...]) -> np.ndarray:
        """A copy of a slice, in the byte order of this machine."""
        strides = self.strides or row_major(self.shape, self.dtype.itemsize)
        bounds = [part.indices(n) for part, n in zip(index, self.shape, strict=True)]
        shape = tuple(stop - start for start, stop, _ in bounds)
        if 0 in shape:
            return np.empty(shape, native(self.dtype))
        first = sum(b[0] * stride for b, stride in zip(bounds, strides, strict=True))
        start = self.offset + first
        reach = sum((n - 1) * stride for n, stride in zip(shape, strides, strict=True))
        with self._open(start, start + reach + self.dtype.itemsize) as file:
            if _is_contiguous(shape, strides, self.dtype.itemsize):
                values = vector(math.prod(shape), self.dtype).reshape(shape)
                _read_into(file, start, values, self.file)
            else:
                values = _gather(file, start, shape, strides, self.dtype)
        return values.astype(native(self.dtype), copy=False)

    @contextlib.contextmanager
    def rows(self, most: int) -> Generator[Callable[[int, int], np.ndarray]]:
        """Reads slices of the first axis of an array in row-major order.

        Of at most so many rows, each time into the same memory, where a row starts a
        line of the cache after the end of the one before.
        """
        size = math.prod(self.shape[1:])
        room = rows_apart(most, size, self.dtype)
        views = [memoryview(row.view(np.uint8).data) for row in room]
        pitch = size * self.dtype.itemsize
        with self._open(self.offset, self.offset + self.shape[0] * pitch) as file:

            def read(start: int, stop: int) -> np.ndarray:
                where, count = self.offset + start * pitch, stop - start
                if not _read_at_once(file, where, views[:count], count * pitch):
                    for number in range(count):
                        _read_into(
                            file, where + number * pitch, room[number], self.file
                        )
                values = room[:count].reshape(count, *self.shape[1:])
                return values.astype(native(self.dtype), copy=False)

            yield read

    @contextlib.contextmanager
    def _open(self, start: int, stop: int) -> Generator[Any]:
        """The file, which must have the bytes from `start` to `stop`."""
        with open(self.file, "rb", buffering=0) as file:
            have = os.fstat(file.fileno()).st_size
            if start < 0 or stop > have:
                raise CheckpointError(
                    f"{self.file}: ends at byte {have}, before the end of the values; "
                    "it has changed since it was opened"
                )
            yield file


class RegionLeaf(Leaf):
    """A leaf whose values lie in one region of a file."""

    def __init__(self, *, name: str, key: str, region: Region, origin: Origin) -> None:
        dtype = native(region.dtype)
        super().__init__(
            name=name, key=key, shape=region.shape, dtype=dtype, origin=origin
        )
        self.region = region

    @property
    def lies_in_rows(self) -> bool:
        """Whether slices of the first axis can be read one by one, at no other cost."""
        return self.region.strides is None

    @contextlib.contextmanager
    def rows(self, most: int) -> Generator[Callable[[int, int], np.ndarray]]:
        """A function that reads rows of a leaf that lies in rows; see Region.rows."""
        with self.region.rows(most) as rows:
            yield lambda start, stop: check_booleans(rows(start, stop), self)

    def _read(self, index: tuple[slice, ...]) -> np.ndarray:
        return check_booleans(self.region.read(index), self)


def check_booleans(values: np.ndarray, leaf: Any) -> np.ndarray:
    """The values, unless booleans hold bytes that are neither 0 nor 1."""
    if values.dtype == bool and values.size and values.view(np.uint8).max() > 1:
        raise CheckpointError(f"{leaf}: holds booleans that are neither 0 nor 1")
    return values


def native(dtype: np.dtype) -> np.dtype:
    """The type in the byte order of this machine."""
    return dtype.newbyteorder("=") if dtype.byteorder in "<>" else dtype


def row_major(shape: tuple[int, ...], itemsize: int) -> tuple[int, ...]:
    """The strides, in bytes, of an array in row-major order."""
    strides = [itemsize]
    for length in reversed(shape[1:]):
        strides.append(strides[-1] * length)
    return tuple(reversed(strides))[: len(shape)] if shape else ()


def _is_contiguous(
    shape: tuple[int, ...], strides: tuple[int, ...], itemsize: int
) -> bool:
    wanted = row_major(shape, itemsize)
    axes = zip(shape, strides, wanted, strict=True)
    return all(length == 1 or have == want for length, have, want in axes)


def _read_into(file: Any, start: int, values: np.ndarray, name: str) -> None:
    view = memoryview(values.reshape(-1).view(np.uint8).data)
    file.seek(start)
    while view:
        count = file.readinto(view)
        if not count:
            raise CheckpointError(f"{name}: ended while it was read")
        view = view[count:]


def _read_at_once(file: Any, start: int, views: list[memoryview], size: int) -> bool:
    """Whether the system could read all bytes, one after the other, into the views."""
    read = getattr(os, "preadv", None)  # not on every system
    return read is not None and read(file.fileno(), views, start) == size


def _gather(
    file: Any,
    start: int,
    shape: tuple[int, ...],
    strides: tuple[int, ...],
    dtype: np.dtype,
) -> np.ndarray:
    with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        view = np.ndarray(shape, dtype, buffer=mapped, offset=start, strides=strides)
        values = np.array(view, order="C")
        del view  # or the map could not be closed
    return values
