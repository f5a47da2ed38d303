"""Counter-based random bits: JAX's threefry, on the host and unrolled for CPUs.

Element `i` of an array of random bits is a hash of the key and the 64-bit counter `i`.
So any part of an array can be made alone, and thousands of keys derived at once in
numpy, with the bits of `jax.random` (in its partitionable layout, the default).

For CPUs, JAX lowers the 20 rounds of the hash as a loop over whole arrays. Written
out, they fuse with what consumes the bits into one pass over memory: see `fast_key`.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.extend.random import define_prng_impl, threefry_prng_impl
from numpy.typing import ArrayLike

from jaxinit._compat import setting, varying_axes
from jaxinit._hash import hash_bits, hash_words

_THREEFRY = "threefry2x32"


class LayoutError(ValueError):
    """Bits of the non-partitionable layout were asked of a function for the other."""


def threefry2x32(
    key: ArrayLike, high: ArrayLike, low: ArrayLike
) -> tuple[np.ndarray, np.ndarray]:
    """The two hashed words of the counters `(high, low)` under `key`.

    `key` has shape (..., 2), its leading axes broadcast with the counters; all are
    taken modulo 2³².
    """
    words = _words(key)
    with np.errstate(over="ignore"):
        return hash_words(words[..., 0], words[..., 1], _words(high), _words(low))


def seed(seeds: ArrayLike) -> np.ndarray:
    """The key data, shape (..., 2), of integer seeds: what `random_seed` computes.

    A seed of 32 bits or fewer gives a first word of zero, whatever its sign, as in
    JAX: pass the array with the dtype that it has there.
    """
    array = np.asarray(seeds)
    high = array >> 32 if array.dtype.itemsize == 8 else np.zeros_like(array)
    return np.stack([_words(high), _words(array)], axis=-1)


def fold_in(key: ArrayLike, data: ArrayLike) -> np.ndarray:
    """The key data of `jax.random.fold_in`, for any number of keys and integers.

    Args:
      key: key data of shape (..., 2).
      data: integers, modulo 2³²; broadcast against the leading axes of `key`.

    >>> import jax, numpy as np
    >>> keys = fold_in(jax.random.key_data(jax.random.key(0)), np.arange(1000))
    >>> key = jax.random.fold_in(jax.random.key(0), 7)
    >>> bool((keys[7] == jax.random.key_data(key)).all())
    True
    """
    data = _words(data)
    return np.stack(threefry2x32(key, np.zeros_like(data), data), axis=-1)


def split(
    key: ArrayLike, shape: int | Sequence[int] = 2, *, partitionable: bool | None = None
) -> np.ndarray:
    """The key data of `jax.random.split(key, shape)`: shape (..., *shape, 2).

    `partitionable` and LayoutError as for :func:`random_bits`.
    """
    shape = (shape,) if isinstance(shape, int) else tuple(shape)
    high, low = _hash_range(key, 0, math.prod(shape), partitionable)
    return np.stack([high, low], axis=-1).reshape(*high.shape[:-1], *shape, 2)


def random_bits(
    key: ArrayLike,
    bit_width: int,
    count: int,
    *,
    start: int = 0,
    partitionable: bool | None = None,
) -> np.ndarray:
    """Elements `start` to `start + count` of `jax.random.bits`, flattened.

    They are the same whatever the shape of the whole array.

    Args:
      key: key data of shape (..., 2).
      bit_width: 8, 16, 32 or 64.
      count: how many elements.
      start: the flat index of the first of them.
      partitionable: the layout that is meant; by default the one that JAX is set to.

    Returns:
      Unsigned integers of that width, shape (..., count).

    Raises:
      LayoutError: where the layout is not the partitionable one.
    """
    if bit_width not in (8, 16, 32, 64):
        raise ValueError(f"bit_width must be 8, 16, 32 or 64, got {bit_width!r}")
    high, low = _hash_range(key, start, count, partitionable)
    if bit_width == 64:
        return high.astype(np.uint64) << np.uint64(32) | low
    return (high ^ low).astype(f"uint{bit_width}")


def _hash_range(
    key: ArrayLike, start: int, count: int, partitionable: bool | None
) -> tuple[np.ndarray, np.ndarray]:
    """The hashed counters from `start` to `start + count`."""
    if partitionable is None:
        partitionable = bool(setting("jax_threefry_partitionable"))
    if not partitionable:
        raise LayoutError(
            "jax_threefry_partitionable is False: an element then depends on the size "
            "of the whole array, and only the partitionable layout is computed on the "
            "host; set jax_threefry_partitionable to True or draw with jax.random"
        )
    counter = np.uint64(start) + np.arange(count, dtype=np.uint64)
    words = _words(key)[..., np.newaxis, :]
    return threefry2x32(words, counter >> np.uint64(32), counter)


def _words(array: ArrayLike) -> np.ndarray:
    """An array of integers modulo 2³²."""
    array = np.asarray(array)
    if array.dtype.kind not in "iu":
        raise TypeError(f"keys, counters and seeds are integers, got {array.dtype}")
    return array.astype(np.uint32)


def fast_key(key: Any) -> Any:
    """The same key, for samplers that run sooner on CPUs: every bit stays as it is.

    Give the result to any function of `jax.random`. On CPUs it then draws several times
    faster and compiles in about half the time; for every other platform it lowers to
    JAX's own threefry. The choice falls at lowering: right on machines with a GPU, too.

    Random bits, split and fold_in are always the same, and so is what is computed from
    the bits element by element. Where jit fuses the draw into a sum or a loop (gamma,
    beta, a norm over the draw), XLA may round the last bit another way.

    What is not a threefry key is returned as it is, and so is a key about which JAX
    may have something to say: raw keys that are batched, or that the user has asked to
    be warned of (`jax_legacy_prng_key`), all keys under `jax_debug_key_reuse`.

    >>> key = jax.random.key(0)
    >>> draws = jax.random.normal(fast_key(key), (1000,))
    >>> bool((draws == jax.random.normal(key, (1000,))).all())
    True
    """
    dtype = getattr(key, "dtype", None)
    if dtype is None or setting("jax_debug_key_reuse"):
        return key
    if jnp.issubdtype(dtype, jax.dtypes.prng_key):
        if jax.random.key_impl(key) != _THREEFRY:
            return key
        return jax.random.wrap_key_data(
            jax.random.key_data(key), impl=unrolled_prng_impl
        )
    raw_keys_are_threefry = (
        setting("jax_default_prng_impl") == _THREEFRY
        and setting("jax_legacy_prng_key") == "allow"
        and not setting("jax_enable_custom_prng")
    )
    if dtype == np.uint32 and key.shape == (2,) and raw_keys_are_threefry:
        return jax.random.wrap_key_data(key, impl=unrolled_prng_impl)
    return key


def is_threefry(dtype: Any) -> bool:
    """Whether keys of this dtype are threefry's: JAX's own or those of `fast_key`.

    Raw keys are of whatever kind `jax_default_prng_impl` says.
    """
    return dtype in _threefry_dtypes()


@functools.cache
def _threefry_dtypes() -> tuple[Any, ...]:
    """The two dtypes, asked of JAX: there is no public way to make one."""
    return tuple(
        jax.eval_shape(functools.partial(jax.random.key, 0, impl=kind)).dtype
        for kind in (_THREEFRY, unrolled_prng_impl)
    )


def _unrolled_random_bits(key: jax.Array, bit_width: int, shape: tuple) -> jax.Array:
    if not _index_is_one_word(shape):
        return threefry_prng_impl.random_bits(key, bit_width, shape)
    zero, index = jnp.zeros((), np.uint32), _index(shape)
    if bit_width == 64:
        high, low = hash_words(key[0], key[1], zero, index)
        return (high.astype(np.uint64) << 32) | low.astype(np.uint64)
    return hash_bits(key[0], key[1], zero, index).astype(f"uint{bit_width}")


def _unrolled_split(key: jax.Array, shape: tuple) -> jax.Array:
    if not _index_is_one_word(shape):
        return threefry_prng_impl.split(key, shape)
    words = hash_words(key[0], key[1], np.uint32(0), _index(shape))
    return jnp.stack(words, axis=-1)


def _unrolled_fold_in(key: jax.Array, data: jax.Array) -> jax.Array:
    data = jnp.asarray(data, np.uint32)
    return jnp.stack(hash_words(key[0], key[1], np.uint32(0), data))


def _index_is_one_word(shape: tuple) -> bool:
    """Whether the flat index is the counter, and its high word zero.

    The other layout, larger arrays and the symbolic sizes of an exported program are
    left to JAX: none is common enough to be written twice.
    """
    static = all(isinstance(size, int) for size in shape)
    return static and math.prod(shape) < 2**32 and setting("jax_threefry_partitionable")


def _index(shape: tuple) -> jax.Array:
    """The flat index of each element of an array of this shape.

    It is a sum of one iota for each axis, which the partitioner of a sharded program
    computes shard by shard, without communication.
    """
    index = None
    for axis, size in enumerate(shape):
        if size == 1:
            continue
        part = lax.broadcasted_iota(np.uint32, shape, axis)
        # Beyond one word only where the array is empty.
        stride = np.uint32(math.prod(shape[axis + 1 :]) % 2**32)
        if stride != 1:
            part = lax.mul(part, lax.broadcast(stride, shape))
        index = part if index is None else lax.add(index, part)
    return lax.broadcast(np.uint32(0), shape) if index is None else index


def _for_cpu(unrolled: Any, original: Any, static_argnums: tuple[int, ...] = ()) -> Any:
    """`unrolled` where a program is lowered for CPUs, elsewhere `original`.

    Compiled, because it is also called eagerly: a hundred small operations.
    """

    @functools.partial(jax.jit, static_argnums=static_argnums)
    @functools.wraps(original)
    def choose(key: jax.Array, *arguments: Any) -> jax.Array:
        return lax.platform_dependent(
            key,
            cpu=lambda key: _vary_like(key, unrolled(key, *arguments)),
            default=lambda key: _vary_like(key, original(key, *arguments)),
        )

    return choose


def _vary_like(key: jax.Array, result: jax.Array) -> jax.Array:
    """`result`, typed as varying over the axes of a `shard_map` that `key` varies over.

    JAX's own hash forgets this, and two branches must agree. No operation results.
    """
    known = varying_axes(result)
    missing = tuple(name for name in varying_axes(key) if name not in known)
    return lax.pcast(result, missing, to="varying") if missing else result


unrolled_prng_impl = define_prng_impl(
    key_shape=(2,),
    seed=threefry_prng_impl.seed,
    split=_for_cpu(_unrolled_split, threefry_prng_impl.split, (1,)),
    random_bits=_for_cpu(_unrolled_random_bits, threefry_prng_impl.random_bits, (1, 2)),
    fold_in=_for_cpu(_unrolled_fold_in, threefry_prng_impl.fold_in),
    name="threefry2x32_unrolled",
    tag="ufry",
)
