"""From the sums that a program recorded to moments, layer by layer."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxinit._signal import _moments
from jaxinit._signal._activity import Tails
from jaxinit._signal._parts import Part, label, resized
from jaxinit._signal._places import Place, part_after, shape_at
from jaxinit._signal._program import Signal
from jaxinit._signal._sites import equation
from jaxinit._signal._thresholds import expected_dead
from jaxinit._signal._use import Site


@dataclasses.dataclass(frozen=True, eq=False)
class Moments:
    """What was measured at one place; arrays have its layers as axes.

    Attributes:
      input_rms: root mean square of the signal that the weight multiplies.
      product_rms: of the product itself, before the bias.
      rms: of the product with its bias.
      mean: of the product with its bias.
      cosine: mean cosine of the angle between two examples there; NaN where each has
        one number only, which has a sign and no direction.
      apart: how far two examples are from each other: 0 if all are equal, 1 if they
        are orthogonal.
      idle: share of the numbers in the flat tails of the activation; NaN if it has
        none.
      dead: share of the units that are there for all examples.
      expected_dead: what chance gives for it, see :mod:`._thresholds`.
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
    apart: np.ndarray
    idle: np.ndarray
    dead: np.ndarray
    expected_dead: np.ndarray
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
    whole_shape = shape_at(signal, place.after)
    part, part_here = place.use.part, part_after(signal, place)
    features = _moments.feature_axes(eqn, place.use.operand, whole_shape, part)
    shape = resized(whole_shape, part_here)
    units = math.prod(shape[axis] for axis in features)
    size = math.prod(shape)
    product = _unlabelled(part, records[place.site])
    after = _unlabelled(part_here, records[place.after])
    gather = _Layers(place, product["runs"])

    outputs = math.prod(resized(eqn.outvars[0].aval.shape, part))
    square = gather.mean(product["product"]) / outputs
    gram, blank = gather.total(after["gram"]), np.full(place.layers, np.nan)
    ran = gather.runs > 0
    whole = _moments.examples_at(shape, features, examples)
    idle, dead, expected = blank, blank, blank
    cosine = _moments.cosine(gram) if size > whole else blank
    size_rms = np.sqrt(gather.mean(after["square"]) / size)
    if (counts := _moments.counts_of(after)) is not None:
        # Positions of one example are not independent; all of them count as one.
        share = whole / max(size // units, 1) / np.maximum(gather.runs, 1)
        idle, dead, expected = _flat(
            *map(gather.total, counts), share, cosine, size_rms, ends
        )
    slope = seen.get(place.after)
    return Moments(
        input_rms=np.sqrt(gather.mean(product["input"]) / data),
        product_rms=np.sqrt(square),
        rms=size_rms,
        mean=gather.mean(after["sum"]) / size,
        cosine=cosine,
        apart=_moments.apart(gram),
        idle=idle,
        dead=dead,
        expected_dead=expected,
        examples=whole,
        units=units,
        gradient_rms=blank
        if slope is None
        else np.sqrt(gather.mean(slope) / math.prod(whole_shape)),
        ran=ran,
        tails=ends,
    )


def _unlabelled(part: Part | None, record: Mapping[str, Any]) -> dict[str, Any]:
    ending = label(part)
    return {
        name.removesuffix(ending): value
        for name, value in record.items()
        if name.endswith(ending) and (part or name.isalpha())
    }


def _flat(
    idle: np.ndarray,
    computed: np.ndarray,
    share: np.ndarray,
    cosine: np.ndarray,
    size: np.ndarray,
    ends: Tails,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The share of idle values, that of dead units, and what chance gives for it.

    Args:
      idle: how often each unit was in a tail.
      computed: how often it was computed.
      share: how many examples one of these stands for.
      cosine: between examples.
      size: rms.
      ends: the tails.
    """
    found = np.full((3, *cosine.shape), np.nan)
    for index in np.ndindex(cosine.shape):
        reached = computed[index] > 0
        if not np.any(reached) or not size[index] > 0.0:
            continue
        flat, total = idle[index][reached], computed[index][reached]
        rooms, often = np.unique(total * share[index], return_counts=True)
        expected = [
            expected_dead(
                max(round(float(n), 1), 1.0),
                round(float(np.nan_to_num(cosine[index], nan=1.0)), 3),
                round(ends.low / float(size[index]), 3),
                round(ends.high / float(size[index]), 3),
            )
            for n in rooms
        ]
        found[(0, *index)] = np.sum(flat) / np.sum(total)
        found[(1, *index)] = np.mean(flat == total)
        found[(2, *index)] = np.average(expected, weights=often)
    return found[0], found[1], found[2]


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
