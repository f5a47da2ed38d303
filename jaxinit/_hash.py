"""The hash of threefry, written out once: for numpy, and for programs of JAX."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.core import ShapedArray
from jax.extend.core import Primitive
from jax.extend.mlir.dialects import stablehlo
from jax.interpreters import batching, mlir

_ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))
_PARITY = np.uint32(0x1BD11BDA)


def hash_words(key_high: Any, key_low: Any, high: Any, low: Any) -> tuple[Any, Any]:
    """The 20 rounds of threefry2x32, written out, on uint32 arrays of numpy or JAX.

    The function of Salmon et al., *Parallel random numbers: as easy as 1, 2, 3*,
    SC 2011, section 4.3: two words of key and a counter of two words give two words.
    """
    schedule = (key_high, key_low, key_high ^ key_low ^ _PARITY)
    high, low = high + key_high, low + key_low
    for block in range(5):
        for distance in _ROTATIONS[block % 2]:
            high = high + low
            low = high ^ ((low << distance) | (low >> (32 - distance)))
        high = high + schedule[(block + 1) % 3]
        low = low + (schedule[(block + 2) % 3] + np.uint32(block + 1))
    return high, low


def hash_bits(key_high: Any, key_low: Any, high: Any, low: Any) -> Any:
    """The exclusive or of both words, in programs for CPUs: bits of 32 or fewer.

    The rounds become the region of one operation, a map over scalars: traced, lowered
    and compiled sooner than a hundred operations on arrays, and the same code in the
    end. All arguments are arrays of JAX; `low` has the shape of the result, the others
    broadcast against it.
    """
    shape = low.shape
    words = [jnp.broadcast_to(word, shape) for word in (key_high, key_low, high)]
    return _hashed.bind(*words, low)


_hashed = Primitive("threefry2x32_bits")


@_hashed.def_impl
def _evaluate(*words: Any) -> Any:
    high, low = hash_words(*words)
    return high ^ low


@_hashed.def_abstract_eval
def _kind(*words: Any) -> ShapedArray:
    return ShapedArray(words[-1].shape, words[-1].dtype)


def _lower(context: Any, *words: Any) -> Sequence[Any]:
    kind = words[0].type
    dimensions = mlir.dense_int_array(range(kind.rank))
    operation = stablehlo.MapOp(kind, words, dimensions)
    scalar = mlir.ir.RankedTensorType.get((), kind.element_type)
    region = operation.computation.blocks.append(*[scalar] * len(words))
    with mlir.ir.InsertionPoint(region):
        bits = _evaluate(*map(_Scalar, region.arguments))
        stablehlo.return_([bits.value])
    return operation.results


def _batch(words: Sequence[Any], axes: Sequence[int | None]) -> tuple[Any, int]:
    pairs = list(zip(words, axes, strict=True))
    size = next(word.shape[axis] for word, axis in pairs if axis is not None)

    def first(word: Any, axis: int | None) -> Any:
        if axis is None:
            return lax.broadcast(word, (size,))
        return jnp.moveaxis(word, axis, 0)

    return _hashed.bind(*(first(word, axis) for word, axis in pairs)), 0


mlir.register_lowering(_hashed, _lower)
batching.primitive_batchers[_hashed] = _batch


@dataclasses.dataclass(frozen=True)
class _Scalar:
    """A word in the region of a map, with the operators that the rounds are made of."""

    value: Any

    def _with(self, operation: Callable[[Any, Any], Any], other: Any) -> _Scalar:
        if not isinstance(other, _Scalar):
            other = _Scalar(mlir.ir_constant(np.uint32(other)))
        return _Scalar(operation(self.value, other.value))

    def __add__(self, other: Any) -> _Scalar:
        return self._with(stablehlo.add, other)

    def __xor__(self, other: Any) -> _Scalar:
        return self._with(stablehlo.xor, other)

    def __or__(self, other: Any) -> _Scalar:
        return self._with(stablehlo.or_, other)

    def __lshift__(self, other: Any) -> _Scalar:
        return self._with(stablehlo.shift_left, other)

    def __rshift__(self, other: Any) -> _Scalar:
        return self._with(stablehlo.shift_right_logical, other)
