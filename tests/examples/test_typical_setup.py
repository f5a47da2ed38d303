"""The lecture's set-up as a program: it runs, learns, and is short enough to paste."""

import importlib.util
import pathlib
import re

import jax
import numpy as np
import pytest

from jaxinit import finetune, inputs
from jaxinit._paths import named_leaves

PATH = pathlib.Path(__file__).parents[2] / "examples" / "typical_setup.py"


@pytest.fixture(scope="module")
def example():
    spec = importlib.util.spec_from_file_location("typical_setup", PATH)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_it_is_a_whole_program_under_120_lines():
    assert len(PATH.read_text().splitlines()) < 120


def test_both_frameworks_learn_and_are_read_back(example, capsys, relaxed_promotion):
    example.main()
    printed = capsys.readouterr().out
    found = dict(re.findall(r"(\w+): (\d+)% of unseen images", printed))
    assert found.keys() == {"train_linen", "train_nnx"}
    # Ten classes: by chance 10% of 512 images; 20% is 7 standard deviations away.
    assert min(map(int, found.values())) > 20


def test_the_mean_is_that_of_the_training_images_alone(example):
    training = [example.load(seed) for seed in range(3)]
    images = np.concatenate([images for images, _ in training])
    fitted = inputs.fit_mean(x for x, _ in training)
    np.testing.assert_allclose(fitted.mean, images.mean(0), rtol=2**-24)


def test_l2_is_on_the_kernels_alone(example):
    shapes = jax.eval_shape(
        example.LinenNetwork().init, jax.random.key(0), np.zeros((1, 12, 12, 1))
    )
    decays = named_leaves(finetune.decayed(shapes["params"]))
    assert len(decays) == 10
    for name, value in decays.items():
        assert value == name.path.endswith("kernel")
