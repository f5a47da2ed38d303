"""Memory for leaves, of a kind that is soon there.

A page of memory is backed when it is first touched. On a virtual machine that can cost
as much as computing what goes there, for a huge page no more than for a small one.
"""

from __future__ import annotations

import contextlib
import mmap
import threading
import weakref
from typing import Any

import numpy as np

_LINE = 64  # bytes; JAX takes what starts on a cache line over without a copy
_HUGE = 2**21
_BLOCK = 2**28  # of addresses; what no leaf touches takes no memory
_WORTH_A_PLACE = 2**16  # bytes; smaller ones come from where all small things do


class Memory:
    """Vectors that lie next to one another, in blocks that huge pages are asked for.

    By itself, a leaf of a few megabytes would have huge pages in its middle only. What
    a leaf takes is given back when nothing refers to it any more, though others of its
    block live on.
    """

    def __init__(self):
        self._lock = threading.Lock()
        self._block: mmap.mmap | None = None
        self._next = self._stop = 0

    def vector(self, count: int, dtype: Any) -> np.ndarray:
        """An uninitialised vector that JAX takes over without a copy."""
        size = count * np.dtype(dtype).itemsize
        if size < _WORTH_A_PLACE or not hasattr(mmap, "MADV_HUGEPAGE"):
            return _alone(size).view(dtype)
        with self._lock:
            block, start = self._place(size)
        vector = np.frombuffer(memoryview(block)[start : start + size], np.uint8)
        weakref.finalize(vector, _give_back, block, start, start + size).atexit = False
        return vector.view(dtype)

    def _place(self, size: int) -> tuple[mmap.mmap, int]:
        if self._block is None or self._next + size > self._stop:
            self._block, self._next = _new_block(max(size, _BLOCK))
            self._stop = len(self._block)
        start = self._next
        self._next += -(-size // _LINE) * _LINE
        return self._block, start


vector = Memory().vector


def back(array: np.ndarray):
    """Touch every page of an array, which then has memory of its own."""
    array.view(np.uint8)[:: mmap.PAGESIZE] = 0


def _alone(size: int) -> np.ndarray:
    raw = np.empty(size + _LINE, np.uint8)
    offset = -raw.ctypes.data % _LINE
    return raw[offset : offset + size]


def _new_block(size: int) -> tuple[mmap.mmap, int]:
    """A block, and where in it the first of its huge pages starts."""
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
    block = mmap.mmap(-1, size + _HUGE, flags=flags)
    with contextlib.suppress(OSError):  # a system that has none
        block.madvise(mmap.MADV_HUGEPAGE)
    return block, -np.frombuffer(block, np.uint8).ctypes.data % _HUGE


def _give_back(block: mmap.mmap, start: int, stop: int):
    """Return the pages that lie within; the others are of neighbours, too."""
    start = -(-start // mmap.PAGESIZE) * mmap.PAGESIZE
    stop = stop // mmap.PAGESIZE * mmap.PAGESIZE
    if start >= stop:
        return
    block.madvise(mmap.MADV_DONTNEED, start, stop - start)
    # Or the system makes huge pages of what is left of them, in the background.
    with contextlib.suppress(OSError):
        block.madvise(mmap.MADV_NOHUGEPAGE, start, stop - start)
