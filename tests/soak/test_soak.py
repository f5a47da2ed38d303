"""Long runs: nothing grows; what is interrupted, or done twice at once, stays whole."""

import concurrent.futures
import functools
import json
import os
import pathlib
import signal
import subprocess
import sys
import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxinit
from jaxinit import transfer as tr
from jaxinit.testing import assert_trees_identical

HERE = pathlib.Path(__file__).parent


def init(key):
    """Draws of several kinds, one of which is compiled."""
    keys = jax.random.split(key, 4)
    return {
        "normal": jax.random.normal(keys[0], (64, 48)) * 0.1,
        "uniform": jax.random.uniform(keys[1], (300,), minval=-1.0),
        "orthogonal": jaxinit.initializers.orthogonal()(keys[2], (16, 16)),
        "bias": jnp.zeros(7),
    }


def after_cycles(number, folder):
    command = [sys.executable, str(HERE / "cycles.py"), str(number), str(folder)]
    # Large blocks that are freed go back to the system at once, as otherwise they may
    # or may not: two of four megabytes each are freed in every cycle.
    everything = os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536"}
    done = subprocess.run(
        command, capture_output=True, text=True, check=True, env=everything
    )
    return json.loads(done.stdout.splitlines()[-1])


def assert_nothing_grew(found):
    assert found["programs"] == 0
    assert found["descriptors"] == 0
    assert found["threads"] == 1
    assert found["files"] == ["network.safetensors"]
    # The allocator keeps freed blocks; a leak of one parameter tree (20 kB) a cycle
    # would be twenty megabytes in a thousand.
    assert found["bytes"] < 8e6


@pytest.mark.long
def test_a_thousand_cycles_leave_nothing_behind(tmp_path):
    assert_nothing_grew(after_cycles(1000, tmp_path))


@pytest.mark.parametrize(
    "grown", [{"programs": 1}, {"descriptors": 2}, {"threads": 2}, {"bytes": 2e7}]
)
def test_growth_is_noticed(grown):
    quiet = {
        "programs": 0,
        "descriptors": 0,
        "threads": 1,
        "bytes": 1000,
        "files": ["network.safetensors"],
    }
    assert_nothing_grew(quiet)
    with pytest.raises(AssertionError):
        assert_nothing_grew(quiet | grown)


def test_threads_make_the_same_at_once():
    expected = [jax.jit(init)(jax.random.key(seed)) for seed in range(8)]
    make = jaxinit.materialize(init)
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        made = list(pool.map(lambda seed: make(jax.random.key(seed)), range(8)))
    for one, other in zip(made, expected, strict=True):
        assert_trees_identical(one, other)


def test_threads_save_to_one_file_and_read_it(tmp_path):
    path = tmp_path / "shared.safetensors"
    trees = [{"a": np.full(2000, n, np.float32), "b": np.full(3, n)} for n in range(4)]
    tr.save(path, trees[0])
    done = threading.Event()

    def write(tree):
        for _ in range(20):
            tr.save(path, tree)

    def read():
        reads = 0
        while not done.is_set() or not reads:
            tree, _ = tr.merge(trees[0], tr.open_checkpoint(path))
            assert len({float(value) for leaf in tree.values() for value in leaf}) == 1
            reads += 1
        return reads

    with concurrent.futures.ThreadPoolExecutor(5) as pool:
        reading = pool.submit(read)
        list(pool.map(write, trees))
        done.set()
        assert reading.result() > 0
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]


def test_two_processes_save_to_one_file(tmp_path):
    path = tmp_path / "shared.safetensors"
    code = (
        "import sys, numpy as np; from jaxinit import transfer as tr\n"
        "for _ in range(40):\n"
        "    tr.save(sys.argv[1], {'a': np.full(50000, int(sys.argv[2]))})\n"
    )
    processes = [
        subprocess.Popen([sys.executable, "-c", code, str(path), str(number)])
        for number in (1, 2)
    ]
    assert [process.wait() for process in processes] == [0, 0]
    (leaf,) = tr.open_checkpoint(path).values()
    assert set(np.unique(leaf.read())) in ({1}, {2})
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]


class Interrupted(Exception):
    """Stands for Ctrl-C."""


@pytest.fixture
def interrupt():
    """Interrupt the main thread after some seconds."""

    def ring(*_):
        raise Interrupted

    before = signal.signal(signal.SIGALRM, ring)
    yield lambda seconds: signal.setitimer(signal.ITIMER_REAL, seconds)
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


def was_interrupted(work, interrupt, seconds):
    """Whether the alarm rang before the work was done, or just then."""
    try:
        interrupt(seconds)
        work()
        interrupt(0)
    except Interrupted:
        return True
    return False


@pytest.mark.long
def test_an_interrupted_materialize_can_be_called_again(interrupt):
    expected = jax.jit(init)(jax.random.key(0))
    random = np.random.default_rng(0)
    cut = 0
    for _ in range(60):
        jax.clear_caches()
        cut += was_interrupted(
            lambda: jaxinit.materialize(init)(jax.random.key(0)),
            interrupt,
            random.uniform(0.001, 0.4),
        )
        assert_trees_identical(jaxinit.materialize(init)(jax.random.key(0)), expected)
    assert cut > 10


@pytest.mark.long
def test_an_interrupted_save_leaves_the_old_file_or_the_new_one(interrupt, tmp_path):
    path = tmp_path / "network.safetensors"
    trees = [{"a": np.full(2_000_000, n, np.float32)} for n in range(2)]
    tr.save(path, trees[0])
    random = np.random.default_rng(0)
    cut = 0
    for number in range(200):
        work = functools.partial(tr.save, path, trees[number % 2])
        cut += was_interrupted(work, interrupt, random.uniform(0.0001, 0.03))
        (leaf,) = tr.open_checkpoint(path).values()
        assert len(np.unique(leaf.read())) == 1
        assert [entry.name for entry in tmp_path.iterdir()] == [path.name]
    assert cut > 20
