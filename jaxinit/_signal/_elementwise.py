"""Parameters in elementwise operations: arithmetic of their own, or with the signal."""

from __future__ import annotations

import numpy as np

from jaxinit._primitives import ELEMENTWISE, ELEMENTWISE_UNCHUNKED, NEWER, TRANSPARENT
from jaxinit._signal._meeting import Meeting, add
from jaxinit._signal._patches import constant_value, multiplied_and_summed
from jaxinit._signal._record import add_product
from jaxinit._signal._use import Kind
from jaxinit._signal._weights import Value, Weight, merged, size_of, spread

ALIKE = (ELEMENTWISE | ELEMENTWISE_UNCHUNKED | NEWER) - TRANSPARENT
_SUMS = frozenset({"add", "sub", "add_any"})
_FACTORS = frozenset({"mul", "div"})
_KINDS: dict[str, Kind] = {
    **dict.fromkeys(_SUMS, "bias"),
    **dict.fromkeys(_FACTORS, "scale"),
    "select_n": "placed",
}
# Of these the result is multiplied by a positive c where the operand is.
_HOMOGENEOUS = frozenset({"neg", "abs", "real", "imag", "conj", "reduce_precision"})


def elementwise(meeting: Meeting) -> Value:
    name, shape = meeting.name, tuple(meeting.eqn.outvars[0].aval.shape)
    own = [v for v in meeting.operands if v.is_parameter]
    if not meeting.data and _is_biased_layer(meeting):
        return meeting.result(data=True)
    if not meeting.data:
        weights = [w for value in own for w in value.weights]
        keeps = name in _HOMOGENEOUS or (
            name in (*_FACTORS, "select_n") and (len(own) == 1 or name == "mul")
        )
        if name == "div" and meeting.operands[1].leaves:
            keeps = False
        weights = _with_sides_settled([_fitted(w, shape) for w in weights])
        distinct = len({w.leaf for w in weights}) == len(weights)
        keeps = keeps and distinct
        found = [w.but(transformed=True, scales=w.scales and keeps) for w in weights]
        density, factor = _constants(meeting) if len(own) == 1 else (1.0, 1.0)
        return meeting.result(
            tuple(
                w.but(density=w.density * density, factor=w.factor * factor)
                for w in merged(found)
            )
        )
    kind = _KINDS.get(name, "elementwise")
    pending: list[Weight] = []
    for operand, value in enumerate(meeting.operands):
        if value.is_parameter:
            for own_weight in value.weights:
                weight = _fitted(own_weight, shape)
                if _in_two_steps(meeting, weight, operand):
                    continue
                key = add(meeting, kind, own_weight, operand)
                if _may_be_weight(weight):
                    pending.append(weight.but(pending=key, scales=name in _FACTORS))
        elif value.weights:
            scales = name in _FACTORS or name in _HOMOGENEOUS
            pending += [
                _fitted(w, shape).but(scales=w.scales and scales) for w in value.weights
            ]
    if len({weight.leaf for weight in pending}) != 1:
        return meeting.result()
    return meeting.result(merged(pending, transformed=True))


def _fitted(weight: Weight, shape: tuple[int, ...]) -> Weight:
    """The weight in an array of this shape, spread where it has size 1 or no axis."""
    if len(weight.dims) != len(shape):
        return weight.but(dims=tuple(map(spread, shape)), span=None)
    dims = tuple(
        dim if size_of([dim]) == size else spread(size)
        for dim, size in zip(weight.dims, shape, strict=True)
    )
    return weight.but(dims=dims)


def _constants(meeting: Meeting) -> tuple[float, float]:
    """What constants leave of a parameter: the share not masked, the rms of factors.

    They are computed: a number, a mask, a fixed scale for each unit.
    """
    name, unused = meeting.name, (1.0, 1.0)
    if name not in (*_FACTORS, "select_n"):
        return unused
    places = [n for n, value in enumerate(meeting.operands) if not value.is_parameter]
    if name == "select_n":
        if len(places) != 2 or places[0] != 0:
            return unused
        condition = constant_value(meeting.frame, meeting.eqn.invars[0])
        other = constant_value(meeting.frame, meeting.eqn.invars[places[1]])
        if condition is None or other is None or np.any(other):
            return unused
        # The first case is taken where the condition is false.
        kept = condition == (places[1] == 1)
        return float(np.mean(kept)), 1.0
    value = constant_value(meeting.frame, meeting.eqn.invars[places[0]])
    if value is None or not value.size:
        return unused
    value = np.asarray(value, np.complex128)
    if name == "div":
        if places[0] == 0 or not np.all(value):
            return unused
        value = 1 / value
    if value.size > 1 and np.isin(value, (0, 1)).all():
        return float(np.mean(value.real)), 1.0
    return 1.0, float(np.sqrt(np.mean(np.abs(value) ** 2)))


def _with_sides_settled(weights: list[Weight]) -> list[Weight]:
    """A product of parameters that is added to a whole weight is part of it (LoRA)."""
    if not any(_may_be_weight(weight) for weight in weights):
        return weights
    return [weight.but(side=None) for weight in weights]


def _is_biased_layer(meeting: Meeting) -> bool:
    """Whether a bias is added to a product of two parameters: learned queries, say.

    The one whose outputs the bias runs along is the weight, the other its input.
    """
    if meeting.name not in _SUMS:
        return False
    shape = tuple(meeting.eqn.outvars[0].aval.shape)
    for operand, value in enumerate(meeting.operands):
        biases = [_fitted(w, shape) for w in meeting.operands[1 - operand].weights]
        pair = value.weights
        if len(pair) != 2 or {weight.side for weight in pair} != {0, 1}:
            continue
        if not biases or any(b.inner or not b.is_spread for b in biases):
            continue
        along = _places(biases[0])
        ends = [weight for weight in pair if along and along <= _places(weight)]
        if len(ends) != 1:
            continue
        for weight in pair:
            frame, number, place, product, before = weight.made
            if weight is ends[0]:
                add_product(meeting.record, product, before, frame, number, place)
            else:
                meeting.record.note("input", before, frame, number, place)
        for bias in meeting.operands[1 - operand].weights:
            add(meeting, "bias", bias, 1 - operand)
        return True
    return False


def _places(weight: Weight) -> set[int]:
    """The dimensions along which it has several elements."""
    return {
        place
        for place, dim in enumerate(weight.dims)
        if any(factor.axes and factor.size > 1 for factor in dim)
    }


def _in_two_steps(meeting: Meeting, weight: Weight, operand: int) -> bool:
    """Whether it is a product, written as a multiplication and a sum."""
    found = multiplied_and_summed(meeting.frame, meeting.number, operand, weight)
    if found is None or weight.reduced or weight.inner:
        return False
    product, number = found
    other = meeting.operands[1 - operand]
    recurrent = weight.looped and bool(other.leaves >> weight.leaf & 1)
    where = meeting.frame, number, 0
    detail = "a multiplication and a sum"
    add_product(
        meeting.record, product, weight, *where, recurrent=recurrent, detail=detail
    )
    return True


def _may_be_weight(weight: Weight) -> bool:
    """Whether what the signal did to it may have left a weight: a mask, a noise."""
    whole = not weight.is_spread and weight.extents >= 2
    return whole and not weight.reduced and not weight.inner
