"""A function of parameters and data, traced once for all who walk it."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import ClosedJaxpr

from jaxinit import _jaxpr
from jaxinit._paths import Flat, Name, flatten

_UNBOUND = re.compile(r"[Uu]nbound axis name:? '?\"?([^'\"\s.]+)")


@dataclasses.dataclass(frozen=True, eq=False)
class Signal:
    """The program of ``f(params, *args)``, and what its inputs are.

    Attributes:
      program: as ``jax.make_jaxpr`` gives it. Its inputs are the leaves of the
        parameters, then those of the arguments, each in the order of `jax.tree.leaves`.
      params: the parameters, taken apart; ``params.names`` names the first inputs.
      leaves: what was given for each input: an array, a number or a ShapeDtypeStruct.
      in_tree: of ``(params, *args)``.
      out_tree: of the result.
    """

    program: ClosedJaxpr
    params: Flat
    leaves: tuple[Any, ...]
    in_tree: Any
    out_tree: Any

    @property
    def names(self) -> tuple[Name, ...]:
        """The names of the parameters' leaves, which are the first inputs."""
        return self.params.names

    def with_params(self, leaves: Any) -> tuple[Any, ...]:
        """All inputs, with these in place of the parameters' leaves."""
        return (*leaves, *self.leaves[len(self.names) :])


def trace_signal(f: Callable[..., Any], params: Any, *args: Any) -> Signal:
    """Trace ``f(params, *args)`` once.

    Axes that `f` reduces over and that nothing binds, as ``pmean(x, "batch")`` in a
    step written for many devices, are bound as axes of size 1, so that the program
    stands alone.

    Args:
      f: any JAX function of parameters and data.
      params: the parameters: a tree of arrays or ShapeDtypeStructs.
      args: further arguments: trees of arrays, numbers or ShapeDtypeStructs.

    Raises:
      TypeError: an argument holds something that is not an array.
    """
    flat = flatten(params, argument="params")
    leaves, in_tree = jax.tree.flatten((params, *args))
    for place, leaf in enumerate(leaves):
        _check_leaf(leaf, place - len(flat.leaves), flat)
    axes: list[str] = []
    while True:
        try:
            traced = _jaxpr.trace(_bound(f, axes), params, *args)
        except NameError as error:
            found = _UNBOUND.search(str(error))
            if found is None or found[1] in axes:
                raise
            axes.append(found[1])
            continue
        return Signal(traced.program, flat, tuple(leaves), in_tree, traced.out_tree)


def _bound(f: Callable[..., Any], axes: list[str]) -> Callable[..., Any]:
    """The function, for one device along each of the axes."""
    for axis in axes:
        f = _for_one(f, axis)
    return f


def _for_one(f: Callable[..., Any], axis: str) -> Callable[..., Any]:
    def alone(*args: Any) -> Any:
        mapped = jax.vmap(
            lambda *args: f(*args), in_axes=None, axis_size=1, axis_name=axis
        )
        return jax.tree.map(lambda leaf: jnp.squeeze(leaf, 0), mapped(*args))

    return alone


def _check_leaf(leaf: Any, place: int, flat: Flat) -> None:
    if hasattr(leaf, "shape") and hasattr(leaf, "dtype"):
        return
    if isinstance(leaf, (bool, int, float, complex)):
        return
    what = (
        f"params: the leaf {flat.names[place].full!r}" if place < 0 else "args: a leaf"
    )
    raise TypeError(
        f"{what} is {leaf!r} ({type(leaf).__name__}), not an array; give options of "
        "the function with functools.partial or a lambda"
    )
