"""Is the starting point of a model sound? What an audit says, as an assertion."""

from __future__ import annotations

import math
from collections.abc import Collection
from typing import Any, Literal, get_args

Severity = Literal["error", "warning", "note"]


def assert_signal(
    report: Any,
    *,
    severity: Severity = "warning",
    allow: Collection[str] = (),
    rms: tuple[float, float] | None = None,
    gradient_range: float | None = None,
):
    """Assert that an audit found nothing, and that signal and gradient are as wanted.

    For a test of a model: ``assert_signal(jaxinit.audit(*jaxinit.from_linen(...)))``.
    An audit is a measurement of given weights on given data, and draws nothing: this
    assertion has no failure rate. That sound weights have no finding is the promise of
    :func:`jaxinit.audit`.

    Args:
      report: what :func:`jaxinit.audit` returned.
      severity: the least grave that fails.
      allow: codes of findings that do not fail, such as "unused".
      rms: between which values the root mean square of every product, with its bias,
        must be.
      gradient_range: what the largest gradient may be over the smallest, among all
        weights that have one.

    Raises:
      AssertionError: there is such a finding, or a number is out of its range; the
        message lists them.
      ValueError: an option is out of its range.

    >>> import jax, jaxinit
    >>> from jaxinit import initializers, testing
    >>> def f(params, x):
    ...     return jax.numpy.tanh(x @ params["a"]) @ params["b"]
    >>> init = initializers.lecun_normal()
    >>> keys = jax.random.split(jax.random.key(0))
    >>> params = {"a": init(keys[0], (64, 64)), "b": init(keys[1], (64, 8))}
    >>> x = jax.random.normal(jax.random.key(1), (32, 64))
    >>> testing.assert_signal(jaxinit.audit(f, params, x), rms=(0.2, 5.0))
    >>> params["a"] = 0 * params["a"]
    >>> testing.assert_signal(jaxinit.audit(f, params, x))
    Traceback (most recent call last):
        ...
    AssertionError: audit: ...
    """
    grades = get_args(Severity)
    if severity not in grades:
        raise ValueError(f"severity must be one of {grades}, got {severity!r}")
    if rms is not None and not 0 <= rms[0] < rms[1]:
        raise ValueError(f"rms must be a pair (least, most), got {rms!r}")
    if gradient_range is not None and not gradient_range >= 1:
        raise ValueError(f"gradient_range must be at least 1, got {gradient_range!r}")
    grave = grades[: grades.index(severity) + 1]
    wrong = [
        f"{finding.severity}: {finding.leaf}: {finding.cause} {finding.remedy}"
        for finding in report.findings
        if finding.severity in grave and finding.code not in allow
    ]
    rows = report.records()
    if rms is not None:
        wrong += [
            f"{row['leaf']}: its product has rms {row['out']:.4g}, not between "
            f"{rms[0]:g} and {rms[1]:g}"
            for row in rows
            if not rms[0] <= row["out"] <= rms[1]
        ]
    if gradient_range is not None:
        sizes = [(row["grad"], row["leaf"]) for row in rows if row["grad"] is not None]
        (least, at), (most, where) = min(sizes), max(sizes)
        ratio = most / least if least else math.inf
        if not ratio <= gradient_range:
            wrong.append(
                f"the gradient at {where}, rms {most:.3g}, is {ratio:.3g} times that "
                f"at {at}; at most {gradient_range:g} is asked for"
            )
    if wrong:
        listed = "\n  ".join(wrong)
        raise AssertionError(f"{report.title}\n  {listed}")
