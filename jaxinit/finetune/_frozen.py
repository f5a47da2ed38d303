"""Freezing that is true, and the check that it was."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable
from typing import Any

import jax
import numpy as np
import optax

from jaxinit._containers import nnx_variables
from jaxinit._errors import RuleError
from jaxinit._paths import Flat, Name, flatten
from jaxinit._rules import Pattern, compile_pattern, listed, select
from jaxinit.finetune._inner import (
    by_path,
    checked_state,
    fill,
    hide,
    hide_like,
    inner_transformation,
    is_placeholder,
    no_change,
    refuse_functions,
)

Patterns = Pattern | Iterable[Pattern]


def freeze(tx: Any, pattern: Patterns) -> optax.GradientTransformationExtraArgs:
    """Freeze the leaves that the pattern, or any of several, matches.

    `freeze` must be outermost: everything inside it, clipping and weight decay
    included, has no update, no decay, no state and no share in the clipping norm for
    frozen leaves; of what stands around it, it knows nothing. The state is that of `tx`
    over the trainable leaves. A pattern that matches nothing is a RuleError at `init`;
    a line search inside `tx` is refused by name.

    Statistics of batch norm are no parameters and move with every forward pass in
    training mode: :func:`assert_frozen` tells which did, and how to stop it.

    >>> import jax.numpy as jnp, optax
    >>> params = {"body": jnp.ones((2, 2)), "head": jnp.ones((2, 1))}
    >>> optimizer = freeze(
    ...     optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(1e-3)), "body")
    >>> updates, _ = optimizer.update(params, optimizer.init(params), params)
    >>> bool((params["body"] + updates["body"] == params["body"]).all())
    True
    """
    inner = inner_transformation(tx, "freeze")
    patterns = _checked(pattern)

    def init(params: Any) -> Any:
        if is_placeholder(params):
            return inner.init(params)
        flat, frozen = _split(params, patterns)
        return checked_state(inner.init(hide(flat, frozen)), "freeze")

    def update(updates: Any, state: Any, params: Any = None, **extra: Any) -> Any:
        refuse_functions(extra, "freeze")
        flat, frozen = _split(updates, patterns)
        if params is not None:
            params = hide(flatten(params, argument="params"), frozen)
        extra = {key: hide_like(value, flat, frozen) for key, value in extra.items()}
        new, state = inner.update(hide(flat, frozen), state, params, **extra)
        return fill(flat, frozen, new, lambda _, leaf: no_change(leaf)), state

    return optax.GradientTransformationExtraArgs(init, update)


def on_trainable(function: Callable[[Any], Any], params: Any, pattern: Patterns) -> Any:
    """The function of the trainable leaves alone; frozen ones are put back unchanged.

    It sees what a transformation inside ``freeze(tx, pattern)`` sees, so functions that
    read its state fit:

    >>> import jax.numpy as jnp, optax
    >>> from optax import contrib
    >>> params = {"body": jnp.ones(2), "head": jnp.ones(2)}
    >>> optimizer = freeze(contrib.schedule_free_sgd(0.1), "body")
    >>> state = optimizer.init(params)
    >>> def average(params):
    ...     return contrib.schedule_free_eval_params(state, params)
    >>> sorted(on_trainable(average, params, "body"))
    ['body', 'head']
    """
    flat, frozen = _split(params, _checked(pattern))
    return fill(flat, frozen, function(hide(flat, frozen)), lambda _, leaf: leaf)


def assert_frozen(before: Any, after: Any, pattern: Patterns) -> None:
    """AssertionError unless no bit of the leaves that match the pattern has moved.

    Give whole linen variables, or ``nnx.state(model)``, and statistics of batch norm
    are checked too: the error says which moved, and how to stop it. With a
    "params:" in front of the pattern, parameters alone are. For nnx, `before` must be
    a copy, ``jax.tree.map(jnp.copy, nnx.state(model))``; a view of the model moves with
    it and is refused.

    >>> import jax.numpy as jnp, optax
    >>> before = {"params": {"w": jnp.ones(2)}, "batch_stats": {"mean": jnp.zeros(2)}}
    >>> assert_frozen(before, before, "w")
    """
    if shared := _shared_variables(before, after):
        raise RuleError(
            f"before: it holds {shared} nnx Variables of `after` and moves with them; "
            "take a copy, jax.tree.map(jnp.copy, nnx.state(model))"
        )
    first, last = flatten(before, argument="before"), flatten(after, argument="after")
    leaves, later = dict(first.items()), dict(last.items())
    moved: dict[Name, str] = {}
    for name in select(_checked(pattern), first.names, argument="pattern"):
        if name in first.random_state:
            continue  # streams of random numbers are there to be used up
        if (leaf := by_path(later, name)) is None:
            moved[name] = "is gone"
        elif change := _change(leaves[name], leaf):
            moved[name] = change
    if moved:
        raise AssertionError(_explanation(moved))


def _checked(pattern: Patterns) -> Patterns:
    if isinstance(pattern, (str, re.Pattern)):
        return compile_pattern(pattern)
    if not isinstance(pattern, Iterable):
        raise RuleError(f"pattern must be a pattern or a list, got {pattern!r}")
    return [
        compile_pattern(part, argument=f"pattern[{i}]")
        for i, part in enumerate(pattern)
    ]


def _split(tree: Any, patterns: Patterns) -> tuple[Flat, Collection[Name]]:
    flat = flatten(tree, argument="params")
    return flat, frozenset(select(patterns, flat.names, argument="pattern"))


def _shared_variables(before: Any, after: Any) -> int:
    old, new = ({id(box) for box in nnx_variables(tree)} for tree in (before, after))
    return len(old & new)


def _change(before: Any, after: Any) -> str:
    old, new = jax.typeof(before), jax.typeof(after)
    if (old.shape, old.dtype) != (new.shape, new.dtype):
        return f"was {_kind(old)} and is {_kind(new)}"
    pairs = list(zip(_pieces(before), _pieces(after), strict=True))
    if all(a.tobytes() == b.tobytes() for a, b in pairs):
        return ""
    with np.errstate(invalid="ignore"):
        sizes = [np.abs(_number(b) - _number(a)).max(initial=0) for a, b in pairs]
    return f"moved by up to {max(sizes):.3g}"


def _kind(leaf: Any) -> str:
    return f"{leaf.dtype}{list(leaf.shape)}"


def _pieces(leaf: Any) -> list[np.ndarray]:
    """The values as this process has them: whole, or the parts on its own devices."""
    if getattr(leaf, "is_fully_addressable", True):
        return [np.asarray(leaf)]
    return [np.asarray(shard.data) for shard in leaf.addressable_shards]


def _number(array: np.ndarray) -> np.ndarray:
    complex_ = np.issubdtype(array.dtype, np.complexfloating)
    return array.astype(np.complex128 if complex_ else np.float64)


def _explanation(moved: dict[Name, str]) -> str:
    lines = [f"{len(moved)} frozen leaves are not what they were:"]
    lines += [f"  {name.full} {change}" for name, change in list(moved.items())[:10]]
    lines += [f"  and {len(moved) - 10} more"] if len(moved) > 10 else []
    statistics = [name for name in moved if name.collection == "batch_stats"]
    parameters = [name for name in moved if name.collection != "batch_stats"]
    if parameters:
        lines.append(
            f"Parameters ({listed(parameters)}): make freeze(tx, pattern) the "
            "outermost transformation, so that weight decay and clipping are inside it."
        )
    if statistics:
        lines.append(
            f"Statistics of batch norm ({listed(statistics)}): no optimizer moves "
            "these, the forward pass does. Run the frozen layers with "
            "use_running_average=True (in nnx also layer.eval()), or put the old "
            "statistics back after each step."
        )
    return "\n".join(lines)
