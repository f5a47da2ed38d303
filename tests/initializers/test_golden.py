"""Drawn numbers do not change unawares."""

import json

import jax
import numpy as np
import pytest
from cases import CASES
from golden import RECORD, draws

RECORDED = json.loads(RECORD.read_text())


def test_this_version_of_jax_is_recorded():
    assert jax.__version__ in RECORDED, "run `make golden` and look at what changed"


@pytest.mark.parametrize("case", CASES, ids=str)
def test_draws_are_those_on_record(case):
    recorded = RECORDED[jax.__version__][case.name]
    for dtype, values in draws(case):
        epsilon = 2.0**-23 if dtype == "float32" else 2.0**-8
        np.testing.assert_allclose(values, recorded[dtype], rtol=4 * epsilon, atol=1e-7)


def test_a_changed_draw_would_be_noticed():
    case = CASES[0]
    recorded = RECORDED[jax.__version__][case.name]["float32"]
    changed = dict(draws(case))["float32"]
    changed[3] *= 1 + 1e-5
    with pytest.raises(AssertionError):
        np.testing.assert_allclose(changed, recorded, rtol=4 * 2.0**-23, atol=1e-7)
