"""reinit: each leaf drawn as its use asks, from a key of its own."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import NamedSharding, PartitionSpec
from network_zoo import MODELS, linen, shape

import jaxinit
from jaxinit import initializers, testing
from jaxinit._errors import RuleError
from jaxinit._keys import fold_name

KEY = jax.random.key(3)


def f(p, x):
    """Heads, then layers in one array, groups, and a table that is tied."""
    y = jax.nn.relu(jnp.einsum("bd,ndh->bnh", x, p["heads"]).reshape(len(x), -1))
    y, _ = jax.lax.scan(lambda y, w: (jnp.tanh(y @ w), None), y, p["layers"])
    y = jax.lax.conv_general_dilated(
        y[:, None], p["grouped"], (1,), "VALID",
        dimension_numbers=("NWC", "WIO", "NWC"), feature_group_count=4,
    )[:, 0]  # fmt: skip
    return y + p["bias"][None]


SIZES = {
    "heads": (16, 64, 16),
    "layers": (3, 256, 256),
    "grouped": (1, 64, 128),
    "bias": (128,),
}
PARAMS = {name: jnp.full(size, 7.0) for name, size in SIZES.items()}
X = jnp.ones((2, 64))


@functools.cache
def drawn():
    return jaxinit.reinit(KEY, f, PARAMS, X)


def test_the_default_is_the_gain_of_what_follows_over_the_true_fan_in():
    params, report = drawn()
    gain = initializers.gain(jnp.tanh)
    testing.assert_moments(params["heads"], variance=2 / 64)
    testing.assert_moments(params["layers"], variance=gain**2 / 256)
    testing.assert_moments(params["grouped"], variance=1 / 64)
    np.testing.assert_array_equal(params["bias"], PARAMS["bias"])
    assert [row["drawn"] for row in report.records()] == [
        "kept", "1 / fan_in", "2 / fan_in", f"{gain**2:.4g} / fan_in",
    ]  # fmt: skip
    assert report.ok
    assert "3 of 4 leaves" in report.title


def test_a_leaf_depends_on_the_key_and_its_own_name_alone():
    params, _ = drawn()
    alone, _ = jaxinit.reinit(
        KEY,
        lambda p, x: jax.nn.relu(jnp.einsum("bd,ndh->bnh", x, p["heads"])),
        {"heads": shape(*SIZES["heads"])},
        X,
    )
    np.testing.assert_array_equal(alone["heads"], params["heads"])
    other, _ = jaxinit.reinit(jax.random.key(4), f, PARAMS, X)
    assert np.any(other["heads"] != params["heads"])


def test_what_is_drawn_is_what_the_initializer_draws_for_one_weight():
    rules = [("layers", initializers.glorot_uniform())]
    params, _ = jaxinit.reinit(KEY, f, PARAMS, X, rules=rules)
    keys = jax.random.split(fold_name(KEY, "layers"), 3)
    one = [initializers.glorot_uniform()(key, (256, 256)) for key in keys]
    np.testing.assert_allclose(params["layers"], np.stack(one), rtol=1e-6)


def test_axes_are_put_where_the_array_stores_them():
    """An initializer that writes down which input and output an element belongs to."""

    def numbered(key, shape, dtype):
        rows, columns = shape
        return jnp.arange(rows * columns, dtype=dtype).reshape(shape)

    def g(p, x):
        return jnp.einsum("bid,nodi->bon", x, p)

    params = jnp.zeros((2, 3, 4, 5))
    found, _ = jaxinit.reinit(
        KEY, g, params, jnp.ones((1, 5, 4)), rules=[(".*", numbered)]
    )
    expected = np.arange(20 * 6.0).reshape(4, 5, 2, 3).transpose(2, 3, 0, 1)
    np.testing.assert_array_equal(found, expected)


def test_groups_and_layers_are_each_orthogonal():
    rules = {"grouped|layers": initializers.orthogonal()}
    params, _ = jaxinit.reinit(KEY, f, PARAMS, X, rules=rules)
    for layer in params["layers"]:
        testing.assert_orthogonal(layer)
    for group in jnp.split(params["grouped"][0], 4, axis=-1):
        testing.assert_orthogonal(group)
    with pytest.raises(AssertionError):
        testing.assert_orthogonal(params["grouped"][0])


@pytest.mark.usefixtures("relaxed_promotion")
def test_every_gate_of_a_fused_kernel_is_orthogonal():
    rules = [(".*/dense_h/kernel", initializers.orthogonal())]
    params, _ = jaxinit.reinit(KEY, *MODELS["nnx recurrent"](), rules=rules)
    for cell, gates, width in (("first", 4, 6), ("second", 3, 5)):
        kernel = params[cell]["cell"]["dense_h"]["kernel"][...]
        assert kernel.shape == (width, gates * width)
        for gate in jnp.split(kernel, gates, axis=-1):
            testing.assert_orthogonal(gate)


@pytest.mark.usefixtures("relaxed_promotion")
@pytest.mark.parametrize("name", ["nnx decoder", "scan of remat", "depthwise"])
def test_a_tree_of_any_kind_comes_back_as_it_was(name):
    g, params, *args = MODELS[name]()
    found, report = jaxinit.reinit(KEY, g, params, *args)
    assert jax.tree.structure(found) == jax.tree.structure(params)
    same = jax.tree.map(
        lambda a, b: (a.shape, a.dtype) == (b.shape, b.dtype), found, params
    )
    assert all(jax.tree.leaves(same))
    assert len(report.rows) == len(jax.tree.leaves(params))


@pytest.mark.usefixtures("relaxed_promotion")
def test_the_einsum_layers_of_flax_get_the_fans_that_flax_misses():
    """Flax's own default draws this kernel with 1/8 of the variance."""
    from flax import linen as nn

    layer = nn.Einsum((8, 64, 64), "BTD,NDH->BTNH", use_bias=False)
    g, params, *args = linen(layer, shape(2, 3, 64))
    found, _ = jaxinit.reinit(KEY, g, params, *args)
    testing.assert_moments(found["kernel"], variance=1 / 64)


