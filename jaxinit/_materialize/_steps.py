"""A chain as a value: the steps between random bits and a leaf, and how to run them."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax


class Step(NamedTuple):
    """One operation of a chain; operands are numbers of steps before it.

    Attributes:
      operation: the primitive, or "bits", "literal", "hoisted".
      operands: of the primitive.
      params: of the primitive, or the bit width, or the literal's bytes.
      dtype: of the result.
      flat: whether it has an element for each element of the leaf; else it is a scalar.
    """

    operation: str
    operands: tuple[int, ...]
    params: tuple[tuple[str, str], ...]
    dtype: str
    flat: bool


@dataclasses.dataclass(frozen=True)
class Chain:
    """A leaf as keys, a hoisted scalar, and the steps between: `steps` is its name."""

    steps: tuple[Step, ...]
    keys: tuple[np.ndarray, ...]  # uint32, each (copies, 2), one for each step "bits"
    scalar: np.ndarray | None
    dtype: np.dtype
    copies: int  # independent stretches of equal length, each with its own keys
    short: bool  # too short to be a chain if other leaves were made of its draws
    run: Callable[[Any, Any], Any] = dataclasses.field(compare=False)


@functools.cache
def name_of(dtype: Any) -> str:
    """The name, which numpy puts together anew each time it is asked."""
    return dtype.name


def literal(value: np.ndarray) -> Step:
    """A number that is part of the chain's name."""
    content = (("bytes", value.tobytes().hex()),)
    return Step("literal", (), content, value.dtype.name, False)


def runner(
    steps: tuple[Step, ...], binds: tuple[Callable[..., Any], ...], last: int
) -> Callable[[Any, Any], Any]:
    """The chain as a function of its bits and of the hoisted scalar.

    Bits come by width as ``{index of the step: array}``; every flat value has the
    shape of the bits, the hoisted scalar broadcasts to it.
    """

    def run(bits: dict[int, Any], scalar: Any) -> Any:
        shape = next(iter(bits.values())).shape
        values: list[Any] = []
        for number, (step, bind) in enumerate(zip(steps, binds, strict=True)):
            if step.operation == "bits":
                values.append(bits[number])
            elif step.operation == "hoisted":
                values.append(jnp.broadcast_to(scalar, shape))
            elif step.operation == "literal":
                content = bytes.fromhex(step.params[0][1])
                dtype = jnp.dtype(step.dtype)
                values.append(np.frombuffer(content, dtype).reshape(()))
            else:
                values.append(bind(*_aligned(steps, step, values, shape)))
        return values[last]

    return run


def _aligned(
    steps: tuple[Step, ...], step: Step, values: list[Any], shape: tuple[int, ...]
) -> list[Any]:
    """The operands of a step: scalars spread where they meet an array."""
    meets = any(steps[number].flat for number in step.operands)
    aligned = []
    for position, number in enumerate(step.operands):
        value = values[number]
        optional = step.operation == "clamp" and position != 1
        optional |= step.operation == "select_n" and position == 0
        if meets and not steps[number].flat and not optional:
            value = lax.broadcast_in_dim(jnp.asarray(value), shape, ())
        aligned.append(value if isinstance(value, jax.Array) else jnp.asarray(value))
    return aligned
