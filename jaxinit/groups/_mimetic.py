"""Attention that looks as if it had been trained: products near ± the identity."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from jaxinit import initializers
from jaxinit._errors import RuleError
from jaxinit._keys import require_key
from jaxinit.groups._gather import Group, gather
from jaxinit.groups._setting import (
    GroupReport,
    Like,
    Said,
    draw,
    finished,
    likes,
    widened,
)

_PACKED = "query_key_value"
_HIGHEST = jax.lax.Precision.HIGHEST


def mimetic(
    params: Any,
    rules: Any,
    *,
    key: Any,
    query_key: tuple[float, float] = (0.7, 0.7),
    value_output: tuple[float, float] = (0.4, 0.4),
    heads: int | None = None,
    stacked_axis: int | None = None,
) -> tuple[Any, GroupReport]:
    r"""Draw attention so that its products look like those of trained networks.

    .. math:: W_Q^h {W_K^h}^T \approx α_1 Z_h + β_1 I, \qquad
        W_V W_O = α_2 Z - β_2 I, \qquad Z_{ij} \sim N(0, 1 / d)

    Each matrix M on the right is split by its singular values, M = U S Vᵀ, into U √S
    and √S Vᵀ. The product of query and key has the rank of one head only: of every M_h
    the largest singular values are taken, which is the nearest that any head can be.
    Value and output make up M together over all heads; where their heads are wider
    together than the model, a random rotation fills them all. Biases are kept.

    Args:
      params: the tree. Kernels of query, key and value are (d, heads, head_dim), as
        Flax's, or (d, heads * head_dim); of the output (heads, head_dim, d) or
        (heads * head_dim, d); packed ones (d, 3, heads, head_dim), with the query
        first, (d, heads, 3 * head_dim) or (d, 3 * heads * head_dim).
      rules: pairs of a pattern and one of the roles "query", "key", "value", "output"
        and "query_key_value"; leaves with equal named groups belong together. A query
        needs its key and a value its output; one of the two pairs is enough.
      key: a JAX random key.
      query_key: α₁ and β₁.
      value_output: α₂ and β₂.
      heads: how many, for kernels in which they are flattened.
      stacked_axis: the axis of scanned layers, in all leaves alike.

    Returns:
      ``(params, report)``: a tree of the same kind, and what became of each leaf.

    Raises:
      RuleError: a pattern matches nothing, a partner is missing, or shapes do not fit;
        among others where several queries share one key, which have no such product.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from jaxinit import groups
      >>> params = {"value": jnp.zeros((64, 4, 16)), "out": jnp.zeros((4, 16, 64))}
      >>> new, _ = groups.mimetic(
      ...     params, [("value", "value"), ("out", "output")], key=jax.random.key(0))
      >>> product = jnp.einsum("dhk,hke->de", new["value"], new["out"])
      >>> round(float(jnp.trace(product)) / 64, 1)
      -0.4

    Source: Trockman & Kolter 2023 (arXiv:2305.09828), section 3 and figure 3.
    """
    key = require_key(key, "to draw attention")
    known = ("query", "key", "value", "output", _PACKED)
    flat, groups = gather(params, rules, required=(), optional=known)
    strengths = {"query_key": query_key, "value_output": value_output}
    for name, pair in strengths.items():
        if len(pair) != 2 or not all(math.isfinite(strength) for strength in pair):
            raise ValueError(f"{name} must be two numbers, alpha and beta, got {pair}")
    new: dict[Any, Any] = {}
    said: dict[Any, Said] = {}
    for group in groups:
        like = likes(group, stacked_axis)
        pairs = _pairs(group)
        shapes = tuple((role, _heads_of(group, like, role, heads)) for role in like)
        _check_fit(group, dict(shapes), pairs)
        options = (shapes, pairs, tuple(query_key), tuple(value_output))
        read = () if "value_output" in pairs else (_PACKED,)
        new |= draw(
            _draw,
            group,
            like,
            options,
            key=key,
            values=read,
            stacked_axis=stacked_axis,
        )
        for role, name in group.names.items():
            said[name] = _said(role, pairs, strengths)
    return finished("mimetic", flat, [g.names.values() for g in groups], new, said)


def _pairs(group: Group) -> tuple[str, ...]:
    if _PACKED in group:
        for role in ("query", "key", "value"):
            if role in group:
                group.refuse(
                    role,
                    f"stands beside {group.names[_PACKED].full!r}, which holds it "
                    "already; leave one of them out",
                )
        return ("query_key", "value_output") if "output" in group else ("query_key",)
    pairs = []
    for first, second in (("query", "key"), ("value", "output")):
        if first in group or second in group:
            group.need(first, second)
            pairs.append(f"{first}_{second}")
    return tuple(pairs)


def _heads_of(
    group: Group, like: Mapping[str, Like], role: str, heads: int | None
) -> tuple[int, int, int]:
    """The width of the model, the number of heads and their width, for a leaf."""
    shape = like[role].shape
    parts = 3 if role == _PACKED else 1
    if role == "output":
        shape = (shape[-1], *shape[:-1])
    if role == _PACKED and len(shape) == 4 and shape[1] == 3:
        return shape[0], shape[2], shape[3]
    if len(shape) == 3 and shape[2] % parts == 0:
        return shape[0], shape[1], shape[2] // parts
    if len(shape) == 2 and shape[1] % parts == 0:
        inner = shape[1] // parts
        if heads is None and role not in ("value", "output"):
            group.refuse(
                role,
                f"has its heads in one axis, {like[role].shape}; say heads=...",
            )
        # Value and output are one product over all heads, which need not be told.
        if inner % (heads or 1) == 0:
            return shape[0], heads or 1, inner // (heads or 1)
        group.refuse(role, f"of shape {like[role].shape} has no {heads} equal heads")
    group.refuse(role, f"has shape {like[role].shape}, which is no attention kernel")


def _check_fit(
    group: Group, shapes: Mapping[str, tuple[int, int, int]], pairs: tuple[str, ...]
) -> None:
    fits = []
    if "query" in group:
        fits.append(("query", "key", slice(1, 3)))
    if "value_output" in pairs:
        fits.append(("value" if "value" in group else _PACKED, "output", None))
    for first, second, part in fits:
        one, other = shapes[first], shapes[second]
        same = one[part] == other[part] if part else math.prod(one[1:]) == math.prod(
            other[1:]
        )  # fmt: skip
        if not same:
            raise RuleError(
                f"rules: {group.names[first].full!r} has {one[1]} heads of width "
                f"{one[2]}, and {group.names[second].full!r} has {other[1]} of width "
                f"{other[2]}; the {first} and the {second} need the same, because each "
                "head has a product of its own"
            )


def _said(
    role: str, pairs: tuple[str, ...], strengths: Mapping[str, tuple[float, float]]
) -> Said:
    if role in ("query", "key") or (role == _PACKED and len(pairs) == 1):
        alpha, beta = strengths["query_key"]
        part = {"query": "U√S", "key": "V√S"}.get(role, "query and key")
        return Said(f"{part} of {alpha:g} Z + {beta:g} I", beta)
    alpha, beta = strengths["value_output"]
    part = {"value": "U√S", "output": "√S Vᵀ"}.get(role, "query, key and value; value")
    return Said(f"{part} of {alpha:g} Z - {beta:g} I", -beta)


def _draw(
    keys: Mapping[str, Any], like: Mapping[str, Like], values: Any, options: Any
) -> dict[str, Any]:
    shapes, pairs, query_key, value_output = options
    shapes = dict(shapes)
    dtype = widened(next(iter(like.values())).dtype)
    new: dict[str, Any] = {}
    if "query_key" in pairs:
        lead, other = ("query", "key") if "query" in like else (_PACKED, _PACKED)
        (rows, heads, width), columns = shapes[lead], shapes[other][0]
        split = jax.random.split(jax.random.fold_in(keys[lead], 0), heads)
        one = jax.vmap(
            lambda key: _factors(key, (rows, columns), width, *query_key, dtype)
        )
        left, right = one(split)  # (heads, d, width), (heads, width, d)
        new["query"] = jnp.moveaxis(left, 0, 1)
        new["key"] = jnp.transpose(right, (2, 0, 1))
    if "value_output" in pairs:
        lead = "value" if "value" in like else _PACKED
        (rows, heads, width), columns = shapes[lead], shapes["output"][0]
        alpha, beta = value_output
        key, inner = jax.random.fold_in(keys[lead], 1), heads * width
        left, right = _factors(key, (rows, columns), inner, alpha, -beta, dtype)
        new["value"], new["output"] = left.reshape(rows, heads, width), right
    if _PACKED in like:
        new[_PACKED] = _packed(new, like[_PACKED], shapes[_PACKED], values.get(_PACKED))
    return {role: new[role] for role in like}


def _factors(
    key: Any, shape: tuple[int, int], rank: int, alpha: float, beta: float, dtype: Any
) -> tuple[jax.Array, jax.Array]:
    """Two matrices whose product is alpha Z + beta I, or nearest to it at the rank."""
    noise, turn = jax.random.split(key)
    stddev = jnp.asarray(alpha / math.sqrt(shape[0]), dtype)
    matrix = stddev * jax.random.normal(noise, shape, dtype)
    matrix += jnp.asarray(beta, dtype) * jnp.eye(*shape, dtype=dtype)
    left, sizes, right = jnp.linalg.svd(matrix, full_matrices=False)
    roots = jnp.sqrt(sizes)
    left, right = left * roots[None, :], right * roots[:, None]
    if rank <= len(sizes):
        return left[:, :rank], right[:rank]
    # Columns of zeros would never learn: each waits for the other side to be nonzero.
    rotation = initializers.orthogonal()(turn, (rank, len(sizes)), dtype)
    return (
        jnp.matmul(left, rotation.T, precision=_HIGHEST),
        jnp.matmul(rotation, right, precision=_HIGHEST),
    )


def _packed(
    new: Mapping[str, Any], like: Like, shape: tuple[int, int, int], old: Any
) -> jax.Array:
    """Query, key and value side by side, as the leaf packs them."""
    model, heads, width = shape
    axis = 2 if len(like.shape) == 3 else 1
    stored = (model, heads, 3, width) if axis == 2 else (model, 3, heads, width)
    parts = [new["query"], new["key"]]
    if "value" in new:
        parts.append(new["value"])
    else:
        kept = jax.lax.index_in_dim(old.reshape(stored), 2, axis, keepdims=False)
        parts.append(kept.astype(parts[0].dtype))
    return jnp.stack(parts, axis)
