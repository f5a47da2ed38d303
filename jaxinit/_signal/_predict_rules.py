"""What each primitive does to samples of its operands."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxinit._primitives import (
    ELEMENTWISE,
    ELEMENTWISE_UNCHUNKED,
    NEWER,
    TRANSPARENT,
)
from jaxinit._signal._interpret import bind
from jaxinit._signal._predict_draws import Draws
from jaxinit._signal._predict_values import (
    COUNT,
    EXAMPLE,
    FREE,
    FULL,
    NEURON,
    PLACE,
    SAME,
    Axes,
    Factor,
    Value,
    axes_for,
    joined,
    reshaped,
    roles_of,
    shuffled,
    spread,
)

Rule = Callable[[Any, Sequence[Value], Draws], Value | list[Value] | None]

EACH = (ELEMENTWISE | ELEMENTWISE_UNCHUNKED | NEWER) - {"copy", "unstack"}


def evaluate(eqn: Any, operands: Sequence[Value], draws: Draws) -> list[Value] | None:
    """Samples of the results of an equation; None where it is not understood."""
    name = eqn.primitive.name
    if name in TRANSPARENT and len(operands) == len(eqn.outvars):
        return list(operands)
    if name in EACH:
        return [_each(eqn, operands)]
    rule = _RULES.get(name)
    found = None if rule is None else rule(eqn, operands, draws)
    if found is None or isinstance(found, list):
        return found
    return [found]


def result(eqn: Any, sample: np.ndarray, axes: Axes, operands: Sequence[Value]) -> Any:
    """A value of the type that the equation gives."""
    aval = eqn.outvars[0].aval
    weight = all(value.weight for value in operands)
    mixed = any(value.mixed for value in operands)
    return Value(np.asarray(sample).astype(aval.dtype), axes, weight, mixed=mixed)


def _each(eqn: Any, operands: Sequence[Value]) -> Value:
    name, aval = eqn.primitive.name, eqn.outvars[0].aval
    samples, axes = joined(operands)
    shape = np.broadcast_shapes(*(sample.shape for sample in samples))
    (found,) = bind(eqn, [jnp.broadcast_to(sample, shape) for sample in samples])
    root = None
    if _is_square(eqn):
        root = operands[0]
    elif name == "convert_element_type" and jnp.issubdtype(aval.dtype, jnp.floating):
        root = operands[0].root
    return result(eqn, np.asarray(found), axes, operands).but(root=root)


def _is_square(eqn: Any) -> bool:
    if not jnp.issubdtype(eqn.outvars[0].aval.dtype, jnp.floating):
        return False
    match eqn.primitive.name:
        case "square":
            return True
        case "integer_pow":
            return eqn.params["y"] == 2
        case "mul":
            return eqn.invars[0] is eqn.invars[1]
    return False


# ----------------------------------------------------------------------- structure


def _broadcast(eqn: Any, operands: Sequence[Value], draws: Draws) -> Value:
    shape = eqn.params["shape"]
    axes = list(axes_for([SAME] * len(shape), shape))
    for own, dim in enumerate(eqn.params["broadcast_dimensions"]):
        if math.prod(f.size for f in operands[0].axes[own]) == shape[dim]:
            axes[dim] = operands[0].axes[own]
    return operands[0].but(axes=tuple(axes))


def _tile(eqn: Any, operands: Sequence[Value], draws: Draws) -> Value:
    before, after = eqn.invars[0].aval.shape, eqn.outvars[0].aval.shape
    axes = tuple(
        (Factor(SAME, new // max(old, 1)), *axis) if new != old else axis
        for axis, old, new in zip(operands[0].axes, before, after, strict=True)
    )
    return operands[0].but(axes=axes)


def _reshape(eqn: Any, operands: Sequence[Value], draws: Draws) -> Value:
    axes = reshaped(operands[0].axes, eqn.outvars[0].aval.shape)
    return operands[0].but(axes=axes)


def _transpose(eqn: Any, operands: Sequence[Value], draws: Draws) -> Value:
    axes = tuple(operands[0].axes[dim] for dim in eqn.params["permutation"])
    return operands[0].but(axes=axes)


def _same(eqn: Any, operands: Sequence[Value], draws: Draws) -> Value:
    return operands[0]


def _cut(value: Value, shape: Sequence[int], starts: Sequence[int]) -> Value | None:
    """A part of an array: along neurons these are others than in another part.

    None where neurons of one kind may be cut from those of another.
    """
    axes, number = [], 0
    for axis, size, start in zip(value.axes, shape, starts, strict=True):
        if math.prod(factor.size for factor in axis) == size:
            axes.append(axis)
            continue
        role = max(axis, key=lambda factor: factor.size).role
        axes.append((Factor(role if size > 1 else SAME, size),))
        if role in (NEURON, FREE):
            number = 31 * number + 1 + start
    if number and value.mixed:
        return None
    value = shuffled(value, 100 + number) if number else value
    return value.but(axes=tuple(axes), root=None)


def _slice(eqn: Any, operands: Sequence[Value], draws: Draws) -> Value | None:
    shape = eqn.outvars[0].aval.shape
    return _cut(operands[0], shape, eqn.params["start_indices"])


def _dynamic_slice(eqn: Any, operands: Sequence[Value], draws: Draws) -> Value | None:
    value, *at = operands
    starts = [int(v.sample.flat[0]) if v.sample.size == 1 else 0 for v in at]
    return _cut(value, eqn.outvars[0].aval.shape, starts)


def _split(eqn: Any, operands: Sequence[Value], draws: Draws) -> list[Value] | None:
    found, start = [], 0
    for var in eqn.outvars:
        starts = [0] * len(var.aval.shape)
        starts[eqn.params["axis"]] = start
        start += var.aval.shape[eqn.params["axis"]]
        found.append(_cut(operands[0], var.aval.shape, starts))
    return None if None in found else found


def _unstack(eqn: Any, operands: Sequence[Value], draws: Draws) -> list[Value] | None:
    along = eqn.params["axis"]
    shape = list(eqn.invars[0].aval.shape)
    shape[along] = 1
    found = []
    for number in range(len(eqn.outvars)):
        starts = [number if dim == along else 0 for dim in range(len(shape))]
        part = _cut(operands[0], shape, starts)
        if part is None:
            return None
        axes = (*part.axes[:along], *part.axes[along + 1 :])
        found.append(part.but(axes=axes))
    return found


def _mixed(
    values: Sequence[Value], shares: Sequence[float], role: str, draws: Draws
) -> np.ndarray:
    """Each draw comes from one of the values, with chances as large as their shares."""
    shape = [COUNT, 1, 1]
    if role in (EXAMPLE, PLACE):
        shape[1 if role == EXAMPLE else 2] = 2
    bounds = np.cumsum(shares) / np.sum(shares)
    which = np.searchsorted(bounds[:-1], draws.chance(shape), side="right")
    samples, _ = joined(values)
    return np.choose(which, [np.asarray(sample) for sample in samples])


def _concatenate(eqn: Any, operands: Sequence[Value], draws: Draws) -> Value:
    if len(operands) == 1:
        return operands[0]
    dim = eqn.params["dimension"]
    _, axes = joined(operands)
    sizes = [var.aval.shape[dim] for var in eqn.invars]
    role = max(axes[dim], key=lambda factor: factor.size).role
    if role == SAME:
        role = FREE if all(value.sample.shape[0] == 1 for value in operands) else NEURON
    total = eqn.outvars[0].aval.shape[dim]
    axes = (*axes[:dim], (Factor(role, total),), *axes[dim + 1 :])
    found = result(eqn, _mixed(operands, sizes, role, draws), axes, operands)
    return found.but(mixed=role in (NEURON, FREE))


def _stack(eqn: Any, operands: Sequence[Value], draws: Draws) -> Value:
    along = eqn.params["axis"]
    _, axes = joined(operands)
    axes = (*axes[:along], (Factor(FREE, len(operands)),), *axes[along:])
    sample = _mixed(operands, [1] * len(operands), FREE, draws)
    return result(eqn, sample, axes, operands).but(mixed=True)


def _pad(eqn: Any, operands: Sequence[Value], draws: Draws) -> Value:
    value, filler = operands
    before, after = eqn.invars[0].aval.shape, eqn.outvars[0].aval.shape
    share = min(math.prod(before) / max(math.prod(after), 1), 1.0)
    changed = [n for n, m in zip(before, after, strict=True) if n != m]
    axes = tuple(
        axis if n == m else (Factor(max(axis, key=lambda f: f.size).role, m),)
        for axis, n, m in zip(value.axes, before, after, strict=True)
    )
    if not changed or share == 1:
        return value.but(axes=axes)
    sample = np.broadcast_to(value.sample, FULL)
    inside = draws.chance(FULL) < share
    sample = np.where(inside, sample, np.broadcast_to(filler.sample, FULL))
    return result(eqn, sample, axes, operands)


def _iota(eqn: Any, operands: Sequence[Value], draws: Draws) -> Value:
    shape, along = eqn.params["shape"], eqn.params["dimension"]
    roles = [FREE if dim == along else SAME for dim in range(len(shape))]
    whole = draws.uniform(0, max(shape[along], 1), eqn.params["dtype"])
    return Value(whole, axes_for(roles, shape), True)


def _position(eqn: Any, operands: Sequence[Value], draws: Draws) -> Value:
    (along,) = eqn.params["axes"]
    size = eqn.invars[0].aval.shape[along]
    axes = tuple(axis for n, axis in enumerate(operands[0].axes) if n != along)
    whole = draws.uniform(0, max(size, 1), eqn.outvars[0].aval.dtype)
    return Value(whole, axes, operands[0].weight)


def _gather(eqn: Any, operands: Sequence[Value], draws: Draws) -> Value:
    value, index = operands
    numbers, shape = eqn.params["dimension_numbers"], eqn.outvars[0].aval.shape
    axes = list(axes_for([SAME] * len(shape), shape))
    gone = {*numbers.collapsed_slice_dims, *numbers.operand_batching_dims}
    kept = [axis for dim, axis in enumerate(value.axes) if dim not in gone]
    for dim, axis in zip(numbers.offset_dims, kept, strict=True):
        role = max(axis, key=lambda factor: factor.size).role
        whole = math.prod(factor.size for factor in axis) == shape[dim]
        axes[dim] = axis if whole else (Factor(role, shape[dim]),)
    looked_up = [dim for dim in range(len(shape)) if dim not in numbers.offset_dims]
    for dim, axis in zip(looked_up, index.axes[:-1], strict=True):
        axes[dim] = axis
    sample = value.sample
    roles = roles_of(index.axes[:-1])
    for role, column in ((EXAMPLE, 1), (PLACE, 2)):
        if role in roles or FREE in roles or NEURON in roles:
            sample = spread(sample, column)
    return result(eqn, sample, tuple(axes), operands)


_RULES: dict[str, Rule] = {
    "broadcast_in_dim": _broadcast,
    "tile": _tile,
    "reshape": _reshape,
    "squeeze": _reshape,
    "expand_dims": _reshape,
    "transpose": _transpose,
    "copy": _same,
    "rev": _same,
    "slice": _slice,
    "dynamic_slice": _dynamic_slice,
    "split": _split,
    "unstack": _unstack,
    "concatenate": _concatenate,
    "stack": _stack,
    "pad": _pad,
    "iota": _iota,
    "argmax": _position,
    "argmin": _position,
    "gather": _gather,
}


def register(rules: Mapping[str, Rule]) -> None:
    """Add rules that stand in a file of their own."""
    _RULES.update(rules)
