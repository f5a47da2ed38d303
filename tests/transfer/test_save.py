"""save: what comes back is what went in, and a killed process leaves a whole file."""

import json
import os
import pathlib
import random
import signal
import subprocess
import sys
import tempfile
import time

import checkpoint_files
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from flax import nnx
from numpy.testing import assert_array_equal

from jaxinit._errors import CheckpointError
from jaxinit._report import Report
from jaxinit.transfer import Limits, open_checkpoint, save
from jaxinit.transfer._checkpoints._safetensors import DTYPES


def test_every_type_comes_back_bit_for_bit(tmp_path):
    path = tmp_path / "model.safetensors"
    bits = np.arange(64, dtype="uint8")
    tree = {}
    for name, dtype in DTYPES.items():
        values = bits % 2 if dtype.kind == "b" else bits
        tree[name] = values.view(dtype.newbyteorder("=")).reshape(2, -1)
    save(path, tree)
    source = open_checkpoint(path)
    assert list(source) == list(sorted(tree))
    for name, value in tree.items():
        found = source[name].read(nonfinite="allow")
        assert found.dtype == value.dtype
        assert found.tobytes() == value.tobytes()


def test_the_library_reads_the_same(tmp_path):
    path = tmp_path / "model.safetensors"
    tree = checkpoint_files.nested(checkpoint_files.arrays())
    save(path, tree)
    found = safetensors.numpy.load_file(path)
    for name, value in checkpoint_files.arrays().items():
        assert_array_equal(found[name], value, strict=True)


def test_leaves_start_at_multiples_of_their_item_size(tmp_path):
    path = tmp_path / "model.safetensors"
    save(path, {"a": np.ones(3, "uint8"), "b": np.ones(3), "c": np.ones(5, "float16")})
    for leaf in open_checkpoint(path).values():
        assert leaf.region.offset % leaf.dtype.itemsize == 0


def test_names_of_every_collection_come_back(tmp_path):
    path = tmp_path / "model.safetensors"
    norm = nn.BatchNorm(use_running_average=True)
    variables = norm.init(jax.random.key(0), jnp.ones((2, 3)))
    tree = {"step": 3, **variables}
    save(path, tree)
    assert set(open_checkpoint(path)) == {
        *("scale", "bias", "batch_stats:mean", "batch_stats:var", "step:")
    }


def test_random_state_is_listed_and_not_written(tmp_path):
    path = tmp_path / "model.safetensors"
    model = nnx.Dropout(0.5, rngs=nnx.Rngs(0))
    save(path, {"dropout": nnx.state(model), "w": jnp.ones(2)})
    source = open_checkpoint(path)
    assert set(source) == {"w"}
    record = json.loads(source.metadata["jaxinit.provenance"])
    assert len(record["random_state"]) == 2


def test_a_source_is_copied_leaf_by_leaf(tmp_path):
    source = open_checkpoint(checkpoint_files.write_npz(tmp_path))
    save(tmp_path / "copy.safetensors", source, provenance=source.provenance())
    copy = open_checkpoint(tmp_path / "copy.safetensors")
    for name, leaf in source.items():
        assert_array_equal(copy[name].read(), leaf.read(), strict=True)
    record = json.loads(copy.metadata["jaxinit.provenance"])
    assert record["record"] == source.provenance()
    assert record["jax"] == jax.__version__


def test_a_report_is_provenance(tmp_path):
    report = Report("merge", columns=("leaf",), rows=[("w",)])
    save(tmp_path / "w.safetensors", {"w": np.ones(2)}, provenance=report)
    metadata = open_checkpoint(tmp_path / "w.safetensors").metadata
    record = json.loads(metadata["jaxinit.provenance"])["record"]
    assert Report.from_dict(record) == report


def test_sharded_arrays_and_empty_trees_are_written(tmp_path):
    mesh = jax.make_mesh((8,), ("a",))
    sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("a"))
    value = jax.device_put(jnp.arange(16.0).reshape(16, 1), sharding)
    save(tmp_path / "w.safetensors", {"w": value, "none": jnp.zeros((0, 3))})
    source = open_checkpoint(tmp_path / "w.safetensors")
    assert_array_equal(source["w"].read(), np.arange(16, dtype="f").reshape(16, 1))
    assert source["none"].read().shape == (0, 3)
    save(tmp_path / "empty.safetensors", {})
    assert len(open_checkpoint(tmp_path / "empty.safetensors")) == 0


UNWRITABLE = {
    "complex128": ({"w": np.ones(2, "complex128")}, "tree: w: safetensors has no type"),
    "text": ({"w": np.array(["a"])}, "tree: w: safetensors has no type"),
    "a shape": ({"w": jax.ShapeDtypeStruct((2,), jnp.float32)}, "only its shape"),
    "a way out": ({"..": np.ones(2)}, r"tree: the key '\.\.'"),
    "the name of the metadata": ({"__metadata__": np.ones(2)}, "cannot be called"),
}


@pytest.mark.parametrize("case", UNWRITABLE)
def test_what_cannot_be_written_leaves_the_old_file(tmp_path, case):
    path = tmp_path / "model.safetensors"
    save(path, {"w": np.zeros(2)})
    before = path.read_bytes()
    tree, reason = UNWRITABLE[case]
    with pytest.raises(CheckpointError, match=reason):
        save(path, tree)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["model.safetensors"]


