"""Assertions about one weight as it stands: orthogonal, or with units that differ."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxinit import _bounds, _paths
from jaxinit.testing._arrays import (
    as_array,
    as_floating,
    bits,
    literal,
    namespace,
    require,
    wide_dtype,
)


def assert_orthogonal(
    matrix: Any,
    *,
    axis: int = -1,
    scale: float = 1.0,
    tolerance: float | None = None,
):
    """Assert that a weight is a scaled (semi-)orthogonal matrix, up to rounding.

    All axes but `axis` are flattened into rows, as jax's ``orthogonal`` does. With at
    least as many rows as columns AᴴA = scale² I (orthonormal columns), otherwise
    AAᴴ = scale² I (orthonormal rows).

    The largest entry of the difference, over scale², must be within the tolerance. By
    default that is 2u + u² + n ε: the inner product of two unit vectors whose numbers
    are each stored with a relative error u (2^−8 for bfloat16), and what a QR
    factorization and the products may lose over n, the longer side, in the precision ε
    that was computed in (that of the dtype, of float32 for 16 bits).

    Args:
      matrix: at least two axes, real or complex.
      axis: the axis of the columns.
      scale: the norm that every column (or row) should have; not 0.
      tolerance: instead of the derived one.

    Raises:
      AssertionError: two columns (or rows) are not orthogonal, or one has another norm.
      ValueError: the matrix is empty, not floating or has fewer than two axes, or
        `scale` is 0.

    >>> import jax
    >>> from jaxinit import initializers
    >>> init = initializers.orthogonal(2.0)
    >>> assert_orthogonal(init(jax.random.key(0), (3, 3, 8, 16)), scale=2.0)
    """
    values = as_floating("matrix", matrix)
    if values.ndim < 2:
        raise ValueError(
            f"matrix must have at least two axes, got shape {values.shape}"
        )
    _check_axis("matrix", axis, values.shape)
    if not abs(scale) > 0:
        raise ValueError(f"scale must not be 0, got {scale}")
    xp, real = namespace(values), wide_dtype(values)
    columns = xp.moveaxis(values, axis, -1).reshape(-1, values.shape[axis])
    units = "columns" if columns.shape[0] >= columns.shape[1] else "rows"
    if units == "rows":
        columns = columns.T
    length, count = columns.shape
    is_complex = jnp.issubdtype(values.dtype, jnp.complexfloating)
    wide = np.result_type(real, np.complex64) if is_complex else real
    columns = columns.astype(wide) / scale
    with jax.default_matmul_precision("highest"):
        gram = columns.conj().T @ columns
    errors = xp.abs(gram - xp.eye(count, dtype=wide))
    if tolerance is None:
        u, _ = _bounds.rounding_error(values.dtype)
        narrow = not is_complex and values.dtype.itemsize < 4
        computed = jnp.finfo(np.float32 if narrow else values.dtype)
        tolerance = 2 * u + u**2 + length * float(computed.eps)
    worst = xp.argmax(errors)  # NaN counts as the largest
    row, column = worst // count, worst % count
    require(
        errors.reshape(-1)[worst] <= tolerance,
        f"the {units} of the matrix (shape {values.shape}, columns along axis {axis}) "
        f"are not orthonormal up to rounding: the product of {units} {{}} and {{}} is "
        f"off by {{:.6g}} times scale², allowed {tolerance:.6g} for "
        f"{values.dtype.name}. The first of the two has norm {{:.6g}}, and scale is "
        f"{scale:g}. If the norm is right, look for what changed the weight after it "
        "was drawn",
        row,
        column,
        errors.reshape(-1)[worst],
        xp.sqrt(xp.abs(gram[row, row])) * abs(scale),
    )


def assert_symmetry_broken(params: Any, *, axis: int = -1):
    """Assert that no two units of a weight are equal, and that it is not all zeros.

    Units are the slices along `axis`, the outputs of a layer. Equal units receive equal
    gradients and stay equal for ever; in an all-zero weight so do all of them. Units
    are compared exactly, value by value: no failure rate, no tolerance.

    Of a tree every floating or complex leaf of two or more axes is checked; biases,
    scales, integers and empty leaves are passed over. In a leaf that stacks several
    layers along another axis, a unit is its slice through all of them: check the layers
    one by one where that is not what is meant.

    Args:
      params: an array, or a tree of parameters.
      axis: the axis of the units, in every leaf that is checked.

    Raises:
      AssertionError: naming the leaf, and which of its units are equal.
      ValueError: no leaf has two axes, or one lacks `axis`.

    >>> import jax
    >>> kernel = jax.random.normal(jax.random.key(0), (8, 4))
    >>> assert_symmetry_broken({"layer": {"kernel": kernel}})
    >>> assert_symmetry_broken(kernel.at[:, 3].set(kernel[:, 1]))
    Traceback (most recent call last):
        ...
    AssertionError: the array has 3 different units of 4: equal are the units [1, 3]...
    """
    checks = []
    for name, leaf in _paths.named_leaves(params, argument="params").items():
        dtype = getattr(leaf, "dtype", None)
        if dtype is None or np.ndim(leaf) < 2 or 0 in np.shape(leaf):
            continue
        if jnp.issubdtype(dtype, jnp.inexact):
            what = f"leaf {name.full!r}" if name.path else "the array"
            _check_axis(what, axis, leaf.shape)
            checks += _unit_checks(literal(what), as_array(leaf), axis)
    if not checks:
        raise ValueError(
            "params has no floating leaf of two or more axes, so there are no units to "
            "compare; give the kernels, or the whole tree of parameters"
        )
    for (
        check
    ) in checks:  # once all is computed: checkify is at odds with loops after it
        require(*check)


def _check_axis(what: str, axis: int, shape: tuple[int, ...]):
    if not -len(shape) <= axis < len(shape):
        raise ValueError(f"{what} has shape {shape}, which has no axis {axis}")


def _unit_checks(what: str, values: Any, axis: int) -> list[tuple[Any, ...]]:
    """What `require` is to be given for one leaf: first for zeros, then for units."""
    xp, count = namespace(values), values.shape[axis]
    zeros = (
        f"{what} of shape {values.shape} is all zeros: its units get equal gradients "
        "and stay equal; draw it from an initializer"
    )
    checks: list[tuple[Any, ...]] = [(xp.any(values != 0), zeros)]
    units = xp.moveaxis(values, axis, 0).reshape(count, -1)
    units = xp.where(units == 0, xp.zeros_like(units), units)  # −0 equals 0
    words = bits(units, xp).reshape(count, -1)
    found = f"{what} has {{}} different units of {count}: "
    advice = (
        f". They are slices along axis {axis} of shape {values.shape}; equal ones get "
        "equal gradients and stay equal, so draw each on its own"
    )
    if xp is jnp:
        different, first, second = _distinct(words)
        report = f"{found}units {{}} and {{}} are equal, for example{advice}"
        return [*checks, (different == count, report, different, first, second)]
    rows = np.ascontiguousarray(words).view(np.dtype((np.void, words.shape[1])))
    _, group = np.unique(rows.reshape(-1), return_inverse=True)
    order = np.argsort(group, kind="stable")
    groups = np.split(order, np.flatnonzero(np.diff(group[order])) + 1)
    equal = sorted(members.tolist() for members in groups if len(members) > 1)
    listed = ", ".join(_shortened(members) for members in equal[:5])
    listed += f" and {len(equal) - 5} more groups" if len(equal) > 5 else ""
    report = f"{found}equal are the units {listed}{advice}"
    return [*checks, (not equal, report, len(groups))]


def _shortened(members: list[int]) -> str:
    if len(members) <= 8:
        return str(members)
    return f"[{', '.join(map(str, members[:8]))}, ... {len(members)} in all]"


def _distinct(words: Any) -> tuple[Any, Any, Any]:
    """How many rows differ, and two that are equal if any are; for traced words.

    Rows are told apart one word after another, each time by sorting on the label so far
    and the next word. That is exact, and ends at the first word after which all labels
    differ: on random weights almost at once.
    """
    count, length = words.shape
    positions = jnp.arange(count, dtype=jnp.int32)

    def relabel(state: tuple[Any, Any, Any]) -> tuple[Any, Any, Any]:
        word, labels, _ = state
        column = jax.lax.dynamic_index_in_dim(words, word, 1, keepdims=False)
        labels, column, order = jax.lax.sort((labels, column, positions), num_keys=2)
        new = (labels[1:] != labels[:-1]) | (column[1:] != column[:-1])
        labels = jnp.cumulative_sum(new.astype(jnp.int32), include_initial=True)
        different = labels[-1] + 1
        return word + 1, jnp.zeros_like(labels).at[order].set(labels), different

    def undecided(state: tuple[Any, Any, Any]) -> Any:
        word, _, different = state
        return (word < length) & (different < count)

    start = (jnp.int32(0), jnp.zeros_like(positions), jnp.int32(1))
    _, labels, different = jax.lax.while_loop(undecided, relabel, start)
    labels, order = jax.lax.sort((labels, positions), num_keys=1)
    equal = jnp.argmax(labels[1:] == labels[:-1]) if count > 1 else 0
    return different, order[equal], order[min(count - 1, 1) + equal]