def test_the_fans_of_strides_reach_the_initializer():
    def g(p, x):
        return jax.lax.conv_transpose(
            x, p, (4,), "SAME", dimension_numbers=("NWC", "WIO", "NWC")
        )

    rules = [(".*", initializers.he_normal())]
    params = shape(8, 64, 64)
    found, _ = jaxinit.reinit(KEY, g, params, jnp.ones((1, 9, 64)), rules=rules)
    testing.assert_moments(found, variance=2 / (64 * 8 / 4))


def test_by_use_takes_mode_and_distribution():
    rules = [("heads", jaxinit.ByUse(mode="fan_out", distribution="uniform"))]
    params, _ = jaxinit.reinit(KEY, f, PARAMS, X, rules=rules)
    testing.assert_moments(params["heads"], variance=2 / 256)
    assert float(jnp.abs(params["heads"]).max()) <= math.sqrt(3 * 2 / 256)
    with pytest.raises(ValueError, match="mode must be one of"):
        jaxinit.ByUse(mode="fanin")


def test_a_constant_factor_of_the_program_is_made_up_for():
    def equalized(p, x):
        return x @ (p * 0.125)

    found, _ = jaxinit.reinit(KEY, equalized, shape(64, 64), X)
    testing.assert_moments(found, variance=1.0)


def test_the_first_rule_wins_and_none_keeps():
    rules = [
        ("heads", None),
        ("heads|bias", initializers.zeros),
        ("layers", jaxinit.ByUse()),
    ]
    params, report = jaxinit.reinit(KEY, f, PARAMS, X, rules=rules)
    np.testing.assert_array_equal(params["heads"], PARAMS["heads"])
    assert not np.any(params["bias"])
    assert [row["drawn"] for row in report.records()][:3] == ["zeros", "kept", "kept"]


def test_leaves_of_many_devices_stay_where_they_are():
    mesh = jax.make_mesh((4,), ("a",), axis_types=(jax.sharding.AxisType.Auto,))
    sharding = NamedSharding(mesh, PartitionSpec(None, "a"))
    w = jax.device_put(jnp.ones((64, 64)), sharding)
    found, _ = jaxinit.reinit(KEY, lambda p, x: x @ p, w, X)
    assert found.sharding == sharding
    whole, _ = jaxinit.reinit(KEY, lambda p, x: x @ p, jnp.ones((64, 64)), X)
    np.testing.assert_array_equal(found, whole)


def test_several_fans_and_undone_scales_are_noted():
    table = jnp.ones((8, 4))
    _, report = jaxinit.reinit(KEY, lambda p, x: (x @ p) @ p.T, table, jnp.ones((2, 8)))
    (finding,) = report.findings
    assert (finding.severity, finding.code) == ("note", "several-fans")
    assert "[(4.0, 8.0), (8.0, 4.0)]; drawn for (8.0, 4.0)" in finding.cause
    _, report = jaxinit.reinit(
        KEY, lambda p, x: x @ jnp.tanh(p), table, jnp.ones((2, 8))
    )
    assert [finding.code for finding in report.findings] == ["transformed"]


def test_what_is_not_understood_is_kept_and_said():
    def g(p, x):
        return x @ jnp.linalg.inv(p["w"])

    rules = [(".*", initializers.he_normal())]
    params = {"w": jnp.ones((8, 8)), "idle": jnp.ones(3)}
    found, report = jaxinit.reinit(KEY, g, params, jnp.ones((2, 8)), rules=rules)
    np.testing.assert_array_equal(found["w"], params["w"])
    np.testing.assert_array_equal(found["idle"], params["idle"])
    assert [finding.leaf for finding in report.findings] == ["idle", "w"]
    assert {finding.code for finding in report.findings} == {"not-understood"}


def test_bad_input_is_refused_with_the_name_of_the_leaf():
    with pytest.raises(ValueError, match="key is needed to draw weights anew"):
        jaxinit.reinit(None, f, PARAMS, X)
    with pytest.raises(RuleError, match=r"rules\[0\]: .*'head'.*write"):
        jaxinit.reinit(KEY, f, PARAMS, X, rules=[("head", initializers.zeros)])
    with pytest.raises(RuleError, match="the value for 'bias' must be an initializer"):
        jaxinit.reinit(KEY, f, PARAMS, X, rules=[("bias", 0.0)])
    with pytest.raises(RuleError, match=r"cannot draw 'bias' of shape \(128,\)"):
        jaxinit.reinit(KEY, f, PARAMS, X, rules=[("bias", initializers.he_normal())])

    def one_vector(p, x):
        return x @ p.reshape(64, 4)

    flat = jnp.ones(256)
    with pytest.raises(RuleError, match="one axis in two roles"):
        jaxinit.reinit(
            KEY, one_vector, flat, X, rules=[(".*", initializers.orthogonal())]
        )
    found, _ = jaxinit.reinit(KEY, one_vector, flat, X)
    testing.assert_moments(found, variance=1 / 64)


def test_nnx_models_take_the_result_back():
    model = nnx.Linear(64, 64, rngs=nnx.Rngs(0))
    params, _ = jaxinit.reinit(KEY, *jaxinit.from_nnx(model, X))
    nnx.update(model, params)
    np.testing.assert_array_equal(model.kernel[...], params["kernel"][...])
