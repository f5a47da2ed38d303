"""Functions in plans: the label that stands for one, and the one that a label names."""

from __future__ import annotations

import ast
import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any

from jaxinit import initializers
from jaxinit._errors import RuleError
from jaxinit.transfer import adapters
from jaxinit.transfer._rules import Adapt

_HOMES = {"initializers": initializers, "adapters": adapters}


def adapter_of(rule: Adapt) -> tuple[str, Callable[..., Any]]:
    """The label of an adapter with its options, and the function with them bound."""
    function = functools.partial(rule.adapter, **dict(rule.options))
    name = getattr(rule.adapter, "__name__", repr(rule.adapter))
    if getattr(adapters, name, None) is rule.adapter:
        name = f"adapters.{name}"
    options = ", ".join(f"{option}={value!r}" for option, value in rule.options)
    return f"{name}({options})", function


def initializer_of(function: Callable[..., Any]) -> str:
    """The label of an initializer: how it prints."""
    shown = getattr(function, "__name__", None) or repr(function)
    return f"initializers.{shown}" if _resolve(f"initializers.{shown}") else shown


def resolve(
    label: str, functions: Mapping[str, Callable[..., Any]]
) -> Callable[..., Any]:
    """The function that a label stands for: one that is given, or one of the library.

    A label of the library is read as a call with literal arguments, never evaluated.
    """
    if label in functions:
        return functions[label]
    found = _resolve(label)
    if found is None:
        raise RuleError(
            f"the plan uses {label!r}, which is not of this library; give it with "
            f"functions={{{label!r}: ...}}"
        )
    return found


def _resolve(label: str) -> Callable[..., Any] | None:
    home, _, call = label.partition(".")
    if home not in _HOMES:
        return None
    try:
        return called(_HOMES[home], ast.parse(call, mode="eval").body)
    except (SyntaxError, ValueError, TypeError, RecursionError):
        return None


def called(home: Any, node: ast.expr) -> Any:
    """What a name or a call with literal arguments gives, looked up in a namespace."""
    match node:
        case ast.Name(id=name) if name in home.__all__:
            return getattr(home, name)
        case ast.Call(func=ast.Name(id=name), args=args, keywords=keywords):
            if name not in home.__all__:
                raise ValueError(f"{name} is not of this library")
            function = getattr(home, name)
            positional = [called(home, arg) for arg in args]
            options = {k.arg: called(home, k.value) for k in keywords if k.arg}
            if home is adapters:
                return functools.partial(function, *positional, **options)
            return function(*positional, **options)
    return ast.literal_eval(node)


def supplied(
    adapter: Callable[..., Any], shape: tuple[int, ...], key: Any
) -> dict[str, Any]:
    """What an adapter is given besides the array and its own options.

    The target's shape and a key, if it has parameters of these names that are not set.
    """
    bound = adapter.keywords if isinstance(adapter, functools.partial) else {}
    function = adapter.func if isinstance(adapter, functools.partial) else adapter
    try:
        parameters = inspect.signature(function).parameters
    except (TypeError, ValueError):  # of a builtin
        return {}
    offered = {"shape": shape, "key": key}
    return {
        name: value
        for name, value in offered.items()
        if name in parameters and name not in bound and value is not None
    }


def same_function(one: Any, other: Any) -> bool:
    """Whether two functions are the same one, with the same options."""
    if isinstance(one, functools.partial) and isinstance(other, functools.partial):
        same = one.func is other.func and list(one.keywords) == list(other.keywords)
        pairs = zip(one.keywords.values(), other.keywords.values(), strict=False)
        return same and all(a is b or repr(a) == repr(b) for a, b in pairs)
    return one is other or (type(one) is type(other) and one == other)
