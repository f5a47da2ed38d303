"""Where in a program the weights meet the signal, and how many layers stand there."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxinit._paths import Name
from jaxinit._signal._parts import Part
from jaxinit._signal._program import Signal
from jaxinit._signal._sites import Level, equation, level_entries, levels
from jaxinit._signal._use import Site, Use


@dataclasses.dataclass(frozen=True, eq=False)
class Place:
    """One product of a weight and the signal.

    Attributes:
      leaf: the number of the weight among the parameters.
      name: what the weight is called.
      use: how it is used here.
      after: where the product is complete: the site of the sum with its bias and with
        other products, or that of the product itself.
      levels: the leading axes of what is recorded here, the outermost first.
      layer_axes: for each of them the axis of the stored array that it runs along;
        None where every run has the same weight, or there is one for each device.
      entries: for each of them the place in the site of the inner program that it is
        an axis of.
    """

    leaf: int
    name: Name
    use: Use
    after: Site
    levels: tuple[Level, ...]
    layer_axes: tuple[int | None, ...]
    entries: tuple[int, ...]

    @property
    def site(self) -> Site:
        """The equation of the product."""
        return self.use.site

    @property
    def layers(self) -> tuple[int, ...]:
        """How many layers stand here: () for one, (12,) for a scan over 12."""
        return tuple(
            level.size
            for level, axis in zip(self.levels, self.layer_axes, strict=True)
            if axis is not None
        )

    @property
    def repeated(self) -> bool:
        """Whether one layer runs several times in one call."""
        return any(
            axis is None and level.kind == "scan"
            for level, axis in zip(self.levels, self.layer_axes, strict=True)
        )

    def by_layer(self, array: Any) -> tuple[np.ndarray, tuple[int, ...]]:
        """A record with its layers in front, and the axes that follow them.

        The axes told are those of its remaining levels, to be summed over.
        """
        array = np.asarray(array)
        own = [n for n, axis in enumerate(self.layer_axes) if axis is not None]
        rest = [n for n, axis in enumerate(self.layer_axes) if axis is None]
        inner = range(len(self.levels), array.ndim)
        moved = np.transpose(array, (*own, *rest, *inner))
        return moved, tuple(range(len(own), len(own) + len(rest)))


def places(signal: Signal, uses: Mapping[str, Iterable[Use]]) -> list[Place]:
    """All products of weights and the signal, in the order of the program."""
    found = []
    for leaf, name in enumerate(signal.names):
        shape = np.shape(signal.leaves[leaf])
        for use in uses[name.full]:
            if not use.is_product:
                continue
            here = levels(signal.program, use.site)
            after = use.sum_site or use.bias_site or use.site
            if levels(signal.program, after) != here:
                after = use.site
            axes = _layer_axes(here, use.stacked, shape)
            entries = level_entries(signal.program, use.site)
            found.append(Place(leaf, name, use, after, here, axes, entries))
    return sorted(found, key=lambda place: place.site)


def _layer_axes(
    here: Sequence[Level], stacked: Sequence[int], shape: Sequence[int]
) -> tuple[int | None, ...]:
    """Which axis each level runs along; the last that fits, if more than one does.

    A loop in which a weight is sliced is mostly inside of one that repeats it.
    """
    left = list(stacked)
    axes: list[int | None] = [None] * len(here)
    for number in reversed(range(len(here))):
        if (
            left
            and here[number].kind == "scan"
            and here[number].size == shape[left[-1]]
        ):
            axes[number] = left.pop()
    return tuple(axes)


def shape_at(signal: Signal, site: Site) -> tuple[int, ...]:
    """The shape of the (first) result of the equation at a site."""
    return equation(signal.program, site).outvars[0].aval.shape


def part_after(signal: Signal, place: Place) -> Part | None:
    """The part of the sum with the bias that a weight makes; None if all of it."""
    product = equation(signal.program, place.site).outvars[0].aval.shape
    return place.use.part if shape_at(signal, place.after) == product else None


def examples_in(signal: Signal) -> int | None:
    """How many examples a call has: the leading size of the last array among the data.

    Flax's functions take collections and keys before the batch.
    """
    arguments = jax.tree.unflatten(signal.in_tree, signal.leaves)[1:]
    for argument in reversed(arguments):
        for leaf in jax.tree.leaves(argument):
            key = jax.dtypes.issubdtype(jnp.result_type(leaf), jax.dtypes.prng_key)
            if np.ndim(leaf) and not key:
                return np.shape(leaf)[0]
    return None
