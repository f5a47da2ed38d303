"""Products that a program writes in two steps, told by the equations around them.

Patches, taken by a convolution with an identity, that a dot then multiplies; and a
multiplication whose results are only ever summed.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import jax
import numpy as np
from jax.extend.core import ClosedJaxpr, Jaxpr, jaxpr_as_fun
from jax.extend.core import Literal as Constant

from jaxinit._signal._frames import Frame
from jaxinit._signal._products import Product, Role, product_rule
from jaxinit._signal._weights import Weight, size_of

_REARRANGING = frozenset({"convert_element_type", "reshape", "squeeze", "transpose"})


# ------------------------------------------------------------------------------ patches


def of_patches(frame: Frame, signal: Any, product: Product) -> Product:
    """The product, with the averages of the patches if the signal consists of these.

    Padding in the patches is no product, and one element stands in several patches.
    """
    eqn = _origin(frame, signal)
    if eqn is None or eqn.primitive.name != "conv_general_dilated":
        return product
    rule = product_rule("conv_general_dilated")
    taken = rule(eqn, 1) if rule else None
    if taken is None or taken.taps_in is None or taken.taps_out is None:
        return product
    into, out = taken.roles.index("in"), taken.roles.index("out")
    shape = eqn.invars[1].aval.shape
    taps = math.prod(n for dim, n in enumerate(shape) if dim not in (into, out))
    channels = eqn.params["feature_group_count"]
    if (shape[into], shape[out]) != (1, channels * taps):
        return product
    kernel = constant_value(frame, eqn.invars[1])
    if kernel is None or not _takes_each_tap_once(kernel, out, channels):
        return product
    return dataclasses.replace(
        product,
        taps_in=product.fan_in * taken.taps_in / taps,
        taps_out=product.fan_out * taken.taps_out / taps,
    )


def _origin(frame: Frame, var: Any) -> Any:
    """The equation whose result this is, but for its arrangement."""
    while var in frame.makers:
        eqn = frame.eqns[frame.makers[var]]
        if eqn.primitive.name not in _REARRANGING:
            return eqn
        var = eqn.invars[0]
    return None


def _takes_each_tap_once(kernel: np.ndarray, out: int, channels: int) -> bool:
    """Whether the outputs of each channel are its taps, in some order."""
    taps = kernel.shape[out] // channels
    rows = np.moveaxis(kernel, out, 0).reshape(channels, taps, -1)
    hot = (np.count_nonzero(rows, axis=2) == 1) & (rows.max(axis=2) == 1)
    places = np.sort(np.argmax(rows, axis=2), axis=1)
    return bool(hot.all() and (places == np.arange(taps)).all())


def constant_value(frame: Frame, var: Any) -> np.ndarray | None:
    """The value of a variable that depends on no input, computed; None if one does."""
    if isinstance(var, Constant):
        return np.asarray(var.val)
    jaxpr = frame.program.jaxpr
    needed: set[int] = set()
    waiting, known = (
        [var],
        dict(zip(jaxpr.constvars, frame.program.consts, strict=True)),
    )
    while waiting:
        atom = waiting.pop()
        if isinstance(atom, Constant) or atom in known:
            continue
        if atom not in frame.makers:
            return None
        number = frame.makers[atom]
        if number not in needed:
            needed.add(number)
            waiting += frame.eqns[number].invars
    eqns = [frame.eqns[number] for number in sorted(needed)]
    part = Jaxpr(
        jaxpr.constvars,
        (),
        [var],
        eqns,
        debug_info=jaxpr.debug_info.with_unknown_names(),
    )
    with jax.ensure_compile_time_eval():
        (value,) = jaxpr_as_fun(ClosedJaxpr(part, frame.program.consts))()
    return np.asarray(value)


# ----------------------------------------------------------- a multiplication and a sum


def multiplied_and_summed(
    frame: Frame, number: int, operand: int, weight: Weight
) -> tuple[Product, int] | None:
    """The product, and the equation that sums, where a sum alone reads this equation.

    `weight` lies in an array of the result's shape.
    """
    eqn = frame.eqns[number]
    var = eqn.outvars[0]
    reads: list[int] = frame.readers.get(var, [])
    while len(reads) == 1 and var not in frame.program.jaxpr.outvars:
        reader = frame.eqns[reads[0]]
        if reader.primitive.name == "convert_element_type":
            var = reader.outvars[0]
            reads = frame.readers.get(var, [])
            continue
        if reader.primitive.name != "reduce_sum" or eqn.primitive.name != "mul":
            return None
        summed = {int(axis) for axis in reader.params["axes"]}
        repeated = _repeated(frame, eqn.invars[1 - operand], len(weight.dims))
        product = _as_product(weight, summed, repeated)
        return None if product is None else (product, reads[0])
    return None


def _as_product(weight: Weight, summed: set[int], repeated: set[int]) -> Product | None:
    roles: list[Role] = []
    fans = {"in": 1.0, "out": 1.0, "batch": 1.0, "spatial": 1.0}
    for place, dim in enumerate(weight.dims):
        own = any(factor.axes and factor.size > 1 for factor in dim)
        role: Role = "batch"
        if place in summed:
            role = "in"
            if place in repeated or not own:
                return None  # a sum over examples, or of the weight alone
        elif own and place in repeated:
            role = "out"
        roles.append(role)
        fans[role] *= size_of([dim])
    if "in" not in roles:
        return None
    return Product(tuple(roles), fans["in"], fans["out"])


def _repeated(frame: Frame, atom: Any, rank: int) -> set[int]:
    """The dimensions along which an array only repeats itself."""
    if isinstance(atom, Constant) or atom.aval.ndim != rank:
        return set(range(rank))
    own = {place for place, size in enumerate(atom.aval.shape) if size == 1}
    if atom in frame.makers:
        eqn = frame.eqns[frame.makers[atom]]
        if eqn.primitive.name == "broadcast_in_dim":
            places = [int(dim) for dim in eqn.params["broadcast_dimensions"]]
            before = eqn.invars[0].aval.shape
            kept = {p for p, size in zip(places, before, strict=True) if size > 1}
            return set(range(rank)) - kept
    return own
