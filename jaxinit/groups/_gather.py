"""Leaves that belong together: rules name roles, named groups of patterns pair them.

A rule is a pair (pattern, role), as elsewhere in the library: the pattern matches whole
paths, the first rule that matches counts. What is new is that leaves whose patterns
hold the same texts in their named groups, `(?P<block>...)`, make one group: the query
and the key of the same block. Patterns without a named group make one group in all.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from typing import Any, NoReturn

from jaxinit import _rules
from jaxinit._errors import RuleError
from jaxinit._paths import Flat, Name, flatten

_OPENING = re.compile(r"\(\?P<(\w+)>")

Captures = tuple[tuple[str, str], ...]


@dataclasses.dataclass(frozen=True, eq=False)
class Group:
    """Leaves that are set together.

    Attributes:
      captures: what the named groups of their patterns hold.
      names: for each role the name of its leaf; where leaves of one role are told apart
        by a selector, the role is "recurrent[f]".
      leaves: for each role its leaf.
      rules: all rules, for what an error suggests.
      paths: of all leaves of the tree, likewise.
    """

    captures: Captures
    names: dict[str, Name]
    leaves: dict[str, Any]
    rules: tuple[tuple[re.Pattern[str], str], ...]
    paths: tuple[str, ...]

    def __contains__(self, role: str) -> bool:
        return role in self.names

    @property
    def label(self) -> str:
        """How errors call the group, which is by what its patterns captured."""
        held = ", ".join(f"{name}={text!r}" for name, text in self.captures)
        return f"the group {held}" if held else "the group"

    def need(self, *roles: str) -> None:
        """RuleError that says what may have been meant, if a role has no leaf."""
        for role in roles:
            if role not in self.names:
                self._miss(role)

    def refuse(self, role: str, what: str) -> NoReturn:
        """RuleError about one leaf of the group."""
        raise RuleError(f"rules: {self.names[role].full!r}, the {role}, {what}")

    def _miss(self, role: str) -> NoReturn:
        present, name = next(iter(self.names.items()))
        said = (
            f"rules: {self.label} has the {present} {name.full!r} and no leaf for the "
            f"role {role!r}"
        )
        plain, _, selected = role.partition("[")
        own = [pattern for pattern, value in self.rules if value == plain]
        if not own:
            raise RuleError(f"{said}; add a rule (pattern, {plain!r})")
        wanted = _filled(own[0].pattern, dict(self.captures), selected.rstrip("]"))
        taken = {name.full for name in self.names.values()}
        free = [path for path in self.paths if path not in taken]
        meant = get_close_matches(wanted, free, n=2)
        hint = "; did you mean " + " or ".join(map(repr, meant)) + "?" if meant else ""
        raise RuleError(
            f"{said}: the pattern {own[0].pattern!r} matches none whose named groups "
            f"hold the same{hint}"
        )


def gather(
    params: Any,
    rules: Sequence[Any] | Mapping[Any, str],
    *,
    required: Sequence[str],
    optional: Sequence[str] = (),
    selector: str | None = None,
) -> tuple[Flat, list[Group]]:
    """The tree taken apart, and the groups that the rules make of its leaves.

    Args:
      params: the tree.
      rules: pairs of a pattern and a role.
      required: roles of which every group needs a leaf.
      optional: other roles.
      selector: a named group that tells leaves of one role apart (the gate of a cell)
        and so takes no part in the pairing.

    Raises:
      RuleError: a pattern matches nothing, a role is unknown, two leaves have one role
        in one group, or a required leaf is missing.
    """
    flat = flatten(params, argument="params")
    names = tuple(name for name in flat.names if not flat.is_random_state(name))
    known = (*required, *optional)
    first = _rules.first_matches(rules, names)
    compiled = _checked(rules, known, selector)
    values = dict(flat.items())
    members: dict[Captures, dict[str, Name]] = {}
    for name, position in first.items():
        pattern, role = compiled[position]
        found = _rules.match(pattern, name)
        held = dict(sorted(found.groupdict(default="").items())) if found else {}
        if selector and (selected := held.pop(selector, "")):
            role = f"{role}[{selected}]"
        own = members.setdefault(tuple(held.items()), {})
        if role in own:
            raise RuleError(
                f"rules[{position}]: {own[role].full!r} and {name.full!r} would both "
                f"be the {role} of one group; tell them apart by a named group in "
                "every pattern, such as '(?P<block>.*)/...'"
            )
        own[role] = name
    paths = tuple(name.full for name in names)
    groups = [
        Group(held, own, {r: values[n] for r, n in own.items()}, compiled, paths)
        for held, own in members.items()
    ]
    for group in groups:
        group.need(*required)
    return flat, groups


def _checked(
    rules: Any, known: Sequence[str], selector: str | None
) -> tuple[tuple[re.Pattern[str], str], ...]:
    """The rules, whose form is known to be right, with their roles and captures."""
    pairs = list(rules.items()) if isinstance(rules, Mapping) else list(rules)
    compiled = []
    for position, (pattern, role, *_) in enumerate(pairs):
        where = f"rules[{position}]"
        if not isinstance(role, str) or role not in known:
            meant = get_close_matches(str(role), known, n=1)
            hint = f"; did you mean {meant[0]!r}?" if meant else ""
            raise RuleError(
                f"{where}: {role!r} is no role; the roles are "
                f"{', '.join(map(repr, known))}{hint}"
            )
        compiled.append((_rules.compile_pattern(pattern, argument=where), role))
    for position, (pattern, _) in enumerate(compiled):
        own, other = (
            set(one.groupindex) - {selector} for one in (pattern, compiled[0][0])
        )
        if own != other:
            raise RuleError(
                f"rules[{position}]: the pattern {pattern.pattern!r} names the groups "
                f"{sorted(own)}, and {compiled[0][0].pattern!r} names {sorted(other)}; "
                "name the same ones in every pattern, since leaves are paired by what "
                "they hold"
            )
    return tuple(compiled)


def _filled(pattern: str, captures: Mapping[str, str], selected: str) -> str:
    """About the path that a pattern would match for these captures."""
    text = pattern
    while found := _OPENING.search(text):
        depth, end = 1, found.end()
        while depth and end < len(text):
            depth += {"(": 1, ")": -1}.get(text[end], 0) * (text[end - 1] != "\\")
            end += 1
        text = text[: found.start()] + captures.get(found[1], selected) + text[end:]
    return re.sub(r"\\|\.[*+]|[\^$?*+()]", "", text)
