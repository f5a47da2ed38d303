"""`audit`: is this starting point sound, and if not, why not?"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Container, Iterable, Sequence
from typing import Any

import numpy as np

from jaxinit._collector import collector_paused
from jaxinit._report import Report
from jaxinit._rules import Pattern, select
from jaxinit._signal import _thresholds
from jaxinit._signal._causes import of_weights, same_examples
from jaxinit._signal._findings import findings, not_understood
from jaxinit._signal._measure import Meter
from jaxinit._signal._measured import Measured
from jaxinit._signal._places import places
from jaxinit._signal._program import Signal, trace_signal
from jaxinit._signal._readings import Reading, readings
from jaxinit._signal._symptoms import of_signal
from jaxinit._signal._uses import uses_of
from jaxinit._tables import amount

COLUMNS = ("leaf", "fans", "gain", "out", "cos", "grad", "flat", "mean", "note")


@dataclasses.dataclass(frozen=True)
class AuditReport(Report):
    """What :func:`jaxinit.audit` found.

    A row for each layer of each weight that stands in a product, in the order of the
    program: `fans` in and out; `gain` is rms(w) sqrt(fan_in); `out` the root mean
    square of the product with its bias, `mean` its mean; `cos` the mean cosine between
    two examples there; `grad` the root mean square of the gradient there; `flat` the
    share of dead units, or of saturated values where the activation is flat on both
    sides; `note` the codes of the findings about it.

    Attributes:
      loss: the value whose gradient was taken.
      examples: how many examples the batch had, None if that could not be told.
    """

    loss: float = math.nan
    examples: int | None = None

    def __rich_console__(self, console: Any, options: Any) -> Iterable[Any]:
        # The report keeps all digits; who reads the table wants to see what differs.
        rounded = dataclasses.replace(
            self,
            columns=tuple(c for c in self.columns if c != "mean"),
            rows=[
                [
                    _rounded(cell)
                    for c, cell in zip(self.columns, row, strict=True)
                    if c != "mean"
                ]
                for row in self.rows
            ],
        )
        yield from Report.__rich_console__(rounded, console, options)


def audit(
    f: Callable[..., Any],
    params: Any,
    *args: Any,
    loss: Callable[[Any], Any] | None = None,
    key: Any = None,
    only: Pattern | Sequence[Pattern] | None = None,
) -> AuditReport:
    r"""Measure signal and gradient at every weight, and say what is wrong and why.

    One compiled call runs f and its gradient once, and records at each product of a
    weight and the signal, for each layer of a scanned stack: the root mean square and
    the mean, the mean cosine between examples, the share of dead or saturated values,
    and the size of the gradient. The weights themselves are looked at for NaN, zeros,
    units that equal each other, and for their gain

    .. math:: g = \mathrm{rms}(w) \sqrt{\text{fan\_in}}

    against what the activation beside them wants, with the true fans of
    :func:`jaxinit.trace_uses`.

    A finding names a root cause, tells what follows from it, and gives the remedy as a
    line of code; the gravest comes first. Sound networks have none: what chance gives
    for this batch and width is computed, not guessed.

    Args:
      f: any function ``f(params, *args)``; see :func:`jaxinit.from_linen` and
        :func:`jaxinit.from_nnx`.
      params: the parameters, any tree of arrays.
      args: further arguments, with one batch of typical data. Sixteen examples are
        enough for most of it; one is not enough for cosines and dead units.
      loss: a function of the outputs whose gradient is measured. By default the sum of
        all outputs with random signs, always the same ones.
      key: a PRNG key for other signs.
      only: a pattern, or several: the parameters that rows and findings are about; the
        signal is measured everywhere all the same.

    Raises:
      RuleError: a pattern matches no leaf.
      ValueError: f returns no floating numbers, or the loss is not one real number.

    >>> import jax, jax.numpy as jnp
    >>> from jaxinit import initializers
    >>> def f(params, x):
    ...     return jnp.tanh(x @ params["first"]) @ params["second"]
    >>> first, second = jax.random.split(jax.random.key(0))
    >>> params = {
    ...     "first": initializers.normal(1.0)(first, (64, 64)),
    ...     "second": initializers.lecun_normal()(second, (64, 8)),
    ... }
    >>> report = audit(f, params, jax.random.normal(jax.random.key(1), (32, 64)))
    >>> [(finding.severity, finding.leaf, finding.code) for finding in report.findings]
    [('error', 'first', 'gain')]
    """
    with collector_paused():
        signal = trace_signal(f, params, *args)
        chosen = {name.full for name in select(only, signal.names)}
        auditor = Auditor(signal, loss=loss, key=key)
        return auditor(signal.params.leaves, chosen)


class Auditor:
    """An audit, compiled when it first runs: of any parameters of the same shapes."""

    def __init__(self, signal: Signal, *, loss: Any = None, key: Any = None):
        self.signal = signal
        self.uses = uses_of(signal)
        self.places = places(signal, self.uses)
        self.meter = Meter(signal, self.places, self.uses, loss=loss, key=key)

    def __call__(
        self, leaves: Sequence[Any], chosen: Container[str] | None = None
    ) -> AuditReport:
        """The report on these leaves, as far as the chosen parameters are concerned."""
        params = dataclasses.replace(self.signal.params, leaves=tuple(leaves))
        signal = dataclasses.replace(self.signal, params=params)
        measured = self.meter(leaves)
        rows = readings(signal, self.places, measured, self.meter.slices)
        return _report(signal, self, measured, rows, chosen)


def _report(
    signal: Signal,
    auditor: Auditor,
    measured: Measured,
    rows: Sequence[Reading],
    chosen: Container[str] | None,
) -> AuditReport:
    uses, meter = auditor.uses, auditor.meter
    if chosen is None:
        chosen = {name.full for name in signal.names}
    found = findings(of_weights(signal, rows, uses), of_signal(signal, rows, uses))
    found += [(one, frozenset([one.leaf])) for one in not_understood(uses)]
    found = [(one, labels) for one, labels in found if one.leaf in chosen]
    told = [one for one, _ in found]
    codes: dict[str, list[str]] = {}
    for finding, labels in found:
        for label in labels:
            codes.setdefault(label, []).append(finding.code)
    total = sum(math.prod(np.shape(leaf)) for leaf in signal.params.leaves)
    weights = len({place.leaf for place in auditor.places})
    batch = "" if meter.examples is None else f", batch of {meter.examples}"
    table: Any = [_row(reading, codes) for reading in rows if reading.leaf in chosen]
    return AuditReport(
        f"audit: {amount(total, '')} parameters in {len(signal.names)} "
        f"{'leaf' if len(signal.names) == 1 else 'leaves'}, {weights} "
        f"in products{batch}",
        columns=COLUMNS,
        rows=table,
        findings=tuple(told),
        notes=tuple(_notes(rows, measured.backward)),
        loss=measured.loss,
        examples=meter.examples,
    )


def _row(reading: Reading, codes: dict[str, list[str]]) -> dict[str, Any]:
    use = reading.place.use
    fans = f"{_plain(use.fan_in)}/{_plain(use.fan_out)}"
    return {
        "leaf": reading.label,
        "fans": fans,
        "gain": _known(reading.gain),
        "out": reading.rms,
        "mean": reading.mean,
        "cos": _known(reading.cosine),
        "grad": _known(reading.gradient),
        "flat": _known(reading.idle if reading.tails.saturating else reading.dead),
        "note": ", ".join(
            code
            for label in dict.fromkeys((reading.leaf, reading.label))
            for code in codes.get(label, ())
        ),
    }


def _notes(rows: Sequence[Reading], backward: bool) -> Iterable[str]:
    if not backward:
        yield "no gradient: JAX runs a loop of unknown length in f only forward"
    if not rows:
        return
    if same_examples(rows[0]):
        yield (
            "all examples of the batch are the same: cosines and dead units say "
            "nothing here; give typical data"
        )
        return
    first, last = rows[0].cosine, rows[-1].cosine
    if last > _thresholds.COLLAPSE.warning and last > first + 0.1:
        yield (
            f"two examples have a cosine of {first:.2f} at the first weight and "
            f"{last:.3f} at the last: the network hardly tells them apart"
        )


def _known(number: float) -> float | None:
    return None if math.isnan(number) else number


def _plain(fan: float | None) -> str:
    return "?" if fan is None else f"{fan:.4g}"


def _rounded(cell: Any) -> Any:
    return f"{cell:.2g}" if isinstance(cell, float) else cell
