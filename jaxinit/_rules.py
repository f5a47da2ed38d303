"""Patterns and ordered rules over the names of leaves.

A pattern is a regular expression that must match a whole path. Without a colon it
speaks of every collection; with one it is held against "collection:path", the
collection of a bare tree being "params". (Trying both forms of the name would be
simpler and wrong: `(?!head/).*`, everything but the head, would match
"params:head/kernel".)

Rules are an ordered list of (pattern, value), and the first match wins. A pattern that
matches nothing is an error, because a rule with a typing mistake otherwise does nothing
at all.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from functools import lru_cache
from typing import Any, NamedTuple

from jaxinit._errors import RuleError
from jaxinit._folding import fold_paths
from jaxinit._paths import Name

Pattern = str | re.Pattern[str]


class Rule(NamedTuple):
    """A pattern, its value, and whether it may match nothing."""

    pattern: Pattern
    value: Any
    optional: bool = False


def compile_pattern(pattern: Any, *, argument: str = "pattern") -> re.Pattern[str]:
    """The pattern compiled; RuleError, with a remedy, where it cannot be."""
    if isinstance(pattern, re.Pattern) and isinstance(pattern.pattern, str):
        return pattern
    if not isinstance(pattern, str):
        raise RuleError(
            f"{argument}: a pattern is text, got {pattern!r} ({type(pattern).__name__})"
        )
    try:
        return re.compile(pattern)
    except re.error as error:
        regular = _from_glob(pattern)
        hint = f"; this looks like a glob; write {regular!r}" if regular else ""
        raise RuleError(
            f"{argument}: {pattern!r} is not a regular expression: {error}{hint}"
        ) from None


def matches(pattern: re.Pattern[str], name: Name) -> bool:
    """Whether the pattern matches the whole of a name.

    >>> mean = Name("batch_stats", "head/mean")
    >>> [matches(re.compile(p), mean) for p in ("head/.*", "params:.*", "mean")]
    [True, False, False]
    """
    return match(pattern, name) is not None


def match(pattern: re.Pattern[str], name: Name) -> re.Match[str] | None:
    """The match of a pattern with the whole of a name, for what its groups hold."""
    return pattern.fullmatch(_subject(pattern, name))


def select(
    patterns: Pattern | Iterable[Pattern] | None,
    names: Iterable[Name],
    *,
    argument: str = "only",
    optional: bool = False,
) -> tuple[Name, ...]:
    """The names that one pattern, or any of several, matches; all of them for None.

    Unless `optional`, each pattern has to match something; else it is a RuleError that
    names `argument` and what may have been meant.
    """
    names = tuple(names)
    if patterns is None:
        return names
    if isinstance(patterns, (str, re.Pattern)):
        compiled = {argument: compile_pattern(patterns, argument=argument)}
    elif isinstance(patterns, Iterable):
        compiled = {
            (at := f"{argument}[{i}]"): compile_pattern(pattern, argument=at)
            for i, pattern in enumerate(patterns)
        }
    else:
        raise RuleError(f"{argument} must be a pattern or a list, got {patterns!r}")
    chosen: set[Name] = set()
    for where, pattern in compiled.items():
        found = [name for name in names if matches(pattern, name)]
        if not (found or optional):
            raise RuleError(f"{where}: {_no_match(pattern, names)}")
        chosen.update(found)
    return tuple(name for name in names if name in chosen)


def first_matches(
    rules: Sequence[Any] | Mapping[Pattern, Any],
    names: Iterable[Name],
    *,
    argument: str = "rules",
    labels: Sequence[str] | None = None,
) -> dict[Name, int]:
    """For each name that some rule matches, the position of the first that does.

    A rule is a pair (pattern, value) or a `Rule`; a mapping stands for its items. A
    rule that matches nothing, or only names that earlier rules take, is a RuleError
    unless it is optional. `labels` are what errors call the rules, in the place of
    "rules[0]".
    """
    compiled = _compiled(rules, argument)
    return _first_matches(compiled, tuple(names), argument, labels)


def _first_matches(
    compiled: list[_Compiled],
    names: tuple[Name, ...],
    argument: str,
    labels: Sequence[str] | None = None,
) -> dict[Name, int]:
    first: dict[Name, int] = {}
    for position, rule in enumerate(compiled):
        found = [name for name in names if matches(rule.pattern, name)]
        earlier = sorted({first[name] for name in found if name in first})
        for name in found:
            first.setdefault(name, position)
        if rule.optional or position in (first[name] for name in found):
            continue
        where = labels[position] if labels else f"{argument}[{position}]"
        text = rule.pattern.pattern
        if not found:
            raise RuleError(f"{where}: {_no_match(rule.pattern, names)}")
        taken_by = ", ".join(repr(compiled[i].pattern.pattern) for i in earlier)
        raise RuleError(
            f"{where}: the pattern {text!r} never applies, since the rules before it "
            f"take all that it matches ({listed(found)}); move it before {taken_by} or "
            "remove it"
        )
    return {name: first[name] for name in names if name in first}


_MISSING: Any = object()


def assign(
    rules: Sequence[Any] | Mapping[Pattern, Any],
    names: Iterable[Name],
    *,
    argument: str = "rules",
    default: Any = _MISSING,
    complete: bool = False,
) -> dict[Name, Any]:
    """The value of the first rule that matches, for each name in order.

    Names that no rule matches get `default`; without one they are left out, or, where
    the assignment has to be `complete`, are a RuleError that lists them. Rules are
    checked as in `first_matches`.

    >>> names = [Name("params", "body/w"), Name("params", "head/w")]
    >>> list(assign([("head/.*", 1.0), (".*", 0.1)], names).values())
    [0.1, 1.0]
    """
    names = tuple(names)
    compiled = _compiled(rules, argument)
    first = _first_matches(compiled, names, argument)
    values = {name: compiled[position].value for name, position in first.items()}
    if default is not _MISSING:
        return {name: values.get(name, default) for name in names}
    uncovered = [name for name in names if name not in first]
    if complete and uncovered:
        raise RuleError(
            f"{argument}: no rule matches {len(uncovered)} of {len(names)} leaves "
            f"({listed(uncovered)}); add rules for them, or end with ('.*', value)"
        )
    return values


def listed(names: Iterable[Name], limit: int = 5) -> str:
    """The names for an error message: numbers folded, the excess counted."""
    folded = fold_paths(name.full for name in names)
    shown = ", ".join(map(repr, folded[:limit]))
    return shown + (f" and {len(folded) - limit} more" if len(folded) > limit else "")


class _Compiled(NamedTuple):
    pattern: re.Pattern[str]
    value: Any
    optional: bool


def _compiled(rules: Any, argument: str) -> list[_Compiled]:
    if isinstance(rules, Mapping):
        rules = list(rules.items())
    example = "write [('head/.*', value)]"
    if isinstance(rules, (str, re.Pattern)) or not isinstance(rules, Iterable):
        raise RuleError(
            f"{argument} must be a list of (pattern, value) pairs, got {rules!r}; "
            + (f"write [({rules!r}, value)]" if isinstance(rules, str) else example)
        )
    compiled = []
    for position, rule in enumerate(rules):
        where = f"{argument}[{position}]"
        if not isinstance(rule, Rule):
            if not (isinstance(rule, (tuple, list)) and len(rule) == 2):
                raise RuleError(
                    f"{where} must be a (pattern, value) pair, got {rule!r}; {example}"
                )
            rule = Rule(*rule)
        pattern = compile_pattern(rule.pattern, argument=where)
        compiled.append(_Compiled(pattern, rule.value, rule.optional))
    return compiled


def _subject(pattern: re.Pattern[str], name: Name) -> str:
    return name.qualified if _has_colon(pattern.pattern) else name.path


@lru_cache(maxsize=1024)
def _has_colon(text: str) -> bool:
    # The colons of groups, `(?:a|b)` and `(?i:a)`, are syntax.
    return ":" in re.sub(r"\\[^:]|\(\?[a-zA-Z-]*:", "", text)


# Why a pattern matches nothing


def _no_match(pattern: re.Pattern[str], names: Sequence[Name]) -> str:
    text = pattern.pattern
    said = f"the pattern {text!r} matches no leaf"
    if not names:
        return f"{said}: there are no leaves"
    subjects = [_subject(pattern, name) for name in names]
    if regular := _from_glob(text):
        said += "; this looks like a glob"
        if _fits(regular, subjects):
            return f"{said}; write {regular!r}"
    found = (s for s in subjects for match in pattern.finditer(s) if match.group())
    part = next(found, None)
    group = f"(?:{text})" if "|" in text else text
    for longer in (f"{group}/.*", f".*/{group}", f".*/{group}/.*", f".*{group}.*"):
        if part and _fits(longer, subjects):
            return (
                f"{said}: it must match the whole path and matches only a part of "
                f"{part!r}; write {longer!r}"
            )
    if meant := _close_patterns(regular or text, subjects):
        return f"{said}; did you mean {' or '.join(map(repr, meant))}?"
    return f"{said}; the leaves are {listed(names)}"


def _fits(text: str, subjects: Iterable[str]) -> bool:
    try:
        return any(re.fullmatch(text, subject) for subject in subjects)
    except re.error:  # a flag, `(?i)`, that no longer stands at the start
        return False


def _from_glob(text: str) -> str | None:
    """The text with the stars of a glob as `.*`; None where it has no such star."""
    regular = re.sub(r"(?<![.)\]}\\*])(?<!\\[a-zA-Z])\*+", ".*", text)
    return regular if regular != text else None


def _close_patterns(text: str, subjects: Iterable[str]) -> list[str]:
    """Patterns for the parts of paths, three at most, that are spelled most alike."""
    plain = re.sub(r"\?P<\w+>|\.[*+]|[\\^$?*+()]", "", text)
    parts: dict[str, str] = {}
    for subject in subjects:
        parts[subject] = _escaped(subject)
    for subject in subjects:
        for cut in (match.start() for match in re.finditer("/", subject)):
            before, after = subject[:cut], subject[cut + 1 :]
            parts.setdefault(before, f"{_escaped(before)}/.*")
            parts.setdefault(after, f".*/{_escaped(after)}")
            between = before.rpartition("/")[2]
            parts.setdefault(between, f".*/{_escaped(between)}/.*")
        collection, colon, _ = subject.partition(":")
        if colon:
            parts.setdefault(collection + colon, f"{_escaped(collection)}:.*")
    return [parts[part] for part in get_close_matches(plain.strip("/"), parts)]


def _escaped(text: str) -> str:
    # re.escape would also escape "-" and "~", which mean nothing outside of brackets.
    return re.sub(r"[.^$*+?{}\[\]\\|()]", r"\\\g<0>", text)
