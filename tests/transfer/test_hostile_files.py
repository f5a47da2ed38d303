"""A file that lies is refused by name and reason, and costs no memory and no time."""

import json
import os
import pickle
import time
import tracemalloc

import hostile_files as hostile
import hostile_pickles
import hostile_tables
import numpy as np
import pytest

from jaxinit._errors import CheckpointError
from jaxinit.transfer import Limits, open_checkpoint

# The files of this table are a few kilobytes long. What opening one may cost, whatever
# it claims: less than the smallest claim that could hurt anybody.
MEMORY = 4 << 20
SECONDS = 20.0
SMALL = Limits(max_bytes=1 << 16, max_leaves=100, max_depth=8)

CASES = {
    f"{format}: {name}": case
    for format, cases in {
        "safetensors": hostile_tables.SAFETENSORS,
        "npz": hostile_tables.NPZ,
        "msgpack": hostile_tables.MSGPACK,
        "torch": hostile_pickles.TORCH,
        "torch: legacy": hostile_pickles.LEGACY,
    }.items()
    for name, case in cases.items()
}


class Touch:
    """Its pickle makes a file, if anything runs it."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (os.system, (f"touch {self.path}",))


def read_all(path, **options):
    for leaf in open_checkpoint(path, **options).values():
        leaf.read()


def refusal(path, **options):
    """The error that opening and reading raises, whose cost is bounded."""
    tracemalloc.start()
    start = time.perf_counter()
    try:
        with pytest.raises(CheckpointError) as caught:
            read_all(path, **options)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < MEMORY
    assert time.perf_counter() - start < SECONDS
    return caught


@pytest.mark.parametrize("case", CASES)
def test_a_lie_is_refused_by_name_and_reason(tmp_path, case):
    content, reason = CASES[case]
    path = tmp_path / "weights.bin"
    path.write_bytes(content)
    caught = refusal(path, limits=SMALL, format=case.partition(":")[0])
    assert str(caught.value).startswith(f"{path}: ")
    assert caught.match(reason)


def honest(data=b"\0" * 8):
    return {
        "safetensors": hostile.safetensors({"w": hostile.entry()}, data),
        "npz": hostile.archive([("w.npy", hostile.npy(data=data))]),
        "torch": hostile.torch_zip(hostile.state_dict(), (data,)),
        "torch legacy": hostile.legacy(hostile.state_dict())[:-8] + data,
        "msgpack": hostile.msgpack(hostile.msgpack_array(data=data)),
    }


HONEST = honest()


@pytest.mark.parametrize("format", HONEST)
def test_the_same_files_without_the_lie_are_read(tmp_path, format):
    path = tmp_path / "weights.bin"
    path.write_bytes(HONEST[format])
    leaf = open_checkpoint(path, limits=SMALL)["w"]
    assert leaf.read().tolist() == [0.0, 0.0]


@pytest.mark.parametrize("format", HONEST)
def test_a_file_cut_anywhere_is_refused(tmp_path, format):
    path = tmp_path / "weights.bin"
    content = HONEST[format]
    for length in range(len(content)):
        path.write_bytes(content[:length])
        with pytest.raises(CheckpointError, match=r"weights\.bin: "):
            read_all(path, format=format.split()[0])


@pytest.mark.parametrize("format", HONEST)
def test_values_that_are_not_finite_are_read_when_allowed(tmp_path, format):
    path = tmp_path / "weights.bin"
    path.write_bytes(honest(b"\xff" * 8)[format])
    values = open_checkpoint(path)["w"].read(nonfinite="allow")
    assert np.isnan(values).all()


@pytest.mark.parametrize("form", [hostile.torch_zip, hostile.legacy])
def test_no_code_of_a_pickle_runs(tmp_path, form):
    trap = tmp_path / "ran"
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        content = form(pickle.dumps({"w": Touch(trap)}, protocol=protocol))
        (tmp_path / "weights.bin").write_bytes(content)
        with pytest.raises(CheckpointError, match=r"refers to \w+\.system"):
            open_checkpoint(tmp_path / "weights.bin")
    assert not trap.exists()
    pickle.loads(pickle.dumps(Touch(trap)))  # the trap itself works
    assert trap.exists()


def test_no_code_of_an_object_array_runs(tmp_path):
    trap = tmp_path / "ran"
    array = np.empty(1, object)
    array[0] = Touch(trap)
    np.savez(tmp_path / "weights.npz", w=array)
    with pytest.raises(CheckpointError, match="objects would be a pickle"):
        open_checkpoint(tmp_path / "weights.npz")
    assert not trap.exists()


def test_a_place_of_the_memo_costs_what_it_holds(tmp_path):
    path = tmp_path / "weights.pt"
    path.write_bytes(
        hostile.torch_zip(hostile.state_dict(hostile.tensor() + b"r\xff\xff\xff\xff"))
    )
    tracemalloc.start()
    assert open_checkpoint(path)["w"].shape == (2,)
    assert tracemalloc.get_traced_memory()[1] < MEMORY
    tracemalloc.stop()


def test_a_bomb_is_refused_by_the_limits_of_every_day(tmp_path):
    path = tmp_path / "weights.npz"
    path.write_bytes(hostile.bomb(1 << 26))
    assert path.stat().st_size < 1 << 17
    assert refusal(path).match(r"would expand .*max_expansion")
    trusted = Limits(max_expansion=2000.0)
    assert open_checkpoint(path, limits=trusted)["a"].nbytes == 1 << 26


def test_what_must_be_expanded_at_once_has_a_limit_of_its_own(tmp_path):
    path = tmp_path / "weights.npz"
    np.savez_compressed(path, w=np.random.default_rng(0).normal(size=1000))
    leaf = open_checkpoint(path, limits=Limits(max_eager_bytes=1000))["w"]
    with pytest.raises(CheckpointError, match=r"'w' must be read at once.*max_eager"):
        leaf.read()


INDEXES = {
    "a way out": ({"w": "../model.safetensors"}, "must be a bare name"),
    "an absolute way out": ({"w": "/etc/passwd"}, "must be a bare name"),
    "a way out of another system": ({"w": "..\\model.safetensors"}, "bare name"),
    "the parent": ({"w": ".."}, "must be a bare name"),
    "a file of another type": ({"w": 7}, "'7', which is not beside it"),
    "a shard that is missing": ({"w": "other.safetensors"}, "is not beside it"),
    "the index itself": ({"w": "model.safetensors.index.json"}, "of format index"),
    "a tensor that is missing": (
        {"w": "model.safetensors", "v": "model.safetensors"},
        "does not hold 'v'",
    ),
    "a tensor too many": ({}, "weight_map"),
    "a tensor of another shard": (
        {"v": "model.safetensors"},
        "holds 'w', which the index places in None",
    ),
}


@pytest.mark.parametrize("case", INDEXES)
def test_an_index_that_lies_is_refused(tmp_path, case):
    weight_map, reason = INDEXES[case]
    folder = tmp_path / "model"
    folder.mkdir()
    for place in (folder, tmp_path):
        (place / "model.safetensors").write_bytes(HONEST["safetensors"])
    path = folder / "model.safetensors.index.json"
    path.write_text(json.dumps({"weight_map": weight_map}))
    caught = refusal(path)
    assert caught.match(reason)
    assert str(caught.value).startswith(f"{path}: ")


def test_an_index_with_a_key_twice_is_refused(tmp_path):
    path = tmp_path / "model.safetensors.index.json"
    path.write_text('{"weight_map": {"w": "a", "w": "b"}}')
    with pytest.raises(CheckpointError, match="'w' stands twice"):
        open_checkpoint(path)


@pytest.mark.filterwarnings("error")
def test_a_text_that_python_warns_of_is_damage(tmp_path):
    path = tmp_path / "weights.pt"
    path.write_bytes(hostile.torch_zip(hostile.state_dict(b"S'\\+'\n")))
    with pytest.raises(CheckpointError, match="its pickle is damaged"):
        open_checkpoint(path)
