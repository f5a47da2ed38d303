"""The same three networks in torch, whose construction draws them.

`NETWORKS` maps a name to a function that returns the module. By default its weights
are drawn as torch draws them (uniform ones); with ``same=True`` from the distributions
of the Flax networks, into memory that torch has not drawn into before.
"""

import torch
from torch import nn


def drawn(kind, *sizes, same, stddev=None, **options):
    """A layer; a normal weight with `stddev`, or lecun's truncated one, if `same`."""
    if not same:
        return kind(*sizes, **options)
    layer = nn.utils.skip_init(kind, *sizes, **options)
    if stddev is None:
        # The deviation of a normal cut at two of its own is 0.8796 of it.
        stddev = layer.weight[0].numel() ** -0.5 / 0.87962566103423978
        nn.init.trunc_normal_(layer.weight, 0.0, stddev, -2 * stddev, 2 * stddev)
    else:
        nn.init.normal_(layer.weight, 0.0, stddev)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer


def conv(width_in, width, size, stride=1, *, same, bias=False):
    sizes = width_in, width, size, stride, size // 2
    return drawn(nn.Conv2d, *sizes, same=same, bias=bias)


class Bottleneck(nn.Module):
    def __init__(self, width_in, width, stride, same):
        super().__init__()
        self.conv1 = conv(width_in, width, 1, same=same)
        self.norm1 = nn.BatchNorm2d(width)
        self.conv2 = conv(width, width, 3, stride, same=same)
        self.norm2 = nn.BatchNorm2d(width)
        self.conv3 = conv(width, 4 * width, 1, same=same)
        self.norm3 = nn.BatchNorm2d(4 * width)
        if stride > 1 or width_in != 4 * width:
            self.conv4 = conv(width_in, 4 * width, 1, stride, same=same)
            self.norm4 = nn.BatchNorm2d(4 * width)


def resnet50(*, same=False):
    layers, width_in = [conv(3, 64, 7, 2, same=same), nn.BatchNorm2d(64)], 64
    for stage, count in enumerate((3, 4, 6, 3)):
        width = 64 * 2**stage
        for block in range(count):
            stride = 2 if stage > 0 and block == 0 else 1
            layers.append(Bottleneck(width_in, width, stride, same))
            width_in = 4 * width
    return nn.Sequential(*layers, drawn(nn.Linear, width_in, 1000, same=same))


class Block(nn.Module):
    def __init__(self, width, same, stddev=None):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        sizes = {"query": (1, 1), "key": (1, 1), "value": (1, 1), "out": (1, 1)}
        sizes |= {"up": (1, 4), "down": (4, 1)}
        for name, (into, out) in sizes.items():
            widths = into * width, out * width
            layer = drawn(nn.Linear, *widths, same=same, stddev=stddev)
            self.add_module(name, layer)


def table(rows, width, stddev):
    return nn.Parameter(nn.init.normal_(torch.empty(rows, width), 0.0, stddev))


def gpt2(depth=12, width=768, words=50257, *, same=False):
    blocks = [Block(width, same, 0.02) for _ in range(depth)]
    module = nn.Sequential(*blocks, nn.LayerNorm(width))
    module.embed = table(words, width, 0.02)
    module.places = table(1024, width, 0.01)
    return module


def vit(depth=12, width=768, *, same=False):
    blocks = [Block(width, same) for _ in range(depth)]
    patches = conv(3, width, 16, 16, same=same, bias=True)
    head = drawn(nn.Linear, width, 1000, same=same)
    module = nn.Sequential(patches, *blocks, nn.LayerNorm(width), head)
    module.places = table(196, width, 0.02)
    return module


NETWORKS = {"resnet50": resnet50, "gpt2": gpt2, "vit": vit}
