"""What `calibrate` has to say: scales, moments before and after, what was left."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from jaxinit._report import Finding, Report
from jaxinit._signal import _thresholds
from jaxinit._signal._measured import Measured, Moments
from jaxinit._signal._places import Place
from jaxinit._signal._rescale import SETTLED, Goal


@dataclasses.dataclass(frozen=True)
class CalibrationReport(Report):
    """What :func:`jaxinit.calibrate` did.

    A row for each layer of each weight that stands in a product: `scale` is what it was
    multiplied by, `before` and `after` are the root mean square of the product, `sum`
    that of the product with its bias afterwards; `note` says why a weight was left
    alone.

    Attributes:
      passes: how many times the program ran forward to calibrate.
      settled: whether another pass would change nothing.
      gradient_ratio: the gradient's root mean square at the first calibrated product
        over that at the last, before and after. Far from 1, the variance is right and
        the starting point still is not.
      cosine: the mean cosine of two examples at the last calibrated product, before and
        after. Near 1, all examples look alike there.
    """

    passes: int = 0
    settled: bool = True
    gradient_ratio: tuple[float | None, ...] = ()
    cosine: tuple[float | None, ...] = ()


@dataclasses.dataclass(frozen=True, eq=False)
class Run:
    """The passes of a calibration.

    Attributes:
      leaves: the parameters afterwards.
      scales: what each leaf was multiplied by, one number for each layer.
      records: of the last pass, by site.
      passes: how many.
      change: how far the shared weights would go in another one, as |log(scale)|.
    """

    leaves: Sequence[Any]
    scales: Mapping[int, np.ndarray]
    records: Mapping[Any, Any]
    passes: int
    change: float


COLUMNS = ("leaf", "scale", "before", "after", "sum", "note")


def report_of(
    found: Sequence[Place],
    goals: Sequence[Goal],
    reasons: Mapping[int, str],
    run: Run,
    before: Measured | None,
    after: Measured | None,
) -> CalibrationReport:
    """The report on the places of a program, of which some were goals."""
    settled = run.change < SETTLED
    chosen = {goal.place: goal for goal in goals}
    rows, ends = [], []
    for number, place in enumerate(found):
        goal = chosen.get(place)
        old = before.moments[number] if before else None
        new = after.moments[number] if after else None
        note = reasons.get(place.leaf, "")
        if goal is not None and goal.shared:
            note = "shared" if settled else "shared, unsettled"
        scale = np.broadcast_to(run.scales.get(place.leaf, 1.0), place.layers)
        for index in np.ndindex(place.layers):
            cells = {
                "leaf": label(place, index),
                "scale": scale[index] if goal is not None else None,
                "before": old and old.product_rms[index],
                "after": new and new.product_rms[index],
                "sum": new and new.rms[index],
                "note": note,
            }
            rows.append(cells)
        if goal is not None and old is not None and new is not None:
            ends.append((old, new))
    ratio, cosine = _ends(ends)
    weights = len({goal.place.leaf for goal in goals})
    return CalibrationReport(
        f"calibrate: {weights} of {len({place.leaf for place in found})} weights, "
        f"{run.passes} pass{'es' * (run.passes != 1)}",
        columns=COLUMNS,
        rows=tuple(rows),
        findings=tuple(_findings(found, chosen, reasons, run, ratio)),
        notes=tuple(_notes(ratio, cosine)),
        passes=run.passes,
        settled=settled,
        gradient_ratio=ratio,
        cosine=cosine,
    )


def label(place: Place, index: Sequence[int]) -> str:
    """The name of a layer: that of its weight, with the number in a stack."""
    return place.name.full + "".join(f"[{number}]" for number in index)


def _ends(
    pairs: Sequence[tuple[Moments, Moments]],
) -> tuple[tuple[float | None, ...], tuple[float | None, ...]]:
    """Gradient ratio and cosine, before and after."""
    if not pairs:
        return (), ()
    ratios, cosines = [], []
    for side in (0, 1):
        first, last = pairs[0][side], pairs[-1][side]
        with np.errstate(all="ignore"):
            ratio = first.gradient_rms.ravel()[:1] / last.gradient_rms.ravel()[-1:]
        ratios.append(float(ratio[0]))
        cosines.append(float(last.cosine.ravel()[-1]))
    return tuple(ratios), tuple(cosines)


def _notes(
    ratio: Sequence[float | None], cosine: Sequence[float | None]
) -> Iterator[str]:
    if not ratio:
        return
    yield (
        "gradient at the first over that at the last product: "
        f"{ratio[0]:.3g} before, {ratio[1]:.3g} after"
    )
    yield (
        "cosine of two examples at the last product: "
        f"{cosine[0]:.3f} before, {cosine[1]:.3f} after"
    )


def _findings(
    found: Sequence[Place],
    chosen: Mapping[Any, Goal],
    reasons: Mapping[int, str],
    run: Run,
    ratio: Sequence[float | None],
) -> Iterator[Finding]:
    for place in {place.leaf: place for place in found}.values():
        goal = chosen.get(place)
        if goal is None:
            reason = reasons[place.leaf]
            if reason not in ("not chosen",):
                yield Finding("note", str(place.name), *_REMARKS[reason], code="left")
        elif goal.shared and run.change >= SETTLED:
            yield Finding(
                "warning",
                str(place.name),
                "This weight is used several times, and its scale is not settled after "
                f"{run.passes} pass{'es' * (run.passes != 1)}.",
                f"Write calibrate(..., max_passes={max(20, 2 * run.passes)}).",
                code="unsettled",
            )
        elif not goal.shared:
            rms = np.asarray(goal.record(run.records)["rms"])
            if not np.all(np.isfinite(rms) & (rms > 0)):
                yield Finding(
                    "warning",
                    str(place.name),
                    "The product of this weight is zero, or no number, so that no "
                    "scale brings it to the target.",
                    "Write print(jaxinit.audit(f, params, *args)) to see where the "
                    "signal ends.",
                    code="no-signal",
                )
    if len(ratio) == 2 and ratio[1] is not None:
        limit = _thresholds.GRADIENT_RANGE.warning
        if np.isfinite(ratio[1]) and not 1 / limit < ratio[1] < limit:
            yield Finding(
                "warning",
                "",
                "The products have the right size and the gradients do not: at the "
                f"first product they are {ratio[1]:.3g} times those at the last.",
                "Write calibrate(..., target=0.5) for tanh-like activations, or put "
                "normalizations or residual connections between the layers.",
                code="gradient-ratio",
            )


_REMARKS = {
    "zero": (
        "It starts at zero, which no factor changes, and was left alone.",
        "Nothing is to be done if it is a residual gate or a head.",
    ),
    "transformed first": (
        "It passes through arithmetic of its own first, so that its scale is not that "
        "of the product, and was left alone.",
        "Scale the parameter that sets the size, such as the gain of a weight "
        "normalization.",
    ),
    "its scale is not that of the product": (
        "A factor of this weight is none of the product, and it was left alone.",
        "Scale the parameter that sets the size, if there is one.",
    ),
    "a normalization follows": (
        "Its product goes straight into a normalization, so that its scale has no "
        "effect on the signal, and was left alone.",
        "Nothing is to be done.",
    ),
    "stands in one product with another weight": (
        "Another weight that is not scaled is multiplied with it, or added to it, "
        "before the product or within; it was left alone.",
        "Merge the two before calibrating, or calibrate with the other one zero.",
    ),
    "whole numbers": (
        "It holds whole numbers, and was left alone.",
        "Nothing is to be done.",
    ),
}
