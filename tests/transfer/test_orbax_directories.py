"""Directories of Orbax: what its own reader would not notice is noticed before it."""

import json

import checkpoint_files
import numpy as np
import orbax.checkpoint as ocp
import pytest
from flax import nnx
from numpy.testing import assert_array_equal

from jaxinit._errors import CheckpointError
from jaxinit._paths import named_leaves
from jaxinit.transfer import Limits, open_checkpoint
from jaxinit.transfer._checkpoints import _orbax

# What Orbax had begun when it met the damage ends in a loop that is closed already.
pytestmark = pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnraisableExceptionWarning"
)


@pytest.fixture
def plain(tmp_path):
    """A checkpoint whose arrays are folders with a readable header."""
    handler = ocp.PyTreeCheckpointHandler(use_ocdbt=False)
    with ocp.Checkpointer(handler) as checkpointer:
        tree = {"w": np.arange(24.0).reshape(6, 4), "b": np.ones(3, "f")}
        checkpointer.save(tmp_path / "model", {"params": tree})
    return tmp_path / "model"


def read_all(path, **options):
    return {name: x.read() for name, x in open_checkpoint(path, **options).items()}


def test_the_older_storage_is_read_too(plain):
    found = read_all(plain)
    assert_array_equal(found["w"], np.arange(24.0).reshape(6, 4), strict=True)
    assert_array_equal(found["b"], np.ones(3, "f"), strict=True)


LIES = {
    "a shape beyond the limits": ({"shape": [1 << 30, 1 << 30]}, "max_bytes"),
    "a shape that is not there": ({"shape": [600, 4]}, "is missing"),
    "a type that is not there": ({"dtype": "<f4"}, "cannot read it"),
    "chunks larger than the array": ({"chunks": [1 << 13, 1 << 13]}, "and chunks of"),
    "chunks of 2^60 bytes": ({"chunks": [1 << 30, 1 << 30]}, "cannot read the meta"),
}


@pytest.mark.parametrize("case", LIES)
def test_a_header_that_lies_is_refused(plain, case):
    change, reason = LIES[case]
    header = plain / "params.w" / ".zarray"
    header.write_text(json.dumps({**json.loads(header.read_text()), **change}))
    with pytest.raises(CheckpointError, match=f"{plain}: .*{reason}"):
        read_all(plain)


def test_a_chunk_that_is_missing_is_no_zero(plain):
    (plain / "params.w" / "0.0").unlink()
    with pytest.raises(CheckpointError, match="is missing"):
        read_all(plain)


@pytest.mark.parametrize("key", ["../../secret", "..", "", "a\nb"])
def test_a_key_that_would_lead_elsewhere_is_refused_before_orbax_sees_it(
    plain, key, monkeypatch
):
    metadata = json.loads((plain / "_METADATA").read_text())
    entry = metadata["tree_metadata"].pop("('params', 'w')")
    entry["key_metadata"][1]["key"] = key
    metadata["tree_metadata"][str(("params", key))] = entry
    (plain / "_METADATA").write_text(json.dumps(metadata))
    monkeypatch.setattr(ocp.Checkpointer, "metadata", None)
    with pytest.raises(CheckpointError, match=f"{plain}: the key"):
        open_checkpoint(plain)


def test_limits_hold_for_directories(tmp_path):
    path = checkpoint_files.write_orbax(tmp_path)
    for limits, name in [
        (Limits(max_bytes=100), "max_bytes"),
        (Limits(max_leaves=2), "max_leaves"),
        (Limits(max_depth=2), "max_depth"),
        (Limits(max_eager_bytes=50), "max_eager_bytes"),
    ]:
        with pytest.raises(CheckpointError, match=name):
            read_all(path, limits=limits)


def test_metadata_that_is_none_is_refused(plain):
    for text in (
        "",
        "[]",
        "{}",
        '{"tree_metadata": []}',
        '{"tree_metadata": {"a": 1}}',
    ):
        (plain / "_METADATA").write_text(text)
        with pytest.raises(CheckpointError, match=f"{plain}: "):
            open_checkpoint(plain)


def test_several_trees_are_asked_about(tmp_path):
    for name in ("params", "state"):
        with ocp.PyTreeCheckpointer() as checkpointer:
            checkpointer.save(tmp_path / name, {"w": np.ones(2)})
    with pytest.raises(CheckpointError, match="open one of params, state in it"):
        open_checkpoint(tmp_path)


def test_small_leaves_are_fetched_together_and_large_ones_alone(plain, monkeypatch):
    restored = []
    restore = _orbax._Store.restore

    def noted(store, wanted):
        restored.append(len(wanted))
        return restore(store, wanted)

    monkeypatch.setattr(_orbax._Store, "restore", noted)
    read_all(plain)
    assert restored == [2]
    restored.clear()
    monkeypatch.setattr(_orbax, "_BATCH_BYTES", 50)
    read_all(plain)
    assert restored == [1, 1]


def test_values_that_are_read_belong_to_the_reader(plain):
    leaf = open_checkpoint(plain)["w"]
    first = leaf.read()
    first[:] = 0
    assert leaf.read()[5, 3] == 23.0


def test_a_saved_nnx_state_has_the_names_of_the_model(tmp_path):
    model = nnx.Linear(3, 2, rngs=nnx.Rngs(0))
    state = nnx.state(model)
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "state", state)
    source = open_checkpoint(tmp_path / "state")
    assert set(source) == {name.full for name in named_leaves(state)}
    assert source["kernel"].key == "kernel/value"
    assert_array_equal(source["kernel"].read(), model.kernel[...])


def test_a_leaf_called_value_among_others_keeps_its_name(tmp_path):
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "m", {"a": {"value": np.ones(2), "w": np.ones(2)}})
    assert set(open_checkpoint(tmp_path / "m")) == {"a/value", "a/w"}
