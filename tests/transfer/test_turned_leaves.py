"""Large kernels whose axes run in another order: turned by blocks, as they are read.

The numbers have to be those of NumPy's own transpose, and nothing that the plain way
finds in a file may go unnoticed.
"""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxinit._errors import CheckpointError, MergeError
from jaxinit.transfer import _copying as copying
from jaxinit.transfer import layout, merge, open_checkpoint, torch_layout
from jaxinit.transfer._regions import RegionLeaf

SHAPE = (300, 512)  # more rows than a block, and not a multiple of it; 150 K elements


def kernel(dtype=np.float32):
    """Numbers that differ, and that 16 bits hold."""
    return (np.arange(SHAPE[0] * SHAPE[1]) % 2003).astype(dtype).reshape(SHAPE)


def safetensors_of(folder, value):
    import safetensors.numpy

    path = folder / "model.safetensors"
    safetensors.numpy.save_file({"layer.kernel": value}, path)
    return open_checkpoint(path)


def merged(source, shape, dtype=jnp.float32):
    target = {"layer": {"kernel": jax.ShapeDtypeStruct(shape, dtype)}}
    tree, report = merge(target, source, [torch_layout()])
    return np.asarray(tree["layer"]["kernel"]), report


@pytest.fixture
def reads(monkeypatch):
    """How many elements each read of a file asks for."""
    sizes, read = [], RegionLeaf.read

    def noted(self, *arguments, **options):
        values = read(self, *arguments, **options)
        sizes.append(values.size)
        return values

    monkeypatch.setattr(RegionLeaf, "read", noted)
    return sizes


@pytest.mark.parametrize("axes", list(itertools.permutations(range(3))))
@pytest.mark.parametrize("flipped", [(), (0,), (1, 2)])
def test_any_order_of_axes_is_copied_as_numpy_does(monkeypatch, axes, flipped):
    monkeypatch.setattr(copying, "_LARGE", 1)
    whole = np.arange(70 * 33 * 5, dtype=np.int32).reshape(70, 33, 5)
    found = np.flip(whole.transpose(axes), flipped)
    values = np.zeros(found.shape, np.float32)
    copying.copy(values, found)
    np.testing.assert_array_equal(values, found)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_a_large_kernel_of_torch_is_read_by_rows(tmp_path, reads, dtype):
    source = safetensors_of(tmp_path, kernel())
    found, _ = merged(source, SHAPE[::-1], dtype)
    np.testing.assert_array_equal(found, kernel().T.astype(dtype))
    assert sum(reads) == kernel().size
    assert max(reads) == 256 * SHAPE[1] < kernel().size


@pytest.mark.parametrize("flip", [(0,), (1,), (0, 1)])
def test_rows_in_another_order_are_not_read_one_by_one(tmp_path, flip):
    source = safetensors_of(tmp_path, kernel())
    target = {"layer": {"kernel": jax.ShapeDtypeStruct(SHAPE[::-1], jnp.float32)}}
    rule = layout("layer/kernel", transpose=(1, 0), flip=flip)
    tree, _ = merge(target, source, [rule])
    found = np.asarray(tree["layer"]["kernel"])
    np.testing.assert_array_equal(found, np.flip(kernel().T, flip))


def test_heads_are_split_off_what_is_read_by_rows(tmp_path, reads):
    source = safetensors_of(tmp_path, kernel())
    found, _ = merged(source, (SHAPE[1], 3, 100))
    np.testing.assert_array_equal(found, kernel().T.reshape(SHAPE[1], 3, 100))
    assert max(reads) < kernel().size


def test_a_convolution_of_torch_is_read_by_its_outputs(tmp_path, reads):
    value = kernel().reshape(300, 64, 4, 2)
    found, _ = merged(safetensors_of(tmp_path, value), (4, 2, 64, 300))
    np.testing.assert_array_equal(found, value.transpose(2, 3, 1, 0))
    assert max(reads) < value.size


def test_numbers_that_are_not_finite_are_counted(tmp_path):
    value = kernel()
    value[299, 1], value[3, 2] = np.nan, np.inf
    source = safetensors_of(tmp_path, value)
    with pytest.raises(MergeError, match="2 of 153600 values of the source are NaN"):
        merged(source, SHAPE[::-1])


def test_a_cast_that_overflows_is_told(tmp_path):
    value = kernel()
    value[299, 1] = 1e5
    source = safetensors_of(tmp_path, value)
    with pytest.raises(MergeError, match=r"values up to 1e\+05 overflow in the cast"):
        merged(source, SHAPE[::-1], jnp.float16)


def test_integers_that_do_not_survive_are_told(tmp_path):
    source = safetensors_of(tmp_path, kernel(np.int32))
    with pytest.raises(MergeError, match="do not survive the cast from int32 to int8"):
        merged(source, SHAPE[::-1], jnp.int8)


def test_the_check_sum_of_a_member_is_still_asked(tmp_path):
    path = tmp_path / "model.npz"
    np.savez(path, **{"layer.kernel": kernel()})
    found, _ = merged(open_checkpoint(path, separator="."), SHAPE[::-1])
    np.testing.assert_array_equal(found, kernel().T)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match="its check sum is another"):
        merged(open_checkpoint(path, separator="."), SHAPE[::-1])
