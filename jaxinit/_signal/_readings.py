"""All that is known about one layer of one weight, as plain numbers."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from jaxinit._signal._activity import Tails, wanted
from jaxinit._signal._duplicates import duplicate_share
from jaxinit._signal._measured import Measured
from jaxinit._signal._places import Place
from jaxinit._signal._program import Signal
from jaxinit._signal._sites import equation
from jaxinit._signal._use import Use

NAN = math.nan


@dataclasses.dataclass(frozen=True)
class Reading:
    """One layer of one place.

    Attributes:
      label: the name of the weight, with the number of the layer in a stack.
      leaf: the full name of the weight.
      place: where it meets the signal.
      index: of the layer in a stack.
      size: how many numbers the weight has, in this layer.
      gain: rms(w) sqrt(fan_in); NaN where the fan is not known, or the weight is
        transformed first.
      wanted: between which gains the activation wants it.
      weight_rms: of the weight.
      duplicates: the share of units that equal another one.
      gradient: rms of the gradient with respect to the product.
      slope: rms of the gradient with respect to the weight.
      apart, idle, dead, expected_dead, examples, units, tails: see :class:`Moments`.
    """

    label: str
    leaf: str
    place: Place
    index: tuple[int, ...]
    size: int
    gain: float
    wanted: tuple[float, float]
    weight_rms: float
    duplicates: float
    input_rms: float
    product_rms: float
    rms: float
    mean: float
    cosine: float
    apart: float
    idle: float
    dead: float
    expected_dead: float
    examples: int
    units: int
    tails: Tails
    gradient: float
    slope: float

    @property
    def activation(self) -> str:
        """The name of the activation for a sentence."""
        return self.place.use.activation_name or "the activation"

    @property
    def numbers(self) -> Iterable[float]:
        """What would not be finite if the signal is not."""
        return self.input_rms, self.product_rms, self.rms


def readings(
    signal: Signal,
    found: Sequence[Place],
    measured: Measured,
    slices: Sequence[tuple[int, ...]],
) -> list[Reading]:
    """A reading for each layer that ran, in the order in which they run."""
    rows: list[tuple[Any, Reading]] = []
    for place, moments in zip(found, measured.moments, strict=True):
        leaf = signal.params.leaves[place.leaf]
        axes = [axis for axis in place.layer_axes if axis is not None]
        size = math.prod(n for axis, n in enumerate(leaf.shape) if axis not in axes)
        own = _aligned(measured.weight_rms[place.leaf], slices[place.leaf], axes)
        slope = _aligned(measured.gradient_rms[place.leaf], slices[place.leaf], axes)
        copies = duplicate_share(leaf, place.use, axes)
        fan_in = place.use.fan_in
        for index in np.ndindex(place.layers):
            if not moments.ran[index]:
                continue
            weight = float(own[index])
            plain = fan_in is not None and not place.use.transformed
            reading = Reading(
                label=place.name.full + "".join(f"[{n}]" for n in index),
                leaf=place.name.full,
                place=place,
                index=index,
                size=size,
                gain=weight * math.sqrt(fan_in) if plain and fan_in else NAN,
                wanted=_wanted(place.use),
                weight_rms=weight,
                duplicates=float(copies[index]),
                input_rms=float(moments.input_rms[index]),
                product_rms=float(moments.product_rms[index]),
                rms=float(moments.rms[index]),
                mean=float(moments.mean[index]),
                cosine=float(moments.cosine[index]),
                apart=float(moments.apart[index]),
                idle=float(moments.idle[index]),
                dead=float(moments.dead[index]),
                expected_dead=float(moments.expected_dead[index]),
                examples=moments.examples,
                units=moments.units,
                tails=moments.tails,
                gradient=float(moments.gradient_rms[index]),
                slope=float(slope[index]),
            )
            rows.append((order_of(place, index), reading))
    return [reading for _, reading in sorted(rows, key=lambda row: row[0])]


def _wanted(use: Use) -> tuple[float, float]:
    """Of one product; if several are added, they may share what is wanted."""
    low, high = wanted(use.activation)
    return low / math.sqrt(use.summed), high


def order_of(place: Place, index: Sequence[int]) -> tuple[Any, ...]:
    """Sorts as the program runs: layer by layer, and within a layer by equation."""
    numbers = iter(index)
    layers = {
        step: next(numbers)
        for step, axis in zip(place.entries, place.layer_axes, strict=True)
        if axis is not None
    }
    return tuple(
        part
        for number, step in enumerate(place.site)
        for part in ((step, layers.get(number, 0)) if number % 2 else (step,))
    )


def _aligned(array: Any, stacked: Sequence[int], axes: Sequence[int]) -> np.ndarray:
    """An array by stacked axes, as one by these, averaged over the others."""
    if array is None:
        return np.full([1] * len(axes), NAN)
    squares = np.square(np.asarray(array, np.float64))
    rest = tuple(n for n, axis in enumerate(stacked) if axis not in axes)
    kept = [axis for axis in stacked if axis in axes]
    mean = np.mean(squares, axis=rest)
    return np.sqrt(np.transpose(mean, [kept.index(axis) for axis in axes]))


def dilated(signal: Signal, place: Place) -> bool:
    """Whether the product is a transposed convolution: strides of its input."""
    params = equation(signal.program, place.site).params
    return any(step > 1 for step in params.get("lhs_dilation", ()))


def by_leaf(rows: Iterable[Reading]) -> Mapping[str, list[Reading]]:
    """The readings of each weight."""
    found: dict[str, list[Reading]] = {}
    for reading in rows:
        found.setdefault(reading.leaf, []).append(reading)
    return found
