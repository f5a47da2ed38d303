"""From arrays on the host to arrays on devices, a shard and a tensor at a time."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Sharding

from jaxinit._memory import vector
from jaxinit.transfer._copying import copy, copy_columns, turns_rows
from jaxinit.transfer._finite import is_finite
from jaxinit.transfer._recipe import Recipe
from jaxinit.transfer._regions import RegionLeaf
from jaxinit.transfer._source import Leaf, Source, ValueLeaf, whole_index
from jaxinit.transfer._steps import apply, read_part, shape_after


class Checks(NamedTuple):
    """What is asked of values: `complain` is told a finding's code and its cause.

    That integers survive a cast is always asked, that all is finite only on demand.
    """

    complain: Callable[[str, str], None]
    finite: bool


class Reader:
    """Reads the leaves of a source; keeps the last one while it is asked for."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self._name, self._values = "", None

    def read(self, name: str) -> Any:
        """A whole leaf on the host, in the source's own dtype."""
        if name != self._name or self._values is None:
            self._name, self._values = "", None  # free the one before
            self._name, self._values = name, self.source[name].read(nonfinite="allow")
        return self._values

    def lone_leaf(self, recipe: Recipe) -> Leaf | None:
        """The leaf that a recipe takes as it is, if that is all it does."""
        lone = recipe.join is None and not recipe.then and not recipe.pieces[0].steps
        return self.source[recipe.pieces[0].source] if lone else None


def put(
    reader: Reader,
    recipe: Recipe,
    shape: tuple[int, ...],
    dtype: np.dtype,
    sharding: Sharding | None,
    checks: Checks,
) -> jax.Array:
    """The array of a recipe, in its dtype and where it belongs."""
    leaf = reader.lone_leaf(recipe)
    value = getattr(leaf, "value", None)
    if isinstance(value, jax.Array):  # on devices already: no way by the host
        return _moved(value, dtype, sharding, checks)
    if leaf is not None and sharding is not None and _needs_no_range(leaf, dtype):
        array = leaf.place(sharding, dtype=dtype, nonfinite="allow")
        if checks.finite and not _shards_are_finite(array):
            checks.complain("nonfinite", _not_finite(leaf.read(nonfinite="allow")))
        return array
    if sharding is None:
        turned = _turned(reader, recipe, dtype)
        if turned is not None and (not checks.finite or is_finite(turned)):
            return jax.device_put(turned.reshape(shape))
        del turned  # what is wrong with it, the values as they are will tell
        found = _made(reader, recipe)
        # What is in memory is somebody else's, who may write to it.
        lent = any(isinstance(reader.source[s], ValueLeaf) for s in recipe.sources)
        values = _cast(found, dtype, checks, lent).reshape(shape)
        return jax.device_put(values)  # which takes the memory over, unlike jnp.asarray
    shards: dict[str, np.ndarray] = {}  # replicas ask for the same slice

    def shard(index: Any) -> np.ndarray:
        if (where := repr(index)) not in shards:
            found = _part(reader, recipe, whole_index(index, shape))
            shards[where] = _cast(found, dtype, checks, lent=True)
        return shards[where]

    return jax.make_array_from_callback(shape, sharding, shard)


def settle(
    array: Any, dtype: np.dtype, sharding: Sharding | None, checks: Checks
) -> jax.Array:
    """An array that a function has made, in its dtype and where it belongs."""
    return _moved(jnp.asarray(array), dtype, sharding, checks)


def _needs_no_range(leaf: Leaf, dtype: np.dtype) -> bool:
    """Whether a cast of the leaf can be judged by its result alone."""
    return leaf.dtype == dtype or jnp.issubdtype(dtype, jnp.inexact)


