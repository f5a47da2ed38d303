"""The best learning rate of a narrow network holds for one eight times as wide."""

import importlib.util
import pathlib

import pytest

from jaxinit import presets

ROOT = pathlib.Path(__file__).parents[2]


@pytest.mark.long
def test_the_best_rate_stays_under_mup_and_falls_under_the_standard(relaxed_promotion):
    spec = importlib.util.spec_from_file_location("mup", ROOT / "examples" / "mup.py")
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)

    def moved(kind):
        best = [example.best(example.sweep(kind, width, 4)) for width in (64, 512)]
        return best[1] - best[0]

    # Eightfold width asks for a rate lower by up to 3 octaves; one is the line between.
    assert abs(moved(presets.mup)) < 1.0
    assert moved(presets.standard) < -1.0
