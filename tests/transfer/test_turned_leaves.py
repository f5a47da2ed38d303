"""Large kernels whose axes run in another order: turned by blocks, as they are read.

The numbers have to be those of NumPy's own transpose, and nothing that the plain way
finds in a file may go unnoticed.
"""

import contextlib
import itertools
import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxinit._errors import CheckpointError, MergeError
from jaxinit.transfer import _copying as copying
from jaxinit.transfer import layout, merge, open_checkpoint, torch_layout
from jaxinit.transfer._regions import Region

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
    sizes, read, rows = [], Region.read, Region.rows

    def noted(self, index):
        values = read(self, index)
        sizes.append(values.size)
        return values

    @contextlib.contextmanager
    def noted_rows(self, most):
        with rows(self, most) as some:

            def noted(start, stop):
                assert stop - start <= most
                values = some(start, stop)
                sizes.append(values.size)
                return values

            yield noted

    monkeypatch.setattr(Region, "read", noted)
    monkeypatch.setattr(Region, "rows", noted_rows)
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


@pytest.mark.parametrize("threads", [1, 2, 3, 8])
def test_threads_share_the_work(tmp_path, monkeypatch, reads, threads):
    monkeypatch.setattr(copying, "_WORTH_A_THREAD", 1)
    monkeypatch.setattr(copying, "_MOST", 64)
    monkeypatch.setattr(copying, "_threads", lambda: threads)
    source = safetensors_of(tmp_path, kernel())
    found, _ = merged(source, SHAPE[::-1], jnp.bfloat16)
    np.testing.assert_array_equal(found, kernel().T.astype(jnp.bfloat16))
    assert len(reads) == 5
    assert sum(reads) == kernel().size


@pytest.mark.parametrize("number", [0, 1, 4])
def test_an_error_in_any_thread_is_raised(monkeypatch, number):
    monkeypatch.setattr(copying, "_WORTH_A_THREAD", 1)
    monkeypatch.setattr(copying, "_threads", lambda: 3)
    whole = kernel()

    def slices(start, stop):
        if start == 64 * number:
            raise CheckpointError("the file has ended")
        return whole.T[:, start:stop]

    monkeypatch.setattr(copying, "_MOST", 64)
    with pytest.raises(CheckpointError, match="the file has ended"):
        copying.copy_columns(
            np.empty(SHAPE[::-1], np.float32),
            lambda most: contextlib.nullcontext(slices),
            whole.dtype,
        )


def reads_nothing(descriptor, views, start):
    return 0


def reads_a_half(descriptor, views, start):
    half = views[: len(views) // 2]
    return PREADV(descriptor, half, start) if half else 0


PREADV = getattr(os, "preadv", None)


@pytest.mark.parametrize("preadv", [None, reads_nothing, reads_a_half])
def test_what_is_not_read_at_once_is_read_row_by_row(tmp_path, monkeypatch, preadv):
    if preadv is None:
        monkeypatch.delattr(os, "preadv", raising=False)
    else:
        monkeypatch.setattr(os, "preadv", preadv, raising=False)
    source = safetensors_of(tmp_path, kernel())
    found, _ = merged(source, SHAPE[::-1])
    np.testing.assert_array_equal(found, kernel().T)


def test_rows_are_in_the_byte_order_of_this_machine(tmp_path):
    path = tmp_path / "big"
    path.write_bytes(b"head" + kernel(">i4").tobytes())
    region = Region(file=str(path), offset=4, dtype=np.dtype(">i4"), shape=SHAPE)
    with region.rows(7) as rows:
        for start, stop in ((0, 7), (290, 295), (299, 300)):
            found = rows(start, stop)
            assert found.dtype == np.int32
            np.testing.assert_array_equal(found, kernel()[start:stop])


def test_a_file_that_has_shrunk_is_told(tmp_path, monkeypatch):
    source = safetensors_of(tmp_path, kernel())
    path = tmp_path / "model.safetensors"
    os.truncate(path, path.stat().st_size - 4)
    with pytest.raises(CheckpointError, match="it has changed since it was opened"):
        merged(source, SHAPE[::-1])
    size = os.stat_result((*[0] * 6, 1 << 40, 0, 0, 0))
    monkeypatch.setattr(os, "fstat", lambda descriptor: size)
    with pytest.raises(CheckpointError, match="ended while it was read"):
        merged(source, SHAPE[::-1])


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
