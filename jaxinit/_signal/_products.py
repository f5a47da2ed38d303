"""What the primitives that sum products do with each dimension of the weight.

A rule looks at one equation and one of its operands and tells a :class:`Product`: the
role of every dimension of the operand, and the fans. New primitives get one through
:func:`register_product`.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np

Role = Literal["in", "out", "batch", "spatial"]


@dataclasses.dataclass(frozen=True)
class Product:
    """How an equation multiplies one of its operands with another, and sums.

    Attributes:
      roles: for each dimension of the operand: "in" is summed over, "out" indexes
        outputs, "batch" selects one of several independent products, "spatial" slides.
      fan_in: products summed into one output.
      fan_out: outputs that one element of the other operand contributes to.
      taps_in: the exact average of `fan_in` over the outputs; None if it is `fan_in`.
      taps_out: the exact average of `fan_out`; None if it is `fan_out`.
      groups: of a convolution.
      other: which operand it is multiplied with.
      kind: what to call it.
    """

    roles: tuple[Role, ...]
    fan_in: float
    fan_out: float
    taps_in: float | None = None
    taps_out: float | None = None
    groups: int = 1
    other: int = 0
    kind: Literal["dot", "conv"] = "dot"


Rule = Callable[[Any, int], "Product | None"]

_RULES: dict[str, Rule] = {}


def register_product(primitive: str, rule: Rule) -> None:
    r"""Teach the walk a primitive that sums products of a weight and the signal.

    The rule is called with the equation and the number of the operand that holds a
    weight, and returns how it is used, or None where that operand is no weight of a
    product. It lasts until the process ends; the last rule for a primitive counts.

    Args:
      primitive: the name that ``jax.make_jaxpr`` shows.
      rule: ``(eqn, operand) -> Product | None``.

    Raises:
      TypeError: the primitive is not given by name, or the rule is not callable.

    Example:
      >>> import jaxinit
      >>> def rule(eqn, operand):
      ...     inputs, outputs = eqn.invars[operand].aval.shape
      ...     return jaxinit.Product(("in", "out"), inputs, outputs)
      >>> jaxinit.register_product("my_quantized_matmul", rule)
    """
    if not isinstance(primitive, str):
        raise TypeError(
            f"primitive must be the name of a primitive, got {primitive!r}; "
            "pass primitive.name"
        )
    if not callable(rule):
        raise TypeError(f"rule must be a function of (eqn, operand), got {rule!r}")
    _RULES[primitive] = rule


def product_rule(primitive: str) -> Rule | None:
    """The rule for a primitive, if there is one."""
    return _RULES.get(primitive)


def _shape(eqn: Any, operand: int) -> tuple[int, ...]:
    return tuple(eqn.invars[operand].aval.shape)


def _sizes(shape: Sequence[int], roles: Sequence[Role], role: Role) -> int:
    return math.prod(n for n, own in zip(shape, roles, strict=True) if own == role)


def _dot(eqn: Any, operand: int) -> Product:
    contracted, batch = eqn.params["dimension_numbers"]
    shape = _shape(eqn, operand)
    roles: list[Role] = ["out"] * len(shape)
    for dim in contracted[operand]:
        roles[dim] = "in"
    for dim in batch[operand]:
        roles[dim] = "batch"
    fan_in, fan_out = _sizes(shape, roles, "in"), _sizes(shape, roles, "out")
    return Product(tuple(roles), float(fan_in), float(fan_out), other=1 - operand)


def _conv(eqn: Any, operand: int) -> Product | None:
    if operand != 1:
        return None
    params = eqn.params
    numbers = params["dimension_numbers"]
    signal, weight = _shape(eqn, 0), _shape(eqn, 1)
    result = tuple(eqn.outvars[0].aval.shape)
    groups = params["feature_group_count"] * params["batch_group_count"]
    out, into, *spatial = numbers.rhs_spec
    roles: list[Role] = ["spatial"] * len(weight)
    roles[out], roles[into] = "out", "in"
    fan_in, fan_out = float(weight[into]), weight[out] / groups
    taps_in, taps_out = fan_in, fan_out
    for place, dim in enumerate(spatial):
        n = signal[numbers.lhs_spec[2 + place]]
        outputs = result[numbers.out_spec[2 + place]]
        stride = params["window_strides"][place]
        dilation = params["lhs_dilation"][place]
        fan_in *= weight[dim] / dilation
        fan_out *= weight[dim] / stride
        pairs = _pairs(
            n,
            outputs,
            weight[dim],
            stride,
            params["padding"][place][0],
            dilation,
            params["rhs_dilation"][place],
        )
        taps_in *= pairs / max(outputs, 1)
        taps_out *= pairs / max(n, 1)
    return Product(
        tuple(roles), fan_in, fan_out, taps_in, taps_out, groups, kind="conv"
    )


def _pairs(
    inputs: int,
    outputs: int,
    taps: int,
    stride: int,
    before: int,
    dilation: int,
    tap_dilation: int,
) -> int:
    """How many pairs of an output and a tap meet an input along one dimension."""
    place = np.arange(outputs)[:, None] * stride - before
    place = place + np.arange(taps)[None, :] * tap_dilation
    inside = (place >= 0) & (place < (inputs - 1) * dilation + 1)
    return int(np.sum(inside & (place % dilation == 0)))


def _ragged_dot(eqn: Any, operand: int) -> Product | None:
    numbers = eqn.params["ragged_dot_dimension_numbers"]
    contracted, batch = numbers.dot_dimension_numbers
    if operand != 1 or tuple(contracted[0]) == tuple(numbers.lhs_ragged_dimensions):
        return None
    shape = _shape(eqn, 1)
    roles: list[Role] = ["out"] * len(shape)
    for dim in contracted[1]:
        roles[dim] = "in"
    for dim in (*batch[1], *numbers.rhs_group_dimensions):
        roles[dim] = "batch"
    fan_in, fan_out = _sizes(shape, roles, "in"), _sizes(shape, roles, "out")
    return Product(tuple(roles), float(fan_in), float(fan_out))


register_product("dot_general", _dot)
register_product("conv_general_dilated", _conv)
register_product("ragged_dot_general", _ragged_dot)
