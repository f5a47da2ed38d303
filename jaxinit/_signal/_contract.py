"""Parameters in products: with the signal, with constants, with each other."""

from __future__ import annotations

from typing import Any

from jaxinit._signal._meeting import Meeting, not_understood
from jaxinit._signal._parts import part_of
from jaxinit._signal._patches import of_patches
from jaxinit._signal._products import Product, product_rule
from jaxinit._signal._record import add_product
from jaxinit._signal._weights import Factor, Value, Weight, axes_of, merged, spread


def contraction(meeting: Meeting) -> list[Value]:
    rule = product_rule(meeting.name)
    weighted = [n for n, value in enumerate(meeting.operands) if value.is_parameter]
    found = {n: rule(meeting.eqn, n) for n in weighted} if rule else {}
    products = {n: p for n, p in found.items() if p is not None}
    for operand in weighted:
        product = products.get(operand)
        if product is None:
            continue
        other = meeting.operands[product.other]
        if other.data:
            return _with_signal(meeting, operand, product)
        if not other.leaves and meeting.record.constants_are_data:
            return _with_signal(meeting, operand, product)
        if not other.leaves:
            return _with_constant(meeting, operand, product)
    if not weighted:
        return _with_pending(meeting)
    pair = [products.get(operand) for operand in weighted]
    if len(weighted) == 2 and all(pair) and meeting.name == "dot_general":
        return _of_parameters(meeting, weighted, products)
    if len(weighted) == 2 and any(pair):
        return _from_input(meeting, weighted, products)
    return not_understood(meeting, f"its place in {meeting.name}")


def _with_signal(meeting: Meeting, operand: int, product: Product) -> list[Value]:
    value, other = meeting.operands[operand], meeting.operands[product.other]
    if not value.weights:
        return meeting.signal()
    product = of_patches(meeting.frame, meeting.eqn.invars[product.other], product)
    where = meeting.frame, meeting.number, operand
    unclear = any(weight.side is not None for weight in value.weights)
    for weight in value.weights:
        recurrent = weight.looped and bool(other.leaves >> weight.leaf & 1)
        if len(value.weights) > 1 and weight.is_spread and not weight.inner:
            kind = "unknown" if unclear else "scale"
            detail = "multiplies, or is added to, another weight"
            meeting.record.note(kind, weight, *where, detail=detail)
            continue
        again = sum(other.leaf == weight.leaf for other in value.weights) > 1
        part = None if again else part_of(meeting.eqn, operand, weight.span)
        fields = {"recurrent": recurrent, "part": part}
        add_product(meeting.record, product, weight, *where, **fields)
    return meeting.signal()


def _with_constant(meeting: Meeting, operand: int, product: Product) -> list[Value]:
    """A linear map of the parameter alone, such as the resizing of a kernel."""
    if meeting.name != "dot_general":
        return not_understood(meeting, f"{meeting.name} with a constant")
    shape = tuple(meeting.eqn.outvars[0].aval.shape)

    def mapped(weight: Weight) -> Weight:
        kept = _dot_dims(meeting, operand, weight)
        summed = axes_of(
            dim
            for role, dim in zip(product.roles, weight.dims, strict=True)
            if role == "in"
        )
        dims = tuple(
            (Factor(summed, size),) if dim is None else dim
            for dim, size in zip(kept, shape, strict=True)
        )
        return weight.but(dims=dims, transformed=True, span=None)

    return [meeting.result(meeting.operands[operand].map(mapped).weights)]


def _dot_dims(meeting: Meeting, operand: int, weight: Weight) -> list[Any]:
    """The dimensions of a dot's result; None for those of the other operand."""
    contracted, batch = meeting.eqn.params["dimension_numbers"]
    free = [
        [
            dim
            for dim in range(len(meeting.shape(n)))
            if dim not in contracted[n] and dim not in batch[n]
        ]
        for n in (0, 1)
    ]
    own = [weight.dims[dim] for dim in free[operand]]
    others: list[Any] = [None] * len(free[1 - operand])
    front = [weight.dims[dim] for dim in batch[operand]]
    return [*front, *(own + others if operand == 0 else others + own)]


def _of_parameters(
    meeting: Meeting, weighted: list[int], products: dict[int, Any]
) -> list[Value]:
    """A product of two parameters: a factored weight, or a learned input and one."""
    inputs = [n for n in weighted if _is_input(meeting.operands[n])]
    if len(inputs) == 1:
        return _from_input(meeting, weighted, products)
    shape = tuple(meeting.eqn.outvars[0].aval.shape)
    found: list[Weight] = []
    for operand in weighted:
        roles = products[operand].roles
        for weight in meeting.operands[operand].weights:
            kept = _dot_dims(meeting, operand, weight)
            summed = tuple(
                factor
                for role, dim in zip(roles, weight.dims, strict=True)
                for factor in dim
                if role == "in"
            )
            dims = tuple(
                spread(size) if dim is None else dim
                for dim, size in zip(kept, shape, strict=True)
            )
            inner = (*weight.inner, *summed)
            side = operand if weight.side in (None, operand) else 1 - operand
            made = (meeting.frame, meeting.number, operand, products[operand], weight)
            changes = {"dims": dims, "inner": inner, "side": side, "made": made}
            changes["span"] = None
            found.append(weight.but(transformed=True, **changes))
    return [meeting.result(merged(found))]


def _is_input(value: Value) -> bool:
    """Whether it was made ready as the signal is: repeated for each example, mapped."""
    return all(
        weight.is_spread or (weight.transformed and not weight.scales)
        for weight in value.weights
    )


def _from_input(
    meeting: Meeting, weighted: list[int], products: dict[int, Any]
) -> list[Value]:
    """A parameter that enters as data does meets the weight of a layer."""
    candidates = [n for n in weighted if products.get(n) is not None]
    outer = [n for n in candidates if not _is_input(meeting.operands[n])]
    operand = (outer or candidates)[-1]
    for weight in meeting.operands[1 - operand].weights:
        meeting.record.note(
            "statistic" if weight.reduced else "input",
            weight,
            meeting.frame,
            meeting.number,
            1 - operand,
        )
    return _with_signal(meeting, operand, products[operand])


def _with_pending(meeting: Meeting) -> list[Value]:
    """A look-up, or a masked parameter, meets the signal: is it an expert's weight?"""
    rule = product_rule(meeting.name)
    bearing = [n for n, value in enumerate(meeting.operands) if value.weights]
    if rule is not None and len(bearing) == 1:
        operand = bearing[0]
        product = rule(meeting.eqn, operand)
        value = meeting.operands[operand]
        if product is not None and all(
            _is_whole(product, weight) for weight in value.weights
        ):
            return _with_signal(meeting, operand, product)
    return meeting.signal()


def _is_whole(product: Product, weight: Weight) -> bool:
    roles = {
        role
        for role, dim in zip(product.roles, weight.dims, strict=True)
        if any(factor.axes and factor.size > 1 for factor in dim)
    }
    return {"in", "out"} <= roles
