"""What to write where leaves do not fit, as near to the line itself as can be known."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches

import numpy as np

from jaxinit._paths import Name
from jaxinit.transfer._layouts import torch_steps
from jaxinit.transfer._rules import Rule, TorchLayout
from jaxinit.transfer._steps import Shape, shape_after
from jaxinit.transfer._torch_names import is_of_torch

STATISTICS = ("running_mean", "running_var")


@dataclass(frozen=True)
class Unfilled:
    """Leaves of the target that nothing reaches: full names, paths, and parents."""

    names: tuple[str, ...]
    paths: frozenset[str]
    parents: frozenset[str]

    @classmethod
    def of(cls, names: Iterable[str]) -> Unfilled:
        """The same for some full names."""
        names = tuple(names)
        paths = frozenset(Name.parse(full).path for full in names)
        return cls(names, paths, frozenset(map(_parent, paths)))


def for_unexpected(
    name: Name, unfilled: Unfilled, rules: Sequence[Rule], *, guess: bool
) -> str:
    """For a leaf that arrives at this name, which the target does not have.

    A name that is merely like this one is sought only if `guess`: it takes long.
    """
    last = name.path.rpartition("/")[2]
    if last in STATISTICS and not unfilled.names:
        return (
            "Give the whole variables (or the whole state of nnx) as target, "
            "batch_stats with the params, or drop(...) it."
        )
    if known := _by_convention(name, unfilled):
        return f"Say {known}, or drop(...) it."
    laid_out = any(isinstance(rule, TorchLayout) for rule in rules)
    layout = is_of_torch(last) and not laid_out
    if prefix := _prefix(name.path, unfilled):
        more = ", and torch_layout(), since it is torch's" if layout else ""
        return f"Say {_without(prefix)}{more}, or drop(...) it."
    if layout and _parent(name.path) in unfilled.parents:
        return "Its name is torch's: say torch_layout(), or drop(...) it."
    others = {Name.parse(full).collection for full in unfilled.names}
    if name.collection not in ("params", *others):
        return f"Say drop('{name.collection}:.*'), or where it goes with rename(...)."
    close = get_close_matches(name.full, unfilled.names, n=1) if guess else []
    meant = f"Did you mean {close[0]!r}? " if close else ""
    return f"{meant}Say where it goes with rename(...), or drop(...) it."


def for_shape(path: str, made: Shape | None, wanted: Shape) -> str:
    """For a leaf that arrives in another shape, or in none."""
    if made is None:
        return "Correct the rule, or say keep(...) or draw(...) for this leaf."
    if len(made) == len(wanted) >= 2:
        backwards = torch_steps(path, made, wanted, transposed=False)
        if backwards and shape_after(backwards, made) == wanted:
            return "The axes are in another order: say torch_layout() or layout(...)."
        if sorted(made) == sorted(wanted) and made != wanted:
            return (
                "The axes are in another order: say layout(..., transpose=...), or, "
                "for a ConvTranspose of torch, torch_layout(transposed=...)."
            )
        if len(made) > 2 and (*made[:-2], made[-1]) == (*wanted[:-2], wanted[-1]):
            mode = '"sum"' if wanted[-2] == 1 else '"tile" or "zero" or "sum"'
            return (
                f"Say adapt({path!r}, adapters.inflate_channels, "
                f"channels={wanted[-2]}, mode={mode})."
            )
    if int(np.prod(made)) == int(np.prod(wanted)):
        return "Say layout(..., reshape=True) if the elements are in the same order."
    return "Say adapt(...) with a function, or keep(...) or draw(...) for this leaf."


def _by_convention(name: Name, unfilled: Unfilled) -> str:
    """The rule for a leaf of nnx without its collection, or with Keras's ":0"."""
    stem = name.full.removesuffix(":0")
    if stem != name.full and stem.removeprefix("params:") in unfilled.names:
        return r"rename('(.*):0', r'\1')"
    if name.path not in unfilled.paths:
        return ""
    last = name.path.rpartition("/")[2]
    (full, *_) = [n for n in unfilled.names if Name.parse(n).path == name.path]
    collection = Name.parse(full).collection
    return rf"rename(r'(.*/{re.escape(last)})', r'{collection}:\1')"


def _prefix(path: str, unfilled: Unfilled) -> str:
    """The keys without which a path, or one of torch beside it, is in the target."""
    keys = path.split("/")
    for count in range(1, len(keys)):
        rest = "/".join(keys[count:])
        parent = _parent(rest)
        beside = is_of_torch(keys[-1]) and parent and parent in unfilled.parents
        if rest in unfilled.paths or beside:
            return "/".join(keys[:count])
    return ""


def _without(prefix: str) -> str:
    return rf"rename(r'{re.escape(prefix)}/(.*)', r'\1')"


def _parent(path: str) -> str:
    return path.rpartition("/")[0]
