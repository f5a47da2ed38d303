"""The first stage: where each leaf of a source goes, by the rules on its path."""

from __future__ import annotations

import dataclasses
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from jaxinit._errors import PathError, RuleError
from jaxinit._paths import Name
from jaxinit._rules import Rule as Matching
from jaxinit._rules import compile_pattern, first_matches, listed, match
from jaxinit.transfer._recipe import Join, Piece, Recipe
from jaxinit.transfer._rules import (
    Drop,
    Fuse,
    Rename,
    Replacement,
    Rule,
    Split,
    Stack,
    Unstack,
)
from jaxinit.transfer._steps import Shape, axis_of, element, part


@dataclass(frozen=True)
class Arrival:
    """Something that is on its way to a leaf of the target.

    `summand` allows a second one to the same leaf, which is added. `hint` says why the
    leaf may not exist.
    """

    name: Name
    recipe: Recipe
    rule: str = ""
    summand: bool = False
    hint: str = ""

    def to(self, name: Name, recipe: Recipe | None = None, **changes) -> Arrival:
        """The same on its way elsewhere."""
        recipe = self.recipe if recipe is None else recipe
        return dataclasses.replace(self, name=name, recipe=recipe, **changes)


@dataclass(frozen=True)
class Departure:
    """What the first stage makes of a source: arrivals, and what was dropped."""

    arrivals: tuple[Arrival, ...]
    dropped: Mapping[str, str]


def depart(rules: Sequence[Rule], shapes: Mapping[str, Shape]) -> Departure:
    """Apply the rules of the first stage to a source, given by names and shapes."""
    names = [Name.parse(full) for full in shapes]
    winners = _winners(rules, names)
    arrivals: list[Arrival] = []
    dropped: dict[str, str] = {}
    together: defaultdict[tuple[int, Name], dict[int, Name]] = defaultdict(dict)
    for name in names:
        if name not in winners:
            arrivals.append(Arrival(name, Recipe((Piece(name.full),))))
            continue
        position, which = winners[name]
        rule, where = rules[position], f"rules[{position}]: {rules[position]}"
        shape = shapes[name.full]
        match rule:
            case Drop():
                dropped[name.full] = rule.reason or str(rule)
            case Rename():
                arrivals += _renamed(rule, where, name)
            case Split():
                arrivals += _split(rule, where, name, shape)
            case Unstack():
                arrivals += _unstacked(rule, where, name, shape)
            case Stack():
                layer, found = _layer_of(rule, where, name)
                to = _expand(found, rule.replacement, name, where)
                _put(together[position, to], layer, name, where)
            case Fuse():
                found = _found(rule.patterns[which], name)
                to = _expand(found, rule.replacement, name, where)
                _put(together[position, to], which, name, where)
    for (position, to), members in together.items():
        where = f"rules[{position}]: {rules[position]}"
        arrivals.append(_joined(rules[position], where, to, members))
    return Departure(tuple(arrivals), dropped)


def _winners(
    rules: Sequence[Rule], names: Sequence[Name]
) -> dict[Name, tuple[int, int]]:
    """For each name the position of the rule that takes it, and which pattern does."""
    places, matching, labels = [], [], []
    for position, rule in enumerate(rules):
        if rule.stage != "source":
            continue
        for which, pattern in enumerate(rule.patterns):
            places.append((position, which))
            matching.append(Matching(pattern, None, rule.may_match_nothing))
            labels.append(f"rules[{position}], {rule}")
        _check_used_once(rule, f"rules[{position}], {rule}", names)
    first = first_matches(matching, names, labels=labels)
    return {name: places[winner] for name, winner in first.items()}


def _check_used_once(rule: Rule, where: str, names: Iterable[Name]) -> None:
    compiled = [compile_pattern(pattern) for pattern in rule.patterns]
    if len(compiled) < 2:
        return
    twice = [name for name in names if sum(bool(match(p, name)) for p in compiled) > 1]
    if twice:
        raise RuleError(
            f"{where}: {listed(twice)} would be used twice, since more than one "
            "pattern matches; make the patterns exclude each other"
        )


def _renamed(rule: Rename, where: str, name: Name) -> list[Arrival]:
    found = _found(rule.pattern, name)
    recipe = Recipe((Piece(name.full),))
    return [
        Arrival(_expand(found, replacement, name, where), recipe, where)
        for replacement in rule.replacement
    ]


