"""Every format gives the same leaves: names, shapes, types, values, slices."""

import hashlib
import json
import os

import checkpoint_files
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import serialization, traverse_util
from numpy.testing import assert_array_equal

from jaxinit._errors import CheckpointError
from jaxinit.transfer import Limits, open_checkpoint
from jaxinit.transfer._origin import Origin

FORMATS = list(checkpoint_files.WRITERS)


@pytest.fixture(scope="module", params=FORMATS)
def written(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    return checkpoint_files.WRITERS[request.param](folder)


def test_names_shapes_and_types_are_known_before_values(written):
    source = open_checkpoint(written)
    expected = checkpoint_files.arrays()
    assert set(source) == set(expected)
    for name, value in expected.items():
        leaf = source[name]
        assert (leaf.shape, leaf.dtype, leaf.name) == (value.shape, value.dtype, name)
        assert (leaf.ndim, leaf.size) == (value.ndim, value.size)
        assert leaf.nbytes == value.nbytes
    assert source.nbytes == sum(value.nbytes for value in expected.values())


def test_values_are_those_that_were_written(written):
    source = open_checkpoint(written)
    for name, value in checkpoint_files.arrays().items():
        found = source[name].read()
        assert found.dtype == value.dtype
        assert_array_equal(found, value, strict=True)


INDICES = [
    (..., (slice(None), slice(None))),
    (slice(1, 4), (slice(1, 4), slice(None))),
    ((slice(0, 0), slice(1, 3)), (slice(0, 0), slice(1, 3))),
    ((..., slice(1, 3)), (slice(None), slice(1, 3))),
    ((slice(-2, None), slice(None, -1)), (slice(-2, None), slice(None, -1))),
    ((slice(2, 3), slice(0, 1)), (slice(2, 3), slice(0, 1))),
]


@pytest.mark.parametrize(("index", "plain"), INDICES)
def test_a_slice_is_that_of_the_whole(written, index, plain):
    leaf = open_checkpoint(written)["encoder/0/kernel"]
    whole = checkpoint_files.arrays()["encoder/0/kernel"]
    assert_array_equal(leaf.read(index), whole[plain], strict=True)


@pytest.mark.parametrize("index", [0, (slice(None, None, 2),), (slice(None),) * 3])
def test_an_index_that_is_no_block_is_refused(written, index):
    with pytest.raises(TypeError, match="index must"):
        open_checkpoint(written)["encoder/0/kernel"].read(index)


def test_a_read_casts_once_to_the_type_asked_for(written):
    leaf = open_checkpoint(written)["encoder/0/kernel"]
    expected = checkpoint_files.arrays()["encoder/0/kernel"].astype(jnp.bfloat16)
    assert_array_equal(leaf.read(dtype=jnp.bfloat16), expected, strict=True)


def test_every_leaf_says_where_it_comes_from(written):
    source = open_checkpoint(written)
    record = source.provenance()
    assert json.loads(json.dumps(record)) == record
    for origin in source.origins:
        assert origin.nbytes == size_of(origin.path)
    files = [origin for origin in source.origins if origin.path.is_file()]
    for origin in files:
        content = origin.path.read_bytes()
        assert origin.sha256 == hashlib.sha256(content).hexdigest()
    assert {str(leaf.origin) for leaf in source.values()} <= {
        file["path"] for file in record["files"]
    }


def size_of(path):
    if path.is_file():
        return path.stat().st_size
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())


def test_the_hash_of_a_directory_changes_with_any_of_its_files(tmp_path):
    path = checkpoint_files.write_orbax(tmp_path)
    before = open_checkpoint(path).origins[0].sha256
    assert before == Origin(path).sha256
    victim = max(path.rglob("*"), key=lambda p: p.stat().st_size if p.is_file() else -1)
    content = victim.read_bytes()
    victim.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    assert Origin(path).sha256 != before


def test_keys_below_params_are_those_of_linen_variables(tmp_path):
    model = nn.BatchNorm(use_running_average=True)
    variables = model.init(jax.random.key(0), jnp.ones((2, 3)))
    path = tmp_path / "variables.msgpack"
    path.write_bytes(serialization.to_bytes(variables))
    flat = traverse_util.flatten_dict(variables, sep="/")
    np.savez(tmp_path / "variables.npz", **flat)
    for file in (path, tmp_path / "variables.npz"):
        names = set(open_checkpoint(file))
        assert names == {"scale", "bias", "batch_stats:mean", "batch_stats:var"}


