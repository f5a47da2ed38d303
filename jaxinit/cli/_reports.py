"""From a report to an outcome."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from jaxinit.cli._outcome import Outcome


def outcome(
    report: Any,
    *,
    grave: Sequence[str] = ("error", "warning"),
    said: tuple[str, ...] = (),
) -> Outcome:
    """The report for people and programs; exit code 1 for findings so grave."""
    counts = report.counts()
    found = any(counts[severity] for severity in grave)
    return Outcome(report, report.to_dict(), found=found, said=said)