def _split(rule: Split, where: str, name: Name, shape: Shape) -> list[Arrival]:
    axis = _axis(rule.axis, shape, name, where)
    count = len(rule.replacements)
    sizes = rule.sizes or (shape[axis] // count,) * count
    if sum(sizes) != shape[axis]:
        raise RuleError(
            f"{where}: {name.full!r} of shape {shape} has {shape[axis]} elements on "
            f"axis {axis}, which {count} parts of {tuple(sizes)} do not use up; give "
            "the sizes of the parts"
        )
    found = _found(rule.pattern, name)
    arrivals, start = [], 0
    for replacement, size in zip(rule.replacements, sizes, strict=True):
        piece = Piece(name.full, (part(axis, start, start + size),))
        to = _expand(found, replacement, name, where)
        arrivals.append(Arrival(to, Recipe((piece,)), where))
        start += size
    return arrivals


def _unstacked(rule: Unstack, where: str, name: Name, shape: Shape) -> list[Arrival]:
    axis = _axis(rule.axis, shape, name, where)
    found = _found(rule.pattern, name)
    arrivals = []
    for index in range(shape[axis]):
        text = rule.replacement.replace("{layer}", str(rule.first + index))
        piece = Piece(name.full, (element(axis, index),))
        to = _expand(found, text, name, where)
        arrivals.append(Arrival(to, Recipe((piece,)), where))
    return arrivals


def _layer_of(rule: Stack, where: str, name: Name) -> tuple[int, re.Match[str]]:
    found = _found(rule.pattern, name)
    text = found.group("layer" if "layer" in found.re.groupindex else 1)
    if text is None or not text.isdecimal():
        raise RuleError(
            f"{where}: the number of the layer of {name.full!r} is {text!r}; let its "
            r"group match digits alone, (?P<layer>\d+)"
        )
    return int(text), found


def _put(members: dict[int, Name], at: int, name: Name, where: str) -> None:
    if at in members:
        raise RuleError(
            f"{where}: {members[at].full!r} and {name.full!r} claim the same place; "
            "let the replacement tell them apart"
        )
    members[at] = name


def _joined(rule: Rule, where: str, to: Name, members: dict[int, Name]) -> Arrival:
    match rule:
        case Stack():
            wanted = range(rule.first, rule.first + len(members))
            join, missing = Join("stack", rule.axis), [*{*wanted} - {*members}]
            what = f"has {len(members)} layers, and no layer {sorted(missing)}"
        case Fuse():
            join = Join("concatenate", rule.axis)
            missing = [*{*range(len(rule.patterns))} - {*members}]
            what = f"has no part for the patterns {sorted(missing)}"
        case _:
            raise AssertionError(rule)
    if missing:
        raise RuleError(
            f"{where}: {to.full!r}, from {listed(members.values())}, {what}; "
            "give the missing ones, or let the patterns match no lone ones"
        )
    pieces = tuple(Piece(members[at].full) for at in sorted(members))
    return Arrival(to, Recipe(pieces, join), where)


def _axis(axis: int, shape: Shape, name: Name, where: str) -> int:
    try:
        return axis_of(axis, len(shape))
    except ValueError:
        raise RuleError(
            f"{where}: {name.full!r} of shape {shape} has no axis {axis}"
        ) from None


def _found(pattern: str | re.Pattern[str], name: Name) -> re.Match[str]:
    found = match(compile_pattern(pattern), name)
    assert found is not None, "a rule was given a name that it does not match"
    return found


def _expand(
    found: re.Match[str], replacement: Replacement, name: Name, where: str
) -> Name:
    """The name that a replacement makes of a match; the collection stays if unsaid."""
    try:
        text = (
            found.expand(replacement)
            if isinstance(replacement, str)
            else replacement(found)
        )
    except (re.error, IndexError) as error:
        raise RuleError(
            f"{where}: the replacement {replacement!r} does not fit the pattern: "
            f"{error}"
        ) from None
    if not isinstance(text, str):
        raise RuleError(f"{where}: the replacement of {name.full!r} is {text!r}")
    try:
        return Name.parse(text) if ":" in text else Name(name.collection, text)
    except PathError as error:
        raise RuleError(f"{where}: {error}") from None
