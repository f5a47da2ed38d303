"""State space models: the matrices and spectra that they start from.

These leaves are rates and their logarithms, not weights: their values *are* the time
scales of the model. Keep them in float32 (``param_dtype``), out of weight decay and out
of any rule that draws kernels again. Narrow dtypes are granted, because a model that
asks for bfloat16 throughout must be able to start, but they blur the spectrum: in
bfloat16 the 256 rates of ``s4d_real`` become 104.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxinit.initializers._initializer import OutSharding, Recipe, Shape, initializer
from jaxinit.initializers._numbers import repeated_along

# ----------------------------------------------------------------------------- HiPPO


@initializer
def hippo_legs(dtype: Any = None):
    r"""Fill with the HiPPO-LegS matrix, which remembers by Legendre polynomials.

    .. math::
        A_{nk} = -\begin{cases}
            \sqrt{(2n + 1)(2k + 1)} & n > k \\ n + 1 & n = k \\ 0 & n < k
        \end{cases}

    With :func:`hippo_legs_input` as B, the state of t x' = A x + B u holds the
    coefficients of the past u, from 0 to t, in the orthonormal Legendre polynomials;
    state space layers leave the t out. Its eigenvalues are -1, ..., -N.

    Args:
      dtype: used where the call gives none. Narrow ones blur the spectrum.

    Raises:
      ValueError: at the call, for a shape that is not (..., N, N); all of the leading
        axes get the same matrix.

    Example:
      >>> import jax, numpy as np
      >>> print(np.float64(hippo_legs()(jax.random.key(0), (2, 2))).round(2))
      [[-1.    0.  ]
       [-1.73 -2.  ]]

    Source: Gu et al. 2020 (arXiv:2008.07669), theorem 2, with the sign of Gu et al.
    2022 (arXiv:2111.00396), eq. 2.
    """
    return _square("hippo_legs", _legs)


@initializer
def hippo_legs_normal(dtype: Any = None):
    r"""Fill with the normal part of HiPPO-LegS, which is what is diagonalized.

    .. math::
        S = A + P P^T, \qquad S_{nk} = -\frac{1}{2} \begin{cases}
            \sqrt{(2n + 1)(2k + 1)} & n > k \\ 1 & n = k \\
            -\sqrt{(2n + 1)(2k + 1)} & n < k
        \end{cases}

    with P of :func:`hippo_legs_low_rank`: -1/2 plus a skew-symmetric matrix, so that
    all eigenvalues have the real part -1/2.

    Args:
      dtype: used where the call gives none. Narrow ones blur the spectrum.

    Raises:
      ValueError: at the call, for a shape that is not (..., N, N).

    Example:
      >>> import jax, numpy as np
      >>> print(np.float64(hippo_legs_normal()(jax.random.key(0), (2, 2))).round(2))
      [[-0.5   0.87]
       [-0.87 -0.5 ]]

    Source: Gu et al. 2022 (arXiv:2111.00396), theorem 1 and its proof.
    """
    return _square("hippo_legs_normal", _legs_normal)


@initializer
def hippo_legs_low_rank(*, axis: int = -1, dtype: Any = None):
    r"""Fill with the vector P whose P Pᵀ takes HiPPO-LegS to its normal part.

    .. math:: P_n = \sqrt{n + 1/2}

    Args:
      axis: the axis of the state; all others repeat it.
      dtype: used where the call gives none.

    Raises:
      ValueError: at the call, for a shape that does not have the axis.

    Example:
      >>> import jax
      >>> print((2 * hippo_legs_low_rank()(jax.random.key(0), (4,)) ** 2).round())
      [1. 3. 5. 7.]

    Source: Gu et al. 2022 (arXiv:2111.00396), theorem 1 and its proof.
    """
    return _along("hippo_legs_low_rank", lambda n: np.sqrt(n + 0.5), axis)


@initializer
def hippo_legs_input(*, axis: int = -1, dtype: Any = None):
    r"""Fill with the input vector B of HiPPO-LegS.

    .. math:: B_n = \sqrt{2n + 1}

    Args:
      axis: the axis of the state; all others repeat it: -1 for (N,) and (H, N), 0 for
        the (N, H) of a layer with H inputs.
      dtype: used where the call gives none.

    Raises:
      ValueError: at the call, for a shape that does not have the axis.

    Example:
      >>> import jax
      >>> print((hippo_legs_input()(jax.random.key(0), (4,)) ** 2).round())
      [1. 3. 5. 7.]

    Source: Gu et al. 2020 (arXiv:2008.07669), theorem 2.
    """
    return _along("hippo_legs_input", lambda n: np.sqrt(2 * n + 1), axis)


# ------------------------------------------------------------------------------- S4D


@initializer
def s4d_real(*, axis: int = -1, dtype: Any = None):
    r"""Fill with the logarithms of the decay rates 1, 2, ..., N.

    .. math:: A_n = -\exp(w_n) = -(n + 1), \qquad w_n = \log(n + 1)

    the eigenvalues of :func:`hippo_legs`. It is the ``A_log`` of Mamba, of shape
    (channels, N). Keep it in float32: in bfloat16, 256 rates become 104.

    Args:
      axis: the axis of the state; all others repeat it.
      dtype: used where the call gives none.

    Raises:
      ValueError: at the call, for a shape that does not have the axis.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> print(-jnp.exp(s4d_real()(jax.random.key(0), (3, 4)))[0].round())
      [-1. -2. -3. -4.]

    Source: Gu et al. 2022 (arXiv:2206.11893); Gu & Dao 2023 (arXiv:2312.00752), section
    3.6.
    """
    return _along("s4d_real", lambda n: np.log(n + 1), axis)


@initializer
def s4d_lin_imaginary(*, axis: int = -1, dtype: Any = None):
    r"""Fill with the frequencies of S4D-Lin, the imaginary parts of its diagonal.

    .. math:: A_n = -\tfrac{1}{2} + i w_n, \qquad w_n = π n

    which turns the state into a decaying Fourier basis. The real part, where it is
    stored as -exp(v), is ``constant(-0.6931)`` (log 1/2) and a leaf of its own.

    Args:
      axis: the axis of the state; all others repeat it.
      dtype: used where the call gives none. Narrow ones blur the spectrum.

    Raises:
      ValueError: at the call, for a shape that does not have the axis.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> print((s4d_lin_imaginary()(jax.random.key(0), (4,)) / jnp.pi).round())
      [0. 1. 2. 3.]

    Source: Gu et al. 2022 (arXiv:2206.11893), section 4, S4D-Lin.
    """
    return _along("s4d_lin_imaginary", lambda n: np.pi * n, axis)


# --------------------------------------------------------------------------- filling


def _orders(shape: Shape, axis: int = -1) -> np.ndarray:
    return np.arange(shape[axis], dtype=np.float64)


def _legs(orders: np.ndarray) -> np.ndarray:
    roots = np.sqrt(2 * orders + 1)
    return np.tril(-np.outer(roots, roots), -1) - np.diag(orders + 1)


def _legs_normal(orders: np.ndarray) -> np.ndarray:
    roots = np.sqrt(2 * orders + 1)
    lower = np.tril(np.outer(roots, roots), -1) / 2
    return lower.T - lower - np.eye(len(orders)) / 2


def _square(name: str, matrix: Callable[[np.ndarray], np.ndarray]) -> Recipe:
    """A recipe for the last two axes, which the leading ones repeat."""
    draw = functools.partial(_fill_square, matrix)
    check = functools.partial(_check_square, name)
    return Recipe(draw, check, "floating", shards=False)


def _fill_square(
    matrix: Callable[[np.ndarray], np.ndarray],
    key: Any,
    shape: Shape,
    dtype: np.dtype,
    _: OutSharding,
) -> jax.Array:
    return jnp.broadcast_to(jnp.asarray(matrix(_orders(shape)), dtype), shape)


def _check_square(name: str, shape: Shape):
    if len(shape) < 2 or (shape[-1] != shape[-2] and 0 not in shape):
        raise ValueError(f"{name} needs a shape (..., N, N), got {shape}")


def _along(
    name: str, sequence: Callable[[np.ndarray], np.ndarray], axis: int
) -> Recipe:
    """A recipe for one axis, which all others repeat."""
    draw = functools.partial(_fill_along, sequence, axis)
    check = functools.partial(_check_axis, name, axis)
    return Recipe(draw, check, "floating", shards=False)


def _fill_along(
    sequence: Callable[[np.ndarray], np.ndarray],
    axis: int,
    key: Any,
    shape: Shape,
    dtype: np.dtype,
    _: OutSharding,
) -> jax.Array:
    return repeated_along(axis, sequence(_orders(shape, axis)), shape, dtype)


def _check_axis(name: str, axis: int, shape: Shape):
    if not -len(shape) <= axis < len(shape):
        raise ValueError(f"axis {axis} of {name} does not exist in shape {shape}")
