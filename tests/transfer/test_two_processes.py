"""Two processes, one mesh: each reads its own shards of a file and no others."""

import json
import os
import pathlib
import socket
import subprocess
import sys

import numpy as np

PROGRAM = pathlib.Path(__file__).with_name("two_processes.py")


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def test_each_process_reads_its_own_shards_alone(tmp_path):
    value = np.arange(32, dtype="float32").reshape(8, 4)
    np.savez(tmp_path / "w.npz", w=value)
    port = free_port()
    environment = {key: text for key, text in os.environ.items() if key != "XLA_FLAGS"}
    environment["PYTHONPATH"] = os.pathsep.join(sys.path)
    running = [
        subprocess.Popen(
            [sys.executable, PROGRAM, tmp_path / "w.npz", str(port), str(process)],
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )
        for process in range(2)
    ]
    try:
        said = [json.loads(process.communicate(timeout=120)[0]) for process in running]
    finally:
        for process in running:
            process.kill()
    assert all(found["shape"] == [8, 4] for found in said)
    assert [found["read"] for found in said] == [value.nbytes // 2] * 2
    held = {int(k): v for found in said for k, v in found["held"].items()}
    assert held == {
        start: value[start : start + 2].reshape(-1).tolist() for start in (0, 2, 4, 6)
    }
