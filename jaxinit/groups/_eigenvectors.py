"""The eigenvectors of HiPPO-N, and how leaves store complex numbers in them."""

from __future__ import annotations

import functools
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np

from jaxinit.groups._complex import is_complex
from jaxinit.groups._gather import Group
from jaxinit.groups._setting import Like
from jaxinit.initializers._hippo import _legs_normal

SPECTRUM = ("Lambda", "Lambda_real", "Lambda_imag", "Lambda_log_real")
PARTS = ("", "_real", "_imag")


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


def states_kept(group: Group, like: Mapping[str, Like]) -> int:
    """The number of eigenvalues that are kept."""
    spectrum = [role for role in like if role in SPECTRUM]
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


def check_matrices(
    group: Group, like: Mapping[str, Like], wanted: Mapping[str, tuple[int, int]]
) -> None:
    for role, kind in like.items():
        if role[0] in wanted:
            axis, states = wanted[role[0]]
            shape = kind.shape[:-1] if paired(role, kind) else kind.shape
            axes = 2 if axis >= 0 else len(shape)
            if not shape or len(shape) != axes or shape[axis] != states:
                group.refuse(
                    role,
                    f"has shape {kind.shape}; its axis {axis} should have the {states} "
                    "eigenvalues, and a real leaf a last axis of 2",
                )


def paired(role: str, kind: Like) -> bool:
    """Whether a last axis of two holds the real and the imaginary part."""
    return len(role) == 1 and not is_complex(kind)


def lead_of(role: str, like: Mapping[str, Like]) -> str | None:
    """The leaf whose key draws a matrix."""
    return next((role + part for part in PARTS if role + part in like), None)


def stored(
    role: str, matrix: jax.Array, like: Mapping[str, Like]
) -> dict[str, jax.Array]:
    """A complex matrix as the leaves store it."""
    new = {}
    for part, take in (("_real", jnp.real), ("_imag", jnp.imag)):
        if role + part in like:
            new[role + part] = _repeated(take(matrix), like[role + part].shape)
    if role in like:
        kind = like[role]
        if paired(role, kind):
            pair = jnp.stack([jnp.real(matrix), jnp.imag(matrix)], -1)
            new[role] = _repeated(pair, kind.shape)
        else:
            new[role] = _repeated(matrix, kind.shape)
    return new


def _repeated(value: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    leading = (1,) * (len(shape) - value.ndim)
    return jnp.broadcast_to(value.reshape(leading + value.shape), shape)


def stored_spectrum(
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
