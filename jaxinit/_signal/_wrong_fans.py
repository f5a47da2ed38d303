"""A weight whose size fits the fan of its shape, where its use has another."""

from __future__ import annotations

import math
from typing import NamedTuple

from jaxinit._report import Severity
from jaxinit._signal import _thresholds
from jaxinit._signal._program import Signal
from jaxinit._signal._readings import Reading, dilated
from jaxinit._signal._whole import largest_in

# Variance times fan of what is in use: LeCun, He, Glorot, He backwards, PyTorch.
_USUAL = (("fan_in", 1.0), ("fan_in", 2.0), ("fan_avg", 1.0), ("fan_out", 2.0))
_TORCH = ("fan_in", 1.0 / 3.0)
# The variance of the draws is known well enough only in weights of this many numbers.
_FEWEST = 1000
_ALIKE = 1.18


class WrongFan(NamedTuple):
    """How bad it is, and a sentence."""

    severity: Severity
    text: str


def wrong_fan(signal: Signal, reading: Reading) -> WrongFan | None:
    """Whether the variance is exactly that for the fan of the shape, and that is wrong.

    JAX's initializers take the last two axes of a shape for inputs and outputs and all
    others for positions that are summed over: right for a convolution, wrong for heads,
    experts and stacked layers, whose number then enters the fan.
    """
    use = reading.place.use
    fan_in, fan_out = use.fan_in, use.fan_out
    shape = signal.params.leaves[reading.place.leaf].shape
    if use.transformed or not fan_in or not fan_out or len(shape) < 2:
        return None
    if reading.size < _FEWEST or not reading.weight_rms > 0.0:
        return None
    variance = reading.weight_rms**2
    # Of n normal draws the mean square has a relative error of sqrt(2/n).
    tolerance = _thresholds.FAN_MATCH.warning * math.sqrt(2 / reading.size) + 1e-3
    positions = math.prod(shape[:-2])
    seen_in, seen_out = shape[-2] * positions, shape[-1] * positions
    own = {
        "fan_in": fan_in,
        "fan_out": fan_out,
        "fan_avg": (fan_in + fan_out) / 2,
    }
    apparent = {"fan_in": seen_in, "fan_avg": (seen_in + seen_out) / 2}
    # A third, too, is what three heads make of the fan: PyTorch's weights are uniform.
    usual = (*_USUAL, _TORCH) if _is_uniform(signal, reading) else _USUAL

    def fits(fan: float, scale: float) -> bool:
        return abs(variance * fan / scale - 1) < tolerance

    if any(fits(own[mode], scale) for mode, scale in usual):
        return None
    for mode, scale in usual:
        if mode not in apparent:
            continue  # strides of a convolution are in its fan_out by some conventions
        fan = apparent[mode]
        off = math.sqrt(own[mode] / fan)
        if not fits(fan, scale) or 1 / _ALIKE < off < _ALIKE:
            continue
        severity: Severity = "warning" if 0.6 < off < 1.7 else "error"
        if dilated(signal, reading.place) and off > 0.4:
            severity = "note"  # halves the signal once for each doubling of size
        much = f"{max(off, 1 / off):.3g} times too {'small' if off < 1 else 'large'}"
        text = (
            f"Its variance is that for {mode} {fan:g}, which is what the shape "
            f"{shape} looks like, and its true {mode} is {own[mode]:g}: the "
            f"product is {much}"
        )
        return WrongFan(severity, text)
    return None


def _is_uniform(signal: Signal, reading: Reading) -> bool:
    """Whether no number is further out than a uniform distribution reaches."""
    largest = largest_in(signal.params.leaves[reading.place.leaf])
    return largest < 1.01 * math.sqrt(3) * reading.weight_rms
