"""What the assertions share: concrete or traced values, wide sums, bits, failing."""

from __future__ import annotations

import math
from types import ModuleType
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.sharding import NamedSharding, PartitionSpec

# Values summed at once in a traced mean: see `average`.
_BLOCK = 64


def require(condition: Any, message: str, *numbers: Any):
    """Raise AssertionError with `message` unless `condition` holds.

    `message` is a format string for `numbers`; both are concrete or both are traced. A
    traced condition becomes a chex value assertion: it needs ``chex.chexify`` around
    the function, and says so if that is missing.
    """
    if is_traced(condition):
        chex.assert_trees_all_equal(
            condition,
            jnp.asarray(True),
            custom_message=message,
            custom_message_format_vars=[jnp.asarray(number) for number in numbers],
        )
        return
    try:  # chex decides, so that chex.disable_asserts is obeyed
        chex.assert_trees_all_equal(np.asarray(condition), np.asarray(True))
    except AssertionError:
        raise AssertionError(message.format(*numbers)) from None


def is_traced(values: Any) -> bool:
    """Whether the values are known only when the program runs."""
    return isinstance(values, Tracer)


def literal(text: str) -> str:
    """The text as part of a format string that must show it unchanged."""
    return text.replace("{", "{{").replace("}", "}}")


def namespace(values: Any) -> ModuleType:
    """jax.numpy for traced values; numpy, which has 64 bits, for concrete ones."""
    return jnp if is_traced(values) else np


def as_array(values: Any) -> Any:
    """A traced array whole on every device, or anything else as a numpy array."""
    if not is_traced(values):
        return np.asarray(values)
    sharding = jax.typeof(values).sharding
    if any(axes is not None for axes in sharding.spec):
        # Explicit mesh axes, over which sorting and flattening are not defined.
        replicated = NamedSharding(sharding.mesh, PartitionSpec())
        return jax.sharding.reshard(values, replicated)
    return values


def as_floating(argument: str, values: Any, *, complex_too: bool = True) -> Any:
    """`as_array`, refusing what is empty or not made of floating numbers."""
    values = as_array(values)
    allowed = "floating or complex" if complex_too else "floating"
    kinds = jnp.inexact if complex_too else jnp.floating
    if not jnp.issubdtype(values.dtype, kinds):
        raise ValueError(f"{argument} must be {allowed}, got {values.dtype.name}")
    if values.size == 0:
        raise ValueError(
            f"{argument} is empty (shape {values.shape}): there is nothing to check"
        )
    return values


def wide_dtype(values: Any) -> np.dtype:
    """The dtype to compute in: float64, or float32 where traced and without 64 bits."""
    wide = np.dtype(np.float64)
    return jax.dtypes.canonicalize_dtype(wide) if is_traced(values) else wide


def real_parts(values: Any, dtype: np.dtype) -> list[Any]:
    """The real part, and the imaginary one of complex values, flat and wide."""
    values = values.reshape(-1)
    if jnp.issubdtype(values.dtype, jnp.complexfloating):
        return [values.real.astype(dtype), values.imag.astype(dtype)]
    return [values.astype(dtype)]


def average(values: Any) -> Any:
    """The mean of a flat array, with a rounding error of at most `average_error`.

    A traced sum is taken in blocks whose sums are summed in blocks, because the error
    of one float32 sum over millions grows with their number. The barrier keeps the
    compiler from merging the levels into that one sum.
    """
    if not is_traced(values):
        return np.mean(values)
    count = values.size
    while values.size > 1:
        block = min(_BLOCK, values.size)
        values = jnp.pad(values, (0, -values.size % block))
        values = jax.lax.optimization_barrier(values.reshape(-1, block).sum(-1))
    return values[0] / count


def average_error(count: int, dtype: np.dtype) -> float:
    """How much rounding may change `average`, relative to the mean magnitude."""
    levels = max(1, math.ceil(math.log(count, _BLOCK))) if count > 1 else 1
    return (levels * _BLOCK + 4) * float(jnp.finfo(dtype).eps) / 2


def bits(values: Any, xp: ModuleType) -> Any:
    """The bit pattern of each element as unsigned words, along one new last axis.

    Two elements are identical when their words are: NaN payloads and the sign of zero
    count. With numpy the words are bytes, with jax.numpy as wide as the elements.
    """
    if xp is np:
        values = np.ascontiguousarray(values).reshape(values.shape)
        return values.reshape(*values.shape, 1).view(np.uint8)
    values = jnp.asarray(values)
    if jnp.issubdtype(values.dtype, jnp.complexfloating):
        values = jnp.stack([values.real, values.imag], -1)
    else:
        values = values[..., None]
    if values.dtype == jnp.bool_:
        return values.astype(jnp.uint8)
    if jnp.issubdtype(values.dtype, jnp.integer) and jnp.iinfo(values.dtype).bits < 8:
        values = values.astype(np.int8)
    return jax.lax.bitcast_convert_type(values, np.dtype(f"u{values.dtype.itemsize}"))