def test_the_separator_is_an_argument(tmp_path):
    path = tmp_path / "model.npz"
    np.savez(path, **{"a.b": np.ones(2)})
    assert set(open_checkpoint(path)) == {"a.b"}
    assert set(open_checkpoint(path, separator=".")) == {"a/b"}
    with pytest.raises(CheckpointError, match="separator must be"):
        open_checkpoint(path, separator="")


def test_a_key_with_a_slash_asks_for_the_separator(tmp_path):
    path = tmp_path / "model.safetensors"
    checkpoint_files.safetensors.numpy.save_file({"a/b.c": np.ones(2)}, path)
    with pytest.raises(CheckpointError, match=r'model\.safetensors.*separator="/"'):
        open_checkpoint(path)
    assert set(open_checkpoint(path, separator="/")) == {"a/b.c"}


def test_the_content_decides_and_not_the_ending(tmp_path):
    for format, writer in checkpoint_files.WRITERS.items():
        if format in ("orbax", "sharded"):
            continue
        path = writer(tmp_path)
        renamed = path.rename(tmp_path / "weights.bin")
        assert set(open_checkpoint(renamed)) == set(checkpoint_files.arrays())


def test_a_directory_stands_for_the_checkpoint_in_it(tmp_path):
    checkpoint_files.write_sharded(tmp_path)
    assert open_checkpoint(tmp_path).format == "sharded safetensors"
    single = tmp_path / "single"
    single.mkdir()
    checkpoint_files.write_safetensors(single)
    assert open_checkpoint(single).format == "safetensors"
    checkpoint_files.write_safetensors(single).rename(single / "other.safetensors")
    checkpoint_files.write_safetensors(single)
    with pytest.raises(CheckpointError, match="open one of them"):
        open_checkpoint(single)


STRANGERS = {
    "model.h5": (b"\x89HDF\r\n\x1a\n" + b"\0" * 64, "HDF5"),
    "model.npy": (b"\x93NUMPY\1\0" + b"\0" * 64, "has no names"),
    "model.pkl": (b"\x80\4\x95\x10\0\0\0\0\0\0\0}.", "pickles run code"),
    "model.keras": (
        b"PK\3\4" + b"\0" * 22 + b"\x0d\0\0\0metadata.json",
        "no zip directory",
    ),
    "model.txt": (b"weights", "no format that is known here"),
    "empty": (b"", "no format that is known here"),
}


@pytest.mark.parametrize("name", STRANGERS)
def test_what_is_no_checkpoint_is_refused_with_advice(tmp_path, name):
    content, advice = STRANGERS[name]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(CheckpointError, match=rf"{name}: .*{advice}"):
        open_checkpoint(tmp_path / name)


def test_what_is_no_file_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match="nowhere: does not exist"):
        open_checkpoint(tmp_path / "nowhere")
    with pytest.raises(CheckpointError, match="is a directory without"):
        open_checkpoint(tmp_path)
    with pytest.raises(CheckpointError, match="format must be one of"):
        open_checkpoint(tmp_path, format="hdf5")
    with pytest.raises(CheckpointError, match="is no file"):
        open_checkpoint(tmp_path, format="npz")
    os.mkfifo(tmp_path / "pipe")  # reading one would wait for ever
    with pytest.raises(CheckpointError, match="neither a file nor a directory"):
        open_checkpoint(tmp_path / "pipe")
    with pytest.raises(CheckpointError, match="is no file"):
        open_checkpoint(tmp_path / "pipe", format="safetensors")


def test_orbax_directories_are_found_below_and_steps_are_asked_for(tmp_path):
    import orbax.checkpoint as ocp

    tree = checkpoint_files.nested(checkpoint_files.arrays())
    with ocp.CheckpointManager(tmp_path / "run") as manager:
        manager.save(4, args=ocp.args.StandardSave(tree))
        manager.wait_until_finished()
    assert len(open_checkpoint(tmp_path / "run" / "4")) == len(
        checkpoint_files.arrays()
    )
    with pytest.raises(CheckpointError, match="holds the steps 4"):
        open_checkpoint(tmp_path / "run")


