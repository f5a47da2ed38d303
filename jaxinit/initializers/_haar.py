"""Haar-distributed matrices without a factorization."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxinit._threefry import fast_key


def haar(key: Any, rows: int, columns: int, dtype: np.dtype) -> jax.Array:
    r"""A (semi-)orthogonal matrix of the distribution that QR of a Gaussian gives.

    Step k of a QR factorization reflects what is left of column k, which for a Gaussian
    matrix is a fresh Gaussian vector of its length, onto an axis. So the vectors are
    drawn as such, and nothing is factored:

    .. math:: Q = H_1 \cdots H_m \, \mathrm{diag}(\mathrm{sign}(r_{kk})), \qquad
        H_k = I - \tau_k v_k v_k^T

    On CPUs the product is LAPACK's; elsewhere it is :math:`I - V T V^T`, with
    :math:`T^{-1} = \mathrm{striu}(V^T V) + \mathrm{diag}(1 / \tau)`: matrix products
    and one triangular solve.

    Args:
      key: a random key.
      rows: of the matrix; where there are fewer than columns, its rows are orthonormal.
      columns: of the matrix.
      dtype: float32 or float64.

    Source: Stewart 1980, "The efficient generation of random orthogonal matrices",
    section 3; Schreiber & Van Loan 1989 for the triangular form.
    """
    if rows < columns:
        return haar(key, columns, rows, dtype).T
    drawn = jnp.tril(jax.random.normal(fast_key(key), (rows, columns), dtype))
    diagonal = jnp.diagonal(drawn)
    side = jnp.where(diagonal < 0, -1, 1).astype(dtype)
    norm = jnp.sqrt(jnp.sum(jnp.square(drawn), axis=0))
    head = diagonal + side * norm  # of each vector, before its head becomes 1
    taus = head * side / norm
    below = jnp.tril(drawn, -1) / head[None, :]
    product = lax.platform_dependent(
        below, taus, cpu=_by_lapack, default=_by_triangular_solve
    )
    return product * -side[None, :]


def _by_lapack(below: jax.Array, taus: jax.Array) -> jax.Array:
    return lax.linalg.householder_product(below, taus)


def _by_triangular_solve(below: jax.Array, taus: jax.Array) -> jax.Array:
    columns = len(taus)
    vectors = below + jnp.eye(*below.shape, dtype=below.dtype)
    precision = lax.Precision.HIGHEST  # TPUs would multiply in bfloat16
    inner = jnp.matmul(vectors.T, vectors, precision=precision)
    inverse = jnp.triu(inner, 1) + jnp.diag(1 / taus)
    solved = lax.linalg.triangular_solve(
        inverse, vectors[:columns].T, left_side=True, lower=False
    )
    return jnp.eye(*below.shape, dtype=below.dtype) - jnp.matmul(
        vectors, solved, precision=precision
    )
