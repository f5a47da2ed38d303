"""An activation as a function of numbers: checked, compiled once, usable anywhere."""

from __future__ import annotations

import functools
import types
from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from jaxinit._quadrature import NoMean, normal_means

Activation = Callable[[Any], Any]
_T = TypeVar("_T")

# Every activation is compiled for this one shape; the first panels of a mean fill it.
_BATCH = 2048
# Jumps would take dozens of halvings more for digits that nobody asked for.
_FINEST_TOLERANCE = 1e-12


class Evaluated:
    """An activation f as a function of any float64 vector, while tracing as well.

    Attributes:
      name: what error messages call the activation.
      tolerance: the accuracy that JAX's default float type leaves to an integral.
      noise: relative rounding error of the values.
    """

    def __init__(self, activation: Activation, *, slopes: bool):
        """Checks f, and compiles it: with its derivative, if the slopes are wanted."""
        check_function(activation)
        self.name = f"activation {_name(activation)}"
        self._dtype = jnp.result_type(float)
        self._points = jax.ShapeDtypeStruct((_BATCH,), self._dtype)
        output = self._output_type(activation)
        resolution = float(jnp.finfo(self._dtype).eps)
        self.tolerance = max(resolution, _FINEST_TOLERANCE)
        floating = jnp.issubdtype(output.dtype, jnp.floating)
        self.noise = 2 * (
            float(jnp.finfo(output.dtype).eps) if floating else resolution
        )
        function = activation
        if slopes:
            function = functools.partial(_value_and_slope, activation)
            self._traced(function, "differentiated")
        # A compiled program, called with numpy, computes at once in the midst of any
        # transformation; jax.ensure_compile_time_eval leaves jax.shard_map out.
        program = jax.jit(_anew(function))
        self._compiled = program.lower(self._points).compile()
        self._check_elementwise()

    def __call__(self, points: np.ndarray) -> list[np.ndarray]:
        """f at the points, and f' if asked for, in float64.

        Raises:
          NoMean: one of them is not finite.
        """
        batches = [
            self._batch(points[start : start + _BATCH])
            for start in range(0, points.size, _BATCH)
        ]
        columns = zip(*batches, strict=True)
        results = [np.concatenate(column)[: points.size] for column in columns]
        for what, values in zip(("", "the derivative of "), results, strict=False):
            if not np.all(np.isfinite(values)):
                worst = np.flatnonzero(~np.isfinite(values))
                worst = worst[np.argmin(np.abs(points[worst]))]
                raise NoMean(
                    f"{what}{self.name} is {values[worst]} at {points[worst]:.6g}; it "
                    "must be finite at every number"
                )
        return results

    def means(self, integrand: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
        """Means over the standard normal of what the integrand makes of the values."""
        try:
            return normal_means(integrand, tolerance=self.tolerance, noise=self.noise)
        except NoMean as error:
            if self.name in str(error):
                raise
            raise NoMean(
                f"{self.name} has no mean square that can be computed: it {error}"
            ) from None

    def zero_slope(self) -> ValueError:
        """The error of whoever finds that the derivative is zero."""
        return ValueError(
            f"the derivative of {self.name} is zero almost everywhere: no gradient "
            "passes through it, and no gain can change that; if it is trained with a "
            "surrogate gradient, give it that one by jax.custom_vjp"
        )

    def _batch(self, points: np.ndarray) -> list[np.ndarray]:
        padded = np.zeros(_BATCH, self._dtype)
        padded[: points.size] = points
        # Nothing of the user's passes here, so their guards have nothing to say.
        with jax.transfer_guard("allow"), jax.disable_jit(False):
            results = jax.tree.leaves(self._compiled(padded))
            return [np.asarray(result, np.float64) for result in results]

    def _output_type(self, activation: Activation) -> jax.ShapeDtypeStruct:
        output = self._traced(activation, "evaluated")
        if not isinstance(output, jax.ShapeDtypeStruct):
            raise TypeError(
                f"{self.name} returns a {type(output).__name__}; it must return one "
                "array"
            )
        if output.shape != (_BATCH,):
            raise ValueError(
                f"{self.name} turns shape {(_BATCH,)} into {output.shape}: it is not "
                "elementwise. Give the function that is applied to each number (of a "
                "gated unit: that of the gate)"
            )
        if jnp.issubdtype(output.dtype, jnp.complexfloating):
            raise TypeError(f"{self.name} returns {output.dtype}; it must be real")
        return output

    def _traced(self, function: Callable[[Any], Any], verb: str) -> Any:
        try:
            traced = jax.make_jaxpr(_anew(function), return_shape=True)
            program, output = traced(self._points)
        except Exception as error:
            raise TypeError(
                f"{self.name} cannot be {verb} on an array of shape {(_BATCH,)} and "
                f"dtype {self._dtype} ({type(error).__name__}: {_first_line(error)}); "
                "it must be a function of one array, made of jax operations"
            ) from error
        if any(isinstance(constant, Tracer) for constant in program.consts):
            raise ValueError(
                f"{self.name} closes over a traced value, but its gain is a number "
                "that is needed while tracing: compute it outside the transformation, "
                "from a concrete value (the initial one of a learned slope)"
            )
        return output

    def _check_elementwise(self):
        # The same numbers, in other places and in other company.
        half = _BATCH // 2
        same = np.linspace(-3.0, 3.0, half)
        larger, smaller = np.linspace(4.0, 13.0, half), np.linspace(-1.0, 0.0, half)
        before = self._batch(np.concatenate([same, larger]))[0][:half]
        after = self._batch(np.concatenate([smaller, same]))[0][half:]
        allowed = 1e-4 * np.max(np.abs(before), initial=0, where=np.isfinite(before))
        if not np.allclose(after, before, rtol=0, atol=allowed, equal_nan=True):
            raise ValueError(
                f"{self.name} is not elementwise: its value at a number depends on the "
                "rest of the array, so it has no gain. Give a function that is applied "
                "to each number by itself"
            )


def check_function(activation: Any) -> None:
    """Refuse what is not a function, and say how to pass one."""
    if isinstance(activation, str):
        raise TypeError(
            f"activation must be a function, got the name {activation!r}; pass the "
            f"function itself, {_function_named(activation)}"
        )
    if isinstance(activation, type):
        raise TypeError(
            f"activation must be a function, got the class {activation.__name__}; pass "
            "a function of one array, such as jax.nn.relu"
        )
    if not callable(activation):
        raise TypeError(
            f"activation must be a function of one array, such as jax.nn.relu, got "
            f"{activation!r}"
        )
    # As Flax linen and Haiku modules have them; those of nnx are called as they are.
    if hasattr(activation, "init") and hasattr(activation, "apply"):
        raise TypeError(
            f"activation must be a function of one array, got the module "
            f"{type(activation).__name__}, which needs its parameters; pass "
            "lambda x: module.apply(variables, x)"
        )


def remembered(compute: Callable[..., _T], activation: Activation, *options: Any) -> _T:
    """``compute(activation, *options)``, from memory where that is safe.

    Functions are known by identity, partials of them by content. Other callables and
    bound methods may change their state, and are computed each time.
    """
    function, arguments, keywords = activation, (), ()
    if isinstance(activation, functools.partial):
        function, arguments = activation.func, activation.args
        keywords = tuple(sorted(activation.keywords.items()))
    routines = types.FunctionType | types.BuiltinFunctionType
    constant = isinstance(function, routines) or (
        hasattr(function, "__wrapped__")  # by jax.jit, jax.custom_jvp and their like
        and not isinstance(function, types.MethodType)
    )
    try:
        hash((arguments, keywords))
    except TypeError:
        constant = False
    if not constant:
        return compute(activation, *options)
    return _remembered(
        compute, function, arguments, keywords, options, jnp.result_type(float)
    )


@functools.lru_cache(maxsize=128)
def _remembered(compute, function, arguments, keywords, options, dtype):
    del dtype  # part of the key: results in 64-bit mode are other results
    if arguments or keywords:
        function = functools.partial(function, *arguments, **dict(keywords))
    return compute(function, *options)


def _anew(function: Callable[[Any], Any]) -> Callable[[Any], Any]:
    # JAX knows traced functions by identity: another trace needs another function.
    return lambda points: function(points)


def _value_and_slope(activation: Activation, points: jax.Array) -> tuple:
    # By reverse mode, since it is the backward pass that a slope speaks of: surrogate
    # gradients (jax.custom_vjp) have no other.
    value, pull_back = jax.vjp(
        lambda points: jnp.asarray(activation(points)).astype(points.dtype), points
    )
    return value, *pull_back(jnp.ones_like(points))


def _name(activation: Any) -> str:
    if isinstance(activation, functools.partial):
        return _name(activation.func)
    return getattr(activation, "__name__", None) or repr(activation)


def _function_named(name: str) -> str:
    wanted = name.lower().replace("_", "")
    for module in (jax.nn, jnp):
        for found in dir(module):
            if found.replace("_", "") == wanted and callable(getattr(module, found)):
                return f"{module.__name__.replace('jax.numpy', 'jnp')}.{found}"
    return "such as jax.nn.gelu"


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [""])[0]
