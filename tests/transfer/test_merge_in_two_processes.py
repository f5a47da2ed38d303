"""Two processes, one mesh: each merges its own shards, and together they hold all."""

import json
import os
import pathlib
import socket
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np

from jaxinit import initializers
from jaxinit._keys import fold_name

PROGRAM = pathlib.Path(__file__).with_name("merge_in_two_processes.py")


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def test_each_process_merges_its_own_shards(tmp_path):
    values = np.arange(32, dtype="float32").reshape(8, 4)
    arrays = {"plain": values, "turned": values.T, "doubled": values}
    np.savez(tmp_path / "w.npz", **arrays)
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
        # Before the last line, the processes say that they have found each other.
        texts = [process.communicate(timeout=120)[0] for process in running]
        said = [json.loads(text.splitlines()[-1]) for text in texts]
    finally:
        for process in running:
            process.kill()
    draw = jax.jit(lambda key: initializers.normal()(key, (8, 4), jnp.float32))
    expected = {
        "plain": values,
        "turned": values,
        "doubled": 2 * values,
        "drawn": draw(fold_name(jax.random.key(0), "drawn")),
    }
    for name, array in expected.items():
        held = {int(k): v for found in said for k, v in found["held"][name].items()}
        assert sorted(held) == [0, 2, 4, 6]
        found = np.concatenate([held[start] for start in (0, 2, 4, 6)])
        np.testing.assert_array_equal(found.astype(np.float32), array)
    # Of the leaf that goes through a function all is read, of the others a half.
    assert [found["read"] for found in said] == [2 * values.nbytes] * 2
    assert set(said[0]["fates"].values()) == {"copied", "adapted", "drawn"}
