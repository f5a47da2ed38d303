"""Parameters in elementwise operations: arithmetic of their own, or with the signal."""

from __future__ import annotations

from jaxinit._primitives import ELEMENTWISE, ELEMENTWISE_UNCHUNKED, NEWER, TRANSPARENT
from jaxinit._signal._meeting import Meeting, add
from jaxinit._signal._patches import multiplied_and_summed
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
        return meeting.result(merged(found))
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


def _with_sides_settled(weights: list[Weight]) -> list[Weight]:
    """A product of parameters that is added to a whole weight is part of it (LoRA)."""
    if not any(_may_be_weight(weight) for weight in weights):
        return weights
    return [weight.but(side=None) for weight in weights]


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
