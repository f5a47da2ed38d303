"""How far apart signal and gradient of different layers are."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from jaxinit._folding import skeleton
from jaxinit._signal import _thresholds
from jaxinit._signal._causes import reinit_line
from jaxinit._signal._readings import Reading
from jaxinit._signal._symptom import Symptom, symptom

CALIBRATE = "params, report = jaxinit.calibrate(f, params, *args)"


def signal_range(rows: Sequence[Reading]) -> Iterator[Symptom]:
    """A signal that vanishes or explodes on its way, layer by layer."""
    sizes = [reading.input_rms for reading in rows]
    if len(rows) < 2 or not all(map(math.isfinite, sizes)):
        return
    # Where a branch is dead, the signal that comes beside it has not grown.
    raised = [sizes[0], *_without_dips(sizes)[1:-1], sizes[-1]]
    limit = _thresholds.SIGNAL_RANGE
    for code, direction in (("vanishing", -1.0), ("exploding", 1.0)):
        worst, order = 1.0, None
        for n in range(1, len(rows)):
            rest = [size for size in sizes[n:] if size > 0.0]
            kept = sizes if direction < 0 else raised
            before = [size for size in kept[:n] if size > 0.0]
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
        if direction < 0 and rows[order - 1].dead == 1.0:
            continue  # it did not fade on its way: dead units let nothing through
        first = _first_off(rows, direction)
        reading = rows[first]
        per = worst ** (1 / max(order, 1))
        step = 1 / per if direction < 0 else per
        verb = "falls" if direction < 0 else "grows"
        wants = f"{reading.wanted[1]:.3g}"
        yield symptom(
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


def gradient_range(
    rows: Sequence[Reading], gates: Sequence[tuple[Any, float]]
) -> Iterator[Symptom]:
    """Gradients that differ between layers with the same role.

    Behind a small gate, as of a residual branch that starts at nearly nothing, they
    are as small as it is, and meant to be: each site of `gates` comes with its size.
    One or two that are small between others that are not are on a branch that hardly
    counts, as the logits of attention over equal values: nothing vanishes on its way.
    """
    roles: dict[Any, list[int]] = {}
    for order, reading in enumerate(rows):
        if reading.gradient > 0.0 and math.isfinite(reading.gradient):
            roles.setdefault(skeleton(reading.label)[0], []).append(order)
    limit = _thresholds.GRADIENT_RANGE
    for orders in roles.values():
        sizes = [rows[n].gradient for n in orders]
        closed = _without_dips(sizes)
        ratio = max(closed) / min(closed)
        least = orders[sizes.index(min(closed))]
        behind = [size for site, size in gates if site > rows[least].place.site]
        ratio *= min(behind, default=1.0)
        if ratio < limit.warning:
            continue
        most = orders[sizes.index(max(closed))]
        verb = "vanishes" if least < most else "explodes"
        yield symptom(
            "gradient-range",
            "error" if ratio > limit.error else "warning",
            orders[0],
            rows[orders[0]],
            f"The gradient {verb} on its way back: it is {min(closed):.1e} at "
            f"{rows[least].label} and {max(closed):.1e} at {rows[most].label}",
            CALIBRATE,
            f"the gradient {verb} by {ratio:.0e}",
            backward=True,
        )


def _without_dips(sizes: Sequence[float]) -> list[float]:
    """The numbers, where one or two neighbours are less than those on both sides of
    them raised to these.

    >>> _without_dips([1.0, 1e-16, 2.0, 1e-16, 1e-16, 3.0, 3.0])
    [1.0, 1.0, 2.0, 2.0, 2.0, 3.0, 3.0]
    >>> _without_dips([1.0, 1e-3, 1e-6, 1e-9])
    [1.0, 0.001, 1e-06, 1e-06]
    """

    def around(numbers: Sequence[float], extreme: Callable[..., float]) -> list[float]:
        return [extreme(numbers[max(n - 1, 0) : n + 2]) for n in range(len(numbers))]

    return around(around(sizes, max), min)
