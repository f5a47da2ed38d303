"""One's own images: read whatever they are, and refused in a sentence."""

import pathlib

import numpy as np
import pydicom
import pytest
from PIL import Image

from jaxinit._errors import DataError
from jaxinit.demo import _medical
from jaxinit.demo._folder import folder
from jaxinit.demo._pictures import split


def save(path, *, mode="L", size=(40, 30), level=100):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, level if mode in "LI;16" else (level, 0, 255)).save(path)


def fill(root, counts, **options):
    for name, count in counts.items():
        for number in range(count):
            save(root / name / f"{number:03}.png", **options)
    return root


def test_grey_images_have_one_channel_in_the_units_of_the_network(tmp_path):
    task = folder(fill(tmp_path, {"sick": 15, "well": 16}, level=191))
    assert task.classes == ("sick", "well")
    assert task.images.shape == (31, 32, 32, 1)
    assert task.wide.shape == (31, 64, 64, 1)
    np.testing.assert_array_equal(task.wide, np.float32((191 - 127) / 128))
    assert task.labels.tolist() == [0] * 15 + [1] * 16
    assert "one patient" in task.notes[0]


def test_one_colour_image_makes_all_of_them_have_three_channels(tmp_path):
    fill(tmp_path, {"a": 15, "b": 15}, level=127)
    save(tmp_path / "a" / "000.png", mode="RGB", level=255)
    task = folder(tmp_path)
    assert task.channels == 3
    np.testing.assert_array_equal(task.wide[0, 0, 0], np.float32([1, -127 / 128, 1]))
    assert not task.wide[1:].any()


def test_sixteen_bits_are_shown_by_their_own_range(tmp_path):
    fill(tmp_path, {"a": 15, "b": 15})
    ramp = np.linspace(1000, 5000, 64 * 64).astype(np.uint16).reshape(64, 64)
    Image.fromarray(ramp).save(tmp_path / "a" / "000.png")
    shown = folder(tmp_path).wide[0]
    assert (shown.min(), shown.max()) == (np.float32(-127 / 128), 1.0)


def test_dicom_files_are_images_too(tmp_path):
    fill(tmp_path, {"ct": 15, "mr": 14})
    part = _medical.examples()[1]
    source = pydicom.data.get_testdata_file("MR_small.dcm", download=False)
    (tmp_path / "mr" / "slice.dcm").write_bytes(pathlib.Path(source).read_bytes())
    task = folder(tmp_path)
    assert part.pixels.shape == (64, 64)
    np.testing.assert_allclose(
        task.wide[-1, ..., 0], (part.pixels - 127) / 128, atol=1e-6
    )


def test_given_halves_stay_apart(tmp_path):
    fill(tmp_path / "train", {"a": 20, "b": 20})
    fill(tmp_path / "test", {"a": 10, "b": 12})
    task = folder(tmp_path)
    assert task.held.sum() == 22
    assert not task.notes
    assert task.held[split(task, 0).test].all()


def test_no_folder(tmp_path):
    with pytest.raises(DataError, match="is no folder; name one with a sub-folder"):
        folder(tmp_path / "nothing")


def test_one_class_and_none(tmp_path):
    with pytest.raises(DataError, match="found none"):
        folder(tmp_path)
    fill(tmp_path, {"only": 2})
    with pytest.raises(DataError, match="two classes or more, found only 'only'"):
        folder(tmp_path)


def test_a_class_without_images(tmp_path):
    fill(tmp_path, {"a": 15})
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "notes.txt").write_text("none")
    with pytest.raises(DataError, match=r"b has no images \(png, jpg"):
        folder(tmp_path)


def test_too_few(tmp_path):
    with pytest.raises(DataError, match=r"smallest class has 3 images.*15 in each"):
        folder(fill(tmp_path, {"a": 15, "b": 3}))


def test_other_classes_in_the_test(tmp_path):
    fill(tmp_path / "train", {"a": 20, "b": 20})
    fill(tmp_path / "test", {"a": 10, "c": 12})
    with pytest.raises(DataError, match="both need the same sub-folders"):
        folder(tmp_path)


@pytest.mark.parametrize("name", ["broken.png", "broken.dcm"])
def test_a_file_that_cannot_be_read_is_named(tmp_path, name):
    fill(tmp_path, {"a": 15, "b": 15})
    (tmp_path / "a" / name).write_bytes(b"no image")
    with pytest.raises(DataError, match=rf"{name} cannot be read as an image.*take it"):
        folder(tmp_path)


def test_hidden_folders_and_other_files_are_passed_over(tmp_path):
    fill(tmp_path, {"a": 15, "b": 15, ".cache": 3, "_old": 3})
    (tmp_path / "a" / "labels.csv").write_text("a,b")
    assert folder(tmp_path).classes == ("a", "b")


def test_ct_is_in_hounsfield_units_as_pydicom_computes_them():
    part = _medical.examples()[0]
    file = pydicom.data.get_testdata_file("CT_small.dcm", download=False)
    data = pydicom.dcmread(file)
    units = pydicom.pixels.apply_modality_lut(data.pixel_array, data)
    low, high = np.percentile(units, (1, 99))
    assert (part.modality, part.unit, part.pixels.shape) == ("CT", "HU", (128, 128))
    assert (part.low, part.high) == (pytest.approx(low), pytest.approx(high))
    expected = np.clip((units - low) / (high - low), 0, 1) * 255
    np.testing.assert_allclose(part.pixels, expected, atol=1e-2)


def test_a_window_in_the_file_is_used(tmp_path):
    file = pydicom.data.get_testdata_file("CT_small.dcm", download=False)
    data = pydicom.dcmread(file)
    data.WindowCenter, data.WindowWidth = [40, 300], [400, 1500]
    data.save_as(tmp_path / "window.dcm")
    part = _medical.read_dicom(tmp_path / "window.dcm")
    assert (part.low, part.high) == (-160, 240)


def test_an_image_that_is_no_slice_is_refused():
    file = pydicom.data.get_testdata_file("examples_rgb_color.dcm", download=False)
    with pytest.raises(DataError, match="only single grey slices are read"):
        _medical.read_dicom(file)
