"""The rules of a merge, as values.

A list of them is read in three stages: on source paths, on pairs by target path, and on
target paths. In each stage the first rule that matches a leaf wins. The functions that
build them, and check what they are given, are in `_source_rules` and `_target_rules`.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass, fields
from typing import Any, ClassVar

from jaxinit._rules import Pattern

Replacement = str | Callable[[re.Match[str]], str]


@dataclass(frozen=True)
class Rule:
    """What all rules share: patterns, and whether they may match nothing."""

    stage: ClassVar[str] = ""

    @property
    def patterns(self) -> tuple[Pattern, ...]:
        """The patterns; all but `fuse` have one."""
        return (getattr(self, "pattern"),)  # noqa: B009 - a field of the subclasses

    @property
    def may_match_nothing(self) -> bool:
        """Whether a pattern that matches nothing is no error."""
        return getattr(self, "optional", False)

    def __str__(self) -> str:
        shown: list[str] = []
        for field in fields(self):
            value = getattr(self, field.name)
            if value == field.default:
                continue
            if field.name == "options":
                shown += [f"{option}={_shown(given)}" for option, given in value]
            else:
                keyword = f"{field.name}=" if field.kw_only else ""
                shown.append(keyword + _shown(value))
        name = re.sub(r"(?<!^)([A-Z])", r"_\1", type(self).__name__).lower()
        return f"{name}({', '.join(shown)})"


@dataclass(frozen=True)
class Drop(Rule):
    stage: ClassVar[str] = "source"
    pattern: Pattern
    _: KW_ONLY
    reason: str = ""
    optional: bool = False


@dataclass(frozen=True)
class Rename(Rule):
    stage: ClassVar[str] = "source"
    pattern: Pattern
    replacement: tuple[Replacement, ...]
    _: KW_ONLY
    optional: bool = False


@dataclass(frozen=True)
class Split(Rule):
    stage: ClassVar[str] = "source"
    pattern: Pattern
    replacements: tuple[Replacement, ...]
    _: KW_ONLY
    axis: int
    sizes: tuple[int, ...] | None = None
    optional: bool = False


@dataclass(frozen=True)
class Fuse(Rule):
    stage: ClassVar[str] = "source"
    several: tuple[Pattern, ...]
    replacement: Replacement
    _: KW_ONLY
    axis: int
    optional: bool = False

    @property
    def patterns(self) -> tuple[Pattern, ...]:
        return self.several


@dataclass(frozen=True)
class Stack(Rule):
    stage: ClassVar[str] = "source"
    pattern: Pattern
    replacement: Replacement
    _: KW_ONLY
    axis: int = 0
    first: int = 0
    optional: bool = False


@dataclass(frozen=True)
class Unstack(Rule):
    stage: ClassVar[str] = "source"
    pattern: Pattern
    replacement: str
    _: KW_ONLY
    axis: int = 0
    first: int = 0
    optional: bool = False


@dataclass(frozen=True)
class Layout(Rule):
    stage: ClassVar[str] = "layout"
    pattern: Pattern
    _: KW_ONLY
    unflatten: tuple[int, ...] | None = None
    transpose: tuple[int, ...] | None = None
    flip: tuple[int, ...] = ()
    reshape: bool = False
    optional: bool = False


@dataclass(frozen=True)
class TorchLayout(Rule):
    stage: ClassVar[str] = "layout"
    pattern: Pattern = ".*"
    _: KW_ONLY
    transposed: Pattern | None = None
    optional: bool = False


@dataclass(frozen=True)
class Adapt(Rule):
    stage: ClassVar[str] = "adapt"
    pattern: Pattern
    adapter: Callable[..., Any]
    options: tuple[tuple[str, Any], ...] = ()
    _: KW_ONLY
    optional: bool = False


@dataclass(frozen=True)
class Keep(Rule):
    stage: ClassVar[str] = "target"
    pattern: Pattern
    _: KW_ONLY
    optional: bool = False


@dataclass(frozen=True)
class Draw(Rule):
    stage: ClassVar[str] = "target"
    pattern: Pattern
    initializer: Callable[..., Any]
    _: KW_ONLY
    optional: bool = False


def _shown(value: Any) -> str:
    match value:
        case re.Pattern():
            return repr(value.pattern)
        case (str() as single,):
            return repr(single)
        case (single,) if callable(single):
            return _shown(single)
        case tuple():
            return f"[{', '.join(map(_shown, value))}]"
    return getattr(value, "__name__", None) or repr(value)
