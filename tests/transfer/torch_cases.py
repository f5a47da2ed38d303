"""Torch's layers and what they are called in Flax, with how each is applied."""

import pathlib
from dataclasses import dataclass, field
from functools import partial

import jax
import numpy as np
from flax import linen as nn
from flax import nnx

from jaxinit import transfer as tr

RECORD = np.load(pathlib.Path(__file__).parent / "fixtures" / "torch_layers.npz")
ALL = (tr.torch_layout(),)
IN_CELL = (tr.rename("(.*)", r"cell/\1"), *ALL)
BACKWARDS = (tr.torch_layout(transposed="kernel"),)
BOTH = (
    tr.rename("(.*)_reverse", r"backward_rnn/cell/\1"),
    tr.rename("(.*)", r"forward_rnn/cell/\1"),
    *ALL,
)
FLATTENED = (
    tr.rename("1/(.*)", r"\1"),
    tr.layout("kernel", unflatten=(3, 4, 3, 2), transpose=(2, 3, 1, 0), reshape=True),
    *ALL,
)


def state_of(layer):
    """The recorded state_dict, with paths for keys."""
    start = f"{layer}:state:"
    return {
        key.removeprefix(start).replace(".", "/"): RECORD[key]
        for key in RECORD.files
        if key.startswith(start)
    }


def channels_last(array):
    return np.moveaxis(array, 1, -1)


def inputs_of(layer):
    start = f"{layer}:input:"
    return [RECORD[key] for key in RECORD.files if key.startswith(start)]


@dataclass(frozen=True)
class Case:
    """A layer of torch, a module of Flax, the rules between them, and their calls."""

    layer: str
    module: object
    rules: tuple = ALL
    pictures: bool = False  # the channels stand elsewhere
    call: object = field(default=lambda module, *inputs: module(*inputs))

    def __str__(self):
        return self.layer

    def inputs(self):
        inputs = inputs_of(self.layer)
        return [*map(channels_last, inputs)] if self.pictures else inputs

    def expected(self):
        output = RECORD[f"{self.layer}:output"]
        return channels_last(output) if self.pictures and output.ndim > 2 else output


def from_zeros(cell, inputs):
    carry = jax.numpy.zeros((inputs.shape[0], 5))
    return cell((carry, carry), inputs)[1]


def pictures(layer, module, rules=ALL):
    return Case(layer, module, rules, pictures=True)


def flat(module, inputs):
    return module(inputs.reshape(inputs.shape[0], -1))


def linen_cases():
    yield Case("linear", nn.Dense(5))
    yield Case("square_linear", nn.Dense(4))
    yield pictures("conv1d", nn.Conv(4, (3,), padding=1))
    wide = {"strides": 2, "padding": 1, "kernel_dilation": 2}
    yield pictures("conv2d", nn.Conv(4, (3, 2), **wide))
    yield pictures("conv3d", nn.Conv(3, (3, 2, 3), padding="VALID"))
    yield pictures("grouped", nn.Conv(6, (3, 3), feature_group_count=2, padding=0))
    yield pictures("depthwise", nn.Conv(8, (3, 3), feature_group_count=4, padding=0))
    for adjoint, rules in ((False, BACKWARDS), (True, ALL)):
        more = {"padding": "VALID", "transpose_kernel": adjoint}
        one = nn.ConvTranspose(4, (4,), strides=(2,), **more)
        yield pictures("transposed1d", one, rules)
        two = nn.ConvTranspose(3, (3, 2), strides=(2, 2), **more)
        yield pictures("transposed2d", two, rules)
        yield pictures("transposed3d", nn.ConvTranspose(3, (3, 3, 3), **more), rules)
    yield Case("embedding", nn.Embed(7, 3))
    yield pictures("batch_norm", nn.BatchNorm(use_running_average=True, epsilon=1e-5))
    yield Case("layer_norm", nn.LayerNorm(epsilon=1e-5))
    yield pictures("group_norm", nn.GroupNorm(num_groups=2, epsilon=1e-5))
    yield Case("rnn", nn.RNN(nn.SimpleCell(5)), IN_CELL)
    yield Case("lstm", nn.RNN(nn.LSTMCell(5)), IN_CELL)
    yield Case("lstm", nn.RNN(nn.OptimizedLSTMCell(5)), IN_CELL)
    yield Case("lstm_cell", nn.LSTMCell(5), call=from_zeros)
    yield Case("gru", nn.RNN(nn.GRUCell(5)), IN_CELL)
    two = [nn.RNN(nn.LSTMCell(4)), nn.RNN(nn.LSTMCell(4))]
    yield Case("both_ways", nn.Bidirectional(*two), BOTH)
    heads = {"num_heads": 2, "qkv_features": 8, "out_features": 8}
    yield Case("attention", nn.MultiHeadDotProductAttention(**heads))
    yield Case("separate", nn.MultiHeadDotProductAttention(**heads))
    yield Case("flattened", nn.Dense(3), FLATTENED, pictures=True, call=flat)


