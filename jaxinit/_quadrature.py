"""Means of functions of one number over the standard normal distribution.

The functions are activations and their derivatives: smooth, kinked or with jumps, in
places nobody tells us, and known only at the precision of float32. So panels are
halved until each is smooth, or too small to matter. Smoothness is read off the last
Chebyshev coefficients of a panel, not off the difference of two rules: for a kink or a
jump the coefficients fall slowly wherever in the panel it lies, whereas two rules may
agree by accident. The end points are nodes, so nothing hides between two panels.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

import numpy as np

# One function or several at once: nodes (n,) -> values (functions, n), in float64.
Integrand = Callable[[np.ndarray], np.ndarray]

# The density at the ends is 2e-37 of its peak: what grows no faster than exp(4 |z|)
# has less than 1e-6 of its mean square outside.
REACH = 13.0
# How much the outermost panels may hold before the mean counts as infinite.
_LARGEST_END = 1e-6
# Panels evaluated before giving up, and the relative error that is still handed out.
_BUDGET = 60_000
_LARGEST_ERROR = 1e-5

_WIDTHS = 64  # panels of equal width at the start
_HALVINGS = 16  # of the two panels beside 0, where functions of sqrt(q) z are narrow
_DEGREE = 16


class NoMean(ValueError):
    """A mean that is infinite, or that cannot be computed; the text says which."""


def normal_means(
    integrand: Integrand, *, tolerance: float, noise: float
) -> np.ndarray:  # (functions,)
    """E[g(z)] for z ~ N(0, 1) and each function g of the integrand.

    Args:
      integrand: takes the nodes, in [-13, 13], as a vector of float64.
      tolerance: what the error of one panel may be, relative to E|g|. A jump leaves
        an error of about this size, a smooth stretch one that is far smaller.
      noise: relative rounding error of the integrand; no panel is made more
        accurate than that.

    Raises:
      NoMean: the mean is infinite (the ends of the range hold a part of it), or the
        function moves too fast to be resolved.

    Example:
      >>> means = normal_means(lambda z: z[None] ** 4, tolerance=1e-9, noise=0.0)
      >>> means.round(6).tolist()
      [3.0]
    """
    left, right = _first_panels()
    mean = settled_size = settled_error = np.zeros(())
    evaluated = 0
    while left.size:
        means, sizes, errors = _panels(integrand, left, right)  # (functions, panels)
        size = settled_size + sizes.sum(axis=1)
        if not evaluated and np.any(sizes[:, [0, -1]] > _LARGEST_END * size[:, None]):
            raise NoMean(f"grows so fast that its mean lies beyond |z| = {REACH:.0f}")
        evaluated += left.size
        allowed = np.maximum(tolerance * size[:, None], noise * sizes)
        rough = np.any(errors > allowed, axis=0)  # (panels,)
        if evaluated > _BUDGET:
            if np.any(settled_error + errors.sum(axis=1) > _LARGEST_ERROR * size):
                raise NoMean("jumps, oscillates or scatters too fast to be integrated")
            rough[:] = False
        mean = mean + means[:, ~rough].sum(axis=1)
        settled_size = settled_size + sizes[:, ~rough].sum(axis=1)
        settled_error = settled_error + errors[:, ~rough].sum(axis=1)
        left, right = left[rough], right[rough]
        middle = (left + right) / 2
        left, right = np.append(left, middle), np.append(middle, right)
    return mean


def _first_panels() -> tuple[np.ndarray, np.ndarray]:
    edges = np.linspace(0.0, REACH, _WIDTHS // 2 + 1)
    towards_zero = edges[1] * 0.5 ** np.arange(_HALVINGS, 0, -1)
    edges = np.concatenate([[0.0], towards_zero, edges[1:]])
    edges = np.concatenate([-edges[:0:-1], edges])
    return edges[:-1], edges[1:]


def _panels(
    integrand: Integrand, left: np.ndarray, right: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Integral, integral of the modulus and error of each function on each panel."""
    nodes, weights, last_coefficients = _rule()
    half = (right - left) / 2
    points = (left + right)[:, None] / 2 + half[:, None] * nodes  # (panels, nodes)
    density = np.exp(-(points**2) / 2) / math.sqrt(2 * math.pi)
    values = integrand(points.ravel()).reshape(-1, *points.shape) * density
    roughness = np.abs(values @ last_coefficients).max(axis=-1)
    return (
        half * (values @ weights),
        half * (np.abs(values) @ weights),
        half * roughness,
    )


@functools.cache
def _rule() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Clenshaw-Curtis on [-1, 1]: nodes, weights, and the last three coefficients."""
    order = np.arange(_DEGREE + 1)
    angles = np.pi * order / _DEGREE
    ends_halved = np.where((order == 0) | (order == _DEGREE), 0.5, 1.0)
    # to_coefficients[j, k]: what the value at node j adds to coefficient k.
    to_coefficients = np.cos(np.outer(angles, order)) * (2 / _DEGREE)
    to_coefficients *= ends_halved[:, None] * ends_halved
    even = order % 2 == 0
    integrals = np.where(even, 2 / (1.0 - np.where(even, order, 0.0) ** 2), 0.0)
    return np.cos(angles), to_coefficients @ integrals, to_coefficients[:, -3:]
