"""The same three networks as nnx modules; `NETWORKS` as in networks_linen."""

from functools import partial

from flax import nnx

zeros = nnx.initializers.zeros


class Bottleneck(nnx.Module):
    def __init__(self, width_in, width, stride, rngs):
        conv = partial(nnx.Conv, use_bias=False, rngs=rngs)
        strides = (stride, stride)
        self.conv1 = conv(width_in, width, (1, 1))
        self.norm1 = nnx.BatchNorm(width, rngs=rngs)
        self.conv2 = conv(width, width, (3, 3), strides)
        self.norm2 = nnx.BatchNorm(width, rngs=rngs)
        self.conv3 = conv(width, 4 * width, (1, 1))
        self.norm3 = nnx.BatchNorm(4 * width, scale_init=zeros, rngs=rngs)
        if stride > 1 or width_in != 4 * width:
            self.conv4 = conv(width_in, 4 * width, (1, 1), strides)
            self.norm4 = nnx.BatchNorm(4 * width, rngs=rngs)


class ResNet(nnx.Module):
    def __init__(self, rngs, blocks=(3, 4, 6, 3)):
        self.stem = nnx.Conv(3, 64, (7, 7), (2, 2), use_bias=False, rngs=rngs)
        self.norm = nnx.BatchNorm(64, rngs=rngs)
        layers, width_in = [], 64
        for stage, count in enumerate(blocks):
            width = 64 * 2**stage
            for block in range(count):
                stride = 2 if stage > 0 and block == 0 else 1
                layers.append(Bottleneck(width_in, width, stride, rngs))
                width_in = 4 * width
        self.layers = nnx.List(layers)
        self.head = nnx.Linear(width_in, 1000, rngs=rngs)


class Block(nnx.Module):
    def __init__(self, width, rngs, kernel_init):
        linear = partial(nnx.Linear, kernel_init=kernel_init, rngs=rngs)
        self.norm1 = nnx.LayerNorm(width, rngs=rngs)
        self.attention = nnx.MultiHeadAttention(
            width // 64, width, kernel_init=kernel_init, decode=False, rngs=rngs
        )
        self.norm2 = nnx.LayerNorm(width, rngs=rngs)
        self.up = linear(width, 4 * width)
        self.down = linear(4 * width, width)


class GPT(nnx.Module):
    def __init__(self, rngs, depth=12, width=768, words=50257):
        normal = nnx.initializers.normal
        self.embed = nnx.Embed(words, width, embedding_init=normal(0.02), rngs=rngs)
        self.places = nnx.Param(normal(0.01)(rngs.params(), (1024, width)))
        blocks = [Block(width, rngs, normal(0.02)) for _ in range(depth)]
        self.blocks = nnx.List(blocks)
        self.norm = nnx.LayerNorm(width, rngs=rngs)


class ViT(nnx.Module):
    def __init__(self, rngs, depth=12, width=768):
        self.patches = nnx.Conv(3, width, (16, 16), (16, 16), rngs=rngs)
        places = nnx.initializers.normal(0.02)(rngs.params(), (1, 196, width))
        self.places = nnx.Param(places)
        lecun = nnx.initializers.lecun_normal()
        self.blocks = nnx.List([Block(width, rngs, lecun) for _ in range(depth)])
        self.norm = nnx.LayerNorm(width, rngs=rngs)
        self.head = nnx.Linear(width, 1000, rngs=rngs)


def construction(module):
    def init(key):
        return nnx.state(module(nnx.Rngs(key)))

    return init, ()


NETWORKS = {
    "resnet50": lambda: construction(ResNet),
    "gpt2": lambda **sizes: construction(partial(GPT, **sizes)),
    "vit": lambda: construction(ViT),
}
