"""What is wrong with the weights themselves: the root causes of an audit."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxinit._report import Severity
from jaxinit._signal import _thresholds
from jaxinit._signal._program import Signal
from jaxinit._signal._readings import Reading, by_leaf
from jaxinit._signal._use import Use
from jaxinit._signal._whole import any_in, not_finite_in
from jaxinit._signal._wrong_fans import wrong_fan

# A leaf that has several things wrong is told of the first of these.
RANK = (
    "non-finite",
    "zero",
    "duplicates",
    "wrong-fan",
    "dead",
    "gain",
)


@dataclasses.dataclass(frozen=True)
class Cause:
    """One root cause, in one layer.

    Attributes:
      code, severity: as those of a finding.
      leaf: the full name of the parameter.
      label: with the number of its layer.
      order: sorts as the program runs.
      what: the cause, to be completed by what comes of it.
      number: what to tell of several layers alike, or None.
      remedy: a line of code.
    """

    code: str
    severity: Severity
    leaf: str
    label: str
    order: float
    what: str
    remedy: str
    number: float | None = None


def reinit_line(leaf: str, initializer: str = "jaxinit.ByUse()") -> str:
    """The line that draws one weight anew."""
    return (
        f"params, _ = jaxinit.reinit(key, f, params, *args, "
        f"rules=[({pattern(leaf)!r}, {initializer})])"
    )


def pattern(leaf: str) -> str:
    """A pattern for the leaf and its likes in the other layers."""
    return re.sub(r"\d+", r"\\d+", re.sub(r"[.^$*+?{}\[\]\\|()]", r"\\\g<0>", leaf))


def of_weights(
    signal: Signal, rows: Sequence[Reading], uses: Mapping[str, Sequence[Use]]
) -> Iterator[Cause]:
    """Causes that single weights show, at most one for each layer of each."""
    order = {reading.label: float(n) for n, reading in reversed([*enumerate(rows)])}
    for own in by_leaf(rows).values():
        for reading in {reading.label: reading for reading in reversed(own)}.values():
            here = order[reading.label]
            for look in (_not_finite, _zero, _duplicates, _fan):
                cause = look(signal, reading, here, rows)
                if cause is not None:
                    yield cause
                    break
    yield from _others_not_finite(signal, uses, rows)
    yield from _unused(signal, uses, rows)


def _not_finite(
    signal: Signal, reading: Reading, order: float, rows: Sequence[Reading]
) -> Cause | None:
    if math.isfinite(reading.weight_rms):
        return None
    leaf = signal.params.leaves[reading.place.leaf]
    bad = not_finite_in(leaf)
    if not bad:
        return None  # so large that their squares are not finite
    return Cause(
        "non-finite",
        "error",
        reading.leaf,
        reading.label,
        order,
        f"{bad} of its {np.size(leaf)} numbers are NaN or infinite",
        reinit_line(reading.leaf),
    )


def _others_not_finite(
    signal: Signal, uses: Mapping[str, Sequence[Use]], rows: Sequence[Reading]
) -> Iterator[Cause]:
    """Biases, scales and tables with NaN or infinity in them."""
    weights = {reading.leaf for reading in rows}
    for leaf, name in zip(signal.params.leaves, signal.names, strict=True):
        sites = [use.site for use in uses[name.full] if use.site]
        real = jnp.issubdtype(jnp.result_type(leaf), jnp.inexact)
        if name.full in weights or not sites or not real:
            continue
        bad = not_finite_in(leaf)
        if bad:
            first: Any = min(sites)  # numbers and roles alternate, and so compare
            here = [n for n, row in enumerate(rows) if row.place.after >= first]
            yield Cause(
                "non-finite",
                "error",
                name.full,
                name.full,
                min(here, default=len(rows)) - 0.5,
                f"{bad} of its {np.size(leaf)} numbers are NaN or infinite",
                reinit_line(name.full, "jaxinit.initializers.zeros")
                if np.ndim(leaf) < 2
                else reinit_line(name.full),
            )


def _zero(
    signal: Signal, reading: Reading, order: float, rows: Sequence[Reading]
) -> Cause | None:
    if reading.weight_rms != 0.0:
        return None
    # Denormal numbers have squares of zero and are none.
    leaf = signal.params.leaves[reading.place.leaf]
    if not reading.place.layers and any_in(leaf):
        return None
    later = rows[int(order) + 1 :]
    ends = bool(later) and any(_without_signal(other, rows) for other in later)
    if ends:
        return Cause(
            "zero",
            "error",
            reading.leaf,
            reading.label,
            order,
            "All its numbers are zero, and it is the only way of the signal: behind it "
            "all examples are the same, and no gradient passes through it",
            reinit_line(reading.leaf),
        )
    return Cause(
        "zero",
        "note",
        reading.leaf,
        reading.label,
        order,
        "All its numbers are zero. It learns from the first step on, and what feeds it "
        "from the second, as a residual gate or a head may",
        reinit_line(reading.leaf) + " if that is not meant",
    )


def _without_signal(reading: Reading, rows: Sequence[Reading]) -> bool:
    """Whether nothing of the examples arrives at a weight, at none of its uses."""
    own = [other for other in rows if other.label == reading.label]
    return all(other.input_rms == 0.0 or same_examples(other) for other in own)


def same_examples(reading: Reading) -> bool:
    """Whether all examples are one there, to rounding."""
    return reading.examples > 1 and reading.apart < 1e-6


def _duplicates(
    signal: Signal, reading: Reading, order: float, rows: Sequence[Reading]
) -> Cause | None:
    limit = _thresholds.DUPLICATES
    share = reading.duplicates
    if not share >= limit.warning or math.isclose(share, 0.0):
        return None
    out = [signal.params.leaves[reading.place.leaf].shape[a] for a in _units(reading)]
    units = math.prod(out)
    return Cause(
        "duplicates",
        "error" if share > limit.error else "warning",
        reading.leaf,
        reading.label,
        order,
        f"{round(share * units)} of its {units} units equal another one, weight by "
        "weight: they compute the same",
        reinit_line(reading.leaf),
        share,
    )


def _units(reading: Reading) -> list[int]:
    place = reading.place
    return [axis for axis in place.use.out_axis if axis not in place.layer_axes]


def _fan(
    signal: Signal, reading: Reading, order: float, rows: Sequence[Reading]
) -> Cause | None:
    found = wrong_fan(signal, reading)
    if found is None:
        return None
    return Cause(
        "wrong-fan",
        found.severity,
        reading.leaf,
        reading.label,
        order,
        found.text,
        reinit_line(reading.leaf),
    )


def _unused(
    signal: Signal, uses: Mapping[str, Sequence[Use]], rows: Sequence[Reading]
) -> Iterator[Cause]:
    """Parameters that no gradient reaches, whatever the values are."""
    end = float(len(rows))
    for number, name in enumerate(signal.names):
        own = uses[name.full]
        if all(use.kind == "unused" for use in own):
            yield Cause(
                "unused",
                "warning",
                name.full,
                name.full,
                end + number,
                "No output of f depends on it",
                f"assert {name.full!r} is wanted: remove it from the model, or use it",
            )
        elif all(use.stopped for use in own):
            yield Cause(
                "stop-gradient",
                "warning",
                name.full,
                name.full,
                end + number,
                "The outputs depend on it, but no gradient reaches it: a "
                "stop_gradient, or a step without a derivative, is in the way",
                f"tx = jaxinit.finetune.freeze(tx, {pattern(name.full)!r}) if it is "
                "meant; else remove the stop_gradient",
            )
