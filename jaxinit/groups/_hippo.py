"""State space layers whose spectrum, input and output come from one diagonalization."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxinit import initializers
from jaxinit._keys import require_key
from jaxinit.groups._complex import is_complex, normal, real_dtype
from jaxinit.groups._gather import Group, gather
from jaxinit.groups._setting import GroupReport, Like, Said, draw, finished, likes
from jaxinit.initializers._hippo import _legs_normal

_SPECTRUM = ("Lambda", "Lambda_real", "Lambda_imag", "Lambda_log_real")
_PARTS = ("", "_real", "_imag")
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
    names = [f"{role}{part}" for role in "BC" for part in _PARTS]
    flat, groups = gather(
        params, rules, required=(), optional=(*_SPECTRUM, *names, "D", "log_step")
    )
    new: dict[Any, Any] = {}
    said: dict[Any, Said] = {}
    for group in groups:
        like = likes(group, stacked_axis)
        states = _states(group, like)
        _check_matrices(group, like, {"B": (0, states), "C": (1, states)})
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
    names = [f"{role}{part}" for role in "PBC" for part in _PARTS]
    flat, groups = gather(params, rules, required=(), optional=(*_SPECTRUM, *names))
    if any(role[0] == "C" for group in groups for role in group.names):
        key = require_key(key, "to draw C")
    new: dict[Any, Any] = {}
    said: dict[Any, Said] = {}
    for group in groups:
        like = likes(group, stacked_axis)
        states = _states(group, like)
        wanted = {role: (-1, states) for role in "PBC"}
        _check_matrices(group, like, wanted)
        options = (states, conjugate)
        new |= draw(_hippo, group, like, options, key=key, stacked_axis=stacked_axis)
        whole = states * (2 if conjugate else 1)
        texts = {"P": "V* p", "B": "V* b", "C": "normal, complex"}
        for role, name in group.names.items():
            text = texts.get(role[0])
            said[name] = Said(text) if text else _said(role, like[role].shape, whole)
    return finished("hippo", flat, [g.names.values() for g in groups], new, said)


def _states(group: Group, like: Mapping[str, Like]) -> int:
    """The number of eigenvalues that are kept."""
    spectrum = [role for role in like if role in _SPECTRUM]
    if not spectrum:
        group.need("Lambda")
    split = [role for role in spectrum if role != "Lambda"]
    if split:
        group.need("Lambda_imag")
    if split == ["Lambda_imag"]:
        group.need("Lambda_real")
    states = like[spectrum[0]].shape[-1:]
    for role in spectrum:
        if not states or like[role].shape[-1:] != states:
            group.refuse(role, f"has shape {like[role].shape}, not (..., {states})")
    for role in like:
        for part in ("_real", "_imag"):
            if role in ("P_real", "B_real", "C_real", "P_imag", "B_imag", "C_imag"):
                group.need(role[0] + part)
        if role == "Lambda" and not is_complex(like[role]):
            group.refuse(
                role,
                f"has dtype {like[role].dtype.name}; give a complex leaf, or two with "
                "the roles Lambda_real and Lambda_imag",
            )
    return states[0]


def _check_matrices(
    group: Group, like: Mapping[str, Like], wanted: Mapping[str, tuple[int, int]]
) -> None:
    for role, kind in like.items():
        if role[0] in wanted:
            axis, states = wanted[role[0]]
            shape = kind.shape[:-1] if _paired(role, kind) else kind.shape
            axes = 2 if axis >= 0 else len(shape)
            if not shape or len(shape) != axes or shape[axis] != states:
                group.refuse(
                    role,
                    f"has shape {kind.shape}; its axis {axis} should have the {states} "
                    "eigenvalues, and a real leaf a last axis of 2",
                )
        if role == "log_step" and kind.shape not in ((states_of(like),),
                                                     (states_of(like), 1)):  # fmt: skip
            group.refuse(role, f"has shape {kind.shape}, not one step for each state")


def states_of(like: Mapping[str, Like]) -> int:
    """The number of eigenvalues that are kept, once it is known to be one number."""
    return next(kind.shape[-1] for role, kind in like.items() if role in _SPECTRUM)


def _paired(role: str, kind: Like) -> bool:
    """Whether a last axis of two holds the real and the imaginary part."""
    return len(role) == 1 and not is_complex(kind)


def _said(role: str, shape: tuple[int, ...], whole: int) -> Said:
    match role[0]:
        case "L" if role == "log_step":
            return Said("log-uniform step")
        case "B":
            return Said("V* times normal", 1 / math.sqrt(max(shape[1], 1)))
        case "C":
            return Said("normal, complex, times V", 1 / math.sqrt(whole))
        case "D":
            return Said("normal", 1.0)
    return Said("log-uniform step" if role == "log_step" else "eigenvalues of HiPPO-N")


@functools.lru_cache(maxsize=8)
def diagonalized(size: int) -> tuple[np.ndarray, np.ndarray]:
    """The eigenvalues of HiPPO-N and its unitary eigenvectors, in float64.

    Those with a positive imaginary part come first, ascending, then the rest.
    """
    matrix = _legs_normal(np.arange(size, dtype=np.float64))
    skew = (matrix - matrix.T) / 2
    imaginary, vectors = np.linalg.eigh(-1j * skew)
    # A phase is free; with this one conjugate values have conjugate vectors.
    vectors = vectors * (np.abs(vectors[0]) / vectors[0])
    order = np.lexsort((np.abs(imaginary), imaginary <= 0))
    return -0.5 + 1j * imaginary[order], vectors[:, order]


def _s5(
    keys: Mapping[str, Any], like: Mapping[str, Like], values: Any, options: Any
) -> dict[str, Any]:
    states, blocks, conjugate, dt_min, dt_max = options
    kept = states // blocks
    size = 2 * kept if conjugate else kept
    spectrum, vectors = diagonalized(size)
    vectors = vectors[:, :kept]  # (size, kept)
    new = _stored_spectrum(np.tile(spectrum[:kept], blocks), like)
    if lead := _lead("B", like):
        inputs = like[lead].shape[1]
        dtype = real_dtype(like[lead])
        shape = (blocks, size, inputs)
        drawn = jax.random.normal(keys[lead], shape, dtype) / math.sqrt(inputs)
        adjoint = jnp.asarray(vectors.conj().T, jnp.result_type(dtype, jnp.complex64))
        turned = jnp.einsum("ks,bsh->bkh", adjoint, drawn.astype(adjoint.dtype),
                            precision=_HIGHEST)  # fmt: skip
        new |= _stored("B", turned.reshape(states, inputs), like)
    if lead := _lead("C", like):
        outputs = like[lead].shape[0]
        kind = Like((outputs, blocks, size), jnp.result_type(real_dtype(like[lead]),
                                                            jnp.complex64))  # fmt: skip
        drawn = normal(keys[lead], kind, 1 / math.sqrt(size * blocks))
        turned = jnp.einsum("hbs,sk->hbk", drawn, jnp.asarray(vectors, drawn.dtype),
                            precision=_HIGHEST)  # fmt: skip
        new |= _stored("C", turned.reshape(outputs, states), like)
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
    new = _stored_spectrum(spectrum[:states], like)
    for role, line in lines.items():
        if _lead(role, like):
            new |= _stored(role, jnp.asarray(adjoint @ line), like)
    if lead := _lead("C", like):
        kind = like[lead]
        shape = kind.shape[:-1] if _paired(lead, kind) else kind.shape
        wide = Like(shape, jnp.result_type(real_dtype(kind), jnp.complex64))
        new |= _stored("C", normal(keys[lead], wide, math.sqrt(0.5)), like)
    return new


def _lead(role: str, like: Mapping[str, Like]) -> str | None:
    """The leaf whose key draws a matrix."""
    return next((role + part for part in _PARTS if role + part in like), None)


def _stored(
    role: str, matrix: jax.Array, like: Mapping[str, Like]
) -> dict[str, jax.Array]:
    """A complex matrix as the leaves store it."""
    new = {}
    for part, take in (("_real", jnp.real), ("_imag", jnp.imag)):
        if role + part in like:
            new[role + part] = _repeated(take(matrix), like[role + part].shape)
    if role in like:
        kind = like[role]
        if _paired(role, kind):
            pair = jnp.stack([jnp.real(matrix), jnp.imag(matrix)], -1)
            new[role] = _repeated(pair, kind.shape)
        else:
            new[role] = _repeated(matrix, kind.shape)
    return new


def _repeated(value: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    leading = (1,) * (len(shape) - value.ndim)
    return jnp.broadcast_to(value.reshape(leading + value.shape), shape)


def _stored_spectrum(
    spectrum: np.ndarray, like: Mapping[str, Like]
) -> dict[str, jax.Array]:
    kinds = {
        "Lambda": spectrum,
        "Lambda_real": spectrum.real,
        "Lambda_imag": spectrum.imag,
        "Lambda_log_real": np.log(-spectrum.real),
    }
    return {
        role: _repeated(jnp.asarray(value), like[role].shape)
        for role, value in kinds.items()
        if role in like
    }
