"""How much a file may ask for, and the count of what it has asked for so far."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from jaxinit._errors import CheckpointError
from jaxinit.transfer._origin import Origin

_MAX_NDIM = 32


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What a checkpoint may ask for before it is refused.

    `max_bytes` bounds the leaves of a checkpoint together, `max_eager_bytes` what must
    be held in memory at once to read one (a compressed member), `max_leaves` their
    number, `max_depth` the nesting of their names and containers, and `max_expansion`
    how many bytes a byte of the file may become. Each is checked before anything of
    that size is allocated.

    The defaults admit every checkpoint that one machine can hold. Files of strangers
    deserve smaller ones.

    Raises:
      ValueError: a limit is not a positive number.

    >>> Limits(max_bytes=2**30).max_leaves
    200000
    """

    max_bytes: int = 1 << 40
    max_eager_bytes: int = 1 << 33
    max_leaves: int = 200_000
    max_depth: int = 64
    max_expansion: float = 100.0

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            number = isinstance(value, (int, float)) and not isinstance(value, bool)
            if not number or not value > 0:
                raise ValueError(
                    f"{field.name} must be a positive number, got {value!r}"
                )

    @property
    def max_header_bytes(self) -> int:
        """The most bytes that may describe the leaves: a kilobyte for each, and one MiB
        more.
        """
        return 1024 * self.max_leaves + (1 << 20)


class Budget:
    """What a file has asked for so far; every reader counts its leaves in it."""

    def __init__(self, limits: Limits, origin: Origin) -> None:
        self.limits = limits
        self.origin = origin
        self.leaves = 0
        self.nbytes = 0

    def refuse(self, reason: str) -> CheckpointError:
        """The error that names the file and the reason."""
        return CheckpointError(f"{self.origin}: {reason}")

    def exceeded(self, what: str, found: Any, limit: str) -> CheckpointError:
        """The error of a limit, which says how to raise it."""
        allowed = getattr(self.limits, limit)
        return self.refuse(
            f"{what}: {found}, and the limit is {allowed}; if you trust the file, "
            f"read it with Limits({limit}=...)"
        )

    def leaf(self, key: str, shape: Any, dtype: np.dtype) -> tuple[int, ...]:
        """Count a leaf, and return its shape once it is one."""
        checked = self.shape(key, shape)
        self.leaves += 1
        if self.leaves > self.limits.max_leaves:
            raise self.exceeded("too many leaves", f"{self.leaves}", "max_leaves")
        self.nbytes += math.prod(checked) * dtype.itemsize
        if self.nbytes > self.limits.max_bytes:
            found = f"{self.nbytes} bytes with {_short(key)}"
            raise self.exceeded("too large", found, "max_bytes")
        return checked

    def shape(self, key: str, shape: Any) -> tuple[int, ...]:
        """The shape, if it is a sequence of few integers that are not negative."""
        listed = isinstance(shape, Sequence) and not isinstance(shape, (str, bytes))
        if not listed or not all(type(n) is int and n >= 0 for n in shape):
            raise self.refuse(f"the shape of {_short(key)} is {_short(shape)}")
        if len(shape) > _MAX_NDIM:
            raise self.refuse(
                f"{_short(key)} has {len(shape)} axes, and arrays have {_MAX_NDIM}"
            )
        if math.prod(n for n in shape if n) >= 1 << 62:
            raise self.refuse(f"the shape of {_short(key)}, {shape}, overflows")
        return tuple(shape)

    def depth(self, depth: int, key: str) -> None:
        """Refuse what is nested too deeply."""
        if depth > self.limits.max_depth:
            raise self.exceeded(
                f"nested too deeply at {_short(key)}", depth, "max_depth"
            )

    def eager(self, nbytes: int, what: str) -> None:
        """Refuse what would have to be held in memory at once."""
        if nbytes > self.limits.max_eager_bytes:
            raise self.exceeded(
                f"{what} must be read at once", f"{nbytes} bytes", "max_eager_bytes"
            )

    def header(self, nbytes: int, what: str) -> None:
        """Refuse a description that is longer than so many leaves need."""
        if nbytes > self.limits.max_header_bytes:
            raise self.exceeded(
                f"{what} is larger than {self.limits.max_header_bytes} bytes",
                f"{nbytes} bytes",
                "max_leaves",
            )

    def expansion(self, nbytes: int, stored: int, what: str = "the leaves") -> None:
        """Refuse what becomes much larger in memory than it is in the file."""
        if nbytes > self.limits.max_expansion * max(stored, 1):
            raise self.exceeded(
                f"{what} would expand {stored} bytes to {nbytes}",
                f"{nbytes / max(stored, 1):.0f} times",
                "max_expansion",
            )


def _short(value: Any) -> str:
    """The value as an error shows it, cut when a file made it long."""
    text = repr(value) if len(str(value)) < 200 else repr(str(value)[:200]) + "..."
    return text
