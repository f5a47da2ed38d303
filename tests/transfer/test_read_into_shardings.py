"""A leaf goes straight to its shards: each is read for itself, and only once."""

import checkpoint_files
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec, SingleDeviceSharding
from numpy.testing import assert_array_equal

from jaxinit._errors import CheckpointError
from jaxinit.transfer import open_checkpoint
from jaxinit.transfer._regions import Region
from jaxinit.transfer._source import Leaf, as_source

FORMATS = list(checkpoint_files.WRITERS)
SPECS = [PartitionSpec("a", "b"), PartitionSpec(None, ("a", "b")), PartitionSpec()]


@pytest.fixture(scope="module")
def mesh():
    return jax.make_mesh((2, 4), ("a", "b"))


@pytest.fixture(scope="module", params=FORMATS)
def source(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    return open_checkpoint(checkpoint_files.WRITERS[request.param](folder))


def evenly(mesh, leaf):
    """A sharding of the first axis that the mesh divides."""
    parts = [None] * leaf.ndim
    for axis, length in enumerate(leaf.shape):
        if length % 4 == 0:
            parts[axis] = "b"
            break
        if length % 2 == 0:
            parts[axis] = "a"
            break
    return NamedSharding(mesh, PartitionSpec(*parts))


def test_every_leaf_arrives_in_its_sharding(source, mesh):
    for name, expected in checkpoint_files.arrays().items():
        leaf = source[name]
        sharding = evenly(mesh, leaf)
        dtype = jnp.int32 if expected.dtype == np.int64 else expected.dtype
        array = leaf.place(sharding, dtype=dtype)
        assert array.sharding == sharding
        assert array.dtype == dtype
        assert_array_equal(np.asarray(array), expected.astype(dtype))


def test_the_cast_happens_on_the_way(source, mesh):
    leaf = source["encoder/0/kernel"]
    expected = checkpoint_files.arrays()["encoder/0/kernel"].astype(jnp.bfloat16)
    array = leaf.place(evenly(mesh, leaf), dtype=jnp.bfloat16)
    assert_array_equal(np.asarray(array), expected, strict=True)


def test_a_type_that_jax_would_narrow_is_refused(source):
    with pytest.raises(CheckpointError, match="step: JAX would hold int64 as int32"):
        source["step"].place(SingleDeviceSharding(jax.devices()[0]))


def test_with_64_bits_the_type_is_kept(source, x64):
    array = source["step"].place(SingleDeviceSharding(jax.devices()[0]))
    assert (array.dtype, int(array)) == (jnp.int64, 7)


@pytest.mark.parametrize(("spec", "reads"), [*zip(SPECS, (8, 8, 1), strict=True)])
def test_each_distinct_shard_is_read_once(tmp_path, mesh, monkeypatch, spec, reads):
    value = np.arange(64, dtype="float32").reshape(8, 8)
    np.savez(tmp_path / "w.npz", w=value)
    leaf = open_checkpoint(tmp_path / "w.npz")["w"]
    seen = []
    read = Region.read

    def counted(region, index):
        found = read(region, index)
        seen.append(found.nbytes)
        return found

    monkeypatch.setattr(Region, "read", counted)
    array = leaf.place(NamedSharding(mesh, spec))
    assert_array_equal(np.asarray(array), value)
    assert seen == [value.nbytes // reads] * reads


def test_large_leaves_of_orbax_are_restored_into_their_shards(
    tmp_path, mesh, monkeypatch
):
    from jaxinit.transfer._checkpoints import _orbax

    monkeypatch.setattr(_orbax, "_BATCH_BYTES", 8)
    source = open_checkpoint(checkpoint_files.write_orbax(tmp_path))
    monkeypatch.setattr(_orbax._Store, "fetch", None)  # the way by the host
    for name in ("encoder/0/kernel", "encoder/1/kernel"):
        leaf, expected = source[name], checkpoint_files.arrays()[name]
        array = leaf.place(evenly(mesh, leaf))
        assert array.sharding == evenly(mesh, leaf)
        assert_array_equal(np.asarray(array), expected, strict=True)
        narrow = leaf.place(evenly(mesh, leaf), dtype=jnp.float16)
        assert_array_equal(np.asarray(narrow), expected.astype("float16"), strict=True)


def test_a_value_that_is_not_finite_is_found_on_the_devices(tmp_path, mesh):
    value = np.ones((8, 4), "float32")
    value[5, 2] = np.nan
    np.savez(tmp_path / "w.npz", w=value)
    leaf = open_checkpoint(tmp_path / "w.npz")["w"]
    sharding = NamedSharding(mesh, PartitionSpec("b"))
    with pytest.raises(CheckpointError, match=r"w\.npz: w: 1 of 8 values are NaN"):
        leaf.place(sharding)
    array = leaf.place(sharding, nonfinite="allow")
    assert_array_equal(np.asarray(array), value)


def test_a_tree_on_devices_is_moved_by_jax(mesh, monkeypatch):
    sharding = NamedSharding(mesh, PartitionSpec("a"))
    value = jax.device_put(jnp.arange(8.0), NamedSharding(mesh, PartitionSpec("b")))
    leaf = as_source({"w": value})["w"]
    monkeypatch.setattr(Leaf, "read", None)  # the way by the host
    array = leaf.place(sharding)
    assert array.sharding == sharding
    assert_array_equal(np.asarray(array), np.arange(8.0))


def test_a_tree_on_devices_is_checked_there(mesh):
    value = jnp.array([1.0, jnp.inf])
    sharding = SingleDeviceSharding(jax.devices()[0])
    leaf = as_source({"w": value})["w"]
    with pytest.raises(CheckpointError, match="w: 1 of 2 values are NaN or infinite"):
        leaf.place(sharding)
    large = as_source({"w": jnp.array([1e30, 1.0])})["w"]
    with pytest.raises(CheckpointError, match=r"up to 1e\+30 overflow in the cast"):
        large.place(sharding, dtype=jnp.float16)
    assert_array_equal(np.asarray(leaf.place(sharding, nonfinite="allow")), value)


def test_a_shape_alone_has_no_values():
    leaf = as_source({"w": jax.ShapeDtypeStruct((2,), jnp.float32)})["w"]
    assert leaf.shape == (2,)
    with pytest.raises(CheckpointError, match="w: only its shape is known"):
        leaf.read()
