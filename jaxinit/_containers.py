"""What the containers of Flax say about the leaves inside them.

Flax is never imported: a tree that holds Flax objects proves that it is loaded.
"""

from __future__ import annotations

import operator
import sys
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import jax
from jax.tree_util import all_leaves, tree_flatten_with_path

# The collection of linen's variables["params"], of nnx.Param, and of any bare tree.
PARAMS = "params"


def entries(tree: Any) -> Iterator[tuple[tuple[Any, ...], Any, type | None]]:
    """Each leaf with its keys, less those of boxes, and its nnx Variable type."""
    is_box = _box_test()
    for keys, node in tree_flatten_with_path(tree, is_leaf=is_box)[0]:
        if not is_box(node):
            yield keys, node, None
            continue
        kind = getattr(node, "var_type", None)  # of an nnx Variable
        inside, _ = tree_flatten_with_path(node, is_leaf=partial(operator.is_not, node))
        for inner_keys, child in inside:
            if child is node:  # a Variable that JAX does not look into
                yield keys, node, kind
                continue
            # A box around one value is transparent, whatever it calls the value. A
            # user's own node is no box, so an attribute named `value` stays there.
            prefix = keys if len(inside) == 1 else keys + inner_keys
            for rest, leaf, inner_kind in entries(child):
                yield prefix + rest, leaf, kind or inner_kind


def _box_test() -> Callable[[Any], bool]:
    kinds = loaded("flax.nnx", "Variable"), loaded("flax.core.meta", "AxisMetadata")
    boxes = tuple(kind for kind in kinds if kind is not None)
    return lambda node: isinstance(node, boxes)


def loaded(module: str, name: str) -> Any:
    """An attribute of a module if the module is loaded already, else None."""
    return getattr(sys.modules.get(module), name, None)


def is_linen_variables(tree: Any) -> bool:
    """Whether the first keys of a tree are linen's collections."""
    state = loaded("flax.nnx", "State")
    if not isinstance(tree, Mapping) or (state and isinstance(tree, state)):
        return False
    # A mapping that JAX does not look into is a leaf; so is an entry that is one array.
    opaque = all_leaves([tree]) or PARAMS not in tree
    return not (opaque or all_leaves([tree[PARAMS]], is_leaf=_box_test()))


def collection_of(kind: type | None) -> str:
    """The collection of an nnx Variable type: the name Flax registers, or its own."""
    if kind is None:
        return PARAMS
    name_of = loaded("flax.nnx", "variable_name_from_type")
    for ancestor in kind.__mro__:
        try:
            return name_of(ancestor)
        except ValueError:  # not registered; registering it here would be a side effect
            continue
    return kind.__name__


def is_random_state(kind: type | None, leaf: Any) -> bool:
    """Whether a leaf holds the state of a random-number stream, or is a PRNG key."""
    if kind is not None and issubclass(kind, loaded("flax.nnx", "RngState")):
        return True
    dtype = getattr(leaf, "dtype", None)
    return dtype is not None and jax.dtypes.issubdtype(dtype, jax.dtypes.prng_key)


def nnx_variables(tree: Any) -> list[Any]:
    """The nnx Variables of a tree: references, which two trees may share."""
    kind = getattr(sys.modules.get("flax.nnx"), "Variable", ())
    leaves = jax.tree.leaves(tree, is_leaf=lambda node: isinstance(node, kind))
    return [leaf for leaf in leaves if isinstance(leaf, kind)]


def is_parameter_type(kind: type) -> bool:
    """Whether a Variable type is nnx's Param or derived from it, as LoRAParam is."""
    return issubclass(kind, vars(sys.modules["flax.nnx"])["Param"])
