"""Haiku and Equinox themselves: their own parameters as targets, sources and results.

Expected numbers are NumPy's, from the arrays of the source alone.
"""

import equinox as eqx
import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxinit import transfer as tr
from jaxinit._errors import MergeError

KEY = jax.random.key(0)
GENERATOR = np.random.default_rng(0)


def normal(*shape):
    return GENERATOR.normal(size=shape).astype(np.float32)


# A network of torch: linear layers (out, in), a convolution (out, in, height, width).
SOURCE = {
    "conv/weight": normal(4, 3, 2, 2),
    "conv/bias": normal(4),
    "fc/weight": normal(5, 4),
    "fc/bias": normal(5),
}
IMAGES = normal(2, 6, 6, 3)


def expected(images):
    """The mean of a rectified 2 x 2 convolution, then a linear layer, in float64."""
    kernel, bias = (SOURCE[f"conv/{leaf}"].astype(float) for leaf in ("weight", "bias"))
    windows = np.lib.stride_tricks.sliding_window_view(images, (2, 2), (1, 2))
    maps = np.einsum("bhwcij,ocij->bhwo", windows.astype(float), kernel) + bias
    pooled = np.maximum(maps, 0).mean((1, 2))
    return pooled @ SOURCE["fc/weight"].T.astype(float) + SOURCE["fc/bias"]


def assert_close(found):
    # Sums of 12 and of 25 products in float32, of numbers up to about 10.
    np.testing.assert_allclose(found, expected(IMAGES), rtol=0, atol=2e-5)


# Haiku


@hk.without_apply_rng
@hk.transform
def in_haiku(images):
    x = hk.Conv2D(4, 2, padding="VALID", name="conv")(images)
    return hk.Linear(5, name="fc")(jax.nn.relu(x).mean((1, 2)))


def test_torch_into_haiku_gives_the_numbers_of_torch(relaxed_promotion):
    params, report = tr.merge(
        lambda: in_haiku.init(KEY, IMAGES), SOURCE, [tr.torch_layout()]
    )
    assert set(report.target_fates.values()) == {"copied"}
    own = in_haiku.init(KEY, IMAGES)
    assert jax.tree.structure(params) == jax.tree.structure(own)
    assert_close(in_haiku.apply(params, IMAGES))


def test_haiku_goes_back_to_torch_bit_for_bit(relaxed_promotion):
    target = jax.eval_shape(in_haiku.init, KEY, IMAGES)
    plan = tr.plan(target, SOURCE, [tr.torch_layout()])
    params, _ = tr.merge(target, SOURCE, plan)
    back, _ = tr.export(params, plan)
    assert set(back) == set(SOURCE)
    for name, values in SOURCE.items():
        np.testing.assert_array_equal(back[name], values)


def test_haiku_state_of_batch_norm_needs_rules_of_its_own(relaxed_promotion):
    def network(x):
        x = hk.Linear(3, name="fc")(x)
        return hk.BatchNorm(True, True, 0.9, name="bn")(x, is_training=True)

    params, state = hk.transform_with_state(network).init(KEY, jnp.ones((2, 4)))
    source = {"params": jax.tree.map(lambda x: x + 1, params)}
    tree, report = tr.merge({"params": params}, source)
    assert set(report.target_fates.values()) == {"copied"}
    np.testing.assert_array_equal(
        tree["params"]["bn"]["scale"], params["bn"]["scale"] + 1
    )
    with pytest.raises(MergeError) as raised:
        tr.merge({"params": params, "state": state}, source)
    missing = {finding.leaf for finding in raised.value.report.findings}
    assert any("mean_ema/average" in leaf for leaf in missing)


# Equinox


class InEquinox(eqx.Module):
    conv: eqx.nn.Conv2d
    fc: eqx.nn.Linear
    activation: object
    pooled: tuple = eqx.field(static=True)

    def __init__(self, key):
        self.conv = eqx.nn.Conv2d(3, 4, 2, key=key)
        self.fc = eqx.nn.Linear(4, 5, key=key)
        self.activation = jax.nn.relu
        self.pooled = (1, 2)

    def __call__(self, image):
        x = self.activation(self.conv(jnp.moveaxis(image, -1, 0)))
        return self.fc(x.mean(self.pooled))


# Equinox has torch's layout, and a bias with an axis for each of the window.
EQUINOX_RULES = [
    tr.layout(".*/weight"),
    tr.layout("conv/bias", reshape=True),
]


def test_torch_into_equinox_gives_the_numbers_of_torch(relaxed_promotion):
    target = InEquinox(KEY)
    model, report = tr.merge(target, SOURCE, EQUINOX_RULES)
    assert isinstance(model, InEquinox)
    assert jax.tree.structure(model) == jax.tree.structure(target)
    assert model.activation is jax.nn.relu
    fates = {name: fate for name, fate in report.target_fates.items() if "/" in name}
    assert fates == dict.fromkeys(SOURCE, "copied")
    assert_close(jax.vmap(model)(IMAGES))


def test_equinox_made_by_a_function_of_arrays_alone(relaxed_promotion):
    skeleton = InEquinox(KEY)
    arrays, rest = eqx.partition(skeleton, eqx.is_array)
    filled, report = tr.merge(
        lambda: eqx.filter(InEquinox(KEY), eqx.is_array), SOURCE, EQUINOX_RULES
    )
    assert report.ok
    assert jax.tree.structure(filled) == jax.tree.structure(arrays)
    assert_close(jax.vmap(eqx.combine(filled, rest))(IMAGES))


def test_equinox_goes_back_to_torch_bit_for_bit():
    plan = tr.plan(InEquinox(KEY), SOURCE, EQUINOX_RULES)
    model, _ = tr.merge(InEquinox(KEY), SOURCE, plan)
    back, _ = tr.export(model, plan)
    assert set(back) == set(SOURCE)
    for name, values in SOURCE.items():
        np.testing.assert_array_equal(back[name], values)


def test_haiku_into_equinox_by_way_of_a_file(tmp_path, relaxed_promotion):
    params, _ = tr.merge(
        lambda: in_haiku.init(KEY, IMAGES), SOURCE, [tr.torch_layout()]
    )
    tr.save(tmp_path / "haiku.safetensors", params)
    rules = [
        tr.rename("(.*)/w", r"\1/weight"),
        tr.rename("(.*)/b", r"\1/bias"),
        tr.layout("conv/weight", transpose=(3, 2, 0, 1)),
        tr.layout("fc/weight", transpose=(1, 0)),
        tr.layout("conv/bias", reshape=True),
    ]
    source = tr.open_checkpoint(tmp_path / "haiku.safetensors")
    model, _ = tr.merge(InEquinox(KEY), source, rules)
    assert_close(jax.vmap(model)(IMAGES))
