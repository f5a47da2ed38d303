"""Are two trees the same, bit for bit?"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxinit import _paths
from jaxinit.testing._arrays import as_array, bits, is_traced, literal, require


def assert_trees_identical(first: Any, second: Any):
    """Assert that two trees are bit-identical: containers, shapes, dtypes and bits.

    NaN equals NaN with the same payload only, and −0.0 differs from 0.0. Typed PRNG
    keys are compared by implementation and key data. Weak types, sharding and the
    device are not compared.

    Args:
      first: a tree of arrays, keys and scalars.
      second: the tree to compare it with.

    Raises:
      AssertionError: naming the first leaf that differs, in how many elements it does,
        where the first of them is, and the largest difference.

    >>> import jax.numpy as jnp
    >>> assert_trees_identical({"w": jnp.zeros(2)}, {"w": jnp.zeros(2)})
    >>> assert_trees_identical({"w": jnp.zeros(2)}, {"w": -jnp.zeros(2)})
    Traceback (most recent call last):
        ...
    AssertionError: leaf 'w' (float32[2]) differs in 2 of 2 elements, first at [0]; ...
    """
    ones = _paths.named_leaves(first, argument="first")
    others = _paths.named_leaves(second, argument="second")
    missing = [
        f"only {where} has {', '.join(map(repr, found[:5]))}"
        + (f" and {len(found) - 5} more" if len(found) > 5 else "")
        for where, here, there in (("first", ones, others), ("second", others, ones))
        if (found := [name.full for name in here if name not in there])
    ]
    require(not missing, literal(f"different leaves: {'; '.join(missing)}"))
    structures = jax.tree.structure(first), jax.tree.structure(second)
    require(
        structures[0] == structures[1],
        literal(
            "the trees have the same leaves in different containers: "
            f"{structures[0]} and {structures[1]}"
        ),
    )
    for name, leaf in ones.items():
        what = f"leaf {name.full!r}" if name.path else "the array"
        _require_identical(literal(what), leaf, others[name])


def _require_identical(what: str, one: Any, other: Any):
    kinds = _kind(one), _kind(other)
    require(
        kinds[0] == kinds[1], f"{what} is {kinds[0]} in first, {kinds[1]} in second"
    )
    one, other = _values(one), _values(other)
    if one.size == 0:
        return
    if one.dtype == object:
        equal = bool(np.all(one == other))
        require(equal, f"{what} is {literal(f'{one} in first, {other} in second')}")
        return
    traced = is_traced(one) or is_traced(other)
    xp = jnp if traced else np
    different = xp.any(bits(one, xp) != bits(other, xp), axis=-1)
    count = xp.sum(different)
    index = xp.unravel_index(xp.argmax(different.reshape(-1)), different.shape)
    place = ", ".join(["{}"] * different.ndim)
    report = (
        f"{what} ({kinds[0]}) differs in {{}} of {different.size} elements, first at "
        f"[{place}]"
    )
    difference = []
    if jnp.issubdtype(one.dtype, jnp.integer):
        report += "; the largest difference is {}"
        difference.append(_largest_integer_difference(one, other, xp))
    elif jnp.issubdtype(one.dtype, jnp.inexact):
        report += (
            "; the largest difference is {:.6g} (0 means other signs of zero, nan that "
            "one of them is NaN)"
        )
        difference.append(_largest_difference(one, other, different, xp))
    require(count == 0, report, count, *index, *difference)


def _largest_difference(one: Any, other: Any, different: Any, xp: Any) -> Any:
    wide = jax.dtypes.canonicalize_dtype(np.float64) if xp is jnp else np.float64
    if jnp.issubdtype(one.dtype, jnp.complexfloating):
        wide = np.result_type(wide, np.complex64)
    # Inf and NaN are what they are; a message about them is no place for a warning.
    with np.errstate(all="ignore"):
        difference = xp.abs(
            xp.asarray(one).astype(wide) - xp.asarray(other).astype(wide)
        )
    return xp.max(xp.where(different, difference, 0))


def _largest_integer_difference(one: Any, other: Any, xp: Any) -> Any:
    # Exact for every pair: unsigned numbers of the same width wrap around to it.
    unsigned = np.dtype(f"u{one.dtype.itemsize}")
    above = xp.maximum(one, other).astype(unsigned)
    return xp.max(above - xp.minimum(one, other).astype(unsigned))


def _kind(leaf: Any) -> str:
    """What a leaf is, in words: `float32[2, 3]`, `key<fry>[]`, `int`."""
    if not hasattr(leaf, "dtype"):
        return type(leaf).__name__
    return f"{leaf.dtype.name}[{', '.join(map(str, leaf.shape))}]"


def _values(leaf: Any) -> Any:
    if jnp.issubdtype(getattr(leaf, "dtype", np.dtype(object)), jax.dtypes.prng_key):
        leaf = jax.random.key_data(leaf)
    return as_array(leaf)
