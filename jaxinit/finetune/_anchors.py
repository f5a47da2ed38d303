"""Decay to an anchor: the parameters that fine-tuning started from, or any others."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxinit._errors import RuleError
from jaxinit._paths import flatten, named_leaves
from jaxinit._rules import listed
from jaxinit.finetune._inner import by_path, checked_number, is_placeholder, widened
from jaxinit.finetune._labels import masked_names


class DecayToState(NamedTuple):
    """The anchor, in the places of the parameters that decay to it."""

    anchor: Any


def decay_to(
    anchor: Any, weight: Any, *, mask: Any = None
) -> optax.GradientTransformationExtraArgs:
    """Add weight · (w − anchor) to the updates: decay to an anchor instead of to 0.

    In front of the optimizer it is the gradient of the penalty weight/2 · ‖w − w⁰‖² of
    L2-SP, Li et al. (2018), equation 2; after a preconditioner, before the learning
    rate, it is decoupled as in AdamW. An anchor of zeros is weight decay.

    `anchor` is a tree with a leaf of the same path and shape for every parameter that
    decays, in any dtype; more leaves do no harm. `mask` chooses what decays: a pattern
    or several, a tree of bools, or a function from the parameters to one, such as
    :func:`decayed`. A new head has no anchor: leave it out of the mask.

    The state holds the very arrays of the anchor, not copies and not constants of the
    compiled step. If that step donates its parameters, copy what shares memory with
    them: ``jax.tree.map(jnp.copy, params)``.

    >>> import jax.numpy as jnp, optax
    >>> start = {"body": jnp.ones(2)}
    >>> optimizer = optax.chain(decay_to(start, 0.125), optax.sgd(1.0))
    >>> params, gradients = {"body": jnp.full(2, 3.0)}, {"body": jnp.zeros(2)}
    >>> updates, _ = optimizer.update(gradients, optimizer.init(params), params)
    >>> updates["body"].tolist()
    [-0.25, -0.25]
    """
    checked_number(weight, "weight")
    # Taken apart now: an nnx state is a view, and would move with the model.
    anchors = named_leaves(anchor, argument="anchor")

    def init(params: Any) -> Any:
        if is_placeholder(params):
            return DecayToState(params)
        chosen = masked_names(mask, params)
        flat = flatten(params, argument="params")
        found = {name: by_path(anchors, name) for name in flat.names if name in chosen}
        if missing := [name for name, leaf in found.items() if leaf is None]:
            raise RuleError(
                f"anchor: no leaf for {listed(missing)}; leave new leaves out of the "
                "decay with mask=, or give them an anchor"
            )
        for name, leaf in flat.items():
            if name in found and jnp.shape(found[name]) != jnp.shape(leaf):
                raise RuleError(
                    f"anchor: {name.full!r} has shape {jnp.shape(found[name])}, the "
                    f"parameter {jnp.shape(leaf)}; leave it out of the decay with mask="
                )
        places = [found.get(name, optax.MaskedNode()) for name in flat.names]
        return DecayToState(flat.unflatten(places))

    def update(updates: Any, state: Any, params: Any = None, **extra: Any) -> Any:
        if params is None:
            raise RuleError("params: decay_to needs update(updates, state, params)")
        flat = flatten(updates, argument="updates")
        places = named_leaves(state.anchor)
        parameters = jax.tree.leaves(params)
        new = [
            update
            if (to := by_path(places, name)) is None
            else pulled(update, leaf, to)
            for (name, update), leaf in zip(flat.items(), parameters, strict=True)
        ]
        return flat.unflatten(new), state

    def pulled(update: Any, leaf: Any, to: Any) -> Any:
        wide = widened(leaf)
        pull = (wide - jnp.asarray(to, wide.dtype)) * jnp.asarray(weight, wide.dtype)
        return (widened(update) + pull.astype(widened(update).dtype)).astype(
            jnp.result_type(update)
        )

    return optax.GradientTransformationExtraArgs(init, update)
