"""What is counted of each unit is exact, whether it comes in one number or in two."""

import jax.numpy as jnp
import numpy as np
import pytest

from jaxinit._signal._activity import Tails
from jaxinit._signal._moments import counts_of, of_signal


@pytest.mark.parametrize("rows", [7, 2**15 - 1, 2**15])
def test_idle_and_computed_values_are_counted_exactly(rows):
    value = np.random.default_rng(0).normal(size=(rows, 4)).astype(np.float32)
    value[:, 1] = -1.0
    value[: rows // 2, 2] = 0.0  # never computed
    record = of_signal(
        jnp.asarray(value), part=None, features=(1,), examples=rows, ends=Tails(low=0.0)
    )
    idle, computed = counts_of(record)
    np.testing.assert_array_equal(computed, np.sum(value != 0, axis=0))
    np.testing.assert_array_equal(idle, np.sum(value < 0, axis=0))


def test_without_tails_nothing_is_counted():
    record = of_signal(
        jnp.ones((3, 4)), part=None, features=(1,), examples=3, ends=Tails()
    )
    assert counts_of(record) is None
