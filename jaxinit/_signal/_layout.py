"""Independent weights in one stored array: drawn one by one, as if each stood alone."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxinit._signal._use import Use

Shape = tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Layout:
    """How the weights of one use lie in the stored array.

    Attributes:
      stored: the shape of the array.
      order: its axes, those of the batch first, then spatial ones, inputs, outputs.
      batch: how many of them select one of several weights.
      one: the shape of one weight: spatial axes, one for all inputs, one for outputs.
      parts: into how many weights the outputs are divided: groups, or fused blocks.
    """

    stored: Shape
    order: tuple[int, ...]
    batch: int
    one: Shape
    parts: int = 1

    def draw(self, init: Callable[..., Any], key: Any, dtype: Any) -> jax.Array:
        """An array of the stored shape, each weight of it from a key of its own."""
        sizes = [self.stored[axis] for axis in self.order]
        number = math.prod(sizes[: self.batch]) * self.parts
        if 0 in self.stored:
            return jnp.zeros(self.stored, dtype)
        if number == 1:
            drawn = init(key, self.one, dtype)
        else:
            drawn = jax.vmap(lambda key: init(key, self.one, dtype))(
                jax.random.split(key, number)
            )
        if self.parts > 1:
            drawn = drawn.reshape(-1, self.parts, *self.one)
            drawn = jnp.moveaxis(drawn, 1, -2)
        drawn = drawn.reshape(sizes)
        return jnp.transpose(drawn, tuple(np.argsort(self.order).tolist()))


def layout_of(use: Use, stored: Shape) -> Layout | None:
    """The layout that the use tells; None where an axis has two roles."""
    into, out, batch = list(use.in_axis), list(use.out_axis), list(use.batch_axis)
    if not (use.is_product or use.kind == "gather"):  # only loops tell these apart
        batch = list(use.stacked)
        rest = [axis for axis in range(len(stored)) if axis not in batch]
        one = tuple(stored[axis] for axis in rest)
        return Layout(stored, (*batch, *rest), len(batch), one)
    if len({*into, *out, *batch}) < len(into) + len(out) + len(batch):
        return None
    spatial = [axis for axis in range(len(stored)) if axis not in {*into, *out, *batch}]
    outputs = math.prod(stored[axis] for axis in out)
    parts = parts_of(use)
    one = (
        *(stored[axis] for axis in spatial),
        math.prod(stored[axis] for axis in into),
        outputs // parts,
    )
    return Layout(stored, (*batch, *spatial, *into, *out), len(batch), one, parts)


def parts_of(use: Use) -> int:
    """Into how many independent weights the outputs are divided."""
    if use.groups > 1:
        return use.groups
    return use.blocks if use.blocks > 1 else 1
