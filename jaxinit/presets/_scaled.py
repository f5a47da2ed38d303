"""An optimizer whose rate, decay and epsilon differ from leaf to leaf."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from jaxinit._errors import RuleError
from jaxinit._paths import Name, flatten, named_leaves


@dataclasses.dataclass(frozen=True)
class Factors:
    """What is multiplied for one leaf: its rate, the decay of a step, and epsilon."""

    rate: float = 1.0
    decay: float = 1.0
    epsilon: float = 1.0


def scaled_optimizer(tx: Any, factors: Mapping[Name, Factors], caller: str) -> Any:
    """The transformation with the factors of each leaf.

    Updates are linear in the decay, so that a second update with parameters of zero
    tells the two apart; XLA computes what they share once. An epsilon is divided by
    what the gradient is multiplied by.
    """
    import optax

    from jaxinit.finetune._inner import by_path, inner_transformation, is_placeholder

    inner = inner_transformation(tx, caller)

    def found(tree: Any) -> dict[Name, Factors]:
        own = {}
        for name in named_leaves(tree, argument="updates"):
            factor = by_path(factors, name)
            if factor is None:
                raise RuleError(
                    f"updates: {name.full!r} is no leaf of the target that {caller} "
                    "was made for; make a spec for this model"
                )
            own[name] = factor
        return own

    def init(params: Any) -> Any:
        if not is_placeholder(params):
            found(params)
        return inner.init(params)

    def update(
        updates: Any, state: Any, params: Any = None, **extra: Any
    ) -> tuple[Any, Any]:
        own = found(updates)
        gradients = _times(updates, {n: 1 / f.epsilon for n, f in own.items()})
        whole, state_after = inner.update(gradients, state, params, **extra)
        rates = {name: f.rate for name, f in own.items()}
        if params is None:
            return _times(whole, rates), state_after
        zeros = jax.tree.map(jnp.zeros_like, params)
        bare, _ = inner.update(gradients, state, zeros, **extra)
        decay = jax.tree.map(lambda one, other: one - other, whole, bare)
        decays = {name: f.decay for name, f in own.items()}
        return (
            jax.tree.map(
                lambda one, other: one + other,
                _times(bare, rates),
                _times(decay, decays),
            ),
            state_after,
        )

    return optax.GradientTransformationExtraArgs(init, update)


def _times(tree: Any, factors: Mapping[Name, float]) -> Any:
    flat = flatten(tree, argument="updates")
    return flat.unflatten(
        [
            leaf
            if factors[name] == 1
            else leaf * jnp.asarray(factors[name], leaf.dtype)
            for name, leaf in flat.items()
        ]
    )
