"""One key for each leaf, from the caller's key and the name of the leaf alone.

The key of a leaf does not depend on the order of rules, on how many other leaves are
drawn, or on Python's randomized `hash`: adding a layer changes no other layer's values.
"""

from __future__ import annotations

import hashlib
from typing import Any

import jax
import numpy as np

from jaxinit._paths import Name


def name_words(name: Name | str) -> tuple[np.uint32, np.uint32]:
    """The 64-bit BLAKE2b hash of a leaf's full name, as two words, the high one first.

    64 bits keep names apart: among 10^5 of them the chance that any two collide is
    below 3e-10, where with 32 bits it would be 0.7.
    """
    digest = hashlib.blake2b(str(name).encode(), digest_size=8).digest()
    high, low = np.frombuffer(digest, dtype=">u4").astype(np.uint32)
    return high, low


def fold_name(key: jax.Array, name: Name | str) -> jax.Array:
    """The caller's key folded with the hash of a leaf's full name.

    Typed and legacy keys of every implementation, eagerly and inside jit. The key of a
    name never changes between processes or releases (nor, unless JAX's own `unsafe_rbg`
    does, between platforms).

    >>> import jax
    >>> key = fold_name(jax.random.key(0), "encoder/layers_0/kernel")
    >>> [int(word) for word in jax.random.key_data(key)]
    [678942561, 4035460487]
    """
    for word in name_words(name):
        key = jax.random.fold_in(key, word)
    return key


def require_key(key: Any, purpose: str, *, argument: str = "key") -> jax.Array:
    """The key as it was given, if it is one PRNG key; else a ValueError that helps.

    `purpose` completes the sentence "key is needed ...": "to draw 'head/kernel'".
    """
    if key is None:
        raise ValueError(
            f"{argument} is needed {purpose}, and there is no default key; "
            f"pass {argument}=jax.random.key(seed)"
        )
    if isinstance(key, int):
        raise ValueError(
            f"{argument} must be a PRNG key, got the number {key!r}; "
            f"pass {argument}=jax.random.key({int(key)})"
        )
    shape = _batch_shape(key)
    if shape is None:
        found = f"{key!r} ({type(key).__name__})"
        if isinstance(key, (jax.Array, np.ndarray, np.generic)):
            found = f"an array of dtype {key.dtype} and shape {key.shape}"
        raise ValueError(
            f"{argument} must be a PRNG key, got {found}; "
            f"pass {argument}=jax.random.key(seed)"
        )
    if shape:
        raise ValueError(
            f"{argument} must be a single PRNG key, got keys of shape {shape}; "
            "pass one of them, or map over them with jax.vmap"
        )
    return key


def _batch_shape(key: Any) -> tuple[int, ...] | None:
    """The shape of an array of keys, typed or legacy; None for anything else."""
    if not isinstance(key, (jax.Array, np.ndarray)):
        return None
    if jax.dtypes.issubdtype(key.dtype, jax.dtypes.prng_key):
        return key.shape
    if key.dtype != np.uint32:
        return None
    try:
        # How many words a legacy key has, the configured implementation knows.
        return jax.random.wrap_key_data(key).shape
    except TypeError:
        return None
