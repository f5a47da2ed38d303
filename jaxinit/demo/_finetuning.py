"""From pretrained weights: frozen features first, then one group after the other."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxinit import finetune as ft
from jaxinit import transfer as tr
from jaxinit.demo._linear import Linear
from jaxinit.demo._network import WHOLE, EfficientNetLite0, checkpoint, rules
from jaxinit.demo._training import cross_entropy, in_parts, orders

# Where the network may end, and the first block that is then ever trained.
STARTS = {8: 5, 11: 5, WHOLE: 11}
DECAY = 0.8  # of the learning rate, from each layer to the one below it
ANCHOR = 0.01  # weight of L2-SP


def merged(classes: int, *, cut: int, channels: int, key: jax.Array, size: int) -> Any:
    """The pretrained variables with a newly drawn head, and the report of the merge."""
    model = EfficientNetLite0(classes=classes, cut=cut)
    blank = jax.ShapeDtypeStruct((1, size, size, channels), jnp.float32)
    target = jax.eval_shape(model.init, jax.random.key(0), blank)
    listed = rules(cut=cut, channels=channels, new_head=True)
    return tr.merge(target, checkpoint(), listed, key=key)


def features(variables: Any, images: np.ndarray, classes: int) -> dict[str, np.ndarray]:
    """What the frozen network makes of each image, once for all that follows.

    The inputs of some blocks as they are, by "block 5", and by "mean 8" the
    mean over places that a network takes which is cut there.
    """
    last = max(STARTS)
    taps = sorted({*STARTS, *STARTS.values()} - {last})
    model = EfficientNetLite0(classes=classes, cut=last)
    apply = jax.jit(partial(model.apply, taps=taps))
    _, found = in_parts(lambda part: apply(variables, part), images)
    means = {f"mean {tap}": found[f"block {tap}"].mean((1, 2)) for tap in taps}
    return {**found, **means, f"mean {last}": found["pooled"]}


class Unfreezing:
    """A head, then the upper blocks, then the ones below: one compiled step for all.

    Blocks below `start` never change, so that their output is computed once.
    BatchNorm stays in inference: its statistics of a million images are better than
    those of thirty.
    """

    def __init__(self, variables: Any, *, classes: int, cut: int, steps: int) -> None:
        self.start = STARTS[cut]
        self.frozen = "stem/.*|" + "|".join(f"blocks_{n}/.*" for n in range(self.start))
        self.variables, self.steps = variables, steps
        middle = (self.start + cut + 1) // 2
        upper = "|".join(f"blocks_{n}/.*" for n in range(middle, cut))
        params = variables["params"]
        groups = [
            ("classifier/.*", "head"),
            (f"{upper}|head/.*" if cut == WHOLE else upper, "upper"),
            (".*", "lower"),
        ]
        pulled = ft.decay_to(
            params, ANCHOR, mask=rf"blocks_({_numbers(self.start, cut)})/.*/kernel"
        )
        gradual = ft.gradual_unfreeze(
            optax.chain(optax.scale_by_adam(), optax.scale(-1.0)),
            {"head": 0, "upper": steps // 4, "lower": steps // 2},
            partial(ft.labels, groups),
            shared=pulled,
        )
        by_depth = ft.layerwise_decay(gradual, DECAY, layer_of=partial(_layer, cut=cut))
        self._tx = ft.freeze(by_depth, self.frozen)
        self._model = EfficientNetLite0(classes=classes, cut=cut)
        self._step = jax.jit(self._stepped)
        self._logits = jax.jit(partial(self._model.apply, start=self.start))

    def with_head(self, head: Linear) -> Any:
        """The variables, with a head that was fitted to frozen features."""
        fitted = {"kernel": jnp.asarray(head.kernel), "bias": jnp.asarray(head.bias)}
        return {
            **self.variables,
            "params": {**self.variables["params"], "classifier": fitted},
        }

    def train(
        self,
        head: Linear,
        maps: np.ndarray,
        labels: np.ndarray,
        *,
        rate: float,
        seed: int,
        tick: Callable[[], None] = lambda: None,
    ) -> Any:
        """All stages, from a fitted head; `maps` is what block `start` gets."""
        variables = before = self.with_head(head)
        state = self._tx.init(variables["params"])
        for chosen in orders(len(labels), self.steps, seed):
            variables, state = self._step(
                variables, state, maps[chosen], labels[chosen], np.float32(rate)
            )
            tick()
        stay = [f"params:{part}" for part in self.frozen.split("|")]
        ft.assert_frozen(before, variables, [*stay, "batch_stats:.*"])
        return variables

    def logits(self, variables: Any, maps: np.ndarray) -> np.ndarray:
        """Of what block `start` gets."""
        return in_parts(lambda part: self._logits(variables, part), maps)

    def _stepped(
        self, variables: Any, state: Any, maps: Any, labels: Any, rate: Any
    ) -> Any:
        def loss(params: Any) -> Any:
            given = {**variables, "params": params}
            logits: Any = self._model.apply(given, maps, start=self.start)
            return cross_entropy(logits, labels).mean()

        params = variables["params"]
        gradients = jax.grad(loss)(params)
        updates, state = self._tx.update(gradients, state, params)
        updates = jax.tree.map(lambda update: rate * update, updates)
        return {**variables, "params": optax.apply_updates(params, updates)}, state


def _numbers(first: int, last: int) -> str:
    return "|".join(map(str, range(first, last)))


def _layer(path: str, *, cut: int) -> int:
    """The depth of a leaf: the stem is 0, the classifier comes last."""
    part = path.split("/")[0]
    if part.startswith("blocks_"):
        return int(part.removeprefix("blocks_")) + 1
    return {"stem": 0, "head": cut + 1, "classifier": cut + 1 + (cut == WHOLE)}[part]
