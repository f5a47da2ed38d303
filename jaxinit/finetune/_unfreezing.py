"""Gradual unfreezing: one group of leaves after the other, in one compiled step."""

from __future__ import annotations

import operator
from collections.abc import Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxinit._errors import RuleError
from jaxinit._paths import Flat, Name, flatten
from jaxinit.finetune._inner import (
    checked_state,
    hide,
    hide_like,
    inner_transformation,
    is_placeholder,
    no_change,
    refuse_functions,
)
from jaxinit.finetune._labels import check_labels_now, labels_of

_LAST_STEP = 2**31 - 1  # of a 32-bit count


class GradualUnfreezeState(NamedTuple):
    """Steps so far, the state of `shared`, and one of `tx` for each unfreezing."""

    count: Any
    shared: Any
    groups: dict[str, Any]


def gradual_unfreeze(
    tx: Any, steps: Mapping[Any, int], labels: Any, *, shared: Any = None
) -> optax.GradientTransformationExtraArgs:
    """Let the leaves of each label train from its step on; 0 is from the start.

    Labels with the same step form one group, and each group has a state of `tx` to
    itself, untouched until its step: moments of leaves that train already are kept, and
    step counts, so bias corrections and schedules, count from unfreezing. The step is
    data, so that nothing is traced again. Before its step a leaf has no update and no
    decay.

    Clipping inside `tx` is by group. For one norm over all that trains, give it as
    `shared`: a transformation that runs first and once, to which the gradients of
    leaves that wait are zeros.

    `labels` is what :func:`labels` returns, or a function from the parameters to it.
    Howard and Ruder (2018), section 3.3. This has to be outermost, as :func:`freeze`.

    >>> import jax.numpy as jnp, optax
    >>> params = {"body": jnp.ones(2), "head": jnp.ones(2)}
    >>> optimizer = gradual_unfreeze(
    ...     optax.sgd(1.0), {"b": 1, "h": 0}, {"body": "b", "head": "h"})
    >>> state = optimizer.init(params)
    >>> for _ in range(2):
    ...     updates, state = optimizer.update(params, state, params)
    ...     print(updates["body"].tolist(), updates["head"].tolist())
    [-0.0, -0.0] [-1.0, -1.0]
    [-1.0, -1.0] [-1.0, -1.0]
    """
    caller = "gradual_unfreeze"
    inner = inner_transformation(tx, caller)
    before = inner_transformation(
        optax.identity() if shared is None else shared, caller
    )
    steps = _checked_steps(steps)
    check_labels_now(labels, steps, "steps")

    starts = sorted(set(steps.values()))

    def starts_of(flat: Flat, tree: Any) -> dict[Name, int]:
        found = labels_of(labels, flat.names, tree, steps, "steps")
        return {name: steps[label] for name, label in found.items()}

    def others(start_of: Mapping[Name, int], start: int) -> set[Name]:
        return {name for name, own in start_of.items() if own != start}

    def init(params: Any) -> Any:
        state = checked_state(before.init(params), caller)
        groups = {}
        start_of = {}
        if not is_placeholder(params):
            flat = flatten(params, argument="params")
            start_of = starts_of(flat, params)
        for start in starts:
            seen = hide(flat, others(start_of, start)) if start_of else params
            groups[_key(start)] = checked_state(inner.init(seen), caller)
        return GradualUnfreezeState(jnp.zeros((), jnp.int32), state, groups)

    def update(updates: Any, state: Any, params: Any = None, **extra: Any) -> Any:
        refuse_functions(extra, caller)
        flat = flatten(updates, argument="updates")
        start_of = starts_of(flat, updates)
        waiting = [
            _after(state.count, start_of[name], leaf, jnp.zeros_like(leaf))
            for name, leaf in flat.items()
        ]
        updates, state_of_shared = before.update(
            flat.unflatten(waiting), state.shared, params, **extra
        )
        new: dict[Name, Any] = {}
        groups = {}
        for start in starts:
            hidden = others(start_of, start)

            def seen(tree: Any, hidden: set[Name] = hidden) -> Any:
                return hide_like(tree, flat, hidden)

            old = state.groups[_key(start)]
            own, later = inner.update(
                seen(updates),
                old,
                None if params is None else hide(flatten(params), hidden),
                **{key: seen(value) for key, value in extra.items()},
            )
            members = [name for name in flat.names if name not in hidden]
            for name, leaf in zip(members, jax.tree.leaves(own), strict=True):
                new[name] = _after(state.count, start, leaf, no_change(leaf))
            groups[_key(start)] = jax.tree.map(
                partial(_after, state.count, start), later, old
            )
        count = optax.safe_increment(state.count)
        result = flat.unflatten([new[name] for name in flat.names])
        return result, GradualUnfreezeState(count, state_of_shared, groups)

    return optax.GradientTransformationExtraArgs(init, update)


def _key(start: int) -> str:
    return f"from_{start}"


def _after(count: Any, start: int, new: Any, old: Any) -> Any:
    """The new value from step `start` on, until then the old one."""
    if start == 0:
        return new
    new, old = jnp.asarray(new), jnp.asarray(old)
    return jnp.where(count >= start, new, old.astype(new.dtype))


def _checked_steps(steps: Any) -> dict[Any, int]:
    if not isinstance(steps, Mapping):
        raise RuleError(f"steps must map each label to a step, got {steps!r}")
    checked = {}
    for label, step in steps.items():
        try:
            number = operator.index(step)
        except TypeError:
            number = -1
        if not 0 <= number <= _LAST_STEP or isinstance(step, bool):
            raise RuleError(
                f"steps[{label!r}] must be a whole number from 0 to {_LAST_STEP}, got "
                f"{step!r}; a group that never trains belongs into freeze"
            )
        checked[label] = number
    return checked
