"""Two processes, one mesh: each reads its own shards of a file and no others."""

import pathlib

import numpy as np
from pair_of_processes import said_by_two

PROGRAM = pathlib.Path(__file__).with_name("two_processes.py")


def test_each_process_reads_its_own_shards_alone(tmp_path):
    value = np.arange(32, dtype="float32").reshape(8, 4)
    np.savez(tmp_path / "w.npz", w=value)
    said = said_by_two(PROGRAM, tmp_path / "w.npz")
    assert all(found["shape"] == [8, 4] for found in said)
    assert [found["read"] for found in said] == [value.nbytes // 2] * 2
    held = {int(k): v for found in said for k, v in found["held"].items()}
    assert held == {
        start: value[start : start + 2].reshape(-1).tolist() for start in (0, 2, 4, 6)
    }
