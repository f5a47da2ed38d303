"""Does a layer with weights from this initializer keep the variance of its signal?"""

from __future__ import annotations

import dataclasses
import functools
import math
import operator
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxinit import _bounds
from jaxinit.testing._arrays import average, is_traced, namespace, require

# The least number of weight draws, and of weights, inputs and outputs that enter the
# measurement. The mean of that many squares is known within 1%, and so little skewed
# that Student's quantile holds far into the tails.
_LEAST_REPLICATES = 32
_BUDGET = 2**18
# Weights with fewer numbers than this are drawn many at once, which runs faster; larger
# ones alone, which compiles faster.
_TINY, _AT_ONCE = 32, 256

Axes = int | Sequence[int]


def assert_variance_preserved(
    init: Callable[..., Any],
    shape: Sequence[int],
    *,
    key: Any,
    activation: Callable[[Any], Any] | None = None,
    in_axis: Axes = -2,
    out_axis: Axes = -1,
    batch_axis: Axes = (),
    apply: Callable[[Any, Any], Any] | None = None,
    input_shape: Sequence[int] | None = None,
    dtype: Any = None,
    replicates: int | None = None,
    examples: int | None = None,
    failure_rate: float = 1e-9,
):
    """Assert that a layer keeps the second moment of its signal: E|W f(z)|² = 1.

    z are standard normal pre-activations, f the activation in front of the weight (the
    identity if none), W drawn by `init`. It is 1 for fan-in scaling with the gain
    1/√E[f(z)²], for every f; where f is homogeneous (ReLU, leaky ReLU) it is the same
    as E|f(Wz)|² = 1.

    The mean square of the outputs fluctuates with the weights and with the inputs, and
    outputs that share either depend on each other. So the measurement is repeated with
    independent keys, each time with new weights and new inputs. The means of the R
    replicates are independent and alike, and their average is off by at most Student's
    quantile with R − 1 degrees of freedom times their standard deviation over √R.
    Exact if those means are normal, which they nearly are since each averages many
    squares: with the default sizes the skewness that is left makes a rate of 1e-9 at
    most a few times larger, with fewer replicates or examples more.

    Args:
      init: ``init(key, shape)``, or with `dtype` ``init(key, shape, dtype)``; traced.
      shape: of the weight.
      key: a JAX random key.
      activation: an elementwise function in front of the weight.
      in_axis: the axis or axes of the weight that are its inputs.
      out_axis: those that are its outputs.
      batch_axis: those along which independent layers are stacked. Axes without a role
        are spatial, and summed over as the inputs are.
      apply: ``apply(weight, inputs) -> outputs``, a real layer in place of the sum over
        inputs and spatial axes. Weights and inputs come in at least 32 bits, inputs
        with a leading axis of examples. Padding lowers the outputs' variance: leave it
        out.
      input_shape: the shape of one example for `apply`; without it the batch, spatial
        and in axes in the order of the weight.
      dtype: in which to draw the weights; 16 bits widen the bound by their rounding.
      replicates: how many weights are drawn, at least 2.
      examples: how many inputs each of them is given.
      failure_rate: the probability that a sound initializer fails.

    Raises:
      AssertionError: the mean square is further from 1 than the bound.
      ValueError: an axis has two roles or is out of range, or an option is out of its
        range, or `init` returns another shape.

    >>> import jax
    >>> from jaxinit import initializers
    >>> assert_variance_preserved(
    ...     initializers.he_normal(),
    ...     (128, 64),
    ...     key=jax.random.key(0),
    ...     activation=jax.nn.relu,
    ... )
    """
    _bounds.check_failure_rate(failure_rate)
    shape = tuple(operator.index(size) for size in shape)
    if math.prod(shape) == 0:
        raise ValueError(f"shape {shape} has no elements: there is nothing to check")
    summed, outputs, batch = _roles(shape, in_axis, out_axis, batch_axis)
    if input_shape is None:
        input_shape = [shape[a] for a in range(len(shape)) if a not in outputs]
    elif apply is None:
        raise ValueError("input_shape is that of the inputs of apply; give apply too")
    input_shape = tuple(operator.index(size) for size in input_shape)
    if apply is None:
        apply = _Contraction(tuple(summed), tuple(batch))

    weights = math.prod(shape)
    if replicates is None:
        replicates = max(_LEAST_REPLICATES, math.ceil(_BUDGET / weights))
    if replicates < 2:
        raise ValueError(f"replicates must be at least 2, got {replicates}")
    if examples is None:
        rows, columns = math.prod(input_shape), math.prod(shape[a] for a in outputs)
        examples = math.ceil(_BUDGET / (replicates * max(1, min(rows, columns))))
    if examples < 1:
        raise ValueError(f"examples must be at least 1, got {examples}")

    dtype = None if dtype is None else np.dtype(dtype)
    weight = jax.eval_shape(lambda key: _weight(init, key, shape, dtype), key)
    if weight.shape != shape or not jnp.issubdtype(weight.dtype, jnp.inexact):
        raise ValueError(
            f"init was asked for floating numbers of shape {shape}, and returned "
            f"{weight.dtype.name}{list(weight.shape)}"
        )
    squares = _mean_squares(
        _hashable(init),
        _hashable(apply),
        activation if activation is None else _hashable(activation),
        shape,
        input_shape,
        dtype,
        replicates,
        examples,
        key,
    )
    if not is_traced(squares):
        squares = np.asarray(squares, np.float64)
    mean = average(squares)
    deviations = squares - mean
    error = namespace(squares).sqrt(average(deviations * deviations) / (replicates - 1))
    quantile = _bounds.student_limit(replicates, failure_rate)
    # Weights a relative u off change the square by 2u + u²; a sum of n products is off
    # by at most n units of the precision it is made in.
    stored, _ = _bounds.rounding_error(weight.dtype)
    eps = float(jnp.finfo(_wide(weight.dtype)).eps)
    rounding = 2 * stored + stored**2 + eps * math.prod(input_shape)
    limit = quantile * error + rounding
    require(
        abs(mean - 1) <= limit,
        "the mean square of the outputs is {:.6g} times that of the signal in front of "
        "the layer, allowed is 1 within {:.6g}: a standard error of {:.3g} from "
        f"{replicates} weights of shape {shape} with {examples} inputs each, times the "
        f"Student quantile {quantile:.4g} for a failure rate of {failure_rate:g}. "
        "Compare the fan of the initializer with in_axis and out_axis, and its gain "
        "with the activation",
        mean,
        limit,
        error,
    )


