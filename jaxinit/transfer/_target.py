"""The target of a merge: a tree, or a function of no arguments that makes one."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from jaxinit import _paths
from jaxinit._errors import MergeError
from jaxinit._materialize import materialize
from jaxinit._paths import Name
from jaxinit.transfer._steps import Shape


@dataclass(frozen=True, eq=False)
class Target:
    """A target taken apart; `init_fn` makes its leaves where it was a function."""

    flat: _paths.Flat
    init_fn: Callable[[], Any] | None = None

    def spec(self, leaf: Any) -> tuple[Shape, np.dtype] | None:
        """Shape and dtype of a leaf; None where it is no array and no number."""
        if isinstance(leaf, (bool, int, float, complex)):
            leaf = np.asarray(leaf)
        dtype = getattr(leaf, "dtype", None)
        if dtype is None or not hasattr(leaf, "shape") or dtype == np.dtype(object):
            return None
        return tuple(leaf.shape), jax.dtypes.canonicalize_dtype(dtype)

    def specs(self) -> dict[Name, tuple[Shape, np.dtype]]:
        """Shape and dtype of the leaves that a merge may fill, by name."""
        return {
            name: spec
            for name, leaf in self.flat.items()
            if not self.flat.is_random_state(name) and (spec := self.spec(leaf))
        }

    def values(
        self, names: Iterable[Name], out_shardings: Any = None
    ) -> dict[Name, Any]:
        """The target's own values of some leaves; a function makes these alone."""
        names = tuple(names)
        if not names:
            return {}
        if self.init_fn is None:
            known = dict(self.flat.items())
            chosen = {name: known[name] for name in names}
            return _concrete(chosen)
        only = [re.escape(name.qualified) for name in names]
        make = materialize(self.init_fn, only=only, out_shardings=out_shardings)
        made = _paths.named_leaves(make())
        return {name: made[name] for name in names}


def _concrete(leaves: dict[Name, Any]) -> dict[Name, Any]:
    for name, leaf in leaves.items():
        if isinstance(leaf, jax.ShapeDtypeStruct):
            raise MergeError(
                f"{name.full!r} is kept, but the target knows only its shape; give the "
                "target as a function, `lambda: model.init(key, x)`, which then makes "
                "the leaves that are missing, or as a tree of arrays"
            )
    return leaves


def as_target(target: Any) -> Target:
    """The target, shapes only: a function is traced, never run."""
    if not _is_init_function(target):
        return Target(_paths.flatten(target, argument="target"))
    try:
        shapes = jax.eval_shape(target)
    except TypeError as error:
        raise MergeError(
            "target: the function cannot be traced; it takes no arguments and returns "
            "a tree of arrays. Where the tree holds anything else, give it, or its "
            f"shapes, in the place of the function. JAX says: {error}"
        ) from error
    return Target(_paths.flatten(shapes, argument="target"), target)


def _is_init_function(target: Any) -> bool:
    """Whether the target is a function, and not a module that can be called."""
    return callable(target) and jax.tree_util.all_leaves([target])
