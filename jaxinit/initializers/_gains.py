"""What an activation does to the size of a signal: its gains and its edge of chaos."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator
from typing import Literal, NamedTuple, get_args

import numpy as np
from jax.core import Tracer

from jaxinit._quadrature import NoMean
from jaxinit.initializers._activations import (
    Activation,
    Evaluated,
    check_function,
    remembered,
)
from jaxinit.initializers._options import check_nonnegative

Direction = Literal["forward", "backward"]


def gain(activation: Activation, *, direction: Direction = "forward") -> float:
    r"""The factor that gives back the root mean square which an activation takes away.

    .. math::
        g_{forward} = \frac{1}{\sqrt{\mathrm{E}[f(z)^2]}}, \qquad
        g_{backward} = \frac{1}{\sqrt{\mathrm{E}[f'(z)^2]}}, \qquad z \sim N(0, 1)

    Weights of standard deviation ``gain(f) / sqrt(fan_in)`` behind an f keep the mean
    square of the signal from layer to layer; ``gain(f, direction="backward") /
    sqrt(fan_out)`` keeps that of its gradient. For ReLU both are sqrt(2).

    Integrated by adaptive quadrature, wherever f kinks or jumps, to about 1e-6
    relative (1e-11 in 64-bit mode); f is evaluated in JAX's default float type. It may
    be called while tracing. The results for plain functions, and partials of them, are
    remembered: as for ``jax.jit``, a function is taken to compute the same every time.

    Args:
      activation: the function f of one array, elementwise, of jax operations:
        ``jax.nn.silu``, a lambda, ``functools.partial(jax.nn.leaky_relu,
        negative_slope=0.2)``. One that returns 16-bit floats gets what these hold, 2
        or 3 digits.
      direction: ``"forward"`` or ``"backward"``.

    Raises:
      TypeError: the activation is a name, a class, a module that needs parameters, or
        does not take and return one real array.
      ValueError: the direction is unknown; f is not elementwise, closes over a traced
        value, is not finite or grows so fast that its mean square is infinite; or the
        gain is, since f is zero everywhere or (backward) piecewise constant.

    Example:
      >>> import jax
      >>> round(gain(jax.nn.relu), 4)
      1.4142
      >>> round(gain(jax.nn.silu), 4), round(gain(jax.nn.silu, direction="backward"), 4)
      (1.6765, 1.6233)
      >>> round(gain(lambda x: jax.numpy.maximum(x, 0.5 * x)), 4)
      1.2649

    Source: He et al. 2015 (arXiv:1502.01852), equations 10 (forward) and 14
    (backward), for ReLU; the same derivation holds for any f.
    """
    check_function(activation)
    if direction not in get_args(Direction):
        raise ValueError(
            f"direction must be one of {get_args(Direction)}, got {direction!r}"
        )
    return remembered(_gain, activation, direction)


class EdgeOfChaos(NamedTuple):
    """The variances of :func:`edge_of_chaos`."""

    weight_variance: float
    fixed_point: float


def edge_of_chaos(activation: Activation, *, bias_variance: float) -> EdgeOfChaos:
    r"""The weight variance at which a deep network neither forgets nor scrambles.

    With :math:`\sigma_b^2` given, finds :math:`\sigma_w^2` and :math:`q^*` such that

    .. math::
        \chi = \sigma_w^2 \, \mathrm{E}[f'(\sqrt{q^*} z)^2] = 1, \qquad
        q^* = \sigma_w^2 \, \mathrm{E}[f(\sqrt{q^*} z)^2] + \sigma_b^2,
        \qquad z \sim N(0, 1)

    The variance of the pre-activations settles at q*, and there small differences
    between two inputs, and gradients, neither shrink nor grow from layer to layer. Use
    it for deep plain networks of tanh-like activations: weights of standard deviation
    ``sqrt(weight_variance / fan_in)``, normal biases of variance ``bias_variance``.

    Of several fixed points the smallest stable one is returned, where stable means that
    a variance beside q* moves towards it: :math:`\sigma_w^2 \,
    \partial_q \mathrm{E}[f(\sqrt q z)^2] < 1`. With ``bias_variance=0`` and f(0) = 0
    that is q* = 0, if it attracts, with :math:`\sigma_w^2 = 1 / f'(0)^2` (where f kinks
    at 0, the mean of the squares of its two slopes). For ReLU and its leaky kin, linear
    on either side of 0, every variance is a fixed point of
    :math:`\sigma_w^2 = g^2`; q* = 1 stands for all of them.

    Args:
      activation: as for :func:`gain`.
      bias_variance: of the biases, at least 0.

    Returns:
      ``(weight_variance, fixed_point)``, the first to 4 digits, the second to 3, or
      better; where rounding errors leave fewer, an error says so.

    Raises:
      TypeError: as for :func:`gain`, or ``bias_variance`` is not a number.
      ValueError: as for :func:`gain`, the bias variance is negative or not finite, or
        there is no edge of chaos: ReLU with bias variance has no fixed point, GELU and
        SiLU with little have none that is stable.

    Example:
      >>> import jax
      >>> weight_variance, fixed_point = edge_of_chaos(jax.nn.tanh, bias_variance=0.05)
      >>> round(weight_variance, 3), round(fixed_point, 3)
      (1.761, 0.57)

    Source: Poole et al. 2016 (arXiv:1606.05340), section 2: the length map and
    :math:`\chi_1`; Schoenholz et al. 2017 (arXiv:1611.01232) for the edge itself.
    """
    check_function(activation)
    if isinstance(bias_variance, Tracer):
        raise TypeError(
            f"bias_variance must be a number that is known while tracing, got "
            f"{bias_variance}: solve for the edge of chaos outside the transformation"
        )
    if np.ndim(bias_variance):
        raise TypeError(f"bias_variance must be one number, got {bias_variance!r}")
    check_nonnegative("bias_variance", bias_variance)
    return remembered(_edge_of_chaos, activation, float(bias_variance))


# ------------------------------------------------------------------------------- gains


def _gain(activation: Activation, direction: Direction) -> float:
    backward = direction == "backward"
    evaluate = Evaluated(activation, slopes=backward)
    mean = evaluate.means(lambda z: evaluate(z)[-1][None] ** 2)[0]
    if mean == 0 and backward:
        raise evaluate.zero_slope()
    if mean == 0:
        raise ValueError(
            f"{evaluate.name} is zero everywhere: no gain gives back what it takes away"
        )
    return 1 / math.sqrt(mean)


# ----------------------------------------------------------------------- edge of chaos

# Fixed points are looked for on a grid, from the bias variance (there is none below) to
# this many times more; without bias variance from here, less where f(0) is not 0.
_START, _SMALLEST_START = 1e-3, 1e-6
_LARGEST_RATIO = 1e6
_GRID_STEP = 10**0.25
# A root counts where the equation is resolved this far on either side of it.
_ROOT_WIDTH = 1e-3


class _Moments(NamedTuple):
    """At one q, with x = sqrt(q) z: E[f(x)^2], its derivative in q, and E[f'(x)^2]."""

    square: float
    growth: float
    slope_square: float


class _Lengths:
    """How layers of one activation move the variance of their pre-activations."""

    def __init__(self, activation: Activation):
        self.evaluate = Evaluated(activation, slopes=True)
        self.at = functools.cache(self._moments)
        # What rounding leaves of E[f(x)^2] in a difference.
        self.resolution = 4 * self.evaluate.tolerance

    def _moments(self, q: float) -> _Moments:
        def integrand(z: np.ndarray) -> np.ndarray:
            value, slope = self.evaluate(math.sqrt(q) * z)
            # The second is q d/dq of the first, by Stein's lemma: it holds for jumps
            # and for surrogate gradients too, as 2 f f' would not.
            return np.stack([value**2, value**2 * (z**2 - 1) / 2, slope**2])

        square, growth, slope_square = self.evaluate.means(integrand).tolist()
        return _Moments(square, growth / q, slope_square)

    def excess(self, q: float, bias_variance: float) -> tuple[float, float]:
        """q less the next layer's, times E[f'^2], where chi = 1; and its rounding."""
        moments = self.at(q)
        drift = (q - bias_variance) * moments.slope_square - moments.square
        return drift, self.resolution * moments.square

    def is_homogeneous(self) -> bool:
        """Whether f(cx) = c f(x) for positive c, as seen at three far values of q."""
        try:
            excesses = [self.excess(q, 0.0) for q in (1e-2, 1.0, 1e2)]
        except NoMean:
            return False
        return all(abs(excess) <= 2 * rounding for excess, rounding in excesses)

    def slope_square_at_zero(self) -> float | None:
        """The limit of E[f'(x)^2] as q -> 0, if f(0) = 0 and the limit is not 0."""
        values, slopes = self.evaluate(np.array([0.0, 1e-7, -1e-7, 1e-4, -1e-4]))
        if abs(values[0]) > 1e-6 * math.sqrt(self.at(1.0).square):
            return None
        near, further = np.mean(slopes[1:3] ** 2), np.mean(slopes[3:] ** 2)
        settles = 0.9 * near < further < 1.1 * near
        return float(near) if settles else None

    def falls_to_zero(self, slope_square: float) -> bool:
        """Whether small variances shrink from layer to layer, or at least stay."""
        for q in (1e-3, 1e-2, 1e-1):
            excess = q * slope_square - self.at(q).square
            if abs(excess) > self.resolution * self.at(q).square:
                return excess > 0
        return True

    def fixed_points(self, bias_variance: float, start: float) -> Iterator[float]:
        """The q where chi = 1 keeps q, in ascending order, as far as f is finite."""
        steps = math.ceil(math.log(_LARGEST_RATIO * max(1, 1 / start), _GRID_STEP))
        low, was_positive = None, False
        for q in (start * _GRID_STEP**step for step in range(steps + 1)):
            try:
                excess, rounding = self.excess(q, bias_variance)
            except NoMean:
                return
            if abs(excess) <= rounding:
                continue
            if low is not None and was_positive != (excess > 0):
                yield self._root(low, q, bias_variance)
            low, was_positive = q, excess > 0

    def _root(self, low: float, high: float, bias_variance: float) -> float:
        # Imported here, since it takes longer than all else that initializers need.
        from scipy.optimize import brentq

        log_q = brentq(
            lambda log_q: self.excess(math.exp(log_q), bias_variance)[0],
            math.log(low),
            math.log(high),
            xtol=1e-10,
        )
        root = math.exp(log_q)
        for neighbour in (root * (1 - _ROOT_WIDTH), root * (1 + _ROOT_WIDTH)):
            excess, rounding = self.excess(neighbour, bias_variance)
            if abs(excess) <= rounding:
                raise ValueError(
                    f"rounding errors hide the fixed point of {self.evaluate.name} "
                    f"with bias_variance={bias_variance!r}: near q = {root:.2g} the "
                    "next layer has all but the same variance. Call within "
                    "jax.enable_x64(True), or use bias_variance=0"
                )
        return root


def _edge_of_chaos(activation: Activation, bias_variance: float) -> EdgeOfChaos:
    lengths = _Lengths(activation)
    name = lengths.evaluate.name
    if lengths.at(1.0).slope_square == 0:
        raise lengths.evaluate.zero_slope()
    if lengths.is_homogeneous():
        if bias_variance:
            raise ValueError(
                f"{name} has no edge of chaos with bias_variance={bias_variance!r}: it "
                "is linear on either side of 0, so where chi = 1 every layer adds the "
                "bias variance, and nothing takes it away. Use bias_variance=0"
            )
        return EdgeOfChaos(1 / lengths.at(1.0).slope_square, 1.0)
    unstable = []
    start = bias_variance or _SMALLEST_START
    at_zero = None if bias_variance else lengths.slope_square_at_zero()
    if at_zero is not None:
        if lengths.falls_to_zero(at_zero):
            return EdgeOfChaos(1 / at_zero, 0.0)
        unstable.append(0.0)
        start = _START
    for q in lengths.fixed_points(bias_variance, start):
        moments = lengths.at(q)
        if moments.growth < moments.slope_square:
            return EdgeOfChaos(1 / moments.slope_square, q)
        unstable.append(q)
    reason = "where chi = 1, no variance was found that the next layer keeps"
    if unstable:
        shown = ", ".join(f"{q:.4g}" for q in unstable)
        reason = (
            f"no fixed point attracts the variances beside it (q* = {shown}), so no "
            "network stays there; a larger bias variance may have one that does"
        )
    raise ValueError(
        f"{name} has no edge of chaos with bias_variance={bias_variance!r}: {reason}"
    )
