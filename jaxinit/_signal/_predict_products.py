"""Sums of products: of a weight and the signal, and of the signal with itself."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxinit._signal._predict_draws import Draws, moments
from jaxinit._signal._predict_rules import register, result
from jaxinit._signal._predict_values import (
    NEURON,
    PLACE,
    SAME,
    Axes,
    Factor,
    Value,
    joined,
    roles_of,
    sizes_by_role,
)
from jaxinit._signal._products import product_rule


def weighed(weight: Value, data: Value, count: float, draws: Draws) -> np.ndarray:
    r"""Sums of so many products of a weight and the signal: fresh draws.

    .. math:: E y_i = n \bar w \bar x_i, \qquad
        Cov(y_i, y_j) = n (E w^2 \, E x_i x_j - \bar w^2 \bar x_i \bar x_j)

    The central limit theorem over the products, for the two examples and the two places
    together, since they meet the same weights.
    """
    own = weight.wide
    mean_weight, square = np.mean(own), np.mean(own**2)
    mean, second = moments(data.wide)
    covariance = square * second - mean_weight**2 * np.outer(mean, mean)
    return draws.gaussian(count * mean_weight * mean, count * covariance)


def _dot(eqn: Any, operands: Sequence[Value], draws: Draws) -> Value | None:
    (contracted, batch) = eqn.params["dimension_numbers"]
    return contract(eqn, operands, contracted, batch, draws)


def contract(
    eqn: Any, operands: Sequence[Value], contracted: Any, batch: Any, draws: Draws
) -> Value:
    """What `dot_general` gives."""
    left, right = operands[:2]
    free = [
        [dim for dim in range(len(value.axes)) if dim not in (*sums, *own)]
        for value, sums, own in zip((left, right), contracted, batch, strict=True)
    ]
    shared = _meet(left, right, batch)
    axes = (
        *shared,
        *(left.axes[dim] for dim in free[0]),
        *(right.axes[dim] for dim in free[1]),
    )
    count = math.prod(eqn.invars[0].aval.shape[dim] for dim in contracted[0])
    if left.weight != right.weight:
        weight, data = (left, right) if left.weight else (right, left)
        # A weight of its own for each index that both have.
        sample = weighed(weight, data, count, draws)
        return result(eqn, sample, axes, operands).but(mixed=False)
    summed = sizes_by_role(_meet(left, right, contracted))
    places = [
        PLACE in roles_of(tuple(value.axes[dim] for dim in dims))
        for value, dims in zip((left, right), free, strict=True)
    ]
    other = right.wide
    if all(places):  # one place meets another one
        other = np.flip(other, 2)
    sample = draws.total(left.wide * other, summed)
    return result(eqn, sample, axes, operands)


def _meet(left: Value, right: Value, dims: Any) -> Axes:
    """The axes that two arrays have in common, as the richer one has them."""
    one = tuple(left.axes[dim] for dim in dims[0])
    other = tuple(right.axes[dim] for dim in dims[1])
    return joined([Value(left.sample, one), Value(right.sample, other)])[1]


def _conv(eqn: Any, operands: Sequence[Value], draws: Draws) -> Value | None:
    data, weight = operands
    rule = product_rule("conv_general_dilated")
    product = None if rule is None else rule(eqn, 1)
    if product is None or not weight.weight:
        return None
    numbers, shape = eqn.params["dimension_numbers"], eqn.outvars[0].aval.shape
    axes: list[Any] = [(Factor(PLACE, size),) for size in shape]
    examples, out = numbers.out_spec[:2]
    if math.prod(f.size for f in data.axes[numbers.lhs_spec[0]]) == shape[examples]:
        axes[examples] = data.axes[numbers.lhs_spec[0]]
    axes[out] = (Factor(NEURON if shape[out] > 1 else SAME, shape[out]),)
    taps = product.fan_in if product.taps_in is None else product.taps_in
    sample = weighed(weight, data, taps, draws)
    return result(eqn, sample, tuple(axes), operands).but(mixed=False)


def _ragged(eqn: Any, operands: Sequence[Value], draws: Draws) -> Value | None:
    numbers = eqn.params["ragged_dot_dimension_numbers"]
    contracted, batch = numbers.dot_dimension_numbers
    groups = tuple(numbers.rhs_group_dimensions)
    data, weight = operands[:2]
    if data.weight or not weight.weight or len(groups) != 1:
        return None
    kept = [n for n in range(len(weight.axes)) if n not in groups]
    inner = weight.but(axes=tuple(weight.axes[n] for n in kept))
    moved = [tuple(kept.index(dim) for dim in dims[1]) for dims in (contracted, batch)]
    sums, own = (contracted[0], moved[0]), (batch[0], moved[1])
    return contract(eqn, (data, inner), sums, own, draws)


register(
    {
        "dot_general": _dot,
        "conv_general_dilated": _conv,
        "ragged_dot_general": _ragged,
    }
)
