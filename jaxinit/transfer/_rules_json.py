"""Rules from a JSON text, for whoever keeps them in a file and not in a program."""

from __future__ import annotations

import ast
import difflib
import inspect
import json
from collections.abc import Callable, Iterable
from typing import Any

from jaxinit import initializers
from jaxinit._errors import RuleError
from jaxinit.transfer import _source_rules as source_rules
from jaxinit.transfer import _target_rules as target_rules
from jaxinit.transfer import adapters
from jaxinit.transfer._functions import called
from jaxinit.transfer._rules import Rule

_BUILDERS: dict[str, Callable[..., Rule]] = {
    "drop": source_rules.drop,
    "rename": source_rules.rename,
    "split": source_rules.split,
    "fuse": source_rules.fuse,
    "stack": source_rules.stack,
    "unstack": source_rules.unstack,
    "layout": target_rules.layout,
    "torch_layout": target_rules.torch_layout,
    "adapt": target_rules.adapt,
    "keep": target_rules.keep,
    "draw": target_rules.draw,
}
# What JSON cannot say wrongly without being noticed only later, or never.
_EXPECTED = {
    **dict.fromkeys(("axis", "first"), "a whole number"),
    **dict.fromkeys(("sizes", "unflatten", "transpose", "flip"), "a list of numbers"),
    **dict.fromkeys(("reshape", "optional"), "true or false"),
    **dict.fromkeys(("reason", "transposed", "adapter", "initializer"), "a text"),
    "replacements": "a list of texts",
}
_KINDS = {
    "a whole number": lambda value: _whole(value),
    "a list of numbers": lambda value: _listed(value, _whole),
    "a list of texts": lambda value: _listed(value, lambda item: isinstance(item, str)),
    "true or false": lambda value: isinstance(value, bool),
    "a text": lambda value: isinstance(value, str),
}


def rules_from_json(text: str) -> list[Rule]:
    r"""The rules that a JSON list holds, as the functions of this module build them.

    A rule is an object: the name of its function with the pattern, or the patterns, and
    the options by the names that they have in Python. An adapter is named, its options
    stand beside it; an initializer is a call as one writes it. Nothing is ever
    imported or evaluated: for functions of one's own, write the rules in Python.

    Args:
      text: the JSON.

    Raises:
      RuleError: the text is no JSON, or no list of rules; it names the rule and what
        may have been meant.

    >>> from jaxinit import transfer as tr
    >>> rules = tr.rules_from_json('''[
    ...     {"rename": "fc/(.*)", "replacement": "head/\\\\1"},
    ...     {"torch_layout": ".*"},
    ...     {"adapt": "stem/kernel", "adapter": "inflate_channels", "channels": 1,
    ...      "mode": "sum"},
    ...     {"draw": "head/kernel", "initializer": "lecun_normal()"}
    ... ]''')
    >>> print(rules[0])
    rename('fc/(.*)', 'head/\\1')
    """
    try:
        data = json.loads(text, object_pairs_hook=_once)
    except json.JSONDecodeError as error:
        hint = ""
        if "escape" in error.msg:
            hint = r"; a backslash is written twice in JSON, \\1 and \\d"
        raise RuleError(
            f"rules are not JSON: line {error.lineno}, column {error.colno}: "
            f"{error.msg}{hint}"
        ) from None
    except RecursionError:
        raise RuleError("rules are nested too deeply to be rules") from None
    if not isinstance(data, list):
        raise RuleError(
            f"rules must be a JSON list of objects, got {_short(data)}; write "
            '[{"rename": "old/(.*)", "replacement": "new/\\\\1"}]'
        )
    return [_rule(item, f"rules[{position}]") for position, item in enumerate(data)]


def _rule(item: Any, where: str) -> Rule:
    if not isinstance(item, dict):
        raise RuleError(f'{where} must be an object, {{"drop": "step"}}, got {item!r}')
    kinds = [key for key in item if key in _BUILDERS]
    if len(kinds) != 1:
        found = f"both {' and '.join(kinds)}" if kinds else f"only {list(item)}"
        guesses = [guess for key in item for guess in _close(key, _BUILDERS)]
        meant = f"; did you mean {guesses[0]!r}?" if guesses and not kinds else ""
        raise RuleError(
            f"{where} must name one rule of {', '.join(_BUILDERS)}; it names "
            f"{found}{meant}"
        )
    (kind,) = kinds
    options = {key: value for key, value in item.items() if key != kind}
    try:
        return _built(kind, item[kind], options)
    except RuleError as error:
        raise RuleError(f"{where}, {kind}: {error}") from None


def _built(kind: str, pattern: Any, options: dict[str, Any]) -> Rule:
    builder = _BUILDERS[kind]
    first, *parameters = inspect.signature(builder).parameters.values()
    names = [p.name for p in parameters if p.kind is not p.VAR_KEYWORD]
    unset = [p.name for p in parameters if p.default is None]  # null says so too
    open_ended = len(names) < len(parameters)  # the options of an adapter
    for name, value in options.items():
        if name not in names and (name == first.name or not open_ended):
            close = _close(name, names)
            meant = f"did you mean {close[0]!r}?" if close else f"it has {names}"
            raise RuleError(f"there is no option {name!r}; {meant}")
        expected = _EXPECTED.get(name) if name in names else None
        if value is None and name in unset:
            continue
        if expected and not _KINDS[expected](value):
            raise RuleError(f"{name} must be {expected}, got {_short(value)}")
    needed = [p.name for p in parameters if p.default is p.empty and p.name in names]
    for name in needed:
        if name not in options:
            raise RuleError(f"needs {name!r}")
    if "adapter" in names:
        options = {**options, "adapter": _adapter(options["adapter"])}
    if "initializer" in names:
        options = {**options, "initializer": _initializer(options["initializer"])}
    return builder(pattern, **options)


def _adapter(name: str) -> Callable[..., Any]:
    if name not in adapters.__all__:
        close = _close(name, adapters.__all__)
        meant = (
            f"did you mean {close[0]!r}?" if close else f"they are {adapters.__all__}"
        )
        raise RuleError(f"there is no adapter {name!r}; {meant}")
    return getattr(adapters, name)


def _initializer(call: str) -> Callable[..., Any]:
    name = call.partition("(")[0].strip()
    if name not in initializers.__all__:
        close = _close(name, initializers.__all__)
        meant = f"; did you mean {close[0]!r}?" if close else ""
        raise RuleError(f"there is no initializer {name!r}{meant}")
    try:
        made = called(initializers, ast.parse(call.strip(), mode="eval").body)
    except (SyntaxError, ValueError, TypeError, RecursionError) as error:
        raise RuleError(f"initializer {call!r} cannot be built: {error}") from None
    if not isinstance(made, initializers.Initializer):
        raise RuleError(f"initializer {call!r} must be a call; write '{name}()'")
    return made


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise RuleError(f"rules: {twice!r} stands twice in one object; make it two")
    return made


def _close(name: Any, known: Iterable[str]) -> list[str]:
    return difflib.get_close_matches(str(name), list(known), n=1)


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _listed(value: Any, holds: Callable[[Any], bool]) -> bool:
    return isinstance(value, list) and all(map(holds, value))


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:60]}..."
