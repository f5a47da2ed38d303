"""What goes wrong with the signal and its gradient, wherever that comes from."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from jaxinit._folding import skeleton
from jaxinit._report import Severity
from jaxinit._signal import _thresholds
from jaxinit._signal._causes import Cause, reinit_line, same_examples
from jaxinit._signal._program import Signal
from jaxinit._signal._readings import Reading
from jaxinit._signal._use import Use

CALIBRATE = "params, report = jaxinit.calibrate(f, params, *args)"


@dataclasses.dataclass(frozen=True)
class Symptom:
    """A cause of which it is not known yet whether another one explains it.

    Attributes:
      cause: what it is called if nothing else explains it.
      short: what it is called as the consequence of something.
      backward: whether it concerns the gradient, which comes from behind.
    """

    cause: Cause
    short: str
    backward: bool = False


def of_signal(
    signal: Signal, rows: Sequence[Reading], uses: Mapping[str, Sequence[Use]]
) -> Iterator[Symptom]:
    """All symptoms, in no particular order."""
    yield from _not_finite(rows)
    yield from _no_signal(rows)
    for order, reading in enumerate(rows):
        yield from _flat(signal, order, reading, uses)
        yield from _gain(order, reading, rows)
    yield from _range(rows)
    yield from _gradients(rows)


def _symptom(
    code: str,
    severity: Severity,
    order: float,
    reading: Reading,
    what: str,
    remedy: str,
    short: str,
    *,
    leaf: str | None = None,
    number: float | None = None,
    backward: bool = False,
) -> Symptom:
    leaf, label = leaf or reading.leaf, leaf or reading.label
    cause = Cause(code, severity, leaf, label, order, what, remedy, number)
    return Symptom(cause, short, backward)


def _not_finite(rows: Sequence[Reading]) -> Iterator[Symptom]:
    bad = [n for n, reading in enumerate(rows) if not _finite(reading)]
    if not bad:
        return
    order, reading = bad[0], rows[bad[0]]
    where = reading.place.use.where or "the program"
    if not math.isfinite(reading.input_rms):
        what = (
            "What it multiplies is NaN or infinite already: look at what is computed "
            f"in front of it, or at the batch ({where})"
        )
        remedy = "with jax.debug_nans(True): f(params, *args)"
    else:
        what = (
            f"Its product overflows: the signal has rms {reading.input_rms:.3g}, the "
            f"weight {reading.weight_rms:.3g}"
        )
        remedy = CALIBRATE
    short = f"NaN or infinity from {reading.label} on"
    yield _symptom("non-finite", "error", order, reading, what, remedy, short)


def _finite(reading: Reading) -> bool:
    return all(math.isfinite(number) for number in reading.numbers)


def _no_signal(rows: Sequence[Reading]) -> Iterator[Symptom]:
    """Weights that no signal reaches, at none of their uses."""
    used: dict[str, list[int]] = {}
    for order, reading in enumerate(rows):
        used.setdefault(reading.label, []).append(order)
    for orders in used.values():
        reading = rows[orders[0]]
        if all(rows[n].input_rms == 0.0 for n in orders):
            what, short = "Nothing but zeros arrives at it", "only zeros"
        elif all(same_examples(rows[n]) for n in orders) and not same_examples(rows[0]):
            what, short = "All examples are the same at it", "equal examples"
        else:
            continue
        everything = all(_dull(other) for other in rows[orders[0] :])
        yield _symptom(
            "no-signal",
            "error" if everything else "note",
            orders[0],
            reading,
            what + (", and behind it" if everything else ""),
            "print(f(params, *args)) with another batch, and look at what is in front",
            f"{short} at {reading.label}",
        )


def _dull(reading: Reading) -> bool:
    return reading.input_rms == 0.0 or same_examples(reading)


def _flat(
    signal: Signal, order: int, reading: Reading, uses: Mapping[str, Sequence[Use]]
) -> Iterator[Symptom]:
    """Dead and saturated units."""
    if not reading.tails.any or math.isnan(reading.idle) or not reading.rms > 0.0:
        return
    if reading.tails.saturating:
        limit = _thresholds.SATURATED
        share = _thresholds.unexpected_flat(
            reading.idle, low=reading.tails.low, high=reading.tails.high
        )
        code, what = "saturated", "its values lie where it is flat"
        told = f"{share:.0%} of {reading.activation} saturated"
    else:
        limit, code = _thresholds.DEAD, "dead"
        share = _thresholds.unexpected_dead(
            reading.dead, expected=reading.expected_dead, units=reading.units
        )
        what = f"its {reading.units} units are flat for all {reading.examples} examples"
        told = f"{reading.dead:.0%} of {reading.activation} dead"
    if share < limit.warning:
        return
    # Chance explains up to half of them, in a small layer more; never all.
    whole = reading.dead == 1.0 and reading.units > 1
    severity: Severity = "error" if share > limit.error or whole else "warning"
    shown = reading.dead if code == "dead" else reading.idle
    bias, size = _bias(signal, reading, uses)
    text = f"{shown:.0%} of {what} in {reading.activation}"
    if bias is not None and abs(size) > reading.product_rms:
        line = reinit_line(bias, "jaxinit.initializers.zeros")
        yield _symptom(
            code,
            severity,
            order,
            reading,
            f"It shifts the sum by {size:.3g}, where the product has rms "
            f"{reading.product_rms:.3g}: {text}",
            line,
            told,
            leaf=bias,
            number=shown,
        )
        return
    text += f": the sum has rms {reading.rms:.3g}, mean {reading.mean:.3g}"
    remedy = reinit_line(reading.leaf)
    yield _symptom(code, severity, order, reading, text, remedy, told, number=shown)


def _bias(
    signal: Signal, reading: Reading, uses: Mapping[str, Sequence[Use]]
) -> tuple[str | None, float]:
    """The bias that is added to this product, and its mean."""
    for number, name in enumerate(signal.names):
        for use in uses[name.full]:
            if use.kind == "bias" and use.site == reading.place.after:
                values = np.asarray(signal.params.leaves[number], np.float64)
                return name.full, float(np.mean(values))
    return None, 0.0


def _gain(order: int, reading: Reading, rows: Sequence[Reading]) -> Iterator[Symptom]:
    """A gain far from what is wanted, if the signal shows it."""
    low, high = reading.wanted
    gain, use = reading.gain, reading.place.use
    if math.isnan(gain) or use.feeds_norm or not reading.input_rms > 0.0:
        return
    later = [
        other.input_rms / reading.input_rms if _finite(other) else math.inf
        for other in rows[order + 1 :]
        if other.label != reading.label and other.input_rms != 0.0
    ]
    less, more = _thresholds.GAIN_LOW, _thresholds.GAIN_HIGH
    small = 0.0 < gain < less.warning * low and later and max(later) < less.warning
    saturated = (
        reading.tails.saturating and reading.idle > _thresholds.SATURATED.warning
    )
    grown = later and min(later) > more.warning
    large = gain > more.warning * high and (saturated or grown)
    if not (small or large):
        return
    grave = gain < less.error * low if small else gain > more.error * high
    name = use.activation_name
    wants = f"{low:.3g}" if high - low < 0.01 else f"{low:.3g} to {high:.3g}"
    beside = f"beside {name} " if name and name != "identity" else ""
    yield _symptom(
        "gain",
        "error" if grave else "warning",
        order,
        reading,
        f"rms(w) sqrt(fan_in) is {gain:.3g}, where {beside}{wants} is wanted: "
        f"its products are too {'small' if small else 'large'}",
        reinit_line(reading.leaf),
        f"gain {gain:.3g} at {reading.label}",
        number=gain,
    )


def _range(rows: Sequence[Reading]) -> Iterator[Symptom]:
    """A signal that vanishes or explodes on its way, layer by layer."""
    sizes = [reading.input_rms for reading in rows]
    if len(rows) < 2 or not all(map(math.isfinite, sizes)):
        return
    limit = _thresholds.SIGNAL_RANGE
    for code, direction in (("vanishing", -1.0), ("exploding", 1.0)):
        worst, order = 1.0, None
        for n in range(1, len(rows)):
            rest = [size for size in sizes[n:] if size > 0.0]
            before = [size for size in sizes[:n] if size > 0.0]
            if not rest or not before:
                break
            # All that follows is so much smaller (larger) than all that came before.
            factor = (
                max(before) / max(rest) if direction < 0 else min(rest) / min(before)
            )
            if factor > worst:
                worst, order = factor, n
        if order is None or worst < limit.warning:
            continue
        first = _first_off(rows, direction)
        reading = rows[first]
        per = worst ** (1 / max(order, 1))
        step = 1 / per if direction < 0 else per
        verb = "falls" if direction < 0 else "grows"
        wants = f"{reading.wanted[1]:.3g}"
        yield _symptom(
            code,
            "error" if worst > limit.error else "warning",
            first,
            reading,
            f"From here the signal {verb} by a factor of {worst:.1e}, {step:.2g} in "
            f"each weight: rms(w) sqrt(fan_in) is {reading.gain:.3g} where "
            f"{reading.activation} wants {wants}",
            reinit_line(reading.leaf),
            f"the signal {verb} by {worst:.0e}",
        )


def _first_off(rows: Sequence[Reading], direction: float) -> int:
    for order, reading in enumerate(rows):
        ratio = reading.gain / reading.wanted[1]
        if ratio < 0.9 if direction < 0 else ratio > 1.1:
            return order
    return 0


def _gradients(rows: Sequence[Reading]) -> Iterator[Symptom]:
    """Gradients that differ between layers with the same role, or are zero."""
    roles: dict[Any, list[int]] = {}
    for order, reading in enumerate(rows):
        if reading.gradient > 0.0 and math.isfinite(reading.gradient):
            roles.setdefault(skeleton(reading.label)[0], []).append(order)
    limit = _thresholds.GRADIENT_RANGE
    for orders in roles.values():
        sizes = [rows[n].gradient for n in orders]
        ratio = max(sizes) / min(sizes)
        if ratio < limit.warning:
            continue
        least = orders[int(np.argmin(sizes))]
        most = orders[int(np.argmax(sizes))]
        verb = "vanishes" if least < most else "explodes"
        yield _symptom(
            "gradient-range",
            "error" if ratio > limit.error else "warning",
            orders[0],
            rows[orders[0]],
            f"The gradient {verb} on its way back: it is {min(sizes):.1e} at "
            f"{rows[least].label} and {max(sizes):.1e} at {rows[most].label}",
            CALIBRATE,
            f"the gradient {verb} by {ratio:.0e}",
            backward=True,
        )
