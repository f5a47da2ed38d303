"""Sums and maxima, of whole axes and of windows; random bits."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxinit._signal._predict_draws import Draws, pooled, pooled_square
from jaxinit._signal._predict_rules import Rule, register, result
from jaxinit._signal._predict_values import (
    EXAMPLE,
    FREE,
    FULL,
    PLACE,
    SAME,
    Axes,
    Factor,
    Value,
    axes_for,
    sizes_by_role,
)


def _reduced(value: Value, dims: Sequence[int]) -> tuple[dict[str, int], Axes]:
    gone = tuple(value.axes[dim] for dim in dims)
    kept = tuple(axis for dim, axis in enumerate(value.axes) if dim not in dims)
    return sizes_by_role(gone), kept


def _sum(eqn: Any, operands: Sequence[Value], draws: Draws) -> Value:
    value = operands[0]
    sizes, axes = _reduced(value, eqn.params["axes"])
    pooling = sizes.get(EXAMPLE, 1) * sizes.get(PLACE, 1) > 1
    if pooling and value.root is not None:
        found = draws.over_neurons(pooled_square(value.root.wide, sizes), sizes)
    else:
        found = draws.total(value.sample, sizes)
    return result(eqn, found, axes, operands)


def _extreme(sign: int) -> Rule:
    def rule(eqn: Any, operands: Sequence[Value], draws: Draws) -> Value:
        sizes, axes = _reduced(operands[0], eqn.params["axes"])
        wide = sign * operands[0].wide
        return result(eqn, sign * draws.maximum(wide, sizes), axes, operands)

    return rule


def _windowed(value: Value, params: Any) -> dict[str, int] | None:
    """How many elements of which role a window holds, if of one other than neurons."""
    sizes: dict[str, int] = {}
    for axis, size in zip(value.axes, params["window_dimensions"], strict=True):
        if size > 1:
            role = max(axis, key=lambda factor: factor.size).role
            sizes[role] = sizes.get(role, 1) * size
    return sizes if set(sizes) <= {PLACE, FREE, SAME} else None


def _resized(value: Value, shape: Sequence[int]) -> Axes:
    return tuple(
        axis
        if math.prod(f.size for f in axis) == size
        else (Factor(max(axis, key=lambda f: f.size).role, size),)
        for axis, size in zip(value.axes, shape, strict=True)
    )


def _window_sum(eqn: Any, operands: Sequence[Value], draws: Draws) -> Value | None:
    value = operands[0]
    sizes = _windowed(value, eqn.params)
    if sizes is None:
        return None
    wide, places = value.wide, sizes.pop(PLACE, 1)
    if places > 1:
        wide = places * pooled(wide, 2, places, window=True)
    found = draws.total(wide, sizes) if sizes else wide
    return result(eqn, found, _resized(value, eqn.outvars[0].aval.shape), operands)


def _window_max(eqn: Any, operands: Sequence[Value], draws: Draws) -> Value | None:
    value = operands[0]
    sizes = _windowed(value, eqn.params)
    if sizes is None:
        return None
    found = draws.maximum(value.wide, sizes)
    return result(eqn, found, _resized(value, eqn.outvars[0].aval.shape), operands)


def _window_max_back(eqn: Any, operands: Sequence[Value], draws: Draws) -> Value:
    """The gradient of a greatest element goes to its place alone."""
    gradient, value = operands[0], operands[1]
    sizes = [math.prod(var.aval.shape) for var in eqn.invars[:2]]
    rivals = round(sizes[1] / max(sizes[0], 1)) - 1
    chosen = value.wide >= draws.best_of_others(value.wide, rivals)
    sample = np.where(chosen, np.broadcast_to(gradient.sample, FULL), 0)
    return result(eqn, sample, value.axes, operands)


def _random(eqn: Any, operands: Sequence[Value], draws: Draws) -> Value:
    aval = eqn.outvars[0].aval
    high = 2 ** (8 * np.dtype(aval.dtype).itemsize)
    bits = draws.generator.integers(0, high - 1, FULL, np.uint64, endpoint=True)
    axes = axes_for([FREE] * len(aval.shape), aval.shape)
    return Value(bits.astype(aval.dtype), axes)


register(
    {
        "reduce_sum": _sum,
        "reduce_max": _extreme(1),
        "reduce_or": _extreme(1),
        "reduce_min": _extreme(-1),
        "reduce_and": _extreme(-1),
        "reduce_window_sum": _window_sum,
        "reduce_window_max": _window_max,
        "select_and_scatter_add": _window_max_back,
        "random_bits": _random,
    }
)
