"""Numbers that a program makes of numbers, before a model multiplies by them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

_SAME = frozenset({"broadcast_in_dim", "reshape", "squeeze", "copy"})
_FUNCTIONS: dict[str, Any] = {
    "add": np.add,
    "convert_element_type": np.asarray,
    "div": np.divide,
    "exp": np.exp,
    "integer_pow": np.power,
    "log": np.log,
    "mul": np.multiply,
    "neg": np.negative,
    "pow": np.power,
    "rsqrt": lambda value: 1 / np.sqrt(value),
    "sqrt": np.sqrt,
    "square": np.square,
    "sub": np.subtract,
}


def constant(eqn: Any, values: Sequence[float]) -> Any:
    """What an equation makes of operands that are one number each; None if unknown."""
    name = eqn.primitive.name
    if name in _SAME:
        return values[0]
    whole = not jnp.issubdtype(eqn.outvars[0].aval.dtype, jnp.inexact)
    if name not in _FUNCTIONS or (name == "div" and whole):
        return None
    operands = [np.float64(value) for value in values]
    if name == "integer_pow":
        operands.append(np.float64(eqn.params["y"]))
    with np.errstate(all="ignore"):
        return _FUNCTIONS[name](*operands)
