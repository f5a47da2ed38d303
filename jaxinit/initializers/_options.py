"""The options of a builder as values: frozen, checked, compared and shown."""

from __future__ import annotations

import dataclasses
import inspect
import math
import operator
import warnings
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

Accepts = Literal["any", "inexact", "floating"]


def freeze(option: str, value: Any, name: str) -> Any:
    """Freeze what could change under us, and refuse NaN."""
    if option == "dtype" and value is not None:
        return jnp.dtype(value)
    if isinstance(value, list):
        value = tuple(value)
    if isinstance(value, np.ndarray):
        value = value.copy()
        value.flags.writeable = False
    if isinstance(value, (float, complex, np.ndarray, np.generic, jax.Array)):
        known = not isinstance(value, Tracer) and not is_key(value)
        known = known and getattr(value, "is_fully_addressable", True)
        numeric = known and jnp.issubdtype(jnp.result_type(value), jnp.inexact)
        if numeric and np.any(np.isnan(np.asarray(value))):
            raise ValueError(f"{option} of {name} is NaN")
    return value


def is_key(value: Any) -> bool:
    """Whether this looks like a random key, typed or legacy."""
    if not isinstance(value, jax.Array):
        return False
    typed = jnp.issubdtype(value.dtype, jax.dtypes.prng_key)
    return typed or (value.dtype == jnp.uint32 and value.shape in ((2,), (4,)))


def check_nonnegative(argument: str, value: Any):
    """Refuse what is not a finite number of at least zero; tracers pass unchecked."""
    if isinstance(value, Tracer):
        return
    try:
        numbers = np.asarray(value + 0, dtype=np.float64)  # a text adds to no number
    except (TypeError, ValueError):
        raise TypeError(f"{argument} must be a real number, got {value!r}") from None
    if not np.all(np.isfinite(numbers)) or np.any(numbers < 0):
        raise ValueError(f"{argument} must be finite and not negative, got {value!r}")


def check_rank(shape: tuple[int, ...], at_least: int, name: str, remedy: str):
    """Refuse a shape of too few axes."""
    if len(shape) < at_least:
        raise ValueError(
            f"{name} needs a shape of at least {at_least} axes, got {shape}; {remedy}"
        )


def checked_shape(shape: Any, name: str) -> tuple[int, ...]:
    """The shape as a tuple of Python integers; as in JAX, one integer is a vector's."""
    given = (shape,) if isinstance(shape, (int, np.integer)) else shape
    try:
        sizes = tuple(operator.index(size) for size in given)
    except TypeError:
        raise TypeError(
            f"the shape given to {name} must be a tuple of integers, got {shape!r}"
        ) from None
    if any(size < 0 for size in sizes):
        raise ValueError(f"the shape given to {name} has a negative size: {sizes}")
    return sizes


def checked_dtype(dtype: Any, accepts: str, name: str) -> np.dtype:
    """The dtype that is drawn when this one is asked for, None being JAX's default."""
    if dtype is None:
        return jnp.result_type(float)
    wanted = jnp.dtype(dtype)
    if accepts != "any":
        kinds = jnp.floating if accepts == "floating" else jnp.inexact
        if not jnp.issubdtype(wanted, kinds):
            may_be = "floating" if accepts == "floating" else "floating or complex"
            raise ValueError(f"dtype of {name} must be {may_be}, got {wanted.name}")
    granted = jax.dtypes.canonicalize_dtype(wanted)
    if granted != wanted:
        warnings.warn(
            f"{wanted.name} was asked of {name} and is truncated to {granted.name}; "
            "enable 64-bit mode with jax.config.update('jax_enable_x64', True)",
            stacklevel=3,
        )
    return granted


def drawing_dtype(dtype: np.dtype) -> np.dtype:
    """The dtype to draw in: float32 for anything narrower, else `dtype` itself.

    A 16-bit float drawn directly takes at most ``2 ** mantissa_bits`` values (128 for
    bfloat16) with a mean of -1.7% of its standard deviation.
    """
    narrow = jnp.issubdtype(dtype, jnp.floating) and dtype.itemsize < 4
    return np.dtype(np.float32) if narrow else dtype


def check_broadcast(argument: str, own: tuple[int, ...], shape: tuple[int, ...]):
    """Refuse an array option that does not broadcast to the shape asked for."""
    try:
        fits = np.broadcast_shapes(own, shape) == shape
    except ValueError:
        fits = False
    if not fits:
        raise ValueError(
            f"{argument} of shape {own} does not broadcast to the shape {shape}"
        )


@dataclasses.dataclass(frozen=True, eq=False)
class _ByIdentity:
    """Stands for a value that has no comparable content, and keeps it alive."""

    value: Any

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _ByIdentity) and self.value is other.value

    def __hash__(self) -> int:
        return id(self.value)


def identity_of(value: Any) -> Any:
    """What an option is compared and hashed by."""
    if isinstance(value, Tracer):
        return _ByIdentity(value)
    if isinstance(value, (np.ndarray, np.generic, jax.Array)):
        if not getattr(value, "is_fully_addressable", True):
            return _ByIdentity(value)
        content = np.asarray(value)
        if content.ndim == 0:
            return identity_of(content.item())
        return ("array", content.shape, content.dtype.name, content.tobytes())
    if isinstance(value, (int, float)) and value == 0:
        return ("zero", math.copysign(1.0, value))  # constant(-0.0) is not constant(0)
    if isinstance(value, (list, tuple)):
        return tuple(identity_of(item) for item in value)
    if isinstance(value, (type, np.dtype)):
        try:
            return ("dtype", jnp.dtype(value).name)
        except TypeError:
            return value
    try:
        hash(value)
    except TypeError:
        return _ByIdentity(value)
    return value


def shown(value: Any) -> str:
    """An option as its owner would type it."""
    if isinstance(value, Tracer):
        return f"<traced {value.aval.str_short()}>"
    if isinstance(value, (type, np.dtype)):
        try:
            return repr(jnp.dtype(value).name)
        except TypeError:
            return value.__name__
    if isinstance(value, (np.ndarray, np.generic, jax.Array)):
        content = np.asarray(value)
        return repr(content.item()) if content.ndim == 0 else repr(content)
    if inspect.isroutine(value):
        return value.__name__
    return repr(value)
