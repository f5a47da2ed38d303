"""Training from scratch: one compiled step for each network, whatever the labels."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import numpy as np
import optax
from flax import linen as nn

import jaxinit
from jaxinit import initializers

BATCH = 20
EVALUATED = 64  # images at a time
cross_entropy = optax.softmax_cross_entropy_with_integer_labels


class SmallNetwork(nn.Module):
    """Three convolutions with He initialization and no normalization."""

    classes: int

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        he = initializers.he_normal()
        for features in (16, 32, 64):
            x = nn.relu(nn.Conv(features, (3, 3), kernel_init=he)(x))
            x = nn.max_pool(x, (2, 2), strides=(2, 2))
        return nn.Dense(self.classes)(x.mean((1, 2)))


class Scratch:
    """A network to be trained from its own initialization by Adam.

    Running statistics are those of the training images, estimated anew in one pass at
    the end: those that training leaves behind lag so far that they say nothing.
    """

    def __init__(self, model: Any) -> None:
        self.model = model
        self._tx = optax.scale_by_adam()
        self._step = jax.jit(self._stepped)
        self._logits = jax.jit(model.apply)
        # With momentum 0 the statistics are those of one batch: all training images.
        fields = getattr(type(model), "__dataclass_fields__", {})
        self._renewed = None
        if "momentum" in fields:
            forgetful = model.clone(momentum=0.0)
            self._renewed = jax.jit(
                partial(forgetful.apply, train=True, mutable=["batch_stats"])
            )

    def draw(self, key: jax.Array, images: np.ndarray, **fields: Any) -> Any:
        """Fresh variables; `fields` change the model, as kernel_init does."""
        model = self.model.clone(**fields)
        return jaxinit.materialize(model.init)(key, images[:1])

    def train(
        self,
        variables: Any,
        images: np.ndarray,
        labels: np.ndarray,
        *,
        rate: float,
        steps: int,
        seed: int,
        tick: Callable[[], None] = lambda: None,
    ) -> Any:
        """So many steps of Adam, on batches of 20."""
        state = self._tx.init(variables["params"])
        for chosen in orders(len(labels), steps, seed):
            variables, state = self._step(
                variables, state, images[chosen], labels[chosen], np.float32(rate)
            )
            tick()
        return variables

    def renewed(self, variables: Any, images: np.ndarray) -> Any:
        """The variables with the batch statistics of these images."""
        if self._renewed is None:
            return variables
        _, moved = self._renewed(variables, images)
        return {**variables, **moved}

    def logits(self, variables: Any, images: np.ndarray) -> np.ndarray:
        """In inference, a fixed number of images at a time."""
        return in_parts(lambda part: self._logits(variables, part), images)

    def _stepped(
        self, variables: Any, state: Any, images: Any, labels: Any, rate: Any
    ) -> Any:
        def loss(params: Any) -> Any:
            given = {**variables, "params": params}
            logits, moved = self.model.apply(
                given, images, train=True, mutable=["batch_stats"]
            )
            return cross_entropy(logits, labels).mean(), moved

        params = variables["params"]
        gradients, moved = jax.grad(loss, has_aux=True)(params)
        updates, state = self._tx.update(gradients, state, params)
        params = jax.tree.map(lambda old, step: old - rate * step, params, updates)
        return {**variables, **moved, "params": params}, state


def orders(count: int, steps: int, seed: int) -> np.ndarray:
    """Batches of example numbers, (steps, 20): one permutation after the other."""
    random = np.random.default_rng(seed)
    passes = -(-steps * BATCH // count)
    order = np.concatenate([random.permutation(count) for _ in range(passes)])
    return order[: steps * BATCH].reshape(steps, BATCH)


def in_parts(function: Callable[[Any], Any], images: np.ndarray) -> Any:
    """The function of all images, each call with the same number of them."""
    count = len(images)
    missing = -count % EVALUATED
    padded = np.concatenate([images, np.repeat(images[:1], missing, 0)])
    parts = [
        jax.tree.map(np.asarray, function(padded[first : first + EVALUATED]))
        for first in range(0, len(padded), EVALUATED)
    ]
    return jax.tree.map(lambda *found: np.concatenate(found)[:count], *parts)
