"""Labels by rules, and the usual mask of weight decay."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from difflib import get_close_matches
from typing import Any

import jax.numpy as jnp

from jaxinit._containers import PARAMS, entries, is_parameter_type
from jaxinit._errors import RuleError
from jaxinit._paths import Name, flatten, named_leaves
from jaxinit._rules import Pattern, assign, listed, select
from jaxinit.finetune._inner import by_path

# The last keys of leaves that shift or scale: `bias`, `query_bias`, `scale`, `gamma`.
_SHIFT_OR_SCALE = re.compile(r"(.*_)?(bias|scale|offset|gamma|beta)|b")


def labels(
    rules: Sequence[Any] | Mapping[Pattern, Any], params: Any, *, default: Any = None
) -> Any:
    """A label for every leaf: the value of the first rule whose pattern matches.

    `rules` is a list of (pattern, label), or a mapping; a pattern must match the whole
    path. The result has the same kind of tree as `params`, as ``optax.partition`` wants
    it. Leaves that no rule matches get `default`; without one they are a RuleError, and
    so is a rule that matches nothing. Random-number state of nnx gets no label: there
    is None in its place.

    >>> import jax.numpy as jnp
    >>> params = {"body": {"kernel": jnp.ones(2)}, "head": {"bias": jnp.ones(2)}}
    >>> labels([("head/.*", "fast"), (".*", "slow")], params)
    {'body': {'kernel': 'slow'}, 'head': {'bias': 'fast'}}
    """
    flat = flatten(params, argument="params")
    names = [name for name in flat.names if not flat.is_random_state(name)]
    if default is None:
        found = assign(rules, names, complete=True)
    else:
        found = assign(rules, names, default=default)
    return flat.unflatten([found.get(name) for name in flat.names])


def labels_of(
    given: Any, names: Iterable[Name], tree: Any, keys: Collection[Any], argument: str
) -> dict[Name, Any]:
    """The label of each name, checked against the keys of the argument that uses them.

    `given` is a tree of labels, or a function from the tree at hand to one.
    """
    known = named_leaves(given(tree) if callable(given) else given, argument="labels")
    check_labels(known.values(), keys, argument)
    found = {name: by_path(known, name) for name in names}
    if missing := [name for name, label in found.items() if label is None]:
        raise RuleError(
            f"labels: no label for {len(missing)} of {len(found)} leaves "
            f"({listed(missing)}); make labels from the tree that is optimized, "
            "labels(rules, params)"
        )
    return found


def check_labels(used: Iterable[Any], keys: Collection[Any], argument: str) -> None:
    """RuleError unless the labels in use and the keys are the same."""
    used = dict.fromkeys(used)
    for key in keys:
        if key not in used:
            meant = get_close_matches(str(key), [str(label) for label in used])
            hint = f"; did you mean {meant[0]!r}?" if meant else ""
            raise RuleError(
                f"{argument}: no leaf has the label {key!r}, the labels are "
                f"{', '.join(map(repr, used))}{hint}"
            )
    if left := [label for label in used if label not in keys]:
        raise RuleError(
            f"{argument}: nothing is said for {', '.join(map(repr, left))}; give every "
            "label a value"
        )


def check_labels_now(given: Any, keys: Collection[Any], argument: str) -> None:
    """The same at build time, where the labels are there already."""
    if not callable(given):
        check_labels(named_leaves(given, argument="labels").values(), keys, argument)


def decayed(params: Any, *, stacked: Any = ()) -> Any:
    """The usual mask for weight decay: kernels yes, biases and norm scales no.

    True for leaves of the parameters with two axes or more, unless their last key says
    that they shift or scale: `bias`, `scale`, `offset`, `gamma`, `beta`, or one that
    ends so after an underscore (`query_bias`), or `b`. So the biases of attention,
    which have two axes, and those of stacked layers do not decay; embeddings do.
    Statistics and other collections do not.

    `stacked` is a pattern, or several, of leaves whose first axis counts layers, where
    names do not tell: the axis is left out of the count.

    >>> import jax.numpy as jnp, optax
    >>> params = {"kernel": jnp.ones((2, 3)), "bias": jnp.ones((4, 8))}
    >>> decayed(params)
    {'bias': False, 'kernel': True}
    >>> optimizer = optax.adamw(1e-3, weight_decay=0.1, mask=decayed)
    """
    flat = flatten(params, argument="params")
    layered = set(select(stacked, flat.names, argument="stacked")) if stacked else ()

    def decays(name: Name, leaf: Any, kind: type | None) -> bool:
        trained = is_parameter_type(kind) if kind else name.collection == PARAMS
        axes = jnp.ndim(leaf) - (name in layered)
        last = name.path.rpartition("/")[2]
        named = _SHIFT_OR_SCALE.fullmatch(last) is not None
        return trained and axes >= 2 and not named

    kinds = (kind for _, _, kind in entries(params))
    return flat.unflatten(
        [decays(*item, kind) for item, kind in zip(flat.items(), kinds, strict=True)]
    )


def masked_names(mask: Any, tree: Any, *, argument: str = "mask") -> set[Name]:
    """The names that a mask chooses: patterns, bools in a tree, or a function to it."""
    flat = flatten(tree, argument="params")
    if mask is None:
        return set(flat.names)
    several = isinstance(mask, (list, tuple)) and all(
        isinstance(part, (str, re.Pattern)) for part in mask
    )
    if several or isinstance(mask, (str, re.Pattern)):
        return set(select(mask, flat.names, argument=argument))
    chosen = named_leaves(mask(tree) if callable(mask) else mask, argument=argument)
    found = {name: by_path(chosen, name) for name in flat.names}
    if missing := [name for name, value in found.items() if value is None]:
        raise RuleError(f"{argument}: nothing is said for {listed(missing)}")
    return {name for name, value in found.items() if value}
