"""The one scalar of a chain that becomes an argument of its kernel.

Only the scalar of the last operation may become one, and only where XLA has nothing to
merge it with: with two, or after another sum or product with a scalar, it reassociates,
and the last digit moves.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
from jax.extend.core import Literal

from jaxinit import _compat
from jaxinit._materialize._behind import Behind
from jaxinit._materialize._exact import Unknown
from jaxinit._primitives import RESHAPING

_HOISTING = frozenset(("mul", "div", "add", "sub"))
_TRANSPARENT = frozenset(("neg", "copy", "stop_gradient", "convert_element_type"))


@dataclasses.dataclass(frozen=True)
class Hoisted:
    """The scalar of a leaf's last operation, which is no part of the chain's name.

    Attributes:
      scalar: the operand.
      value: what the chain is run with in its place.
      random: the other operand; where the value takes in a product that made it, what
        that was the product of.
    """

    scalar: Any
    value: np.ndarray
    random: Any


def hoist(behind: Behind, root: Any) -> Hoisted | None:
    """The scalar to hoist of the operation that makes a variable, if there is one."""
    operands = _with_a_scalar(behind, root)
    if operands is None or root.aval.dtype not in (np.float32, np.float64):
        return None
    random, scalar = operands
    try:
        if not _folds(behind, root, random):
            return Hoisted(scalar, _value(behind, scalar), random)
        return _merged(behind, root, random, scalar)
    except Unknown:
        return None


def _merged(behind: Behind, root: Any, product: Any, scalar: Any) -> Hoisted | None:
    """``(x * a) * b`` as ``x * (a * b)``, where XLA makes one constant of two, too.

    Normal draws of whatever standard deviation are one chain by this.
    """
    operands = _with_a_scalar(behind, product)
    if operands is None or not _compat.merges_factors():
        return None
    random, constant = operands
    producer = behind.host.producer
    if not producer[root].primitive.name == producer[product].primitive.name == "mul":
        return None
    if _folds(behind, product, random):
        return None
    if not all(behind.host.is_constant(factor) for factor in (constant, scalar)):
        return None
    factors = _value(behind, constant), _value(behind, scalar)
    with np.errstate(all="ignore"):
        value = np.asarray(factors[0] * factors[1])
    # What becomes of numbers that are no longer normal is not for us to say.
    tiny = np.finfo(value.dtype).tiny
    if not all(tiny <= abs(number) < np.inf for number in (*factors, value)):
        return None
    behind.unshaped(product)  # walked through as well
    return Hoisted(scalar, value, random)


def _with_a_scalar(behind: Behind, var: Any) -> tuple[Any, Any] | None:
    """The random and the fixed operand of a sum or product of the two."""
    eqn = None if isinstance(var, Literal) else behind.host.producer.get(var)
    if eqn is None or eqn.primitive.name not in _HOISTING:
        return None
    first, second = eqn.invars
    random = [behind.is_random(v) for v in eqn.invars]
    if sum(random) != 1:
        return None
    return (first, second) if random[0] else (second, first)


def _folds(behind: Behind, var: Any, inner: Any) -> bool:
    """Whether XLA may merge the scalar of an operation with one before it.

    ``(x + a) + b`` becomes ``x + (a + b)`` for literals, and does not where b is an
    argument: so b stays a literal there, and likewise for products.
    """
    sums, producer = ("add", "sub"), behind.host.producer
    while True:
        before = producer.get(behind.unshaped(inner))
        if before is None or before.primitive.name not in _TRANSPARENT:
            break
        inner = before.invars[0]
    if before is None or before.primitive.name not in _HOISTING:
        return False
    same = (before.primitive.name in sums) == (producer[var].primitive.name in sums)
    return same and not all(behind.is_random(v) for v in before.invars)


def _value(behind: Behind, var: Any) -> np.ndarray:
    while not isinstance(var, Literal) and var.aval.size != 1:
        eqn = behind.host.producer.get(var)
        if eqn is None or eqn.primitive.name not in RESHAPING:
            raise Unknown
        var = eqn.invars[0]
    return behind.host.value(var).reshape(())
