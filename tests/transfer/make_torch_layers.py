"""Record what torch's layers compute, for the tests of torch_layout.

Run once with torch installed (recorded with torch 2.13.0), from this folder:

    python make_torch_layers.py

Each layer of `torch_layers.npz` has its state_dict, an input and the output; tests need
no torch.
"""

import pathlib

import numpy as np
import torch
from torch import nn

FILE = pathlib.Path(__file__).parent / "fixtures" / "torch_layers.npz"


def attention(module):
    def call(query, key, value):
        return module(query, key, value, need_weights=False)[0]

    return call


def first(module):
    return lambda x: module(x)[0]


LAYERS = {
    "linear": (nn.Linear(3, 5), [(2, 3)]),
    "square_linear": (nn.Linear(4, 4), [(2, 4)]),
    "conv1d": (nn.Conv1d(3, 4, 3, padding=1), [(2, 3, 9)]),
    "conv2d": (
        nn.Conv2d(3, 4, (3, 2), stride=2, padding=1, dilation=2),
        [(2, 3, 9, 8)],
    ),
    "conv3d": (nn.Conv3d(2, 3, (3, 2, 3)), [(1, 2, 5, 4, 6)]),
    "grouped": (nn.Conv2d(4, 6, 3, groups=2), [(1, 4, 5, 5)]),
    "depthwise": (nn.Conv2d(4, 8, 3, groups=4), [(1, 4, 5, 5)]),
    "transposed1d": (nn.ConvTranspose1d(3, 4, 4, stride=2), [(2, 3, 5)]),
    "transposed2d": (nn.ConvTranspose2d(3, 3, (3, 2), stride=2), [(1, 3, 4, 5)]),
    "transposed3d": (nn.ConvTranspose3d(2, 3, 3, stride=1), [(1, 2, 3, 4, 3)]),
    "embedding": (nn.Embedding(7, 3), [(2, 4)]),
    "batch_norm": (nn.BatchNorm2d(4), [(2, 4, 3, 3)]),
    "layer_norm": (nn.LayerNorm(6), [(2, 6)]),
    "group_norm": (nn.GroupNorm(2, 6), [(2, 6, 4)]),
    "rnn": (nn.RNN(3, 5, batch_first=True), [(2, 6, 3)]),
    "lstm": (nn.LSTM(3, 5, batch_first=True), [(2, 6, 3)]),
    "lstm_cell": (nn.LSTMCell(3, 5), [(2, 3)]),
    "gru": (nn.GRU(3, 5, batch_first=True), [(2, 6, 3)]),
    "both_ways": (nn.LSTM(3, 4, bidirectional=True, batch_first=True), [(2, 6, 3)]),
    "attention": (nn.MultiheadAttention(8, 2, batch_first=True), [(2, 5, 8)] * 3),
    "separate": (
        nn.MultiheadAttention(8, 2, kdim=6, vdim=4, batch_first=True),
        [(2, 5, 8), (2, 3, 6), (2, 3, 4)],
    ),
    # What follows flattened feature maps sees channels first.
    "flattened": (nn.Sequential(nn.Flatten(), nn.Linear(24, 3)), [(2, 4, 3, 2)]),
}


def main():
    torch.manual_seed(6)
    record = {}
    for name, (layer, shapes) in LAYERS.items():
        with torch.no_grad():
            for value in [*layer.parameters(), *layer.buffers()]:
                # Nothing that is 0 or 1 by default may be forgotten unnoticed.
                if value.is_floating_point():
                    value.copy_(torch.rand_like(value) + 0.1)
                    value.mul_(1.0 if "norm" in name else 0.5)
        layer.eval()
        inputs = [torch.randn(shape) for shape in shapes]
        if name == "embedding":
            inputs = [torch.randint(0, 7, shapes[0])]
        call = layer
        if isinstance(layer, nn.MultiheadAttention):
            call = attention(layer)
        elif isinstance(layer, (nn.RNNBase, nn.LSTMCell)):
            call = first(layer)
        with torch.no_grad():
            output = call(*inputs)
        for key, value in layer.state_dict().items():
            record[f"{name}:state:{key}"] = value.numpy()
        for position, value in enumerate(inputs):
            record[f"{name}:input:{position}"] = value.numpy()
        record[f"{name}:output"] = output.numpy()
    np.savez_compressed(FILE, **record)


if __name__ == "__main__":
    main()
