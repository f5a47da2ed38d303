"""Biases with a purpose: gates that remember, units that start alive."""

from __future__ import annotations

import functools
import operator
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from jaxinit.initializers._initializer import OutSharding, Recipe, Shape, initializer
from jaxinit.initializers._numbers import (
    check_index,
    check_number,
    check_positive,
    repeated_along,
)

Blocks = Mapping[int, jax.Array]


@initializer
def forget_gates(
    value: Any = 1.0,
    *,
    gates: int = 4,
    forget_gate: int = 1,
    axis: int = -1,
    dtype: Any = None,
):
    r"""Fill the forget gate's block of a fused bias with a value, the rest with zeros.

    A forget gate with bias 0 halves its memory at every step; with 1 it keeps
    sigmoid(1) = 0.73 of it, and the gradient reaches further back from the start.

    The order of the gates is that of the cell. Flax's ``nnx.OptimizedLSTMCell`` (input,
    forget, cell, output: the default here) and Keras's LSTM keep all of them in one
    bias; so do ``nnx.GRUCell`` (reset, update, candidate: ``gates=3``, whose update
    gate is the one that remembers) and ``linen.ConvLSTMCell`` (``forget_gate=2``, and
    it adds 1 by itself). The other LSTM cells of Flax, in linen and nnx, have a bias
    for each gate and one ``bias_init`` for all of them, which would be quartered here:
    set the leaf ``hf/bias`` alone to ``constant(1.0)``.

    Args:
      value: the bias of the forget gate.
      gates: how many equal blocks lie along the axis.
      forget_gate: which of them is the forget gate, counted from 0.
      axis: the axis of the fused gates.
      dtype: used where the call gives none.

    Raises:
      ValueError: at once, for a gate that does not exist; at the call, for an axis that
        does not exist or that the gates do not fill.

    Example:
      >>> import jax
      >>> print(forget_gates()(jax.random.key(0), (8,)))
      [0. 0. 1. 1. 0. 0. 0. 0.]

    Source: Gers, Schmidhuber & Cummins 2000; Jozefowicz, Zaremba & Sutskever 2015,
    section 2.2.
    """
    check_number("value", value)
    _check_gates(gates, forget_gate=forget_gate)
    fill = functools.partial(_fill_forget, value, forget_gate % gates)
    return _gated("forget_gates", fill, gates, axis)


@initializer
def chrono(
    max_steps: Any,
    *,
    gates: int = 4,
    forget_gate: int = 1,
    input_gate: int | None = 0,
    axis: int = -1,
    dtype: Any = None,
):
    r"""Draw gate biases so that memories last from 2 to `max_steps` steps.

    .. math:: b_f = \log u, \quad u \sim U(1, T_{max} - 1), \qquad b_i = -b_f

    and zeros elsewhere. A gate with bias b_f forgets over 1 / (1 - sigmoid(b_f)) =
    1 + u steps, which is uniform on [2, T_max]; the input gate lets in what is
    forgotten. For sequences with dependencies of known range.

    Fused biases only, as in :func:`forget_gates`, where the orders of gates are.

    Args:
      max_steps: T_max, the longest dependency expected; more than 2.
      gates: how many equal blocks lie along the axis.
      forget_gate: which of them is the forget gate, counted from 0.
      input_gate: which of them is the input gate; None for cells that have none (GRU).
      axis: the axis of the fused gates.
      dtype: used where the call gives none.

    Raises:
      ValueError: at once, for gates that do not exist or are the same; at the call, for
        an axis that does not exist or that the gates do not fill.

    Example:
      >>> import jax
      >>> bias = chrono(100)(jax.random.key(0), (4 * 64,)).reshape(4, 64)
      >>> bool((bias[0] == -bias[1]).all()), bool((bias[2:] == 0).all())
      (True, True)
      >>> bool(((bias[1] >= 0) & (bias[1] <= 4.6)).all())  # log(99) is 4.595
      True

    Source: Tallec & Ollivier 2018 (arXiv:1804.11188), the chrono initialization.
    """
    check_number("max_steps", max_steps)
    if not isinstance(max_steps, Tracer) and not max_steps > 2:
        raise ValueError(f"max_steps must be more than 2, got {max_steps!r}")
    _check_gates(gates, forget_gate=forget_gate, input_gate=input_gate)
    into = None if input_gate is None else input_gate % gates
    fill = functools.partial(_fill_chrono, max_steps, forget_gate % gates, into)
    return _gated("chrono", fill, gates, axis)


