"""A sign that something is wrong, wherever that comes from."""

from __future__ import annotations

import dataclasses

from jaxinit._report import Severity
from jaxinit._signal._causes import Cause
from jaxinit._signal._readings import Reading


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


def symptom(
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
