"""What is recorded of an array inside of the program: a few sums.

Sums of products only, since XLA has ready-made kernels for these, and compiling is what
an audit takes its time for. Ratios, roots and verdicts are made of them outside.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxinit._signal._activity import Tails
from jaxinit._signal._parts import Part, piece, resized
from jaxinit._signal._taps import on_any_mesh, sum_of_squares, wide

# So many examples are compared with each other.
COMPARED = 32
# Two counts below this fit into one number of 32 bits.
_HALF = 2**15


# Compiled functions, so that tracing does once what 50 equal layers ask for.
@functools.partial(jax.jit, static_argnames=("part",))
@on_any_mesh
def of_product(product: Any, data: Any, *, part: Part | None) -> dict[str, Any]:
    """Of a part of the product, and of the signal that went into it."""
    # Nothing of this is for the gradient to follow.
    product, data = lax.stop_gradient((piece(product, part), data))
    return product_numbers(product, data, sum_of_squares) | _once()


@functools.partial(jax.jit, static_argnames=("part", "features", "examples", "ends"))
@on_any_mesh
def of_signal(
    value: Any,
    *,
    part: Part | None,
    features: tuple[int, ...],
    examples: int | None,
    ends: Tails,
) -> dict[str, Any]:
    """Of a part of the product with its bias, where the activation takes it."""
    value = lax.stop_gradient(piece(value, part))
    what = features, examples, ends
    return signal_numbers(value, *what, sum_of_squares, _gram) | _once()


def _once() -> dict[str, Any]:
    return {"runs": jnp.ones((), jnp.int32)}


def _gram(rows: jax.Array) -> jax.Array:
    return lax.dot_general(
        rows,
        jnp.conj(rows),
        (((1,), (1,)), ((), ())),
        precision=lax.Precision.HIGHEST,
        preferred_element_type=rows.dtype,
    ).real


def arrays_of_product(product: Any, data: Any, part: Part | None) -> dict[str, Any]:
    """What :func:`product_numbers` takes, to be handed to NumPy."""
    return {"values": piece(product, part), "data": data} | _once()


def array_of_signal(value: Any, part: Part | None) -> dict[str, Any]:
    """What :func:`signal_numbers` takes, to be handed to NumPy."""
    return {"signal": piece(value, part)} | _once()


def product_numbers(
    product: Any, data: Any, square: Callable[[Any], Any]
) -> dict[str, Any]:
    """The numbers about a product. `square` sums squares, in NumPy or in JAX."""
    return {"product": square(product), "input": square(data)}


def signal_numbers(
    value: Any,
    features: Sequence[int],
    examples: int | None,
    ends: Tails,
    square: Callable[[Any], Any],
    gram: Callable[[Any], Any],
) -> dict[str, Any]:
    """The numbers about a signal, an array of NumPy or JAX.

    Args:
      value: the signal.
      features: the axes of the units.
      examples: how many examples the batch has.
      ends: the tails of the activation.
      square: sums squares.
      gram: the products of the rows of a matrix with each other.
    """
    record = {"sum": wide(value).sum(), "square": square(value)}
    record["gram"] = gram(example_rows(value, features, examples))
    if ends.any and not jnp.iscomplexobj(value):
        dtype = value.dtype
        low, high = np.asarray(ends.low, dtype), np.asarray(ends.high, dtype)
        # Exactly zero is what was never computed: padding, tokens of other experts.
        computed = value != np.zeros((), dtype)
        idle = computed & ((value <= low) | (value >= high))
        record |= _counted(idle, computed, features)
    return record


def _counted(idle: Any, computed: Any, features: Sequence[int]) -> dict[str, Any]:
    """How often either is true, for each unit."""
    others = tuple(axis for axis in range(idle.ndim) if axis not in features)
    counts = {"idle": idle, "computed": computed}
    if math.prod(idle.shape[axis] for axis in others) < _HALF:
        # Both in one number: one sum to compile.
        packed = idle.astype(np.int32) + computed.astype(np.int32) * np.int32(_HALF)
        counts = {"both": packed}
    return {
        name: array.sum(axis=others, dtype=np.int32).ravel()
        for name, array in counts.items()
    }


def counts_of(record: Mapping[str, Any]) -> tuple[np.ndarray, np.ndarray] | None:
    """How often each unit was in a tail, and how often it was computed.

    None where the activation has no tails.
    """
    if "both" in record:
        both = np.asarray(record["both"])
        return both % _HALF, both // _HALF
    if "idle" in record:
        return record["idle"], record["computed"]
    return None


def example_rows(value: Any, features: Sequence[int], examples: int | None) -> Any:
    """Some examples as the rows of a matrix.

    Where no axis is as long as the batch, each position counts as an example.
    """
    others, along = _axes(value.shape, features, examples)
    if along is None:
        value = value.transpose((*others, *features))
        count = math.prod(value.shape[: len(others)])
    else:
        rest = [axis for axis in range(value.ndim) if axis != along]
        value = value.transpose((along, *rest))
        count = value.shape[0]
    return wide(value.reshape(count, -1)[:COMPARED])


def examples_at(
    shape: Sequence[int], features: Sequence[int], examples: int | None
) -> int:
    """How many examples an array of this shape has; see :func:`example_rows`."""
    others, along = _axes(shape, features, examples)
    return math.prod(shape[axis] for axis in others) if along is None else shape[along]


def _axes(
    shape: Sequence[int], features: Sequence[int], examples: int | None
) -> tuple[list[int], int | None]:
    others = [axis for axis in range(len(shape)) if axis not in features]
    return others, next((axis for axis in others if shape[axis] == examples), None)


def feature_axes(
    eqn: Any,
    operand: int | None,
    shape: Sequence[int],
    part: Part | None = None,
) -> tuple[int, ...]:
    """The axes along which the units of a product lie, in an array of this shape.

    `eqn` is the product; the shape is its own, that of a part of it, or that of its sum
    with the bias.
    """
    product = eqn.outvars[0].aval.shape
    if tuple(shape) != tuple(product):
        product = resized(product, part)
    if eqn.primitive.name == "conv_general_dilated":
        axes = [eqn.params["dimension_numbers"].out_spec[1]]
    else:
        (left, right), (batch, _) = eqn.params["dimension_numbers"]
        rank = [var.aval.ndim for var in eqn.invars[:2]]
        free = [rank[0] - len(left) - len(batch), rank[1] - len(right) - len(batch)]
        start = len(batch) if operand == 0 else len(batch) + free[0]
        # Independent weights side by side, as those of experts, have their own units.
        axes = [*range(len(batch)), *range(start, start + free[operand or 0])]
    if tuple(shape) == tuple(product):
        return tuple(axes)
    size = math.prod(product[axis] for axis in axes)
    for start in reversed(range(len(shape))):
        if math.prod(shape[start:]) == size:
            return tuple(range(start, len(shape)))
    return (len(shape) - 1,) if shape else ()


def apart(gram: np.ndarray) -> np.ndarray:
    """How far two different rows are from each other, from their products.

    The mean of |a - b|^2 / (|a|^2 + |b|^2): 0 for equal rows, 1 for orthogonal ones.
    """
    squares = np.einsum("...ii->...i", gram)
    count = gram.shape[-1]
    if count < 2:
        return np.full(gram.shape[:-2], np.nan)
    with np.errstate(invalid="ignore", divide="ignore"):
        both = squares[..., :, None] + squares[..., None, :]
        total = np.sum(1.0 - 2.0 * gram / both, axis=(-2, -1))
    return total / (count * (count - 1))


def cosine(gram: np.ndarray) -> np.ndarray:
    """The mean cosine of the angle between two different rows, from their products."""
    squares = np.einsum("...ii->...i", gram)
    count = gram.shape[-1]
    if count < 2:
        return np.full(gram.shape[:-2], np.nan)
    with np.errstate(invalid="ignore", divide="ignore"):
        lengths = np.sqrt(squares)
        scaled = gram / lengths[..., :, None] / lengths[..., None, :]
        total = np.sum(scaled, axis=(-2, -1)) - count
    return total / (count * (count - 1))