def test_provenance_must_be_json(tmp_path):
    with pytest.raises(CheckpointError, match="provenance must be JSON"):
        save(tmp_path / "w.safetensors", {"w": np.ones(2)}, provenance={"f": print})
    with pytest.raises(CheckpointError, match="provenance must be JSON"):
        save(tmp_path / "w.safetensors", {}, provenance={"f": float("nan")})


def test_a_folder_that_does_not_exist_is_named(tmp_path):
    path = tmp_path / "nowhere" / "w.safetensors"
    with pytest.raises(CheckpointError, match=r"nowhere/w\.safetensors: cannot be wr"):
        save(path, {"w": np.ones(2)})


def test_a_link_stays_a_link(tmp_path):
    (tmp_path / "link.safetensors").symlink_to(tmp_path / "real.safetensors")
    save(tmp_path / "link.safetensors", {"w": np.ones(2)})
    assert (tmp_path / "link.safetensors").is_symlink()
    assert set(open_checkpoint(tmp_path / "real.safetensors")) == {"w"}


def test_names_that_claim_to_be_ours_are_checked(tmp_path):
    path = tmp_path / "w.safetensors"
    for name in ("../x", "a//b", ":w", "a:../b"):
        metadata = {"jaxinit.names": "full"}
        safetensors.numpy.save_file({name: np.ones(2)}, path, metadata=metadata)
        with pytest.raises(CheckpointError, match=r"w\.safetensors: "):
            open_checkpoint(path)


def test_the_new_file_is_on_the_disk_before_it_has_its_name(tmp_path, monkeypatch):
    path = tmp_path / "w.safetensors"
    events = []
    for name in ("fsync", "replace"):
        function = getattr(os, name)

        def noted(*arguments, name=name, function=function):
            kind = "folder" if name == "fsync" and is_folder(*arguments) else name
            events.append(kind)
            return function(*arguments)

        monkeypatch.setattr(os, name, noted)
    save(path, {"w": np.ones(2)})
    assert events == ["fsync", "replace", "folder"]


def is_folder(descriptor):
    return pathlib.Path(f"/proc/self/fd/{descriptor}").resolve().is_dir()


# A process that saves two trees in turn, for ever. It forks before any backend starts,
# so that each round costs no import.
VICTIM = """
import os, sys
import numpy as np
from jaxinit.transfer import save
path = sys.argv[1]
trees = [{"a": np.full(N, n, "f"), "b": np.full(N, -n, "f")} for n in (1, 2)]
save(path, trees[0])
for _ in sys.stdin:
    child = os.fork()
    if not child:
        while True:
            for tree in trees:
                save(path, tree)
    print(child, flush=True)
    os.waitpid(child, 0)
    print("dead", flush=True)
"""


# What `save` would be without care: the old file is gone before the new one is there.
CARELESS = """
import safetensors.numpy
def save(path, tree):
    content = safetensors.numpy.save(tree)
    with open(path, "wb") as file:
        for start in range(0, len(content), 4096):
            file.write(content[start:start + 4096])
            file.flush()
"""


def check_kills(folder, *, rounds, seed, careless=""):
    path = folder / "model.safetensors"
    size = 1 << 16
    program = VICTIM.replace("N,", f"{size},")
    program = program.replace("path = sys", careless + "path = sys")
    victim = subprocess.Popen(
        [sys.executable, "-c", program, str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    moments = random.Random(seed)
    torn = 0
    try:
        for _ in range(rounds):
            victim.stdin.write("again\n")
            victim.stdin.flush()
            child = int(victim.stdout.readline())
            time.sleep(moments.uniform(0, 0.05))
            os.kill(child, signal.SIGKILL)
            assert victim.stdout.readline() == "dead\n"
            source = open_checkpoint(path)
            (a,) = set(source["a"].read())
            (b,) = set(source["b"].read())
            assert (a, b) in ((1, -1), (2, -2))
            leftovers = list(folder.glob(".*.tmp"))
            torn += len(leftovers)
            for leftover in leftovers:
                leftover.unlink()
        victim.stdin.close()
        assert victim.wait() == 0
    finally:
        victim.kill()
        victim.stdout.close()
    return torn


@pytest.fixture
def folder():
    """In memory where possible: a kill is the same there, and no disk is busy."""
    memory = "/dev/shm" if os.path.isdir("/dev/shm") else None
    with tempfile.TemporaryDirectory(dir=memory) as name:
        yield pathlib.Path(name)


def test_a_killed_process_leaves_a_whole_file(folder):
    check_kills(folder, rounds=8, seed=1)


def test_a_save_without_care_does_not(folder):
    with pytest.raises((CheckpointError, ValueError, AssertionError)):
        check_kills(folder, rounds=50, seed=1, careless=CARELESS)


@pytest.mark.long
def test_a_hundred_killed_processes_leave_a_whole_file(folder):
    # Some of them died in the middle of writing, or the test would show nothing.
    assert check_kills(folder, rounds=100, seed=2) > 0


def test_one_leaf_at_a_time_is_in_memory(tmp_path):
    import tracemalloc

    source = tmp_path / "large.npz"
    np.savez(source, **{f"w{i}": np.ones(1 << 18, "f") for i in range(16)})
    leaves = open_checkpoint(source, limits=Limits())
    tracemalloc.start()
    save(tmp_path / "copy.safetensors", leaves)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2.5 * (1 << 20)  # the leaf that is written, and the next one