@functools.partial(jax.jit, static_argnums=range(8))
def _mean_squares(
    init: Callable[..., Any],
    apply: Callable[[Any, Any], Any],
    activation: Callable[[Any], Any] | None,
    shape: tuple[int, ...],
    input_shape: tuple[int, ...],
    dtype: np.dtype | None,
    replicates: int,
    examples: int,
    key: Any,
) -> Any:
    """The mean square of the outputs for each of the replicates."""

    def draw(key: Any) -> tuple[Any, Any]:
        weight_key, input_key = jax.random.split(key)
        weight = _weight(init, weight_key, shape, dtype)
        weight = weight.astype(_wide(weight.dtype))
        real = jnp.finfo(weight.dtype).dtype
        # Drawn flat: compiling random numbers of many axes takes several times as long.
        inputs = jax.random.normal(
            input_key, (examples * math.prod(input_shape),), real
        )
        return weight, inputs.reshape(examples, *input_shape)

    def measure(weight: Any, inputs: Any) -> Any:
        if activation is not None:
            inputs = activation(inputs)
        with jax.default_matmul_precision("highest"):
            outputs = apply(weight, inputs)
        magnitudes = jnp.abs(outputs).reshape(-1)
        return average(magnitudes * magnitudes)

    counts: tuple[int, ...] = (1 + replicates,)
    if math.prod(shape) < _TINY:
        draw, measure = jax.vmap(draw), jax.vmap(measure)
        counts = 1 + math.ceil(replicates / _AT_ONCE), _AT_ONCE

    def step(drawn: tuple[Any, Any], key: Any) -> tuple[tuple[Any, Any], Any]:
        # What one step draws, the next one measures. In one step the compiler may fuse
        # the two, and for a constant weight XLA's fused product on CPU is wrong.
        return draw(key), measure(*drawn)

    keys = jax.random.split(key, counts)
    shapes = jax.eval_shape(draw, keys[0])
    nothing = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
    _, squares = jax.lax.scan(step, nothing, keys)
    return squares[1:].reshape(-1)[:replicates]


@dataclasses.dataclass(frozen=True)
class _Contraction:
    """The sum over inputs and spatial axes; equal for equal axes, so compiled once."""

    summed: tuple[int, ...]
    batch: tuple[int, ...]

    def __call__(self, weight: Any, inputs: Any) -> Any:
        kept = sorted((*self.summed, *self.batch))  # the axes of an input, in order
        place = {axis: position + 1 for position, axis in enumerate(kept)}
        contracted = [place[axis] for axis in self.summed], list(self.summed)
        batched = [place[axis] for axis in self.batch], list(self.batch)
        inputs = inputs.astype(weight.dtype)
        return jax.lax.dot_general(inputs, weight, (contracted, batched))


def _weight(
    init: Callable[..., Any], key: Any, shape: tuple[int, ...], dtype: np.dtype | None
) -> Any:
    return init(key, shape) if dtype is None else init(key, shape, dtype)


def _wide(dtype: Any) -> np.dtype:
    narrow = jnp.issubdtype(dtype, jnp.floating) and np.dtype(dtype).itemsize < 4
    return np.dtype(np.float32) if narrow else np.dtype(dtype)


def _hashable(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function as jit can remember it: itself, or wrapped if it has no hash."""
    try:
        hash(function)
    except TypeError:
        return lambda *arguments: function(*arguments)
    return function


def _roles(
    shape: tuple[int, ...], in_axis: Axes, out_axis: Axes, batch_axis: Axes
) -> tuple[list[int], list[int], list[int]]:
    """The axes that are summed over, those of the outputs, those of the batch."""
    outputs = _axes("out_axis", out_axis, shape)
    batch = _axes("batch_axis", batch_axis, shape)
    named = [*_axes("in_axis", in_axis, shape), *outputs, *batch]
    for axis in named:
        if named.count(axis) > 1:
            raise ValueError(
                f"axis {axis} of shape {shape} is named twice among in_axis={in_axis}, "
                f"out_axis={out_axis} and batch_axis={batch_axis}; each axis has one "
                "role"
            )
    free = [axis for axis in range(len(shape)) if axis not in (*outputs, *batch)]
    return free, outputs, batch


def _axes(argument: str, axes: Axes, shape: tuple[int, ...]) -> list[int]:
    """The axes as a list of numbers from 0 on."""
    listed = [axes] if isinstance(axes, int) else list(axes)
    for axis in listed:
        if not -len(shape) <= axis < len(shape):
            raise ValueError(f"{argument}={axes!r} is out of range for shape {shape}")
    return [axis % len(shape) for axis in listed]
