"""Parity with PyTorch and Keras: the laws of their layers, by golden moments.

The golden numbers were computed from the frameworks' formulas (the bound a; the
variance is a²/3) and measured once on their own layers: PyTorch 2.13 with manual_seed
0, Keras 3.15.1. Draws themselves cannot agree: each has its own random numbers.
"""

import dataclasses
import math
import re
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxinit import initializers as ours
from jaxinit import testing
from jaxinit.initializers import fans

KEY = jax.random.key(0)
UNIFORM = 9 / 5


@dataclasses.dataclass(frozen=True)
class Golden:
    """One parameter of a framework's layer.

    Attributes:
      name: the framework's layer and parameter.
      make: the parameter of the Flax layer that stands for it.
      bound: the a of its U(-a, a).
      measured: the variance of the framework's own draws.
      draws: how many they were.
    """

    name: str
    make: Callable[[], jax.Array]
    bound: float
    measured: float
    draws: int

    def __str__(self) -> str:
        return self.name


def linen(module, inputs, *path, dtype=float):
    """One parameter of a linen module."""

    def make():
        # Lazily: what the layer would compute is not computed.
        example = jax.eval_shape(lambda: jnp.zeros(inputs, dtype))
        parameters = module.lazy_init(KEY, example)["params"]
        for name in path:
            parameters = parameters[name]
        return parameters

    return make


def dense(init, bias=ours.zeros):
    return nn.Dense(1000, kernel_init=init, bias_init=bias)


def conv(init, groups=1):
    return nn.Conv(128, (3, 3), strides=2, feature_group_count=groups, kernel_init=init)


def transposed(init):
    return nn.ConvTranspose(128, (4, 4), strides=(2, 2), kernel_init=init)


def attention(**inits):
    return nn.MultiHeadDotProductAttention(8, qkv_features=256, **inits)


def lstm(part):
    init = ours.torch_default_recurrent(256)
    cell = nnx.OptimizedLSTMCell(
        100, 256, kernel_init=init, recurrent_kernel_init=init, rngs=nnx.Rngs(KEY)
    )
    return getattr(cell, part).kernel[...]


torch_weight, keras_weight = ours.torch_default(), ours.keras_default()
swapped = ours.torch_default(in_axis=-1, out_axis=-2)
packed, image = ours.torch_default_attention(), (1, 8, 8, 64)
per_head = ours.keras_default(equation="btd,dnh->btnh")

GOLDEN = [
    Golden(
        "torch.nn.Linear(400, 1000).weight",
        linen(dense(torch_weight), (1, 400), "kernel"),
        0.05,
        0.0008331878,
        400_000,
    ),
    Golden(
        "torch.nn.Linear(400, 200000).bias",
        linen(dense(torch_weight, ours.torch_default_bias(400)), (1, 400), "bias"),
        0.05,
        0.0008327985,
        200_000,
    ),
    Golden(
        "torch.nn.Conv2d(64, 128, 3, stride=2, groups=4).weight",
        linen(conv(torch_weight, groups=4), image, "kernel"),
        0.08333333,
        0.002307586,
        18_432,
    ),
    Golden(
        "torch.nn.ConvTranspose2d(64, 128, 4, stride=2).weight",
        linen(transposed(swapped), image, "kernel"),
        0.02209709,
        0.0001627103,
        131_072,
    ),
    Golden(
        "torch.nn.LSTM(100, 256).weight_ih_l0",
        lambda: lstm("dense_i"),
        0.0625,
        0.001307642,
        102_400,
    ),
    Golden(
        "torch.nn.LSTM(100, 256).weight_hh_l0",
        lambda: lstm("dense_h"),
        0.0625,
        0.001305192,
        262_144,
    ),
    Golden(
        "torch.nn.MultiheadAttention(256, 8).in_proj_weight",
        linen(attention(kernel_init=packed), (1, 3, 256), "query", "kernel"),
        0.07654655,
        0.001945828,
        196_608,
    ),
    Golden(
        "torch.nn.MultiheadAttention(256, 8).out_proj.weight",
        linen(attention(out_kernel_init=torch_weight), (1, 3, 256), "out", "kernel"),
        0.0625,
        0.001305198,
        65_536,
    ),
    Golden(
        "keras.layers.Dense(1000).kernel",
        linen(dense(keras_weight), (1, 400), "kernel"),
        0.06546537,
        0.001431559,
        400_000,
    ),
    Golden(
        "keras.layers.Conv2D(128, 3, groups=4).kernel",
        linen(conv(keras_weight, groups=4), image, "kernel"),
        0.06804138,
        0.001544582,
        18_432,
    ),
    Golden(
        "keras.layers.Conv2DTranspose(128, 4, strides=2).kernel",
        linen(transposed(keras_weight), image, "kernel"),
        0.04419417,
        0.0006505224,
        131_072,
    ),
    Golden(
        "keras.layers.MultiHeadAttention(8, 32) query kernel",
        lambda: per_head(KEY, (256, 8, 32)),
        0.1082532,
        0.003873744,
        65_536,
    ),
    Golden(
        "keras.layers.LSTM(256).kernel",
        lambda: keras_weight(KEY, (100, 4 * 256)),
        0.07306227,
        0.001778718,
        102_400,
    ),
    Golden(
        "keras.layers.Embedding(1000, 300).embeddings",
        linen(
            nn.Embed(1000, 300, embedding_init=ours.keras_default_embedding()),
            (1,),
            "embedding",
            dtype=int,
        ),
        0.05,
        0.0008338508,
        300_000,
    ),
]


