"""From the sums that a program recorded to moments, layer by layer."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxinit._signal import _moments
from jaxinit._signal._activity import Tails
from jaxinit._signal._places import Place, shape_at
from jaxinit._signal._program import Signal
from jaxinit._signal._sites import equation
from jaxinit._signal._use import Site


@dataclasses.dataclass(frozen=True, eq=False)
class Moments:
    """What was measured at one place; arrays have its layers as axes.

    Attributes:
      input_rms: root mean square of the signal that the weight multiplies.
      product_rms: of the product itself, before the bias.
      rms: of the product with its bias.
      mean: of the product with its bias.
      cosine: mean cosine of the angle between two examples there.
      idle: share of the numbers in the flat tails of the activation; NaN if it has
        none.
      dead: share of the units that are there for all examples.
      examples: how many these are.
      units: how many there are.
      gradient_rms: of the gradient with respect to the product; NaN if it has none.
      ran: whether the program came here.
      tails: of the activation.
    """

    input_rms: np.ndarray
    product_rms: np.ndarray
    rms: np.ndarray
    mean: np.ndarray
    cosine: np.ndarray
    idle: np.ndarray
    dead: np.ndarray
    examples: int
    units: int
    gradient_rms: np.ndarray
    ran: np.ndarray
    tails: Tails


@dataclasses.dataclass(frozen=True, eq=False)
class Measured:
    """All that one call tells.

    Attributes:
      moments: for each place, in order.
      weight_rms: for each parameter its root mean square, by index along its stacked
        axes; None for one of whole numbers.
      gradient_rms: likewise of the gradient; None where there is none.
      loss: what was differentiated.
      backward: whether gradients exist at all.
    """

    moments: list[Moments]
    weight_rms: list[np.ndarray | None]
    gradient_rms: list[np.ndarray | None]
    loss: float
    backward: bool


def moments_of(
    signal: Signal,
    place: Place,
    ends: Tails,
    examples: int | None,
    records: Mapping[Site, Any],
    seen: Mapping[Site, Any],
) -> Moments:
    """What the records of a place amount to.

    Args:
      signal: the traced program.
      place: one of its products.
      ends: the tails of the activation there.
      examples: how many examples the batch has.
      records: what the probes recorded, by site.
      seen: the gradients' sums of squares, by site.
    """
    eqn = equation(signal.program, place.site)
    data = eqn.invars[1 - (place.use.operand or 0)].aval.size
    shape = shape_at(signal, place.after)
    features = _moments.feature_axes(eqn, place.use.operand, shape)
    units = math.prod(shape[axis] for axis in features)
    size = math.prod(shape)
    product, after = records[place.site], records[place.after]
    gather = _Layers(place, product["runs"])

    square = gather.mean(product["product"]) / eqn.outvars[0].aval.size
    gram, blank = gather.total(after["gram"]), np.full(place.layers, np.nan)
    ran = gather.runs > 0
    whole = _moments.examples_at(shape, features, examples)
    idle, dead = blank, blank
    if "idle" in after:
        counts = gather.total(after["idle"])
        runs = gather.runs * (size // units)
        with np.errstate(invalid="ignore", divide="ignore"):
            idle = np.sum(counts, axis=-1) / (units * runs)
            dead = np.mean(counts == runs[..., None], axis=-1)
        dead = np.where(ran, dead, np.nan)
    slope = seen.get(place.after)
    return Moments(
        input_rms=np.sqrt(gather.mean(product["input"]) / data),
        product_rms=np.sqrt(square),
        rms=np.sqrt(gather.mean(after["square"]) / size),
        mean=gather.mean(after["sum"]) / size,
        cosine=_moments.cosine(gram),
        idle=idle,
        dead=dead,
        examples=whole,
        units=units,
        gradient_rms=blank if slope is None else np.sqrt(gather.mean(slope) / size),
        ran=ran,
        tails=ends,
    )


class _Layers:
    """Sums over all that is no layer: repetitions and devices that came here."""

    def __init__(self, place: Place, runs: Any):
        self.place = place
        self.came = np.asarray(runs) > 0
        self.runs = self.total(self.came.astype(np.float64))

    def total(self, array: Any) -> np.ndarray:
        array = np.asarray(array, np.float64)
        came = self.came.reshape(self.came.shape + (1,) * (array.ndim - self.came.ndim))
        moved, rest = self.place.by_layer(np.where(came, array, 0.0))
        return np.sum(moved, axis=rest)

    def mean(self, array: Any) -> np.ndarray:
        total = self.total(array)
        runs = self.runs.reshape(self.runs.shape + (1,) * (total.ndim - self.runs.ndim))
        with np.errstate(invalid="ignore", divide="ignore"):
            return total / runs


def rms(square: Any, size: int) -> np.ndarray:
    """The root mean square of so many numbers, from their sum of squares."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.sqrt(np.asarray(square, np.float64) / size)