def nnx_cases():
    """Modules come as functions of their random numbers, so that none is drawn."""

    yield Case("linear", partial(nnx.Linear, 3, 5))
    yield Case("square_linear", partial(nnx.Linear, 4, 4))
    plain = {"padding": "VALID"}
    for layer, sizes, options in (
        ("conv1d", (3, 4, (3,)), {"padding": 1}),
        ("conv2d", (3, 4, (3, 2)), {"strides": 2, "padding": 1, "kernel_dilation": 2}),
        ("conv3d", (2, 3, (3, 2, 3)), plain),
        ("grouped", (4, 6, (3, 3)), {"feature_group_count": 2, **plain}),
        ("depthwise", (4, 8, (3, 3)), {"feature_group_count": 4, **plain}),
    ):
        yield pictures(layer, partial(nnx.Conv, *sizes, **options))
    for adjoint, rules in ((False, BACKWARDS), (True, ALL)):
        for layer, sizes, strides in (
            ("transposed1d", (3, 4, (4,)), (2,)),
            ("transposed2d", (3, 3, (3, 2)), (2, 2)),
            ("transposed3d", (2, 3, (3, 3, 3)), (1, 1, 1)),
        ):
            more = {"strides": strides, "transpose_kernel": adjoint, **plain}
            yield pictures(layer, partial(nnx.ConvTranspose, *sizes, **more), rules)
    yield Case("embedding", partial(nnx.Embed, 7, 3))
    average = {"use_running_average": True, "epsilon": 1e-5}
    yield pictures("batch_norm", partial(nnx.BatchNorm, 4, **average))
    yield Case("layer_norm", partial(nnx.LayerNorm, 6, epsilon=1e-5))
    group = {"num_groups": 2, "epsilon": 1e-5}
    yield pictures("group_norm", partial(nnx.GroupNorm, 6, **group))
    for layer, cell in (
        ("rnn", nnx.SimpleCell),
        ("lstm", nnx.LSTMCell),
        ("lstm", nnx.OptimizedLSTMCell),
    ):
        yield Case(layer, partial(recurrent, cell), IN_CELL)
    yield Case("lstm_cell", partial(nnx.LSTMCell, 3, 5), call=from_zeros)
    yield Case("both_ways", both_ways, BOTH)
    heads = {"num_heads": 2, "in_features": 8, "decode": False}
    yield Case("attention", partial(nnx.MultiHeadAttention, **heads))
    yield Case(
        "flattened", partial(nnx.Linear, 24, 3), FLATTENED, pictures=True, call=flat
    )


def recurrent(cell, rngs):
    return nnx.RNN(cell(3, 5, rngs=rngs))


def both_ways(rngs):
    two = [nnx.RNN(nnx.LSTMCell(3, 4, rngs=rngs)) for _ in range(2)]
    return nnx.Bidirectional(*two, rngs=rngs)
