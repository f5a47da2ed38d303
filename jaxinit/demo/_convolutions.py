"""Convolutions that a CPU runs fast: the same weights, the same numbers.

XLA runs a convolution with one group for each channel ten times slower on a CPU than a
sum of shifted products; and one of size 1 is a matrix product.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn


def depthwise(x: jax.Array, kernel: jax.Array, *, stride: int = 1) -> jax.Array:
    r"""Each channel convolved with a kernel of its own, with padding "SAME".

    .. math::
        y_{ijc} = \sum_{rs} k_{rs1c} \, x_{si + r,\, sj + s,\, c}

    `x` is (batch, height, width, channels), `kernel` (rows, columns, 1, channels).

    >>> x, kernel = jnp.ones((1, 4, 4, 2)), jnp.ones((3, 3, 1, 2))
    >>> depthwise(x, kernel)[0, :, :, 0].tolist()[0]
    [4.0, 6.0, 6.0, 4.0]
    """
    rows, columns = kernel.shape[:2]
    height, above, below = _same(x.shape[1], rows, stride)
    width, left, right = _same(x.shape[2], columns, stride)
    x = jnp.pad(x, ((0, 0), (above, below), (left, right), (0, 0)))
    total = None
    for row in range(rows):
        for column in range(columns):
            down = slice(row, row + (height - 1) * stride + 1, stride)
            along = slice(column, column + (width - 1) * stride + 1, stride)
            product = x[:, down, along] * kernel[row, column][None, None]
            total = product if total is None else total + product
    assert total is not None
    return total


def _same(length: int, taps: int, stride: int) -> tuple[int, int, int]:
    """The outputs along an axis, and the padding before and behind."""
    outputs = -(-length // stride)
    padding = max((outputs - 1) * stride + taps - length, 0)
    return outputs, padding // 2, padding - padding // 2


class Convolution(nn.Module):
    """A convolution of size 1, or with a group for each channel; no bias.

    The parameter is that of `nn.Conv`: the same name, shape and draw.
    """

    features: int
    size: int = 1
    stride: int = 1
    groups: int = 1
    kernel_init: Callable[..., Any] = nn.initializers.lecun_normal()

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        inputs = x.shape[-1] // self.groups
        shape = (self.size, self.size, inputs, self.features)
        kernel = self.param("kernel", self.kernel_init, shape)
        if self.size > 1:
            return depthwise(x, kernel, stride=self.stride)
        x = x[:, :: self.stride, :: self.stride]
        return jnp.tensordot(x, kernel[0, 0], 1)
