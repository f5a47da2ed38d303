"""From the keys of a file to the full names of leaves. Keys are data, never paths."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from jaxinit._containers import PARAMS
from jaxinit._errors import CheckpointError, PathError
from jaxinit._paths import Name, from_separator
from jaxinit.transfer._limits import Budget

Keys = tuple[str, ...]


def split_key(key: str, separator: str, budget: Budget) -> Keys:
    """The keys that one flat key of a file is made of."""
    try:
        path = from_separator(key, separator) if separator != "/" else key
    except PathError as error:
        advice = '; a file whose keys are joined by "/" is read with separator="/"'
        raise budget.refuse(f"{error}{advice}") from error
    return tuple(path.split("/"))


def name_leaves(paths: Iterable[Keys], budget: Budget) -> list[str]:
    """The full name of each leaf, from the keys that lead to it.

    As everywhere, a mapping with a tree under "params" is read as linen variables, its
    first key being the collection, and the containers of nnx leave no trace: where the
    last key of every leaf is "value", an nnx State was saved, and that key is dropped.
    """
    paths = [check_keys(keys, budget) for keys in paths]
    if all(len(keys) > 1 and keys[-1] == "value" for keys in paths):
        paths = [keys[:-1] for keys in paths]
    variables = any(len(keys) > 1 and keys[0] == PARAMS for keys in paths)
    names: dict[str, Keys] = {}
    for keys in paths:
        name = _full_name(keys, variables, budget)
        if name in names:
            raise budget.refuse(
                f"two leaves share the name {name!r}, {'/'.join(names[name])} and "
                f"{'/'.join(keys)}"
            )
        names[name] = keys
    return list(names)


def _full_name(keys: Keys, variables: bool, budget: Budget) -> str:
    try:
        if variables:
            return Name(keys[0], "/".join(keys[1:])).full
        return Name(PARAMS, "/".join(keys)).full
    except PathError as error:
        raise budget.refuse(str(error)) from error


def check_keys(keys: Sequence[str], budget: Budget) -> Keys:
    """The keys, if whoever takes them for a path of files comes to no harm."""
    budget.depth(len(keys), "/".join(keys[:4]))
    for key in "/".join(keys).split("/"):
        if key in ("", ".", ".."):
            shown = "/".join(keys)[:200]
            raise budget.refuse(f"the key {shown!r} has a part {key!r}")
        if not key.isprintable():
            raise budget.refuse(f"the key {key[:200]!r} has unprintable characters")
    return tuple(keys)


def check_separator(separator: str | None) -> None:
    """Refuse a separator that separates nothing."""
    if separator is not None and (not isinstance(separator, str) or not separator):
        raise CheckpointError(
            f"separator must be the text between two keys, got {separator!r}"
        )
