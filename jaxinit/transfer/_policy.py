"""What a merge does about what does not fit."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass, fields
from typing import Literal, get_args

from jaxinit._errors import RuleError

Choice = Literal["error", "warn", "allow"]
DtypeChoice = Literal["error", "warn", "allow", "cast"]


@dataclass(frozen=True)
class Policy:
    """For each kind of misfit: an error, a warning in the report, or nothing at all.

    Args:
      missing: a target leaf that nothing reaches. Where allowed it is kept, or drawn by
        a target given as a function.
      unexpected: a source leaf that reaches no target leaf. Where allowed it is
        dropped.
      shape: a pair whose shapes differ. Where allowed the target's leaf is kept, or
        drawn as if missing, and the source's is replaced.
      dtype: a pair whose dtypes differ. "cast" converts between floating types, and
        between integers; "warn" too, with a warning; "allow" leaves the source's dtype.
        From one kind of number to another is an error unless allowed.
      nonfinite: a source leaf with NaN or infinite values, or one that overflows when
        it is cast. Where allowed it is taken as it is.
      params_without_stats: parameters of a layer that are taken from the source while
        the layer's batch statistics are not.

    >>> Policy(unexpected="warn").missing
    'error'
    """

    _: KW_ONLY
    missing: Choice = "error"
    unexpected: Choice = "error"
    shape: Choice = "error"
    dtype: DtypeChoice = "cast"
    nonfinite: Choice = "error"
    params_without_stats: Choice = "error"

    def __post_init__(self) -> None:
        for field in fields(self):
            choices = get_args(DtypeChoice if field.name == "dtype" else Choice)
            if getattr(self, field.name) not in choices:
                raise RuleError(
                    f"{field.name} must be one of {', '.join(map(repr, choices))}, got "
                    f"{getattr(self, field.name)!r}"
                )


STRICT = Policy()
