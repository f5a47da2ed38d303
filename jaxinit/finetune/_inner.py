"""What all wrappers do with the transformation inside them, and with its trees."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.core import Tracer

from jaxinit._errors import RuleError
from jaxinit._paths import Flat, Name

Transformation = optax.GradientTransformationExtraArgs


def inner_transformation(tx: Any, caller: str) -> Transformation:
    """The transformation as one that takes extra arguments; MultiSteps too."""
    if isinstance(tx, optax.MultiSteps):
        tx = tx.gradient_transformation()
    if not (callable(getattr(tx, "init", None)) and hasattr(tx, "update")):
        raise RuleError(
            f"tx: {caller} wraps an optax transformation such as optax.adam(1e-3), "
            f"got {tx!r}"
        )
    return optax.with_extra_args_support(tx)


def is_placeholder(params: Any) -> bool:
    """Whether this is the stand-in with which optax asks which state mirrors params."""
    return type(params).__name__ == "_ParamsPlaceholder"


def checked_state(state: Any, caller: str) -> Any:
    """The state, unless it is that of a line search, which is refused by name."""

    def searches(node: Any) -> bool:
        return "linesearch" in type(node).__name__.lower()

    for node in jax.tree.leaves(state, is_leaf=searches):
        if searches(node):
            words = re.findall("[A-Z][a-z0-9]*", type(node).__name__)
            name = "_".join(words).lower().removesuffix("_state")
            raise RuleError(
                f"tx: {name} is a line search: it evaluates the loss at points of its "
                f"own choice, and {caller} changes which points the parameters reach; "
                "use an optimizer with a learning rate, such as "
                "optax.lbfgs(learning_rate, linesearch=None)"
            )
    return state


def refuse_functions(extra: Mapping[str, Any], caller: str) -> None:
    """RuleError for an extra argument that is a function of all parameters."""
    for name, value in extra.items():
        if callable(value):
            raise RuleError(
                f"{name}: {caller} cannot pass a function of the parameters on to tx, "
                "which sees only a part of them; use an optimizer that needs gradients "
                "alone"
            )


def hide(flat: Flat, hidden: Collection[Name]) -> Any:
    """The tree with `optax.MaskedNode()` in place of some leaves."""
    return flat.unflatten(
        [optax.MaskedNode() if name in hidden else leaf for name, leaf in flat.items()]
    )


def hide_like(value: Any, flat: Flat, hidden: Collection[Name]) -> Any:
    """An extra argument, hidden likewise where it is a tree of the same structure."""
    if jax.tree.structure(value) != flat.treedef:
        return value
    leaves = tuple(jax.tree.leaves(value))
    return hide(Flat(flat.names, leaves, flat.treedef, flat.random_state), hidden)


def fill(flat: Flat, hidden: Collection[Name], visible: Any, rest: Any) -> Any:
    """The leaves of `visible` in their places, `rest(name, leaf)` in those hidden."""
    leaves = iter(jax.tree.leaves(visible))
    return flat.unflatten(
        [
            rest(name, leaf) if name in hidden else next(leaves)
            for name, leaf in flat.items()
        ]
    )


def no_change(leaf: Any) -> Any:
    """What can be added to a leaf without changing a bit of it: -0.0, not 0.0.

    -0.0 + 0.0 is 0.0, another bit pattern; -0.0 is neutral for both zeros.
    """
    dtype = jnp.result_type(leaf)
    if dtype == jax.dtypes.float0:
        return leaf
    if jnp.issubdtype(dtype, jnp.complexfloating):
        return jnp.full_like(leaf, complex(-0.0, -0.0))
    return jnp.full_like(leaf, -0.0 if jnp.issubdtype(dtype, jnp.floating) else 0)


def widened(leaf: Any) -> Any:
    """The leaf in float32 where it has fewer bits; others as they are."""
    leaf = jnp.asarray(leaf)
    narrow = jnp.issubdtype(leaf.dtype, jnp.floating) and leaf.dtype.itemsize < 4
    return leaf.astype(jnp.float32) if narrow else leaf


def by_path(leaves: Mapping[Name, Any], name: Name) -> Any:
    """The leaf of that name, else the one leaf of that path, else None.

    The collection of a leaf is lost where a tree of nnx Variables has become one of
    arrays, as in nnx.Optimizer; its path is not.
    """
    if name in leaves:
        return leaves[name]
    found = [leaf for other, leaf in leaves.items() if other.path == name.path]
    return found[0] if len(found) == 1 else None


def is_traced(value: Any) -> bool:
    """Whether the value is not known yet, so that nothing about it can be checked."""
    return isinstance(value, Tracer)


def checked_number(value: Any, argument: str, *, below: float | None = None) -> Any:
    """A number of at least 0, and below a bound if there is one; RuleError else."""
    if is_traced(value):
        return value
    bound = "finite" if below is None else f"below {below:g}"
    try:
        number = float(value)
        fine = 0 <= number < (float("inf") if below is None else below)
    except (TypeError, ValueError):
        fine = False
    if not fine or isinstance(value, (bool, str)):
        raise RuleError(f"{argument} must be a number >= 0 and {bound}, got {value!r}")
    return value
