"""What training loops put beside their tensors: a defaultdict, numbers of NumPy."""

import collections
import pickle

import hostile_files
import numpy as np
import pytest

from jaxinit.transfer import open_checkpoint


def opened(folder, value, protocol=2, old=False):
    """A torch file of one tensor `w`, and of a value beside it, `extra`."""
    written = pickle.dumps(value, protocol)[2:-1]  # without its head and its end
    if old:
        written = written.replace(b"numpy._core", b"numpy.core")
    pair = b"X\1\0\0\0w" + hostile_files.tensor() + b"s"
    content = b"\x80\2}" + pair + b"X\5\0\0\0extra" + written + b"s."
    path = folder / "state.pt"
    path.write_bytes(hostile_files.torch_zip(content))
    return open_checkpoint(path)


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("factory", [None, int, float, list, dict, set, str])
def test_a_defaultdict_is_a_dictionary(tmp_path, factory, protocol):
    value = collections.defaultdict(factory, {"loss": 0.5, 7: "seven"})
    source = opened(tmp_path, value, protocol)
    assert list(source) == ["w"]
    assert source.metadata == {"extra/loss": 0.5, "extra/7": "seven"}


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize(
    "number",
    [
        *(np.float64(0.1), np.float32(0.1), np.float16(3)),
        *(np.int64(-5), np.int32(1 << 20), np.uint8(200), np.bool_(True)),
    ],
    ids=repr,
)
def test_a_number_of_numpy_is_a_number(tmp_path, number, protocol):
    source = opened(tmp_path, [number, number], protocol)
    assert source.metadata == {"extra/0": number.item(), "extra/1": number.item()}
    assert type(source.metadata["extra/0"]) is type(number.item())


def test_a_number_of_numpy_before_version_2_is_a_number(tmp_path):
    source = opened(tmp_path, np.float64(0.1), old=True)
    assert source.metadata == {"extra": 0.1}