def assert_law(weight, bound):
    """Uniform on ±bound: the moments, and the bound itself to within one ulp."""
    testing.assert_moments(weight, variance=bound**2 / 3, kurtosis=UNIFORM)
    # All n draws stay below 1 - t of the bound with probability (1 - t)^n.
    farthest = float(jnp.abs(weight).max())
    reached = 1 - math.log(1e9) / weight.size
    assert reached * bound <= farthest <= bound * (1 + 1e-6)


@pytest.mark.parametrize("golden", GOLDEN, ids=str)
def test_the_layer_of_flax_starts_as_the_layer_of_the_framework(golden):
    assert_law(golden.make(), golden.bound)


@pytest.mark.parametrize("golden", GOLDEN, ids=str)
def test_the_framework_itself_was_measured_to_follow_the_formula(golden):
    spread = math.sqrt((UNIFORM - 1) / golden.draws)
    assert abs(golden.measured / (golden.bound**2 / 3) - 1) < 6.2 * spread


def test_a_default_of_flax_in_its_place_would_be_noticed():
    for init in (ours.lecun_uniform(), ours.glorot_uniform()):
        with pytest.raises(AssertionError):
            assert_law(linen(dense(init), (1, 400), "kernel")(), 0.05)
    # Glorot's law on query, key and value apart: twice the variance of PyTorch's.
    apart = linen(attention(kernel_init=keras_weight), (1, 3, 256), "query", "kernel")
    with pytest.raises(AssertionError):
        assert_law(apart(), 0.07654655)


def test_a_fused_kernel_has_the_law_of_the_three_that_it_holds():
    fused = ours.glorot_uniform()(KEY, (256, 3 * 256))
    assert_law(fused, 0.07654655)
    assert fans((256, 3 * 256)).fan_out == 3 * fans((256, 256)).fan_out


def test_one_bias_for_two_has_twice_the_variance():
    bias = ours.scaled(ours.torch_default_recurrent(256), 2**0.5)(KEY, (20_000,))
    testing.assert_moments(bias, variance=2 * 0.0625**2 / 3, kurtosis=UNIFORM)


def test_the_rest_of_keras_has_names_here():
    """Golden: recurrent_kernel of LSTM(256), rows orthonormal; bias 0, 1, 0, 0."""
    kernel = ours.orthogonal()(KEY, (16, 64))
    testing.assert_orthogonal(kernel)
    blocks = ours.forget_gates()(KEY, (4 * 16,)).reshape(4, 16)
    np.testing.assert_array_equal(blocks, np.outer([0, 1, 0, 0], np.ones(16)))


def test_keras_draws_glorot_for_every_use():
    shape = (4, 16, 8)
    for use in ({}, {"batch_axis": 0}, {"equation": "bad,ade->bae"}):
        np.testing.assert_array_equal(
            ours.keras_default(**use)(KEY, shape),
            ours.glorot_uniform(**use)(KEY, shape),
        )


ERRORS = [
    (lambda: ours.torch_default_bias(0), "fan_in must be positive, got 0"),
    (lambda: ours.torch_default_recurrent(-1), "hidden must be positive, got -1"),
    (
        lambda: ours.torch_default(groups=2),
        "torch_default: got an unexpected keyword argument 'groups'",
    ),
    (
        lambda: ours.torch_default_attention()(KEY, (3,)),
        "Can't compute input and output sizes of a 1-dimensional weights tensor with "
        "default in_axis. Must be at least 2D or specify in_axis explicitly. "
        "Got shape (3,)",
    ),
]


@pytest.mark.parametrize(
    ("act", "text"), ERRORS, ids=lambda v: None if callable(v) else str(v)[:60]
)
def test_errors_name_the_argument(act, text):
    with pytest.raises((ValueError, TypeError), match=f"^{re.escape(text)}$"):
        act()
