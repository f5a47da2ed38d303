"""Learning rates that differ between leaves: by label, and by depth."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np
import optax

from jaxinit._errors import RuleError
from jaxinit._paths import Flat, Name, flatten
from jaxinit.finetune._inner import (
    checked_number,
    checked_state,
    inner_transformation,
    is_placeholder,
    is_traced,
    refuse_functions,
    widened,
)
from jaxinit.finetune._labels import check_labels_now, labels_of

Transformation = optax.GradientTransformationExtraArgs


def learning_rates(tx: Any, factors: Mapping[Any, Any], labels: Any) -> Transformation:
    """Scale the updates of `tx` by the factor of each leaf's label.

    `tx` runs once over all leaves and its result is scaled: u_leaf ← factor · u_leaf,
    in float32 or wider. So one clipping norm, one step count and one schedule hold for
    all of them, and weight decay that `tx` scales by its learning rate is scaled along.
    A factor of 0 stops a leaf, but its gradient still has its share in the clipping
    norm: to freeze it, use :func:`freeze`. The state is that of `tx`.

    `labels` is what :func:`labels` returns, or a function from the parameters to it.
    Factors and labels must name the same labels. Howard and Ruder (2018), section 3.2.

    >>> import jax.numpy as jnp, optax
    >>> params = {"body": jnp.ones(2), "head": jnp.ones(2)}
    >>> groups = {"body": "slow", "head": "fast"}
    >>> optimizer = learning_rates(optax.sgd(1.0), {"slow": 0.25, "fast": 1.0}, groups)
    >>> updates, _ = optimizer.update(params, optimizer.init(params))
    >>> [updates[name].tolist() for name in ("body", "head")]
    [[-0.25, -0.25], [-1.0, -1.0]]
    """
    factors = {
        label: checked_number(factor, f"factors[{label!r}]")
        for label, factor in _mapping(factors, "factors").items()
    }
    check_labels_now(labels, factors, "factors")

    def factor_of(flat: Flat, tree: Any) -> dict[Name, Any]:
        found = labels_of(labels, flat.names, tree, factors, "factors")
        return {name: factors[label] for name, label in found.items()}

    return _scaled(tx, factor_of, "learning_rates")


@dataclass(frozen=True)
class Stacked:
    """Layers in one array: those along `axis` are `first`, `first` + 1, ..."""

    axis: int = 0
    first: int = 0


def layerwise_decay(
    tx: Any, decay: Any, *, layer_of: Callable[[str], int | Stacked]
) -> Transformation:
    """Scale the updates of layer l by decay^(top − l), where top is the highest layer.

    `layer_of(path)` counts layers from 0 at the input, without gaps: for a transformer
    of depth L usually 0 for embeddings, 1 + i for block i, L + 1 for the last norm and
    the head. For leaves that hold a stack of scanned layers it returns
    ``Stacked(axis, first)``, and each slice gets the factor of its layer. `tx` runs
    once over all leaves, as in :func:`learning_rates`; its state is the state.

    Clark et al. (2020), ELECTRA, appendix A; the scales are those of timm's
    param_groups_layer_decay.

    >>> import jax.numpy as jnp, optax
    >>> params = {"embed": jnp.ones(1), "blocks": jnp.ones((2, 1)), "head": jnp.ones(1)}
    >>> layers = {"embed": 0, "blocks": Stacked(first=1), "head": 3}
    >>> optimizer = layerwise_decay(optax.sgd(1.0), 0.5, layer_of=layers.get)
    >>> updates, _ = optimizer.update(params, optimizer.init(params))
    >>> updates["blocks"].tolist(), updates["embed"].tolist()
    ([[-0.25], [-0.5]], [-0.125])
    """
    checked_number(decay, "decay")
    if not callable(layer_of):
        raise RuleError(f"layer_of must be a function of a path, got {layer_of!r}")

    def factor_of(flat: Flat, tree: Any) -> dict[Name, Any]:
        layers = {name: _layers(layer_of, name, leaf) for name, leaf in flat.items()}
        top = max((int(np.max(at)) for at in layers.values() if at.size), default=0)
        return {name: _power(decay, top - at, name) for name, at in layers.items()}

    return _scaled(tx, factor_of, "layerwise_decay")


def _layers(layer_of: Callable[[str], int | Stacked], name: Name, leaf: Any) -> Any:
    """The layer of a leaf, or those along its axis, shaped so that they broadcast."""
    layer = layer_of(name.full)
    if isinstance(layer, Stacked):
        axes = jnp.ndim(leaf)
        if not -axes <= layer.axis < axes:
            raise RuleError(
                f"layer_of: {layer} for {name.full!r}, which has {axes} axes; `axis` "
                "is the one that counts layers"
            )
        shape = [1] * axes
        shape[layer.axis] = count = jnp.shape(leaf)[layer.axis]
        return _whole(layer.first, name) + np.arange(count).reshape(shape)
    return np.asarray(_whole(layer, name))


def _whole(layer: Any, name: Name) -> int:
    try:
        number = operator.index(layer)
    except TypeError:
        number = -1
    if number < 0 or isinstance(layer, bool):
        raise RuleError(
            f"layer_of: a layer is a whole number >= 0, or Stacked(...), got {layer!r} "
            f"for {name.full!r}"
        )
    return number


def _power(decay: Any, distance: Any, name: Name) -> Any:
    if is_traced(decay):
        return decay**distance
    factor = np.power(float(decay), distance)
    if decay and (factor < np.finfo(np.float32).tiny).any():
        raise RuleError(
            f"layer_of: {name.full!r} is {int(np.max(distance))} layers below the "
            "highest, and its factor is 0 in float32; count layers without gaps"
        )
    return factor


def _scaled(tx: Any, factor_of: Callable[..., Any], caller: str) -> Transformation:
    inner = inner_transformation(tx, caller)

    def init(params: Any) -> Any:
        if not is_placeholder(params):
            factor_of(flatten(params, argument="params"), params)  # errors come early
        return checked_state(inner.init(params), caller)

    def update(updates: Any, state: Any, params: Any = None, **extra: Any) -> Any:
        refuse_functions(extra, caller)
        updates, state = inner.update(updates, state, params, **extra)
        flat = flatten(updates, argument="updates")
        factors = factor_of(flat, updates)
        scaled = [_times(leaf, factors[name]) for name, leaf in flat.items()]
        return flat.unflatten(scaled), state

    return optax.GradientTransformationExtraArgs(init, update)


def _times(update: Any, factor: Any) -> Any:
    if not is_traced(factor) and np.ndim(factor) == 0 and float(factor) == 1.0:
        return update
    wide = widened(update)
    return (wide * jnp.asarray(factor, wide.dtype)).astype(jnp.result_type(update))


def _mapping(value: Any, argument: str) -> Mapping[Any, Any]:
    if not isinstance(value, Mapping):
        raise RuleError(f"{argument} must map each label to a number, got {value!r}")
    return value
