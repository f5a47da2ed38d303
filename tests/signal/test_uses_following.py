"""What follows a product: bias, normalization, activation, and how it is parted."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import nn

import jaxinit
from jaxinit import initializers

X, W = jnp.ones((4, 8)), jnp.ones((8, 6))
GRID = np.linspace(-3, 3, 61, dtype=np.float32)


def only(f):
    (use,) = jaxinit.trace_uses(f, W, X)[""]
    return use


ACTIVATIONS = {
    "relu": nn.relu,
    "tanh": jnp.tanh,
    "gelu": nn.gelu,
    "gelu, exact": functools.partial(nn.gelu, approximate=False),
    "silu": nn.silu,
    "elu": nn.elu,
    "leaky_relu": nn.leaky_relu,
    "softplus": nn.softplus,
    "relu6": nn.relu6,
    "sine": lambda x: jnp.sin(30 * x),
    "squared relu": lambda x: jnp.square(nn.relu(x)),
    "mish": lambda x: x * jnp.tanh(nn.softplus(x)),
    "by maximum": lambda x: jnp.maximum(x, 0),
    "scaled tanh": lambda x: 1.7159 * jnp.tanh(2 / 3 * x),
    "piecewise": lambda x: jnp.where(x > 0, x, 0.1 * x),
}


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_the_activation_is_the_function_of_the_program(name):
    function = ACTIVATIONS[name]
    for f in (
        lambda w, x: function(x @ w) @ jnp.ones((6, 2)),
        lambda w, x: jax.jit(lambda y: function(y))(x @ w + 0.0),
    ):
        found = only(f).activation
        np.testing.assert_allclose(found(GRID), function(GRID), rtol=1e-6, atol=1e-7)
    assert initializers.gain(found) == pytest.approx(initializers.gain(function))


@pytest.mark.parametrize("name", ["relu", "tanh", "silu", "elu", "leaky_relu", "relu6"])
def test_names_are_those_of_the_functions(name):
    assert only(lambda w, x: ACTIVATIONS[name](x @ w)).activation_name == name


def test_equal_activations_are_one_object():
    first, second = (only(lambda w, x: nn.silu(x @ w)).activation for _ in range(2))
    assert first is second


LINEAR = {
    "nothing": lambda y, x: y,
    "a residual": lambda y, x: y + x[:, :6],
    "attention's factor": lambda y, x: nn.softmax(y / 8.0),
    "a gate": lambda y, x: y * nn.sigmoid(x[:, :6]),
}


@pytest.mark.parametrize("name", LINEAR)
def test_where_no_elementwise_function_follows_it_is_the_identity(name):
    use = only(lambda w, x: LINEAR[name](x @ w, x))
    assert use.activation_name == "identity"
    np.testing.assert_array_equal(use.activation(GRID), GRID)


def test_several_functions_are_not_one():
    def f(w, x):
        y = x @ w
        return jnp.concatenate([nn.relu(y), nn.relu(-y)])

    use = only(f)
    assert use.activation is None
    assert use.activation_name == ""


def test_dropout_does_not_change_the_activation():
    def f(w, x):
        y = jnp.tanh(x @ w)
        kept = jax.random.bernoulli(jax.random.key(0), 0.5, y.shape)
        return jnp.where(kept, y / 0.5, 0.0)

    np.testing.assert_allclose(only(f).activation(GRID), np.tanh(GRID), rtol=1e-6)


NORMS = {
    "layer": lambda y: (
        (y - y.mean(-1, keepdims=True)) * jax.lax.rsqrt(y.var(-1, keepdims=True) + 1e-6)
    ),
    "root mean square": lambda y: y / jnp.sqrt(jnp.mean(y**2, -1, keepdims=True)),
    "batch": lambda y: (y - y.mean(0, keepdims=True)) / y.std(0, keepdims=True),
    "after a factor": lambda y: (2 * y) / jnp.sqrt(jnp.sum(y * y)),
}


@pytest.mark.parametrize("name", NORMS)
def test_a_norm_makes_the_scale_idle(name):
    use = only(lambda w, x: NORMS[name](x @ w))
    assert use.feeds_norm
    w = jax.random.normal(jax.random.key(0), W.shape)
    x = jax.random.normal(jax.random.key(1), X.shape)
    np.testing.assert_allclose(
        NORMS[name](x @ (4 * w)), NORMS[name](x @ w), rtol=1e-3, atol=1e-3
    )


NO_NORMS = {
    "softmax": nn.softmax,
    "a residual beside": lambda y: NORMS["layer"](y) + y,
    "after an activation": lambda y: NORMS["layer"](nn.relu(y) + 1.0),
    "the mean taken": lambda y: y - y.mean(-1, keepdims=True),
    "returned as well": lambda y: (y, NORMS["layer"](y)),
}


@pytest.mark.parametrize("name", NO_NORMS)
def test_what_is_no_norm_or_not_all(name):
    assert not only(lambda w, x: NO_NORMS[name](x @ w)).feeds_norm


def test_the_bias_is_the_parameter_that_is_added_next():
    def f(p, x):
        y = (x @ p["w"]).reshape(2, 2, 6) + p["b"][None, None]
        return nn.relu(y) + p["shift"][None, None]

    uses = jaxinit.trace_uses(f, {"w": W, "b": W[0], "shift": W[0]}, X)
    assert uses["w"][0].bias_site == uses["b"][0].site
    assert uses["w"][0].activation_name == "relu"
    assert only(lambda w, x: x @ w).bias_site is None


PARTED = {
    "split": lambda y: jnp.split(y, 3, axis=-1),
    "slices": lambda y: (y[:, :3], y[:, 3:]),
    "after a sum": lambda y: jnp.split(y + X[:, :6], 2, axis=-1),
}


@pytest.mark.parametrize(("name", "blocks"), [*zip(PARTED, (3, 2, 2), strict=True)])
def test_fused_weights_are_told_by_how_the_product_is_parted(name, blocks):
    assert only(lambda w, x: PARTED[name](x @ w)).blocks == blocks


def test_a_product_that_is_not_parted_evenly_is_one():
    for part in (
        lambda y: y,
        lambda y: jnp.split(y, [1], axis=-1),
        lambda y: jnp.split(y, 2, axis=0),
        lambda y: (y[:, :3], y[:, 2:]),
        lambda y: (y[:, :3], y),
    ):
        assert only(lambda w, x, part=part: part(x @ w)).blocks == 1


SUMS = {
    "two": (lambda x, u, v, b: jnp.tanh(x @ u + x @ v), 2),
    "with a bias each": (lambda x, u, v, b: jnp.tanh((x @ u + b) + (x @ v + b)), 2),
    "the bias last": (lambda x, u, v, b: jnp.tanh((x @ u + x @ v) + b), 2),
    "three": (lambda x, u, v, b: jnp.tanh(x @ u + x @ v + (2.0 + x) @ v), 3),
    "one gated": (lambda x, u, v, b: jnp.tanh(x @ u + nn.sigmoid(x) * (x @ v)), 2),
}


@pytest.mark.parametrize("name", SUMS)
def test_products_that_are_added_share_the_activation(name):
    function, count = SUMS[name]
    square = {"u": jnp.ones((8, 8)), "v": jnp.ones((8, 8)), "b": jnp.ones((1, 8))}
    uses = jaxinit.trace_uses(lambda p, x: function(x, **p), square, X)
    use = uses["u"][0]
    assert (use.activation_name, use.summed) == ("tanh", count)
    if name != "one gated":  # of that one the next step is the gate
        assert {(u.summed, u.sum_site) for u in uses["v"]} == {(count, use.sum_site)}
    share = jaxinit.ByUse().scale(use)
    assert share == pytest.approx(initializers.gain(jnp.tanh) ** 2 / count)


def test_a_sum_with_the_signal_itself_is_not_one_of_products():
    def f(p, x):
        x = x @ p["a"]
        return jnp.tanh(x + nn.relu(x) @ p["b"]) + x @ p["c"]

    square = {name: jnp.ones((8, 8)) for name in "abc"}
    for (use,) in jaxinit.trace_uses(f, square, X).values():
        assert (use.summed, use.sum_site) == (1, None)


CUTS = {
    "split": lambda y: jnp.split(y, 2, axis=-1),
    "slices": lambda y: (y[:, :6], y[:, 6:]),
}


@pytest.mark.parametrize("cut", CUTS)
def test_parts_of_concatenated_kernels_have_their_own_activation(cut):
    def f(p, x):
        y = x @ jnp.concatenate([p["a"], p["b"]], axis=1)
        z = x @ jnp.concatenate([p["c"], p["d"]], axis=1)
        (a, b), (c, d) = (CUTS[cut](array) for array in (y, z))
        return jnp.tanh(a + c) * nn.sigmoid(b + d)

    uses = jaxinit.trace_uses(f, dict.fromkeys("abcd", W), X)
    names = {leaf: (use.activation_name, use.summed) for leaf, (use,) in uses.items()}
    expected = {"a": ("tanh", 2), "b": ("logistic", 2)}
    assert names == expected | {"c": expected["a"], "d": expected["b"]}


def test_a_gate_that_is_used_twice_is_one_activation():
    def f(w, x):
        z = nn.sigmoid(x @ w)
        return z * x[:, :6] + (1.0 - z) * x[:, 2:]

    assert only(f).activation_name == "logistic"
