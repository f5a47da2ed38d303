"""Deterministic weights: every unit a sampled sine wave of its own."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np

from jaxinit.initializers._fans import Axes, Use, _roles_of_equation
from jaxinit.initializers._initializer import (
    OutSharding,
    Recipe,
    Shape,
    initializer,
    scaled_by,
)
from jaxinit.initializers._options import check_nonnegative
from jaxinit.initializers._scaling import Mode, _fan

# Steps of a turn are counted as far as float32 is exact, angles in 32-bit integers.
_MOST_STEPS, _MOST_TURNS = 2**24, 2**31 - 1


@initializer
def sinusoidal(
    scale: Any = 1.0,
    mode: Mode = "fan_avg",
    in_axis: Axes = -2,
    out_axis: Axes = -1,
    batch_axis: Axes = (),
    dtype: Any = None,
    *,
    groups: int = 1,
    strides: int | Sequence[int] = 1,
    transposed: bool = False,
    equation: str | None = None,
):
    r"""Fill with sine waves, one for each unit, with the variance that suits the use.

    .. math::
        w_{ji} = \sqrt{\frac{2\, scale}{n}}\,
        \sin\left(\frac{2 \pi k_i j}{I} + \varphi_i\right), \qquad j = 0 \ldots I - 1

    for input j of I (the in and spatial axes, flattened) and unit i of O, with the fan
    n of :func:`variance_scaling`. The frequencies are :math:`k_i = 1 + i \bmod F` with
    F = min(⌊(I - 1) / 2⌋, ⌈O / 2⌉); the units of one frequency divide the half circle
    of phases φ equally among them, from 0 on. Nothing is drawn, and the key is ignored.

    What holds for every shape, up to rounding:

    - the weights of each unit sum to 0 and have the mean square scale / n, as the whole
      weight has (with the defaults, the variance 2 / (fan_in + fan_out) of Glorot);
    - units of different frequencies are orthogonal, and so are the two of one frequency
      where there are two: all of them, up to 2 ⌊(I - 1) / 2⌋ units;
    - no two units are equal or opposite.

    Because of the first, a mean that all inputs share, as after ReLU, leaves every unit
    as often positive as negative; it is not passed on. Where units outnumber inputs a
    hundred times, 8- and 16-bit floats may round two units together.

    Args:
      scale: gain squared, as in :func:`variance_scaling`.
      mode: the n above, ``"fan_avg"`` as published.
      in_axis: axis or axes summed over.
      out_axis: axis or axes of the outputs, the units.
      batch_axis: axes that select independent weights, such as stacked layers; each has
        phases of its own between the others'.
      dtype: used where the call gives none.
      groups: ``feature_group_count`` of a convolution.
      strides: of a convolution.
      transposed: whether the convolution is transposed.
      equation: the einsum ``"input,weight->output"``, instead of axes.

    Raises:
      ValueError: at once for an unknown mode, a negative scale or an axis named twice;
        at the call for a shape that does not have the axes, that has fewer than three
        inputs (no full wave), or is so large that float32 cannot tell its waves apart.

    Example:
      >>> import jax
      >>> weight = sinusoidal(mode="fan_in")(jax.random.key(0), (65, 64))
      >>> round(float(abs(weight.T @ weight - jax.numpy.eye(64)).max()), 5)
      0.0

    Source: Fernández-Hernández et al. 2025 (arXiv:2505.12909), eq. 1 and theorem 3, for
    waves of this variance and sum. There unit i makes i oscillations, which repeats
    itself from I on, and is constant or alternating at the multiples of I / 2; here
    frequencies and phases are those of the discrete Fourier transform without these.
    """
    check_nonnegative("scale", scale)
    if mode not in get_args(Mode):
        raise ValueError(f"mode must be one of {get_args(Mode)}, got {mode!r}")
    use = Use(in_axis, out_axis, batch_axis, groups, strides, transposed, equation)
    return Recipe(
        functools.partial(_draw, scale, mode, use),
        check=functools.partial(_check, use),
        accepts="floating",
        shards=False,
    )


class _Axes(NamedTuple):
    """The axes of a weight that count its matrices, their inputs and their units."""

    batch: tuple[int, ...]
    inputs: tuple[int, ...]
    units: tuple[int, ...]

    def sizes(self, shape: Shape) -> tuple[int, int, int]:
        batch, inputs, units = (math.prod(shape[a] for a in axes) for axes in self)
        return batch, inputs, units


def _axes_of(use: Use, shape: Shape) -> _Axes:
    if use.equation is not None:
        labels, roles = _roles_of_equation(use.equation)
        role_of = [roles[label] for label in labels]
    else:
        named = use.roles(shape)
        role_of = ["in"] * len(shape)  # the spatial axes are inputs too
        for role in ("out", "batch"):
            for axis in named[f"{role}_axis"]:
                role_of[axis] = role
    batch, inputs, units = (
        tuple(axis for axis, role in enumerate(role_of) if role == wanted)
        for wanted in ("batch", "in", "out")
    )
    return _Axes(batch, inputs, units)


def _frequencies(inputs: int, units: int) -> int:
    """How many frequencies are used: two units for each, or all that there are."""
    return min((inputs - 1) // 2, (units + 1) // 2)


def _check(use: Use, shape: Shape):
    use.fans(shape)
    if 0 in shape:
        return
    batch, inputs, units = _axes_of(use, shape).sizes(shape)
    if inputs < 3:
        raise ValueError(
            f"sinusoidal needs at least 3 inputs for a wave of sum 0, got {inputs} in "
            f"shape {shape}"
        )
    count = _frequencies(inputs, units)
    steps = 2 * inputs * batch * -(-units // count)
    if steps > _MOST_STEPS or inputs * count > _MOST_TURNS:
        raise ValueError(
            f"sinusoidal cannot tell the waves of a weight of shape {shape} apart in "
            f"float32: {batch * units} units, {inputs} inputs each"
        )


def _draw(
    scale: Any,
    mode: Mode,
    use: Use,
    key: Any,
    shape: Shape,
    dtype: np.dtype,
    out_sharding: OutSharding,
) -> jax.Array:
    axes = _axes_of(use, shape)
    waves = _waves(*axes.sizes(shape), dtype)
    amplitude = jnp.sqrt(jnp.asarray(2 * scale / _fan(use.fans(shape), mode), dtype))
    order = (*axes.batch, *axes.inputs, *axes.units)
    waves = jnp.reshape(waves, tuple(shape[axis] for axis in order))
    return scaled_by(jnp.transpose(waves, np.argsort(order).tolist()), amplitude)


# One program instead of two dozen where nothing else is compiled around it.
@functools.partial(jax.jit, static_argnums=(0, 1, 2, 3))
def _waves(batch: int, inputs: int, units: int, dtype: np.dtype) -> jax.Array:
    """sin(2π k j / inputs + φ) of shape (batch, inputs, units), its angles exact.

    An angle is a whole number of steps, 2 · inputs · batch · slots of which make a
    turn, where `slots` is the number of units that share a frequency. The integers are
    brought within a quarter turn of 0 before they become floats.
    """
    shape = (batch, inputs, units)
    b, j, i = (jax.lax.broadcasted_iota(np.int32, shape, axis) for axis in range(3))
    count = _frequencies(inputs, units)
    fewer, extra = divmod(units, count)  # the first `extra` frequencies hold one more
    more = i % count < extra
    slots = jnp.where(more, fewer + 1, fewer)
    turn = 2 * inputs * batch * slots
    steps = (1 + i % count) * j % inputs * (2 * batch * slots)
    steps = (steps + inputs * (i // count * batch + b)) % turn
    steps = jnp.where(4 * steps > 3 * turn, steps - turn, steps)
    steps = jnp.where(4 * steps > turn, turn // 2 - steps, steps)
    one_of_more = jnp.asarray(np.pi / (inputs * batch * (fewer + 1)), dtype)
    one = jnp.where(more, one_of_more, np.pi / (inputs * batch * fewer))
    return jnp.sin(jnp.multiply(steps.astype(dtype), one))
