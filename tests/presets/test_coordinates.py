"""The coordinate check tells what stands still from what has no slope."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxinit import presets

X = jax.random.normal(jax.random.key(1), (8, 4))


def slopes(learns, name="in"):
    """Of a network whose first weight has a gradient at some widths only."""

    def build(width):
        def f(params, x):
            hidden = x @ params[name]
            if not learns(width):
                hidden = jax.lax.stop_gradient(hidden)
            return jnp.tanh(hidden) @ params["out"]

        def shape(*sizes):
            return jax.ShapeDtypeStruct(sizes, jnp.float32)

        return f, {name: shape(4, width), "out": shape(width, 2)}, X

    report = presets.standard(build(8), build(8)).coordinate_check(
        build, widths=(8, 16), tx=optax.sgd(0.1), key=jax.random.key(0), steps=1
    )
    return report.slopes[name], report


@pytest.mark.parametrize(
    ("learns", "slope", "verdict"),
    [
        (lambda width: width < 16, -np.inf, "vanishing"),
        (lambda width: width >= 16, np.inf, "growing"),
        (lambda width: False, 0.0, "flat"),
    ],
)
def test_a_weight_that_stands_still_at_some_widths_is_not_flat(learns, slope, verdict):
    found, report = slopes(learns)
    assert found == slope
    rows = [row for row in report.records() if row["leaf"] == "in"]
    assert [row["verdict"] for row in rows] == [verdict]


def test_names_that_end_in_a_quotation_mark_are_kept():
    found, _ = slopes(lambda width: True, name="in'")
    assert np.isfinite(found)
