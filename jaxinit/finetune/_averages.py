"""Averages of parameters: along training (EMA), and over trained trees (soups)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxinit._errors import RuleError
from jaxinit._paths import Name, flatten, named_leaves
from jaxinit._rules import listed
from jaxinit.finetune._inner import (
    by_path,
    checked_number,
    inner_transformation,
    is_placeholder,
    is_traced,
    widened,
)


class EmaState(NamedTuple):
    """The state of `tx`, the average, and the number of updates it has seen."""

    inner: Any
    average: Any
    count: Any


def ema(tx: Any, decay: Any) -> optax.GradientTransformationExtraArgs:
    """Keep an exponential moving average of the parameters that `tx` produces.

    a ← a + (1 − decay) · (w − a), where w are the parameters after the update and a
    starts as the parameters given to `init`, so that nothing has to be corrected for a
    start at 0. `decay` is a number in [0, 1), or a function of the count of updates,
    such as ``lambda n: jnp.minimum(0.999, (1 + n) / (10 + n))``. 16-bit parameters are
    averaged in float32, since 0.999 · a + 0.001 · w would be a in bfloat16.

    The updates are those of `tx`. :func:`averaged` takes the average out of the state.
    Inside :func:`freeze`, frozen leaves cost nothing; inside ``optax.MultiSteps``, the
    average counts real steps.

    >>> import jax.numpy as jnp, optax
    >>> params = {"w": jnp.ones(2)}
    >>> optimizer = ema(optax.sgd(1.0), 0.75)
    >>> updates, state = optimizer.update(params, optimizer.init(params), params)
    >>> params = optax.apply_updates(params, updates)
    >>> params["w"].tolist(), averaged(state, params)["w"].tolist()
    ([0.0, 0.0], [0.75, 0.75])
    """
    inner = inner_transformation(tx, "ema")
    if not callable(decay):
        checked_number(decay, "decay", below=1.0)

    def init(params: Any) -> EmaState:
        start = params if is_placeholder(params) else jax.tree.map(widened, params)
        return EmaState(inner.init(params), start, jnp.zeros((), jnp.int32))

    def update(updates: Any, state: Any, params: Any = None, **extra: Any) -> Any:
        if params is None:
            raise RuleError("params: ema needs update(updates, state, params)")
        updates, inner_state = inner.update(updates, state.inner, params, **extra)
        rate = 1 - (decay(state.count) if callable(decay) else decay)

        def follow(average: Any, new: Any) -> Any:
            if not jnp.issubdtype(average.dtype, jnp.inexact):
                return new
            new = new.astype(average.dtype)
            moved = average + jnp.asarray(rate, average.dtype) * (new - average)
            return jnp.where(new == average, new, moved)  # keeps the sign of -0.0 too

        new = optax.apply_updates(params, updates)
        average = jax.tree.map(follow, state.average, new)
        count = optax.safe_increment(state.count)
        return updates, EmaState(inner_state, average, count)

    return optax.GradientTransformationExtraArgs(init, update)


def averaged(state: Any, params: Any) -> Any:
    """The average that :func:`ema` keeps somewhere inside an optimizer's state.

    A tree like `params`, each leaf in the dtype of the parameter; leaves of which no
    average is kept, because they are frozen, are those of `params`. A state without an
    average, or with two, is a RuleError.
    """

    def holds(node: Any) -> bool:
        return isinstance(node, EmaState)

    found = [x for x in jax.tree.leaves(state, is_leaf=holds) if holds(x)]
    if len(found) != 1:
        raise RuleError(
            f"state: it holds {len(found)} averages, not one; give the state of an "
            "optimizer with one ema(tx, decay) in it"
        )
    averages = named_leaves(found[0].average)
    flat = flatten(params, argument="params")

    def choose(name: Name, leaf: Any) -> Any:
        average = by_path(averages, name)
        return leaf if average is None else average.astype(jnp.result_type(leaf))

    return flat.unflatten([choose(name, leaf) for name, leaf in flat.items()])


def soup(trees: Sequence[Any], weights: Any = None) -> Any:
    """The weighted average of trees with the same leaves: Σ weight_i · tree_i.

    Without `weights` all count the same. They must sum to 1, and may be negative, which
    extrapolates: weights (1 − t, t) are the points of the line through two trees.
    Summed in float32 or wider and cast once; the result is a tree like the first. Whole
    numbers must agree. Leaves with other names or shapes are a RuleError that names
    them. Statistics of batch norm are averaged like the rest, but those of the averaged
    network are others: estimate them anew.

    Wortsman et al. (2022), Model soups.

    >>> import jax.numpy as jnp
    >>> soup([{"w": jnp.zeros(2)}, {"w": jnp.ones(2)}], [0.25, 0.75])["w"].tolist()
    [0.75, 0.75]
    """
    trees = list(trees)
    if not trees:
        raise RuleError("trees: there is nothing to average")
    parts = _checked_weights(weights, len(trees))
    first = flatten(trees[0], argument="trees[0]")
    leaves = [
        _same_leaves(dict(first.items()), tree, f"trees[{i}]")
        for i, tree in enumerate(trees)
    ]
    return first.unflatten(
        [
            leaf
            if first.is_random_state(name)
            else _average(name, [each[name] for each in leaves], parts)
            for name, leaf in first.items()
        ]
    )


def _checked_weights(weights: Any, count: int) -> list[Any]:
    if weights is None:
        return [1 / count] * count
    parts = list(weights)
    if len(parts) != count:
        raise RuleError(f"weights: {len(parts)} weights for {count} trees")
    if not any(map(is_traced, parts)):
        total = math.fsum(map(float, parts))
        if not abs(total - 1) <= 1e-6 * max(1.0, *(abs(float(x)) for x in parts)):
            raise RuleError(
                f"weights must sum to 1, got {total:g}; divide them by their sum"
            )
    return parts


def _same_leaves(wanted: dict[Name, Any], tree: Any, argument: str) -> dict[Name, Any]:
    found = named_leaves(tree, argument=argument)
    if different := wanted.keys() ^ found.keys():
        raise RuleError(
            f"{argument}: only one of it and trees[0] has {listed(sorted(different))}; "
            "average trees of one model"
        )
    for name, leaf in found.items():
        if jnp.shape(leaf) != jnp.shape(wanted[name]):
            raise RuleError(
                f"{argument}: {name.full!r} has shape {jnp.shape(leaf)}, in trees[0] "
                f"{jnp.shape(wanted[name])}"
            )
    return found


def _average(name: Name, leaves: list[Any], weights: list[Any]) -> Any:
    dtype = jnp.result_type(leaves[0])
    if not jnp.issubdtype(dtype, jnp.inexact):
        traced = any(map(is_traced, leaves))
        if traced or any(
            np.any(np.asarray(x) != np.asarray(leaves[0])) for x in leaves
        ):
            raise RuleError(
                f"trees: {name.full!r} is of {dtype} and differs, or is not known yet; "
                "whole numbers have no average, take it out of the trees"
            )
        return leaves[0]
    wide = widened(leaves[0]).dtype
    terms = [
        jnp.asarray(leaf).astype(wide) * jnp.asarray(weight, wide)
        for leaf, weight in zip(leaves, weights, strict=True)
    ]
    total = terms[0]
    for term in terms[1:]:
        total = total + term
    return total.astype(dtype)
