"""A tap: the identity, whose derivative also tells how large the gradient is there."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import NamedSharding, PartitionSpec

from jaxinit import _compat


@jax.custom_vjp
def tapped(value: jax.Array, tap: jax.Array) -> jax.Array:
    """The value. The gradient with respect to the scalar `tap` is sum(g²).

    g is the gradient with respect to the value. So one number comes back for a whole
    array, and no gradient has to be kept for the sake of being measured.
    """
    return value


def _forward(value: jax.Array, tap: jax.Array) -> tuple[jax.Array, jax.Array]:
    return value, tap


def _backward(tap: jax.Array, gradient: jax.Array) -> tuple[jax.Array, jax.Array]:
    total = sum_of_squares(gradient)
    # On many devices at once, the gradient of a tap is as varied as the tap itself.
    missing = set(_compat.varying_axes(tap)) - set(_compat.varying_axes(total))
    if missing:
        total = lax.pcast(total, tuple(missing), to="varying")
    return gradient, total


tapped.defvjp(_forward, _backward)


@jax.custom_vjp
def tapped_whole(value: jax.Array, tap: jax.Array) -> jax.Array:
    """The value. The gradient with respect to the array `tap` is that of the value."""
    return value


tapped_whole.defvjp(
    lambda value, tap: (value, None), lambda _, gradient: (gradient,) * 2
)


def wide(value: Any) -> jax.Array:
    """The value in float32, or wider if it is: 16 bits are too few to sum in."""
    inexact = jnp.issubdtype(value.dtype, jnp.inexact)
    narrow = not inexact or jnp.finfo(value.dtype).bits < 32
    return value.astype(jnp.float32) if narrow else value


def on_any_mesh(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function of arrays, whose results lie whole on each device of a mesh.

    Over Explicit axes JAX neither flattens an array nor slices it, nor sums products
    along an axis that lies on several devices; there the compiler decides what moves.
    """

    @functools.wraps(function)
    def placed(*arrays: Any, **static: Any) -> Any:
        meshes = [jax.typeof(array).sharding.mesh for array in arrays]
        mesh = next((mesh for mesh in meshes if mesh.explicit_axes), None)
        if mesh is None:
            return function(*arrays, **static)
        within = jax.sharding.auto_axes(
            functools.partial(function, **static),
            axes=mesh.explicit_axes,
            out_sharding=NamedSharding(mesh, PartitionSpec()),
        )
        return within(*arrays)

    return placed


@jax.jit
@on_any_mesh
def sum_of_squares(value: Any) -> jax.Array:
    """A real number, in float32 or wider."""
    flat = wide(value).ravel()
    return jnp.vdot(flat, flat, precision=lax.Precision.HIGHEST).real
