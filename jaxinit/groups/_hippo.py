"""State space layers whose spectrum, input and output come from one diagonalization."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxinit import initializers
from jaxinit._keys import require_key
from jaxinit.groups._complex import complex_dtype, normal, real_dtype
from jaxinit.groups._eigenvectors import (
    PARTS,
    SPECTRUM,
    check_matrices,
    diagonalized,
    lead_of,
    paired,
    states_kept,
    stored,
    stored_spectrum,
)
from jaxinit.groups._gather import gather
from jaxinit.groups._setting import GroupReport, Like, Said, draw, finished, likes

_HIGHEST = jax.lax.Precision.HIGHEST


def s5(
    params: Any,
    rules: Any,
    *,
    key: Any,
    blocks: int = 1,
    conjugate: bool = True,
    dt_min: float = 1e-3,
    dt_max: float = 0.1,
    stacked_axis: int | None = None,
) -> tuple[Any, GroupReport]:
    r"""Draw an S5 layer: eigenvalues of HiPPO-N, and B and C in its eigenvectors.

    .. math:: S = V Λ V^*, \qquad \tilde B = V^* B, \quad B \sim N(0, 1 / H), \qquad
        \tilde C = C V, \quad C \sim N(0, 1 / N) + i N(0, 1 / N), \qquad
        \log Δ \sim U(\log Δ_{min}, \log Δ_{max})

    with S of ``initializers.hippo_legs_normal``, of size N, or `blocks` times of size
    N / blocks; V is unitary. Eigenvalues come in conjugate pairs, of which `conjugate`
    keeps the one with the positive imaginary part, P = N / 2 in all, in ascending
    order, as the layer's output 2 Re(C x) expects. Each eigenvector has a real,
    positive first element, so that the values do not depend on the library.

    The fan of B is its H inputs; its authors' code takes N.

    Args:
      params: the tree: Lambda (P,), B (P, H), C (H, P), each complex, or a real and an
        imaginary leaf, or (B and C) with a last axis of two; D (H,); log_step (P,) or
        (P, 1).
      rules: pairs of a pattern and one of the roles "Lambda", "Lambda_real",
        "Lambda_imag", "Lambda_log_real" (log of -Re), "B", "C", either with "_real" and
        "_imag", "D", "log_step"; leaves with equal named groups belong together.
      key: a JAX random key.
      blocks: how many equal blocks the state matrix has.
      conjugate: whether the layer keeps one of each conjugate pair.
      dt_min: the shortest step.
      dt_max: the longest step.
      stacked_axis: the axis of scanned layers, in all leaves alike.

    Returns:
      ``(params, report)``: a tree of the same kind, and what became of each leaf.

    Raises:
      RuleError: a pattern matches nothing, a partner is missing, or shapes do not fit.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from jaxinit import groups
      >>> params = {"re": jnp.zeros(8), "im": jnp.zeros(8)}
      >>> rules = [("re", "Lambda_real"), ("im", "Lambda_imag")]
      >>> new, _ = groups.s5(params, rules, key=jax.random.key(0))
      >>> print(new["re"][:3], bool((new["im"] > 0).all()))
      [-0.5 -0.5 -0.5] True

    Source: Smith, Warrington & Linderman 2023 (arXiv:2208.04933), section 3.3 and
    appendix B.1.
    """
    key = require_key(key, "to draw a state space layer")
    initializers.mamba_dt_bias(dt_min, dt_max)  # checks the steps
    if blocks < 1:
        raise ValueError(f"blocks must be at least 1, got {blocks}")
    names = [f"{role}{part}" for role in "BC" for part in PARTS]
    flat, groups = gather(
        params, rules, required=(), optional=(*SPECTRUM, *names, "D", "log_step")
    )
    new: dict[Any, Any] = {}
    said: dict[Any, Said] = {}
    for group in groups:
        like = likes(group, stacked_axis)
        states = states_kept(group, like)
        check_matrices(group, like, {"B": (0, states), "C": (1, states)})
        if "log_step" in like and like["log_step"].shape not in (
            (states,),
            (states, 1),
        ):
            group.refuse("log_step", f"has no step for each of the {states} states")
        if states % blocks:
            group.refuse(next(iter(like)), f"has {states} states, not {blocks} blocks")
        whole = states * (2 if conjugate else 1)
        options = (states, blocks, conjugate, dt_min, dt_max)
        new |= draw(_s5, group, like, options, key=key, stacked_axis=stacked_axis)
        for role, name in group.names.items():
            said[name] = _said(role, like[role].shape, whole)
    return finished("s5", flat, [g.names.values() for g in groups], new, said)


def hippo(
    params: Any,
    rules: Any,
    *,
    key: Any = None,
    conjugate: bool = True,
    stacked_axis: int | None = None,
) -> tuple[Any, GroupReport]:
    r"""Fill an S4 layer with HiPPO-LegS as a diagonal plus low-rank matrix.

    .. math:: A = V (Λ - P P^*) V^*, \qquad P = V^* p, \; p_n = \sqrt{n + 1/2},
        \qquad B = V^* b, \; b_n = \sqrt{2n + 1}, \qquad C \sim N_{complex}(0, 1)

    with the eigenvectors V and the order of :func:`s5`; leave P out and it is the
    diagonal S4D-LegS. All but C is the same for every key and feature.

    Args:
      params: the tree: Lambda, P, B, C of shape (N / 2,), or (..., N / 2), whose
        leading axes (features) get the same values; (..., N) without `conjugate`.
      rules: pairs of a pattern and one of the roles "Lambda", "Lambda_real",
        "Lambda_imag", "Lambda_log_real" (log of -Re), and "P", "B" or "C", each with
        "_real" and "_imag" as well; leaves with equal named groups belong together.
      key: a JAX random key, where there is a C.
      conjugate: whether the layer keeps one of each conjugate pair.
      stacked_axis: the axis of scanned layers, in all leaves alike.

    Returns:
      ``(params, report)``: a tree of the same kind, and what became of each leaf.

    Raises:
      RuleError: a pattern matches nothing, a partner is missing, or shapes do not fit.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxinit import groups
      >>> params = {name: jnp.zeros(8, jnp.complex64) for name in ("Lambda", "P", "B")}
      >>> new, _ = groups.hippo(params, [(name, name) for name in params])
      >>> round(float(2 * (abs(new["B"]) ** 2).sum()))  # the sum of 2n + 1 below 16
      256

    Source: Gu et al. 2022 (arXiv:2111.00396), theorem 1; Gu et al. 2022
    (arXiv:2206.11893), section 4, S4D-LegS.
    """
    names = [f"{role}{part}" for role in "PBC" for part in PARTS]
    flat, groups = gather(params, rules, required=(), optional=(*SPECTRUM, *names))
    if any(role[0] == "C" for group in groups for role in group.names):
        key = require_key(key, "to draw C")
    new: dict[Any, Any] = {}
    said: dict[Any, Said] = {}
    for group in groups:
        like = likes(group, stacked_axis)
        states = states_kept(group, like)
        wanted = {role: (-1, states) for role in "PBC"}
        check_matrices(group, like, wanted)
        options = (states, conjugate)
        new |= draw(_hippo, group, like, options, key=key, stacked_axis=stacked_axis)
        whole = states * (2 if conjugate else 1)
        texts = {"P": "V* p", "B": "V* b", "C": "normal, complex"}
        for role, name in group.names.items():
            text = texts.get(role[0])
            said[name] = Said(text) if text else _said(role, like[role].shape, whole)
    return finished("hippo", flat, [g.names.values() for g in groups], new, said)


def _said(role: str, shape: tuple[int, ...], whole: int) -> Said:
    match role[0]:
        case "B":
            return Said("V* times normal", 1 / math.sqrt(max(shape[1], 1)))
        case "C":
            return Said("normal, complex, times V", 1 / math.sqrt(whole))
        case "D":
            return Said("normal", 1.0)
    return Said("log-uniform step" if role == "log_step" else "eigenvalues of HiPPO-N")


def _s5(
    keys: Mapping[str, Any], like: Mapping[str, Like], values: Any, options: Any
) -> dict[str, Any]:
    states, blocks, conjugate, dt_min, dt_max = options
    kept = states // blocks
    size = 2 * kept if conjugate else kept
    spectrum, vectors = diagonalized(size)
    vectors = vectors[:, :kept]  # (size, kept)
    new = stored_spectrum(np.tile(spectrum[:kept], blocks), like)
    if lead := lead_of("B", like):
        inputs = like[lead].shape[1]
        dtype = real_dtype(like[lead])
        shape = (blocks, size, inputs)
        drawn = jax.random.normal(keys[lead], shape, dtype) / math.sqrt(inputs)
        adjoint = jnp.asarray(vectors.conj().T, complex_dtype(like[lead]))
        turned = jnp.einsum(
            "ks,bsh->bkh", adjoint, drawn.astype(adjoint.dtype), precision=_HIGHEST
        )
        new |= stored("B", turned.reshape(states, inputs), like)
    if lead := lead_of("C", like):
        outputs = like[lead].shape[0]
        kind = Like((outputs, blocks, size), complex_dtype(like[lead]))
        drawn = normal(keys[lead], kind, 1 / math.sqrt(size * blocks))
        turned = jnp.einsum(
            "hbs,sk->hbk", drawn, jnp.asarray(vectors, drawn.dtype), precision=_HIGHEST
        )
        new |= stored("C", turned.reshape(outputs, states), like)
    if "D" in like:
        new["D"] = normal(keys["D"], like["D"], 1.0)
    if "log_step" in like:
        dtype = real_dtype(like["log_step"])
        share = jax.random.uniform(keys["log_step"], like["log_step"].shape, dtype)
        new["log_step"] = math.log(dt_min) + share * math.log(dt_max / dt_min)
    return new


def _hippo(
    keys: Mapping[str, Any], like: Mapping[str, Like], values: Any, options: Any
) -> dict[str, Any]:
    states, conjugate = options
    size = 2 * states if conjugate else states
    spectrum, vectors = diagonalized(size)
    adjoint = vectors[:, :states].conj().T
    orders = np.arange(size)
    lines = {"P": np.sqrt(orders + 0.5), "B": np.sqrt(2 * orders + 1)}
    new = stored_spectrum(spectrum[:states], like)
    for role, line in lines.items():
        if lead_of(role, like):
            new |= stored(role, jnp.asarray(adjoint @ line), like)
    if lead := lead_of("C", like):
        kind = like[lead]
        shape = kind.shape[:-1] if paired(lead, kind) else kind.shape
        wide = Like(shape, complex_dtype(kind))
        new |= stored("C", normal(keys[lead], wide, math.sqrt(0.5)), like)
    return new
