"""Operations of small arrays on the host, with the bits that XLA gives them."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxinit import _threefry
from jaxinit._compat import setting

FLOAT_OPERATIONS = {
    "add": np.add,
    "sub": np.subtract,
    "mul": np.multiply,
    "div": np.divide,
    "sqrt": np.sqrt,
    "neg": np.negative,
}


class Unknown(Exception):
    """The host does not compute this value; a program has to."""


def is_key(aval: Any) -> bool:
    """Whether this is the type of random keys."""
    return jnp.issubdtype(aval.dtype, jax.dtypes.prng_key)


def is_threefry(aval: Any) -> bool:
    """Whether this is the type of threefry keys."""
    return is_key(aval) and _threefry.is_threefry(aval.dtype)


def apply(eqn: Any, operands: list[np.ndarray], result: int) -> np.ndarray:
    """One result of an equation in numpy, exactly as XLA computes it, or Unknown."""
    name, params = eqn.primitive.name, eqn.params
    out = eqn.outvars[result].aval
    if name == "unstack":
        return np.take(operands[0], result, params["axis"])
    if len(eqn.outvars) > 1:
        raise Unknown
    # A key has a trailing axis here that its type does not have.
    extra = (2,) if is_key(out) else ()
    if is_key(out) and not is_threefry(out):
        raise Unknown
    if name == "random_wrap":
        return operands[0]
    if name == "random_unwrap":
        return operands[0]
    if name == "random_seed":
        return _threefry.seed(operands[0])
    if name == "random_fold_in":
        return _threefry.fold_in(operands[0], operands[1])
    if name == "random_split":
        if not setting("jax_threefry_partitionable"):
            raise Unknown
        return _threefry.split(operands[0], params["shape"])
    if name in ("random_clone", "copy", "stop_gradient"):
        return operands[0]
    if name in ("reshape", "squeeze"):
        if params.get("dimensions") is not None and name == "reshape":
            raise Unknown
        return operands[0].reshape((*out.shape, *extra))
    if name == "broadcast_in_dim" and len(operands) == 1:
        dims = params["broadcast_dimensions"]
        sizes = [1] * len(out.shape)
        for axis, dim in enumerate(dims):
            sizes[dim] = operands[0].shape[axis]
        return np.broadcast_to(
            operands[0].reshape((*sizes, *extra)), (*out.shape, *extra)
        )
    if name == "slice":
        strides = params["strides"] or (1,) * len(params["start_indices"])
        limits = zip(
            params["start_indices"], params["limit_indices"], strides, strict=True
        )
        return operands[0][tuple(slice(*limit) for limit in limits)]
    if name == "concatenate":
        return np.concatenate(operands, params["dimension"])
    if name == "convert_element_type" and not is_key(out):
        return _converted(operands[0], out.dtype)
    if name == "iota":
        sizes = [1] * len(out.shape)
        sizes[params["dimension"]] = -1
        count = np.arange(out.shape[params["dimension"]], dtype=out.dtype)
        return np.broadcast_to(count.reshape(sizes), out.shape)
    return _arithmetic(name, operands, out)


def _converted(operand: np.ndarray, dtype: Any) -> np.ndarray:
    exact = np.issubdtype(dtype, np.integer) and np.issubdtype(
        operand.dtype, np.integer
    )
    floats = dtype in (np.float32, np.float64)
    if not exact and not (floats and operand.dtype.kind in "iufb"):
        raise Unknown
    return operand.astype(dtype)


def _arithmetic(name: str, operands: list[np.ndarray], out: Any) -> np.ndarray:
    """Correctly rounded operations, and integers modulo their width."""
    operation = FLOAT_OPERATIONS.get(name)
    kinds = {operand.dtype.kind for operand in operands}
    integers = kinds <= {"i", "u"} and name in ("add", "sub", "mul")
    floats = all(operand.dtype in (np.float32, np.float64) for operand in operands)
    if operation is None or not (integers or floats):
        raise Unknown
    with np.errstate(all="ignore"):
        return np.asarray(operation(*operands)).astype(out.dtype)
