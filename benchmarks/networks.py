"""The networks that benchmarks of audit and calibrate run on, in linen."""

from __future__ import annotations

from typing import Any

import jax
from flax import linen as nn
from networks_linen import ResNet, ViT

import jaxinit


class Plain(nn.Module):
    """Layers of one width without a norm."""

    depth: int = 50
    width: int = 128
    activation: Any = nn.relu

    @nn.compact
    def __call__(self, x):
        for _ in range(self.depth):
            x = self.activation(nn.Dense(self.width)(x))
        return nn.Dense(10)(x)


NETWORKS = {
    "mlp-50": (Plain(), (128, 128)),
    "resnet-50": (ResNet(), (8, 64, 64, 3)),
    "vit-b": (ViT(), (4, 64, 64, 3)),
}


def built(name: str) -> Any:
    """``(f, params, *args)`` of a network, with real weights and normal data."""
    module, shape = NETWORKS[name]
    x = jax.random.normal(jax.random.key(1), shape)
    variables = jax.jit(module.init)(jax.random.key(0), x)
    return jaxinit.from_linen(module, jax.block_until_ready(variables), x)
