"""Shifted multiply-adds are convolutions: the same weights, the same numbers."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from jaxinit.demo._convolutions import Convolution, depthwise
from jaxinit.demo._network import EfficientNetLite0

EPSILON = 2.0**-23


def grouped(x, kernel, stride):
    return jax.lax.conv_general_dilated(
        x,
        kernel,
        (stride, stride),
        "SAME",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=x.shape[-1],
    )


def draw(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


@pytest.mark.parametrize(
    ("size", "stride", "length"),
    [(3, 1, 7), (5, 1, 4), (3, 2, 6), (5, 2, 7), (3, 3, 1)],
)
def test_depthwise_is_the_grouped_convolution(size, stride, length):
    x, kernel = draw(2, length, length + 1, 6), draw(size, size, 1, 6, seed=1)
    found = np.asarray(jax.jit(partial(depthwise, stride=stride))(x, kernel))
    expected = np.asarray(grouped(x, kernel, stride))
    # Either sum of n products is off by at most n roundings of the sum of magnitudes.
    bound = np.asarray(grouped(abs(x), abs(kernel), stride)) * 2 * size**2 * EPSILON
    assert found.shape == expected.shape
    assert (np.abs(found - expected) <= bound).all()


def test_a_kernel_that_is_shifted_by_one_is_noticed():
    x, kernel = draw(1, 8, 8, 2), draw(3, 3, 1, 2, seed=1)
    wrong = depthwise(x, jnp.roll(jnp.asarray(kernel), 1, axis=0))
    assert np.abs(wrong - grouped(x, kernel, 1)).max() > 0.1


def test_the_gradients_are_those_of_the_grouped_convolution():
    x, kernel, pull = draw(2, 6, 6, 4), draw(3, 3, 1, 4, seed=1), draw(2, 3, 3, 4)

    def gradients(function):
        return jax.grad(
            lambda x, kernel: (function(x, kernel) * pull).sum(), argnums=(0, 1)
        )(x, kernel)

    ours = gradients(lambda x, kernel: depthwise(x, kernel, stride=2))
    theirs = gradients(lambda x, kernel: grouped(x, kernel, 2))
    for one, other in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)


@pytest.mark.parametrize(("size", "groups"), [(1, 1), (3, 8)])
def test_the_parameter_is_that_of_flax(size, groups):
    x, key = draw(1, 6, 6, 8), jax.random.key(0)
    ours = Convolution(8, size, 1, groups).init(key, x)
    theirs = nn.Conv(8, (size, size), feature_group_count=groups, use_bias=False)
    expected = theirs.init(key, x)
    jax.tree.map(np.testing.assert_array_equal, ours, expected)


def test_the_network_says_the_same_either_way():
    x, key = draw(2, 24, 24, 3), jax.random.key(0)
    fast, slow = (
        EfficientNetLite0(classes=4, cut=2, fast=way) for way in (True, False)
    )
    variables = jax.jit(fast.init)(key, x)
    shapes = jax.eval_shape(slow.init, key, x)
    assert jax.tree.map(jnp.shape, variables) == jax.tree.map(jnp.shape, shapes)
    found, expected = (jax.jit(net.apply)(variables, x) for net in (fast, slow))
    assert np.abs(found - expected).max() <= 1e-5 * np.abs(expected).max()
