"""Low-rank adapters that start where the network stands."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp

from jaxinit import initializers
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

Start = Literal["normal", "pissa", "olora", "orthogonal"]
_HIGHEST = jax.lax.Precision.HIGHEST


def lora(
    params: Any,
    rules: Any,
    *,
    key: Any = None,
    start: Start = "normal",
    alpha: float | None = None,
    rank_stabilized: bool = False,
    stacked_axis: int | None = None,
) -> tuple[Any, GroupReport]:
    r"""Start low-rank adapters, y = x W + s x A B, where y = x W stands.

    .. math:: s = \frac{α}{r} \quad\text{or, rank-stabilized (rsLoRA),}\quad
        s = \frac{α}{\sqrt r}

    is what the model multiplies A B by; without `alpha` it is 1, as in ``nnx.LoRA``.
    It is the factor in the report. Of the starts

    - "normal": A uniform on ±1/√n for n inputs (Kaiming's with a = √5), B = 0.
    - "pissa": with W = U S Vᵀ, A = U_r √S_r / √s, B = √S_r V_rᵀ / √s, the r largest
      singular values, and W becomes the rest, W - s A B.
    - "olora": with Wᵀ = Q R, A = (R_r)ᵀ, B = (Q_r)ᵀ, the first r rows of R and columns
      of Q, and W becomes W - s A B.
    - "orthogonal": A = G₁ Q_odd / 10, B = Q_evenᵀ G₂ / 10 with the odd and even rows of
      a random orthogonal matrix and normal G: both nonzero, and A B = 0.

    all make x W + s x A B what x W was: "normal" exactly, the others up to rounding.
    What A and B held before is not looked at.

    Args:
      params: the tree: W (inputs, outputs), or with more axes in either; A (inputs, r),
        B (r, outputs).
      rules: pairs of a pattern and one of the roles "weight", "A" and "B"; leaves with
        equal named groups belong together. "pissa" and "olora" need the weight.
      key: a JAX random key, for "normal" and "orthogonal".
      start: see above.
      alpha: α.
      rank_stabilized: whether s falls with the root of the rank.
      stacked_axis: the axis of scanned layers, in all leaves alike.

    Returns:
      ``(params, report)``: a tree of the same kind, and what became of each leaf.

    Raises:
      RuleError: a pattern matches nothing, a partner is missing, shapes do not fit, or
        the rank is odd ("orthogonal") or larger than the weight has ("pissa", "olora").

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from jaxinit import groups
      >>> weight = jax.random.normal(jax.random.key(0), (32, 16))
      >>> params = {"w": weight, "a": jnp.zeros((32, 4)), "b": jnp.zeros((4, 16))}
      >>> rules = [("w", "weight"), ("a", "A"), ("b", "B")]
      >>> new, _ = groups.lora(params, rules, start="pissa")
      >>> bool(jnp.allclose(new["w"] + new["a"] @ new["b"], weight, atol=1e-5))
      True

    Source: Hu et al. 2021 (arXiv:2106.09685), section 4.1; Kalajdzievski 2023
    (arXiv:2312.03732), theorem 3.2 (rsLoRA); Meng et al. 2024 (arXiv:2404.02948),
    equations 2 to 4 (PiSSA); Buyukakyuz 2024 (arXiv:2406.01775), algorithm 1 (OLoRA);
    the orthogonal start is that of the PEFT library.
    """
    if start not in get_args(Start):
        known = ", ".join(map(repr, get_args(Start)))
        raise ValueError(f"start must be one of {known}, got {start!r}")
    if alpha is not None and not (math.isfinite(alpha) and alpha > 0):
        raise ValueError(f"alpha must be a positive number, got {alpha!r}")
    if rank_stabilized and alpha is None:
        raise ValueError("rank_stabilized needs alpha, since s is alpha / sqrt(rank)")
    factors = start in ("pissa", "olora")
    if not factors:
        key = require_key(key, "to draw adapters")
    flat, groups = gather(params, rules, required=("A", "B"), optional=("weight",))
    new: dict[Any, Any] = {}
    said: dict[Any, Said] = {}
    for group in groups:
        like = likes(group, stacked_axis)
        rank = _checked_rank(group, like, start)
        scale = 1.0
        if alpha is not None:
            scale = alpha / (math.sqrt(rank) if rank_stabilized else rank)
        new |= draw(
            _factored if factors else _drawn,
            group,
            like,
            (start, scale),
            key=None if factors else key,
            values=("weight",) if factors else (),
            stacked_axis=stacked_axis,
        )
        for role, text in _TEXTS[start].items():
            if role in group:
                said[group.names[role]] = Said(text, scale)
    return finished(
        f"lora, {start}", flat, [g.names.values() for g in groups], new, said
    )


_TEXTS: dict[str, dict[str, str]] = {
    "normal": {"A": "uniform ±1/√n", "B": "zeros"},
    "pissa": {"A": "U √S", "B": "√S Vᵀ", "weight": "W - s A B"},
    "olora": {"A": "Rᵀ", "B": "Qᵀ", "weight": "W - s A B"},
    "orthogonal": {"A": "G Q_odd / 10", "B": "Q_evenᵀ G / 10"},
}


def _checked_rank(group: Group, like: Mapping[str, Like], start: str) -> int:
    first, second = like["A"].shape, like["B"].shape
    if len(first) != 2 or len(second) != 2 or first[1] != second[0]:
        group.refuse(
            "B",
            f"has shape {second}, and {group.names['A'].full!r} has {first}: give A "
            "(inputs, rank) and B (rank, outputs)",
        )
    rank = first[1]
    if not rank:
        group.refuse("A", f"has shape {first}: an adapter of rank 0 has no start")
    if start in ("pissa", "olora"):
        group.need("weight")
    if "weight" in like and not _splits(like["weight"].shape, first[0], second[1]):
        group.refuse(
            "weight",
            f"has shape {like['weight'].shape}, which are not the {first[0]} inputs of "
            f"A and the {second[1]} outputs of B",
        )
    if start in ("pissa", "olora") and rank > min(first[0], second[1]):
        group.refuse("A", f"has rank {rank}, and the weight has none beyond "
                          f"{min(first[0], second[1])}")  # fmt: skip
    if start == "orthogonal" and rank % 2:
        group.refuse("A", f"has the odd rank {rank}; the orthogonal start needs halves")
    return rank


def _splits(shape: tuple[int, ...], inputs: int, outputs: int) -> bool:
    """Whether the first axes are the inputs and the others the outputs."""
    return any(
        (math.prod(shape[:n]), math.prod(shape[n:])) == (inputs, outputs)
        for n in range(1, len(shape))
    )


def _drawn(
    keys: Mapping[str, Any], like: Mapping[str, Like], values: Any, options: Any
) -> dict[str, Any]:
    start, _ = options
    if start == "normal":
        uniform = initializers.variance_scaling(1 / 3, "fan_in", "uniform")
        zeros = initializers.zeros_init()
        return {"A": uniform(keys["A"], *like["A"]), "B": zeros(keys["B"], *like["B"])}
    (inputs, rank), dtype = like["A"]
    outputs = like["B"].shape[1]
    dtype = widened(dtype)
    turn, left = jax.random.split(keys["A"])
    whole = initializers.orthogonal()(turn, (rank, rank), dtype)
    one = jax.random.normal(left, (inputs, rank // 2), dtype) / 10
    other = jax.random.normal(keys["B"], (rank // 2, outputs), dtype) / 10
    return {
        "A": jnp.matmul(one, whole[0::2], precision=_HIGHEST),
        "B": jnp.matmul(whole[1::2].T, other, precision=_HIGHEST),
    }


def _factored(
    keys: Any, like: Mapping[str, Like], values: Mapping[str, Any], options: Any
) -> dict[str, Any]:
    start, scale = options
    (inputs, rank), dtype = like["A"]
    outputs = like["B"].shape[1]
    weight = values["weight"].reshape(inputs, outputs)
    weight = weight.astype(widened(weight.dtype))
    if start == "pissa":
        left, sizes, right = jnp.linalg.svd(weight, full_matrices=False)
        roots = jnp.sqrt(sizes[:rank] / scale)
        a, b = left[:, :rank] * roots[None, :], right[:rank] * roots[:, None]
    else:
        q, r = jnp.linalg.qr(weight.T)
        a, b = r[:rank].T, q[:, :rank].T
    # What is taken away is the product of A and B as they are stored.
    a, b = a.astype(dtype), b.astype(like["B"].dtype)
    product = jnp.matmul(
        a.astype(weight.dtype), b.astype(weight.dtype), precision=_HIGHEST
    )
    return {"A": a, "B": b, "weight": weight - scale * product}