@initializer
def linspace_gates(
    start: Any = 3.4, stop: Any = 6.0, *, axis: int = -1, dtype: Any = None
):
    r"""Spread the biases of a gate evenly from `start` to `stop`, both included.

    .. math:: b_k = start + k \frac{stop - start}{n - 1}, \qquad k = 0 \dots n - 1

    In an xLSTM, whose forget gates have one bias for each head, the heads then remember
    over 1 + e^b steps: 31 to 404 for the defaults, evenly in the logarithm.

    Args:
      start: the first bias; an only one has it.
      stop: the last bias.
      axis: the axis along which they grow; they repeat along all others.
      dtype: used where the call gives none.

    Raises:
      ValueError: at the call, for a shape that does not have the axis.

    Example:
      >>> import jax
      >>> print(linspace_gates(3.0, 6.0)(jax.random.key(0), (4,)))
      [3. 4. 5. 6.]

    Source: Beck et al. 2024 (arXiv:2405.04517), with the values of its authors' code.
    """
    check_number("start", start)
    check_number("stop", stop)
    draw = functools.partial(_spread, start, stop, axis)
    check = functools.partial(_check_axis, "linspace_gates", axis)
    return Recipe(draw, check, "floating", shards=False)


@initializer
def positive_relu_bias(value: Any = 0.01, dtype: Any = None):
    r"""Fill the biases of ReLU units with one small positive value.

    A unit that is negative for every input has no gradient and stays dead, and behind
    a layer that is all dead nothing ever gets through. With a positive bias a unit that
    hears nothing is still on, so that the death of one layer is not that of all behind
    it: in ten layers of width 2 with :func:`he_normal`, 17% of the units are dead
    instead of 63%. In wide or normalized networks it does next to nothing, and zeros
    are usual.

    Args:
      value: of every bias, 0.01 to 1.
      dtype: used where the call gives none.

    Example:
      >>> import jax
      >>> print(positive_relu_bias(0.1)(jax.random.key(0), (3,)))
      [0.1 0.1 0.1]

    Source: Krizhevsky, Sutskever & Hinton 2012, section 5 (1); Goodfellow, Bengio &
    Courville 2016, "Deep Learning", section 6.3.1 (0.1).
    """
    check_positive("value", value)
    return Recipe(functools.partial(_fill, value), accepts="floating")


def _fill(
    value: Any, key: Any, shape: Shape, dtype: np.dtype, out_sharding: OutSharding
) -> jax.Array:
    return jnp.full(shape, value, dtype, out_sharding=out_sharding)


# ----------------------------------------------------------------------------- gates


def _check_gates(gates: int, **named: int | None):
    try:
        count = operator.index(gates)
    except TypeError:
        raise TypeError(f"gates must be an integer, got {gates!r}") from None
    if count < 1:
        raise ValueError(f"gates must be at least 1, got {gates}")
    seen: dict[int, str] = {}
    for name, gate in named.items():
        if gate is None:
            continue
        check_index(name, gate, count)
        if other := seen.get(gate % count):
            raise ValueError(f"{other} and {name} are the same gate, {gate}")
        seen[gate % count] = name


def _check_axis(name: str, axis: int, shape: Shape):
    if not -len(shape) <= axis < len(shape):
        raise ValueError(f"axis {axis} of {name} does not exist in shape {shape}")


def _check_filled(name: str, gates: int, axis: int, shape: Shape):
    _check_axis(name, axis, shape)
    if shape[axis] % gates:
        raise ValueError(
            f"the {gates} gates of {name} do not fill axis {axis} of shape {shape}, "
            f"which has size {shape[axis]}"
        )


def _gated(name: str, fill: Any, gates: int, axis: int) -> Recipe:
    """A recipe for a fused bias, from what gives the blocks that are not zero."""
    draw = functools.partial(_draw_gates, fill, gates, axis)
    check = functools.partial(_check_filled, name, gates, axis)
    return Recipe(draw, check, "floating", shards=False)


def _draw_gates(
    fill: Any,
    gates: int,
    axis: int,
    key: Any,
    shape: Shape,
    dtype: np.dtype,
    _: OutSharding,
) -> jax.Array:
    axis %= len(shape)
    one = (*shape[:axis], shape[axis] // gates, *shape[axis + 1 :])
    filled: Blocks = fill(key, one, dtype)
    zeros = jnp.zeros(one, dtype)
    return jnp.concatenate([filled.get(gate, zeros) for gate in range(gates)], axis)


def _fill_forget(
    value: Any, forget: int, key: Any, shape: Shape, dtype: np.dtype
) -> Blocks:
    return {forget: jnp.full(shape, value, dtype)}


def _fill_chrono(
    max_steps: Any,
    forget: int,
    into: int | None,
    key: Any,
    shape: Shape,
    dtype: np.dtype,
) -> Blocks:
    share = jax.random.uniform(key, shape, dtype)
    # log U(1, T - 1), without the cancellation of 1 + (T - 2) u at small u.
    bias = jnp.log1p(share * jnp.asarray(max_steps - 2, dtype))
    return {forget: bias} if into is None else {forget: bias, into: -bias}


def _spread(
    start: Any,
    stop: Any,
    axis: int,
    key: Any,
    shape: Shape,
    dtype: np.dtype,
    _: OutSharding,
) -> jax.Array:
    traced = isinstance(start, Tracer) or isinstance(stop, Tracer)
    # Numbers are spread on the host, so that no compiler rounds them otherwise.
    line = (jnp if traced else np).linspace(start, stop, shape[axis])
    return repeated_along(axis, line, shape, dtype)
