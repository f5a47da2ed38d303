"""Orthogonal weights, gates and identities keep what they promise."""

import functools
import math
import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxinit import initializers as init
from jaxinit import testing

KEY = jax.random.key(11)


@functools.partial(jax.jit, static_argnums=(0, 1))
def draw(bases, shape):
    """What several initializers draw, in one program."""
    return [base(KEY, shape, jnp.float32) for base in bases]


def wide(values):
    return np.asarray(values, np.float64)


# ---------------------------------------------------------------- scaled orthogonal


def test_wide_layers_keep_the_second_moment_of_every_input():
    inputs = np.random.default_rng(1).normal(size=(32, 64)).astype(np.float32)
    bases = {
        init.scaled_orthogonal(): 1.0,
        init.scaled_orthogonal(math.sqrt(2)): 2.0,
        init.orthogonal(): 1 / 4,
    }

    @jax.jit
    def outputs():
        layers = [
            nn.Dense(256, kernel_init=base, precision="highest") for base in bases
        ]
        return [layer.init_with_output(KEY, inputs)[0] for layer in layers]

    # A squared norm x W Wᵀ x is off by 64 times the error of an entry of W Wᵀ, which
    # assert_orthogonal bounds; the product itself is off by 64 roundings, twice.
    entry = 2 * 2.0**-24 + 2.0**-48 + 256 * 2.0**-23
    bound = 64 * entry + 2 * 64 * 2.0**-24
    given = np.mean(wide(inputs) ** 2, axis=-1)
    for output, expected in zip(outputs(), bases.values(), strict=True):
        kept = np.mean(wide(output) ** 2, axis=-1) / given
        np.testing.assert_allclose(kept, expected, rtol=bound)


@pytest.mark.parametrize(
    ("shape", "axis", "scale"),
    [
        ((64, 256), -1, 2.0),
        ((256, 64), 0, 2.0),
        ((256, 64), -1, 1.0),
        ((3, 3, 8, 128), -1, math.sqrt(128 / 72)),
    ],
    ids=str,
)
def test_scaled_orthogonal_is_orthogonal_times_the_root_of_the_ratio(
    shape, axis, scale
):
    bases = init.scaled_orthogonal(1.0, axis), init.orthogonal(scale, axis)
    weight, expected = map(np.asarray, draw(bases, shape))
    testing.assert_orthogonal(weight, axis=axis, scale=scale)
    np.testing.assert_array_equal(weight, expected)
    if scale != 1.0:
        with pytest.raises(AssertionError):
            testing.assert_orthogonal(weight / scale, axis=axis, scale=scale)


# ------------------------------------------------------------------ recurrent kernels

HIDDEN = 16


@functools.partial(jax.jit, static_argnums=(0, 1))
def recurrent_kernels(cell, bases):
    """The kernel in which nnx keeps all gates, from each initializer."""
    cells = [
        cell(8, HIDDEN, recurrent_kernel_init=base, rngs=nnx.Rngs(3)) for base in bases
    ]
    return [cell.dense_h.kernel[...] for cell in cells]


@pytest.mark.parametrize(
    ("cell", "count"),
    [(nnx.OptimizedLSTMCell, 4), (nnx.GRUCell, 3)],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_every_gate_of_a_fused_recurrent_kernel_is_orthogonal(cell, count):
    bases = init.blocked(init.orthogonal(), blocks=count), init.orthogonal()
    blocked, whole = map(np.asarray, recurrent_kernels(cell, bases))
    assert blocked.shape == whole.shape == (HIDDEN, count * HIDDEN)
    gates = np.split(blocked, count, axis=1)
    for index, gate in enumerate(gates):
        testing.assert_orthogonal(gate)
        assert not np.any(gate == gates[index - 1])
    # What the cell asks for by itself is orthogonal as a whole, and in no gate.
    testing.assert_orthogonal(whole)
    for gate in np.split(whole, count, axis=1):
        with pytest.raises(AssertionError, match="not orthonormal"):
            testing.assert_orthogonal(gate)


def test_a_rectified_recurrent_layer_with_the_identity_keeps_its_state():
    @functools.partial(jax.jit, static_argnums=0)
    def states(base):
        cell = nn.SimpleCell(HIDDEN, recurrent_kernel_init=base, activation_fn=nn.relu)
        state = jax.random.bits(KEY, (2, HIDDEN), jnp.uint8).astype(jnp.float32)
        silence = jnp.zeros((2, 8))
        variables = cell.init(KEY, state, silence)
        start = state
        for _ in range(10):
            state, _ = cell.apply(variables, state, silence)
        return start, state

    np.testing.assert_array_equal(*states(init.identity()))
    start, state = states(init.identity(0.5))
    np.testing.assert_array_equal(state, start / 1024)


# --------------------------------------------------------------------------- identity


@pytest.mark.parametrize("shape", [(4, 4), (3, 5), (5, 3)], ids=str)
def test_identity_passes_the_first_inputs_on(shape):
    weight = init.identity(0.5)(KEY, shape)
    np.testing.assert_array_equal(weight, 0.5 * np.eye(*shape))
    passed = min(shape)
    inputs = jax.random.normal(KEY, (2, shape[0]))
    layer = nn.Dense(shape[1], kernel_init=init.identity(), precision="highest")
    outputs, _ = layer.init_with_output(KEY, inputs)
    np.testing.assert_array_equal(outputs[:, :passed], inputs[:, :passed])
    np.testing.assert_array_equal(outputs[:, passed:], 0)


def test_identities_stack_lie_side_by_side_and_take_a_diagonal():
    eye = np.eye(3)
    stack = init.stacked(init.identity())(KEY, (2, 3, 3))
    np.testing.assert_array_equal(stack, np.stack([eye, eye]))
    gates = init.blocked(init.identity(), blocks=2)(KEY, (3, 6))
    np.testing.assert_array_equal(gates, np.concatenate([eye, eye], axis=1))
    diagonal = np.array([1.0, 2.0, 4.0], np.float32)
    np.testing.assert_array_equal(
        init.identity(diagonal)(KEY, (3, 3)), np.diag(diagonal)
    )
    assert init.identity()(KEY, (2, 2), jnp.complex64).dtype == jnp.complex64


# ----------------------------------------------------------------------------- errors

ERRORS = [
    (
        lambda: init.scaled_orthogonal(-1.0),
        "scale must be finite and not negative, got -1.0",
    ),
    (
        lambda: init.scaled_orthogonal()(KEY, (3,)),
        "scaled_orthogonal needs a shape of at least 2 axes, got (3,); vectors have no "
        "orthogonality",
    ),
    (
        lambda: init.scaled_orthogonal(1.0, 2)(KEY, (3, 4)),
        "column_axis 2 does not exist in shape (3, 4)",
    ),
    (lambda: init.identity(-1), "scale must be finite and not negative, got -1"),
    (
        lambda: init.identity()(KEY, (3, 3, 4, 4)),
        "identity needs a shape (in, out) of 2 axes, got (3, 3, 4, 4); write "
        "stacked(identity()) for a stack of matrices, dirac() for a convolution",
    ),
    (
        lambda: init.identity(np.ones(4))(KEY, (3, 3)),
        "scale of shape (4,) does not broadcast to the shape (3, 3)",
    ),
]


@pytest.mark.parametrize(
    ("act", "text"), ERRORS, ids=lambda v: None if callable(v) else str(v)[:60]
)
def test_what_does_not_fit_is_named(act, text):
    with pytest.raises((ValueError, TypeError), match=f"^{re.escape(text)}$"):
        act()
