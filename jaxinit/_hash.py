"""The hash of threefry, written out: for numpy, and for programs of JAX."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
from jax import lax

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


def traced_hash_words(key: tuple[Any, Any], index: Any) -> tuple[Any, Any]:
    """The same for JAX arrays, traced and lowered sooner: what repeats is there once.

    `index` is a counter of one word or a pair (high, low) of one shape; the words of
    the key have its rank, or none.
    """
    high, low = index if isinstance(index, tuple) else (None, index)
    rank, shape = len(low.shape), low.shape

    @functools.cache
    def number(value: int) -> Any:
        return lax.broadcast(np.uint32(value), shape)

    def spread(word: Any) -> Any:
        if word.ndim < rank:
            return lax.broadcast(word, shape)
        return lax.broadcast_in_dim(word, shape, tuple(range(rank)))

    def turned(word: Any, distance: int) -> Any:
        left = lax.shift_left(word, number(distance))
        return lax.bitwise_or(
            left, lax.shift_right_logical(word, number(32 - distance))
        )

    both = lax.bitwise_xor(*key)
    words = (*key, lax.bitwise_xor(both, lax.full_like(both, _PARITY)))
    spreads = [spread(word) for word in words]
    high = spreads[0] if high is None else lax.add(high, spreads[0])
    low = lax.add(low, spreads[1])
    for block in range(5):
        for distance in _ROTATIONS[block % 2]:
            high = lax.add(high, low)
            low = lax.bitwise_xor(high, turned(low, distance))
        word = words[(block + 2) % 3]
        high = lax.add(high, spreads[(block + 1) % 3])
        low = lax.add(low, spread(lax.add(word, lax.full_like(word, block + 1))))
    return high, low