def _shards_are_finite(array: jax.Array) -> bool:
    if not jnp.issubdtype(array.dtype, jnp.inexact):
        return True
    local = [s.data for s in array.addressable_shards if s.replica_id == 0]
    # On the host they are looked at in place, elsewhere where they are.
    return all(
        is_finite(np.asarray(data))
        if next(iter(data.devices())).platform == "cpu"
        else bool(jnp.isfinite(data).all())
        for data in local
    )


def _part(reader: Reader, recipe: Recipe, index: tuple[slice, ...]) -> Any:
    """A part of what a recipe makes; of one leaf, no more of it is read than needed."""
    first = recipe.pieces[0]
    if recipe.join is not None or any(step.kind == "reshape" for step in first.steps):
        return _made(reader, recipe)[index]
    leaf = reader.source[first.source]
    return read_part(
        first.steps,
        leaf.shape,
        index,
        lambda part: leaf.read(part, nonfinite="allow"),
    )


def _turned(reader: Reader, recipe: Recipe, dtype: np.dtype) -> np.ndarray | None:
    """What a recipe makes, if it only turns a leaf of a file: read and turned by rows.

    The leaf as it lies in the file is never in memory, which costs less than to write
    it there and to read it again.
    """
    steps = recipe.pieces[0].steps
    while steps and steps[-1].kind == "reshape":  # which leaves the order as it is
        steps = steps[:-1]
    leaf = reader.source[recipe.pieces[0].source]
    if recipe.join is not None or not isinstance(leaf, RegionLeaf):
        return None
    if not leaf.lies_in_rows:
        return None
    if not turns_rows(steps, leaf.shape, leaf.dtype) or not _needs_no_range(
        leaf, dtype
    ):
        return None
    shape = shape_after(steps, leaf.shape)
    values = vector(leaf.size, dtype).reshape(shape)

    @contextlib.contextmanager
    def columns(most: int) -> Generator[Callable[[int, int], np.ndarray]]:
        with leaf.rows(most) as rows:
            yield lambda start, stop: apply(steps, rows(start, stop))

    copy_columns(values, columns, leaf.dtype)
    return values


def _made(reader: Reader, recipe: Recipe) -> Any:
    return recipe.make(reader.read)


def _moved(
    array: jax.Array,
    dtype: np.dtype,
    sharding: Sharding | None,
    checks: Checks,
) -> jax.Array:
    values = array.astype(dtype)
    if jnp.issubdtype(dtype, jnp.inexact):
        if checks.finite and not _shards_are_finite(values):
            checks.complain("nonfinite", _not_finite(np.asarray(array)))
    elif array.dtype != dtype and not bool((values.astype(array.dtype) == array).all()):
        checks.complain("dtype", _out_of_range(np.asarray(array), dtype))
    return values if sharding is None else jax.device_put(values, sharding)


def _cast(found: Any, dtype: np.dtype, checks: Checks, lent: bool) -> np.ndarray:
    """The values in their dtype and in order, in memory that JAX may take over."""
    found = np.asarray(found)
    values = found
    if lent or found.dtype != dtype or not found.flags.c_contiguous:
        values = vector(found.size, dtype).reshape(found.shape)
        copy(values, found)
    if jnp.issubdtype(dtype, jnp.inexact):
        if checks.finite and not is_finite(values):
            checks.complain("nonfinite", _not_finite(found))
    elif found.dtype != dtype and not np.array_equal(values, found):
        checks.complain("dtype", _out_of_range(found, dtype))
    return values


def _not_finite(found: np.ndarray) -> str:
    if bad := int((~np.isfinite(found)).sum()):
        return f"{bad} of {found.size} values of the source are NaN or infinite."
    largest = float(np.abs(found.astype(np.float64)).max())
    return f"values up to {largest:.3g} overflow in the cast from {found.dtype.name}."


def _out_of_range(found: np.ndarray, dtype: np.dtype) -> str:
    return (
        f"values from {found.min()} to {found.max()} do not survive the cast from "
        f"{found.dtype.name} to {dtype.name}."
    )
