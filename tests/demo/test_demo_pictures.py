"""What is tested was never trained on, down to the pixel."""

import dataclasses

import numpy as np
import pytest

from jaxinit._errors import DataError
from jaxinit.demo import _builtin, _pictures
from jaxinit.demo._pictures import Task, label_counts, split


def photographs(seed=0):
    random = np.random.default_rng(seed)
    return [random.integers(0, 256, (512, 512)).astype(np.float32) for _ in range(3)]


def task(per_class, *, held=None, classes=("a", "b")):
    labels = np.repeat(np.arange(len(classes)), per_class)
    images = np.arange(len(labels), dtype=np.float32)[:, None, None, None]
    return Task("t", "title", "about", classes, images, images, labels, held)


def test_patches_of_the_two_halves_share_no_pixel():
    # Each pixel is a number of its own, exact in float32.
    numbers = np.arange(512 * 512, dtype=np.float32).reshape(512, 512)
    patches, right = _builtin.patches_of(numbers)
    columns = patches.astype(np.int64) % 512
    assert patches.shape == (256, 32, 32)
    assert right.sum() == 128
    assert columns[~right].max() < 256 <= columns[right].min()
    assert np.unique(patches).size == 512 * 512  # and no pixel is in two patches


def test_no_number_of_the_training_half_depends_on_the_other_half():
    given = photographs()
    changed = [photograph.copy() for photograph in given]
    for photograph in changed:
        photograph[:, 256:] = 255 - photograph[:, 256:]
    one, other = _builtin.textures_of(given), _builtin.textures_of(changed)
    open_ = ~one.held
    np.testing.assert_array_equal(one.images[open_], other.images[open_])
    np.testing.assert_array_equal(one.wide[open_], other.wide[open_])
    assert (one.images[one.held] != other.images[one.held]).any()


def test_mean_and_contrast_of_a_patch_say_nothing():
    images = _builtin.textures_of(photographs()).images
    # 1024 numbers of size 1 in float32: their mean is off by less than 32 roundings.
    assert np.abs(images.mean((1, 2, 3))).max() < 32 * 2.0**-24
    np.testing.assert_allclose(images.std((1, 2, 3)), 0.5, rtol=1e-5)


def test_a_patch_of_one_colour_is_no_division_by_zero():
    assert not _builtin.normalized(np.ones((1, 4, 4), np.float32)).any()


@pytest.mark.parametrize("name", ["textures", "faces"])
def test_the_tasks_that_come_along_are_what_they_say(name):
    found = getattr(_builtin, name)()
    assert found.wide.shape[1:] == (48, 48, 1)
    assert set(found.labels) == set(range(len(found.classes)))
    assert label_counts(found) == (5, 10, 20)
    assert found.images.dtype == found.wide.dtype == np.float32
    assert 0.2 < found.images.std() < 1


@pytest.mark.parametrize("halves", [False, True])
def test_no_image_has_two_roles(halves):
    held = np.tile(np.arange(70) >= 45, 2) if halves else None
    given = task(70, held=held)
    for seed in range(5):
        parts = split(given, seed)
        everything = np.concatenate([parts.train.ravel(), parts.validation, parts.test])
        assert np.unique(everything).size == everything.size
        assert parts.train.shape == (2, 20)
        for number, row in enumerate(parts.train):
            assert (given.labels[row] == number).all()
        if halves:
            assert held[parts.test].all()
            assert not held[parts.train].any()
            assert not held[parts.validation].any()


def test_a_seed_says_all_and_another_seed_draws_anew():
    given = task(70)
    one, same, other = split(given, 1), split(given, 1), split(given, 2)
    for field in dataclasses.fields(one):
        np.testing.assert_array_equal(
            getattr(one, field.name), getattr(same, field.name)
        )
    assert (one.train != other.train).any()


def test_fewer_labels_are_the_first_ones_repeated_evenly():
    parts = split(task(70), 0)
    for count in (5, 10, 20):
        chosen = parts.first(count)
        assert chosen.shape == (40,)
        numbers, times = np.unique(chosen, return_counts=True)
        assert set(numbers) == set(parts.train[:, :count].ravel())
        assert set(times) == {20 // count}


@pytest.mark.parametrize(
    ("per_class", "expected"),
    [(15, (5,)), (30, (5, 10)), (59, (5, 10)), (60, (5, 10, 20))],
)
def test_labels_are_as_many_as_leave_enough_for_choosing_and_testing(
    per_class, expected
):
    assert label_counts(task(per_class)) == expected


def test_too_few_images_are_an_error_that_says_how_many_are_needed():
    with pytest.raises(DataError, match=r"has 14 images.*needs 15 in each class"):
        label_counts(task(14))
    held = np.tile(np.arange(20) >= 16, 2)
    with pytest.raises(DataError, match="10 to train on and 5 to test"):
        label_counts(task(20, held=held))


def test_steps_divide_the_largest_so_that_shapes_stay_the_same():
    assert all(_pictures.MOST % step == 0 for step in _pictures.STEPS)
