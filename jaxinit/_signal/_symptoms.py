"""What goes wrong with the signal and its gradient, wherever that comes from."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from jaxinit._report import Severity
from jaxinit._signal import _thresholds
from jaxinit._signal._causes import reinit_line, same_examples
from jaxinit._signal._program import Signal
from jaxinit._signal._ranges import CALIBRATE, gradient_range, signal_range
from jaxinit._signal._readings import Reading
from jaxinit._signal._symptom import Symptom, symptom
from jaxinit._signal._use import Use
from jaxinit._signal._whole import mean_of, rms_of

# From here down a factor is a gate, and not the scale of a normalization.
_SMALL = 0.1


def of_signal(
    signal: Signal, rows: Sequence[Reading], uses: Mapping[str, Sequence[Use]]
) -> Iterator[Symptom]:
    """All symptoms, in no particular order."""
    yield from _not_finite(rows)
    yield from _no_signal(rows)
    for order, reading in enumerate(rows):
        yield from _flat(signal, order, reading, rows, uses)
        yield from _gain(order, reading, rows)
    yield from signal_range(rows)
    yield from gradient_range(rows, _gates(signal, uses))


def _not_finite(rows: Sequence[Reading]) -> Iterator[Symptom]:
    bad = [n for n, reading in enumerate(rows) if not _finite(reading)]
    if not bad:
        return
    order, reading = bad[0], rows[bad[0]]
    loop = reading.place.site[:2]
    if len(reading.place.site) > 1 and any(
        other.place.site[:2] == loop and not math.isfinite(other.weight_rms)
        for other in rows
    ):
        return  # it came from that weight, in the round before
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
    yield symptom("non-finite", "error", order, reading, what, remedy, short)


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
        yield symptom(
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
    signal: Signal,
    order: int,
    reading: Reading,
    rows: Sequence[Reading],
    uses: Mapping[str, Sequence[Use]],
) -> Iterator[Symptom]:
    """Dead and saturated units."""
    # Of products that are added to each other, the largest is told of their sum.
    together = [other for other in rows if _same_sum(other, reading)]
    if reading is not max(together, key=lambda other: other.product_rms):
        return
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
    bias, size = _bias(signal, together, uses)
    text = f"{shown:.0%} of {what} in {reading.activation}"
    if bias is not None and abs(size) > reading.product_rms:
        line = reinit_line(bias, "jaxinit.initializers.zeros")
        yield symptom(
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
    yield symptom(code, severity, order, reading, text, remedy, told, number=shown)


def _same_sum(one: Reading, other: Reading) -> bool:
    return one.place.after == other.place.after and one.index == other.index


def _bias(
    signal: Signal, together: Sequence[Reading], uses: Mapping[str, Sequence[Use]]
) -> tuple[str | None, float]:
    """The largest bias that is added to these products, and its mean."""
    sites = {row.place.after for row in together}
    sites |= {row.place.use.bias_site or row.place.after for row in together}
    found: tuple[str | None, float] = None, 0.0
    for number, name in enumerate(signal.names):
        if any(use.kind == "bias" and use.site in sites for use in uses[name.full]):
            mean = mean_of(signal.params.leaves[number])
            if found[0] is None or abs(mean) > abs(found[1]):
                found = name.full, mean
    return found


def _gain(order: int, reading: Reading, rows: Sequence[Reading]) -> Iterator[Symptom]:
    """A gain far from what is wanted, if the signal shows it."""
    low, high = reading.wanted
    gain, use = reading.gain, reading.place.use
    if math.isnan(gain) or use.feeds_norm or not reading.input_rms > 0.0:
        return
    fan_in, fan_out = use.fan_in, use.fan_out or 0.0
    if fan_in is None:
        return
    later = [
        other.input_rms / reading.input_rms if _finite(other) else math.inf
        for other in rows[order + 1 :]
        if other.label != reading.label and other.input_rms != 0.0
    ]
    less, more = _thresholds.GAIN_LOW, _thresholds.GAIN_HIGH
    # Glorot scaling keeps the middle between signal and gradient where layers widen.
    middle = gain * math.sqrt((1.0 + fan_out / fan_in) / 2.0)
    small = 0.0 < max(gain, middle) < less.warning * low
    small = small and later and max(later) < less.warning
    saturated = (
        reading.tails.saturating and reading.idle > _thresholds.SATURATED.warning
    )
    grown = later and min(later) > more.warning
    # A loop multiplies by a recurrent weight again and again.
    shown = saturated or grown or use.recurrent
    large = gain > more.warning * high and shown
    if not (small or large):
        return
    grave = gain < less.error * low if small else gain > more.error * high
    name = use.activation_name
    wants = f"{low:.3g}" if high - low < 0.01 else f"{low:.3g} to {high:.3g}"
    beside = f"beside {name} " if name and name != "identity" else ""
    yield symptom(
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


def _gates(
    signal: Signal, uses: Mapping[str, Sequence[Use]]
) -> list[tuple[tuple[int | str, ...], float]]:
    """Where the signal is multiplied by parameters that are small, and how small."""
    found = []
    for leaf, name in zip(signal.params.leaves, signal.names, strict=True):
        sites = [use.site for use in uses[name.full] if use.kind == "scale"]
        if sites and np.size(leaf):
            size = rms_of(leaf)
            if 0.0 < size < _SMALL:
                found += [(site, size) for site in sites]
    return found
