"""An audit of arrays of which no process holds all is that of the whole ones."""

import json
import math
import os
import pathlib
import socket
import subprocess
import sys

import audit_in_two_processes as job
import jax.numpy as jnp
import pytest

PROGRAM = pathlib.Path(job.__file__)


@pytest.mark.parametrize("fault", job.FAULTS)
def test_each_fault_is_told_in_one_process_as_in_two(fault, told):
    expected, *found = (each[fault] for each in told)
    for other in found:
        assert other["findings"] == expected["findings"]
        for row, own in zip(other["rows"], expected["rows"], strict=True):
            assert row.keys() == own.keys()
            for name, value in own.items():
                if not isinstance(value, float):
                    assert row[name] == value
                elif not math.isnan(value):
                    assert row[name] == pytest.approx(value, rel=1e-3, abs=1e-5)
    assert bool(expected["findings"]) == (fault != "none")


@pytest.fixture(scope="module")
def told():
    """In this process, and in each of the two."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    environment = {key: text for key, text in os.environ.items() if key != "XLA_FLAGS"}
    environment["PYTHONPATH"] = os.pathsep.join(sys.path)
    pair = [
        subprocess.Popen(
            [sys.executable, PROGRAM, port, index],
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )
        for index in "01"
    ]
    here = json.loads(json.dumps(job.audits(job.auditor_of, jnp.asarray)))
    texts = [process.communicate(timeout=300)[0] for process in pair]
    assert [process.returncode for process in pair] == [0, 0]
    # Their connection is told on the same stream.
    return [here, *(json.loads(text[text.index('{"none"') :]) for text in texts)]
