"""What stands for the parameters and for the data where there are none."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxinit import _rules
from jaxinit._errors import RuleError
from jaxinit._paths import Name
from jaxinit._signal._places import examples_in
from jaxinit._signal._predict_draws import Draws
from jaxinit._signal._predict_values import (
    COUNT,
    EXAMPLE,
    NEURON,
    PLACE,
    SAME,
    Axes,
    Stack,
    Value,
    axes_for,
    roles_of,
)
from jaxinit._signal._program import Signal
from jaxinit._signal._use import Use

# Stands for a token; which one it is makes no difference to what is looked up.
_TOKENS = 1024


def stand_ins(
    signal: Signal,
    uses: Mapping[str, Sequence[Use]],
    draws: Draws,
    *,
    variance: Any,
    input: tuple[float, float],
    correlation: float,
) -> list[Any]:
    """A value for each input of the program; see :func:`jaxinit.predict_signal`."""
    ruled = {} if variance is None else _variances(variance, signal.names)
    found: list[Any] = []
    for name, leaf in signal.params.items():
        if name in ruled:
            found.append(_drawn(leaf.shape, leaf.dtype, 0.0, ruled[name], draws))
        elif _is_shape(leaf):
            mean, own = _usual(uses[name.full], leaf.shape)
            found.append(_drawn(leaf.shape, leaf.dtype, mean, own, draws))
        elif 0 in {axis for use in uses[name.full] for axis in use.stacked}:
            rows = np.asarray(leaf)
            found.append(Stack(tuple(of_array(row, draws) for row in rows)))
        else:
            found.append(of_array(leaf, draws))
    batch = examples_in(signal)
    arguments = jax.tree.unflatten(signal.in_tree, signal.leaves)[1:]
    for path, leaf in jax.tree_util.tree_leaves_with_path(arguments):
        shape, dtype = np.shape(leaf), jnp.result_type(leaf)
        if jax.dtypes.issubdtype(dtype, jax.dtypes.prng_key):
            found.append(KEY)
        elif _is_shape(leaf) and shape[:1] != (batch,) and (own := _statistic(path)):
            found.append(constant(own == "var", leaf))
        elif _is_shape(leaf) or (shape and shape[0] == batch):
            axes = _data_axes(shape, batch, jnp.issubdtype(dtype, jnp.inexact))
            found.append(_data(axes, dtype, input, correlation, draws))
        else:
            found.append(of_array(leaf, draws))
    return found


class Key:
    """Stands for a random key, of which nothing but noise is made."""


KEY = Key()


def of_array(array: Any, draws: Draws) -> Any:
    """Elements of an array whose numbers are known, with its mean and mean square."""
    if jax.dtypes.issubdtype(jnp.result_type(array), jax.dtypes.prng_key):
        return KEY
    numbers = np.asarray(array)
    axes = axes_for([NEURON if n > 1 else SAME for n in numbers.shape], numbers.shape)
    if not numbers.size or np.all(numbers == numbers.flat[0]):
        return constant(numbers.flat[0] if numbers.size else 0, numbers)
    flat = numbers.reshape(-1)
    chosen = flat[draws.uniform(0, flat.size, np.int64, COUNT)]
    if jnp.issubdtype(numbers.dtype, jnp.floating):
        wide, own = flat.astype(np.float64), chosen.astype(np.float64)
        if np.all(np.isfinite(wide)) and np.std(own) > 0:
            own = (own - np.mean(own)) * (np.std(wide) / np.std(own)) + np.mean(wide)
            chosen = own.astype(numbers.dtype)
    return Value(chosen.reshape(COUNT, 1, 1), axes, True)


def noise(like: Any, batch: int | None, draws: Draws) -> Value:
    """Standard normal numbers in the place of an array's elements."""
    axes = _data_axes(like.shape, batch, floating=True)
    return _data(axes, like.dtype, (0.0, 1.0), 0.0, draws)


def constant(number: float, like: Any) -> Value:
    """An array all of whose elements are the same."""
    same = axes_for([SAME] * len(like.shape), like.shape)
    return Value(np.full((1, 1, 1), number, like.dtype), same, True)


def _statistic(path: Sequence[Any]) -> str | None:
    """Whether an argument is the running mean or variance of a normalization."""
    names = re.findall(r"\w+", jax.tree_util.keystr(tuple(path[-2:])))
    return next((name for name in names if name in ("mean", "var")), None)


def _is_shape(leaf: Any) -> bool:
    return isinstance(leaf, jax.ShapeDtypeStruct)


def _variances(rules: Any, names: Sequence[Name]) -> dict[Name, float]:
    if isinstance(rules, (int, float)):
        rules = [(".*", rules)]
    found = _rules.assign(rules, names, argument="variance")
    for name, value in found.items():
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if not (number and 0 <= value < math.inf):
            raise RuleError(
                f"variance: the value for {name.full!r} must be a number of at least "
                f"0, got {value!r}; give the variance of its elements, as in "
                "[('.*/kernel', 0.01)]"
            )
    return {name: float(value) for name, value in found.items()}


def _usual(several: Sequence[Use], shape: Sequence[int]) -> tuple[float, float]:
    """Mean and variance of a parameter of which only the shape is given."""
    for use in several:
        if use.is_product and use.fan_in:
            return 0.0, 1 / use.fan_in
    match several[0].kind:
        case "scale":
            return 1.0, 0.0
        case "gather":
            return 0.0, 1 / max(math.prod(shape[axis] for axis in _row(several)), 1)
        case "input":
            return 0.0, 1.0
    return 0.0, 0.0


def _row(several: Sequence[Use]) -> tuple[int, ...]:
    return several[0].out_axis


def _drawn(
    shape: Sequence[int], dtype: Any, mean: float, variance: float, draws: Draws
) -> Value:
    axes = axes_for([NEURON if n > 1 else SAME for n in shape], shape)
    if not variance:
        return constant(mean, jax.ShapeDtypeStruct(shape, dtype))
    numbers = draws.gaussian(np.full(4, mean), variance * np.ones((4, 4)))
    return Value(numbers[:, :1, :1].astype(dtype), axes, True)


def _data_axes(shape: Sequence[int], batch: int | None, floating: bool) -> Axes:
    """Examples first if they are as many as the batch, features last, else places."""
    roles = [PLACE] * len(shape)
    if shape and floating:
        roles[-1] = NEURON
    if shape and shape[0] == batch:
        roles[0] = EXAMPLE
    return axes_for(roles, shape)


def _data(
    axes: Axes,
    dtype: Any,
    input: tuple[float, float],
    correlation: float,
    draws: Draws,
) -> Value:
    roles = roles_of(axes)
    size = 1 + (EXAMPLE in roles), 1 + (PLACE in roles)
    if not jnp.issubdtype(dtype, jnp.inexact):
        high = 2 if jnp.issubdtype(dtype, jnp.bool_) else _TOKENS
        whole = draws.uniform(0, high, dtype, (COUNT, *size))
        return Value(whole, axes)
    mean, deviation = input
    covariance = np.eye(4)
    for place in (0, 1):  # columns: (example, place), places vary first
        covariance[place, 2 + place] = covariance[2 + place, place] = correlation
    numbers = draws.gaussian(np.full(4, mean), covariance * deviation**2)
    return Value(numbers[:, : size[0], : size[1]].astype(dtype), axes)