def test_chunked_arrays_of_flax_are_joined(tmp_path, monkeypatch):
    value = np.arange(60, dtype="float32").reshape(5, 3, 4)
    monkeypatch.setattr(serialization, "MAX_CHUNK_SIZE", 64)
    path = tmp_path / "chunked.msgpack"
    path.write_bytes(serialization.msgpack_serialize({"w": value, "b": np.ones(2)}))
    leaf = open_checkpoint(path)["w"]
    assert_array_equal(leaf.read(), value, strict=True)
    for start in range(5):
        for stop in range(start, 6):
            index = (slice(start, stop), slice(1, 3))
            assert_array_equal(leaf.read(index), value[index], strict=True)


def test_values_of_flax_that_are_no_arrays_are_leaves_or_metadata(tmp_path):
    tree = {"c": 1j, "f": 2.5, "i": 3, "s": np.float16(4), "t": "text", "n": None}
    path = tmp_path / "values.msgpack"
    path.write_bytes(serialization.msgpack_serialize(tree))
    source = open_checkpoint(path)
    assert {name: leaf.read().item() for name, leaf in source.items()} == {
        name: tree[name] for name in "cfis"
    }
    assert source.metadata == {"t": "text", "n": None}


def test_arrays_of_numpy_in_other_orders_are_read_as_they_are(tmp_path):
    value = np.arange(24.0).reshape(2, 3, 4)
    for save in (np.savez, np.savez_compressed):
        save(
            tmp_path / "orders.npz",
            fortran=np.asfortranarray(value),
            big=value.astype(">f8"),
            scalar=np.float32(2),
        )
        source = open_checkpoint(tmp_path / "orders.npz")
        for name in ("fortran", "big"):
            assert source[name].dtype == np.dtype("float64")
            assert_array_equal(source[name].read(), value, strict=True)
            index = (slice(0, 1), slice(1, 3), slice(None))
            assert_array_equal(source[name].read(index), value[index], strict=True)
        assert source["scalar"].read() == 2


def test_limits_are_positive_numbers():
    with pytest.raises(ValueError, match="max_bytes must be a positive number, got 0"):
        Limits(max_bytes=0)
    with pytest.raises(ValueError, match="max_leaves must be a positive number"):
        Limits(max_leaves="many")


def test_limits_hold_for_all_shards_together(tmp_path):
    path = checkpoint_files.write_sharded(tmp_path)
    total = sum(value.nbytes for value in checkpoint_files.arrays().values())
    assert open_checkpoint(path, limits=Limits(max_bytes=total)).nbytes == total
    with pytest.raises(CheckpointError, match=r"index\.json: too large.*max_bytes"):
        open_checkpoint(path, limits=Limits(max_bytes=total - 1))
    with pytest.raises(CheckpointError, match=r"index\.json: too many leaves"):
        open_checkpoint(path, limits=Limits(max_leaves=4))


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_a_flipped_bit_of_an_npz_is_noticed_when_the_whole_is_read(tmp_path, save):
    path = tmp_path / "w.npz"
    value = np.random.default_rng(0).normal(size=(50, 100))  # beyond the header
    save(path, w=value)
    assert_array_equal(open_checkpoint(path)["w"].read(), value)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"w\.npz: .*(check sum|CRC|invalid)"):
        open_checkpoint(path)["w"].read()


def test_a_compressed_leaf_is_expanded_once_for_all_its_shards(tmp_path, monkeypatch):
    value = np.arange(64.0).reshape(8, 8)
    np.savez_compressed(tmp_path / "w.npz", w=value)
    leaf = open_checkpoint(tmp_path / "w.npz")["w"]
    expand, calls = type(leaf)._expand, []
    monkeypatch.setattr(type(leaf), "_expand", lambda x: calls.append(x) or expand(x))
    for row in range(8):
        found = leaf.read(slice(row, row + 1))
        assert_array_equal(found, value[row : row + 1])
        found[:] = 0  # it belongs to the reader
    assert len(calls) == 1
    assert_array_equal(leaf.read(), value)
