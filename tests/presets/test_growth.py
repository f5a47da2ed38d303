"""What taking a network apart costs grows as its depth does, and not faster."""

import sys

import jax
import jax.numpy as jnp
import pytest

from jaxinit._signal._program import trace_signal
from jaxinit.presets._anatomy import anatomy_of


def shape(*sizes):
    return jax.ShapeDtypeStruct(sizes, jnp.float32)


def normalized(x, scale):
    return x * jax.lax.rsqrt(jnp.square(x).mean(-1, keepdims=True) + 1e-6) * scale[None]


def feed_forward(params, x):
    for layer in params:
        y = normalized(x, layer["norm"])
        x = x + jax.nn.gelu(y @ layer["up"]) @ layer["down"] + layer["bias"][None]
    return x


def branch_first(params, x):
    for layer in params:
        y = normalized(x, layer["norm"])
        x = (jax.nn.gelu(y @ layer["up"]) @ layer["down"] + layer["bias"][None]) + x
    return x


def attention(params, x):
    for layer in params:
        y = normalized(x, layer["norm"])
        q, k, v = (y @ layer[name] for name in ("up", "key", "value"))
        x = x + jax.nn.softmax(q @ k.T / 4.0 + layer["scores"]) @ v @ layer["down"]
    return x


LAYER = {
    "norm": shape(8),
    "up": shape(8, 16),
    "key": shape(8, 16),
    "value": shape(8, 16),
    "scores": shape(4, 4),
    "down": shape(16, 8),
    "bias": shape(8),
}


def calls(network, depth):
    """How many functions, of Python and built in, it takes."""
    number = 0

    def count(frame, event, arg):
        nonlocal number
        number += event in ("call", "c_call")

    signal = trace_signal(network, [LAYER] * depth, shape(4, 8))
    sys.setprofile(count)
    try:
        found = anatomy_of(signal)
    finally:
        sys.setprofile(None)
    assert len(found.branches) == depth
    return number


@pytest.mark.parametrize("network", [feed_forward, branch_first, attention])
def test_taking_apart_is_linear_in_depth(network):
    calls(network, 2)  # what is looked up once
    few, many = calls(network, 16), calls(network, 64)
    # Four times as deep: 4 for a linear cost, 16 for a quadratic one.
    assert many / few < 4.4
