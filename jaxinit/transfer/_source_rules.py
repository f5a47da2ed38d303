"""The rules of the first stage: where the leaves of a source go."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from jaxinit._errors import RuleError
from jaxinit._rules import Pattern, compile_pattern
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


def drop(pattern: Pattern, *, reason: str = "", optional: bool = False) -> Rule:
    """The source leaves that match are not wanted.

    Args:
      pattern: a regular expression for whole source paths.
      reason: stands in the report.
      optional: whether the rule may match nothing.

    >>> import jax.numpy as jnp
    >>> from jaxinit import transfer as tr
    >>> source = {"step": jnp.ones(()), "w": jnp.ones(2)}
    >>> tree, report = tr.merge({"w": jnp.zeros(2)}, source, [tr.drop("step")])
    >>> report.source_fates
    {'step': 'dropped', 'w': 'used'}
    """
    check(pattern)
    return Drop(pattern, reason=reason, optional=optional)


def rename(
    pattern: Pattern,
    replacement: Replacement | Sequence[Replacement],
    *,
    optional: bool = False,
) -> Rule:
    r"""The source leaves that match go to another path, as in `re.sub`.

    A replacement with a colon names the collection too; without one a leaf stays in its
    own. Several replacements say that one leaf is used several times.

    Args:
      pattern: a regular expression for whole source paths.
      replacement: a template (`\1` is the first group), or a function of the match.
      optional: whether the rule may match nothing.

    >>> import jax.numpy as jnp
    >>> from jaxinit import transfer as tr
    >>> source, target = {"fc1": {"w": jnp.ones(1)}}, {"fc": [{"w": jnp.zeros(1)}]}
    >>> tree, _ = tr.merge(target, source, [tr.rename(r"fc1/(.*)", r"fc/0/\1")])
    >>> tree["fc"][0]["w"].tolist()
    [1.0]
    """
    check(pattern)
    listed = isinstance(replacement, Sequence) and not isinstance(replacement, str)
    several = tuple(replacement) if listed else (replacement,)
    return Rename(pattern, replacements_of(several), optional=optional)


def split(
    pattern: Pattern,
    replacements: Sequence[Replacement],
    *,
    axis: int,
    sizes: Sequence[int] | None = None,
    optional: bool = False,
) -> Rule:
    r"""One source leaf becomes several, cut along an axis of its own layout.

    Args:
      pattern: a regular expression for whole source paths.
      replacements: where the parts go, in their order.
      axis: of the source leaf, before any layout.
      sizes: of the parts; equal ones by default.
      optional: whether the rule may match nothing.

    >>> import jax.numpy as jnp
    >>> from jaxinit import transfer as tr
    >>> rule = tr.split("qkv", ["query", "key", "value"], axis=0)
    >>> target = {name: jnp.zeros(1) for name in ("query", "key", "value")}
    >>> tree, _ = tr.merge(target, {"qkv": jnp.arange(3.0)}, [rule])
    >>> tree["key"].tolist()
    [1.0]
    """
    check(pattern)
    if isinstance(replacements, str) or len(tuple(replacements)) < 2:
        raise RuleError(f"replacements must name two parts or more: {replacements!r}")
    replacements = replacements_of(tuple(replacements))
    if sizes is not None and len(tuple(sizes)) != len(replacements):
        raise RuleError(
            f"sizes must be one for each of {len(replacements)} parts, got {sizes!r}"
        )
    return Split(
        pattern,
        replacements,
        axis=axis,
        sizes=None if sizes is None else tuple(sizes),
        optional=optional,
    )


def fuse(
    patterns: Sequence[Pattern],
    replacement: Replacement,
    *,
    axis: int,
    optional: bool = False,
) -> Rule:
    r"""Several source leaves become one, side by side along an axis of their layout.

    Leaves with the same expanded replacement belong together, one for each pattern.

    Args:
      patterns: regular expressions for whole source paths, in the order of the parts.
      replacement: where the whole goes.
      axis: of the source leaves, before any layout.
      optional: whether the rule may match nothing.

    >>> import jax.numpy as jnp
    >>> from jaxinit import transfer as tr
    >>> rule = tr.fuse(["(.*)gate", "(.*)up"], r"\1gate_up", axis=-1)
    >>> source = {"gate": jnp.zeros(2), "up": jnp.ones(2)}
    >>> tree, _ = tr.merge({"gate_up": jnp.zeros(4)}, source, [rule])
    >>> tree["gate_up"].tolist()
    [0.0, 0.0, 1.0, 1.0]
    """
    several = () if isinstance(patterns, str) else tuple(patterns)
    if len(several) < 2:
        raise RuleError(f"patterns must be a list of two or more, got {patterns!r}")
    for position, pattern in enumerate(several):
        check(pattern, f"patterns[{position}]")
    (replacement,) = replacements_of((replacement,))
    return Fuse(several, replacement, axis=axis, optional=optional)


def stack(
    pattern: Pattern,
    replacement: Replacement,
    *,
    axis: int = 0,
    first: int = 0,
    optional: bool = False,
) -> Rule:
    r"""Source leaves of one layer each become one leaf of all layers, as scans hold.

    The group named `layer`, or else the first one, is the number of the layer. Layouts
    are those of a single layer.

    Args:
      pattern: a regular expression for whole source paths, with a group of digits.
      replacement: where the stacked leaf goes; without the number of the layer.
      axis: of the stacked leaf, in the layout of the target.
      first: the number of the first layer.
      optional: whether the rule may match nothing.

    >>> import jax.numpy as jnp
    >>> from jaxinit import transfer as tr
    >>> rule = tr.stack(r"h/(\d+)/(.*)", r"blocks/\2")
    >>> source = {"h": [{"w": jnp.zeros(3)}, {"w": jnp.ones(3)}]}
    >>> tree, _ = tr.merge({"blocks": {"w": jnp.zeros((2, 3))}}, source, [rule])
    >>> tree["blocks"]["w"][:, 0].tolist()
    [0.0, 1.0]
    """
    check(pattern)
    if not compile_pattern(pattern).groups:
        raise RuleError(
            f"pattern {pattern!r} has no group for the number of the layer; "
            r"write it as (\d+)"
        )
    (replacement,) = replacements_of((replacement,))
    return Stack(pattern, replacement, axis=axis, first=first, optional=optional)


def unstack(
    pattern: Pattern,
    replacement: str,
    *,
    axis: int = 0,
    first: int = 0,
    optional: bool = False,
) -> Rule:
    r"""One source leaf of all layers becomes one leaf for each layer.

    Args:
      pattern: a regular expression for whole source paths.
      replacement: where the layers go; `{layer}` stands for the number of each.
      axis: of the source leaf along which the layers lie.
      first: the number of the first layer.
      optional: whether the rule may match nothing.

    >>> import jax.numpy as jnp
    >>> from jaxinit import transfer as tr
    >>> rule = tr.unstack("blocks/(.*)", r"h/{layer}/\1")
    >>> source = {"blocks": {"w": jnp.array([[0.0, 0.0], [1.0, 1.0]])}}
    >>> target = {"h": [{"w": jnp.zeros(2)}, {"w": jnp.zeros(2)}]}
    >>> tr.merge(target, source, [rule])[0]["h"][1]["w"].tolist()
    [1.0, 1.0]
    """
    check(pattern)
    if not isinstance(replacement, str) or "{layer}" not in replacement:
        raise RuleError(
            f"replacement must contain {{layer}}, the number of each layer, got "
            f"{replacement!r}"
        )
    return Unstack(pattern, replacement, axis=axis, first=first, optional=optional)


def check(pattern: Any, argument: str = "pattern") -> None:
    compile_pattern(pattern, argument=argument)


def replacements_of(several: tuple[Any, ...]) -> tuple[Replacement, ...]:
    if not several:
        raise RuleError("a replacement is needed; to leave the leaf out, say drop(...)")
    for replacement in several:
        if not (isinstance(replacement, str) or callable(replacement)):
            raise RuleError(
                "a replacement is text or a function of the match, got "
                f"{replacement!r} ({type(replacement).__name__})"
            )
    return several
