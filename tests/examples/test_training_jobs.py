"""The jobs under examples/: what is resumed is what was never interrupted."""

import importlib.util
import os
import pathlib
import re
import socket
import subprocess
import sys

import pytest

EXAMPLES = pathlib.Path(__file__).parents[2] / "examples"
REPORT = re.compile(r"steps (\d+) to (\d+).*: loss ([0-9.]+)")


def job(name):
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", ["train_linen", "train_nnx", "train_sharded"])
def test_a_resumed_job_ends_where_an_uninterrupted_one_does(
    name, tmp_path, capfd, relaxed_promotion
):
    main = job(name).main
    for folder, steps in ("whole", 12), ("parts", 6), ("parts", 6):
        (tmp_path / folder).mkdir(exist_ok=True)
        main(tmp_path / folder, steps=steps)
    whole, first, second = REPORT.findall(capfd.readouterr().out)
    assert whole[:2] == ("0", "11")
    assert first[:2] == ("0", "5")
    assert second == ("6", "11", whole[2])
    assert float(whole[2]) < float(first[2])  # and it learns


def test_two_processes_train_as_one_does(tmp_path, capfd, relaxed_promotion):
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        address = f"localhost:{probe.getsockname()[1]}"
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
    flags = "--xla_force_host_platform_device_count=4"
    command = [sys.executable, EXAMPLES / "train_sharded.py", tmp_path / "two", address]
    pair = [
        subprocess.Popen(
            [*command, "2", index],
            env={**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"},
            stdout=subprocess.PIPE,
            text=True,
        )
        for index in "01"
    ]
    job("train_sharded").main(tmp_path / "one")
    outputs = [process.communicate(timeout=300)[0] for process in pair]
    assert [process.returncode for process in pair] == [0, 0]
    alone = capfd.readouterr().out
    one = REPORT.findall(alone)
    assert REPORT.findall(outputs[0]) == one != []
    for output in (alone, *outputs):
        assert "audit: 9.93 k parameters in 8 leaves" in output
    assert "on 8 devices" in outputs[0]
