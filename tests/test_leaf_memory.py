"""Memory for leaves: given back leaf by leaf, in huge pages, taken over by JAX."""

import mmap
import os
from pathlib import Path

import jax
import numpy as np
import pytest

from jaxinit._memory import Memory


def resident():
    lines = Path("/proc/self/status").read_text().splitlines()
    (line,) = (line for line in lines if line.startswith("VmRSS"))
    return int(line.split()[1]) * 1024


def test_a_leaf_gives_its_memory_back_while_its_neighbours_live():
    count = 16
    memory, size = Memory(), 2**22
    leaves = [memory.vector(size, np.uint8) for _ in range(count)]
    for leaf in leaves:
        leaf[:] = 1
    held = jax.device_put(leaves[1].view(np.float32))
    before = resident()
    del leaf, leaves[::2]
    assert before - resident() == pytest.approx(count // 2 * size, rel=0.1)
    leaves.clear()
    assert before - resident() == pytest.approx((count - 1) * size, rel=0.1)
    assert (np.asarray(held).view(np.uint8) == 1).all()


@pytest.mark.parametrize("size", [0, 1, 3000, 2**16, 2**20 + 1, 2**28 + 1])
def test_vectors_are_apart_and_taken_over_without_a_copy(size):
    memory = Memory()
    first, second = (memory.vector(size, np.uint8) for _ in range(2))
    first[:], second[:] = 1, 2
    assert first.sum(dtype=np.int64) == size
    assert not np.shares_memory(first, second)
    array = jax.device_put(first)
    if size:
        assert array.unsafe_buffer_pointer() == first.ctypes.data


def flags_of_mapping(address):
    """What the system was told of the memory at an address, by /proc/self/smaps."""
    within = False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        first = line.split()[0]
        if "-" in first:
            start, stop = (int(number, 16) for number in first.split("-"))
            within = start <= address < stop
        elif within and first == "VmFlags:":
            return line.split()[1:]


@pytest.mark.skipif(
    not os.path.exists("/sys/kernel/mm/transparent_hugepage"),
    reason="a system without huge pages",
)
def test_huge_pages_are_asked_for_while_a_leaf_lives():
    memory = Memory()
    vectors = [memory.vector(2**22, np.uint8) for _ in range(3)]
    assert all("hg" in flags_of_mapping(vector.ctypes.data) for vector in vectors)
    address = vectors[1].ctypes.data
    del vectors[1]
    assert "hg" not in flags_of_mapping(address + mmap.PAGESIZE)
    assert all("hg" in flags_of_mapping(vector.ctypes.data) for vector in vectors)
    plain = np.frombuffer(mmap.mmap(-1, 2**22), np.uint8)
    assert "hg" not in flags_of_mapping(plain.ctypes.data)
