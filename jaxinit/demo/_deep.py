"""A 30-layer ReLU network on digits: Xavier, He, and Xavier repaired."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jaxinit
from jaxinit import initializers
from jaxinit.demo._statistics import Scores

LAYERS, WIDTH, CLASSES = 30, 64, 10
RATE, MOMENTUM, BATCH, TRAINED = 0.003, 0.9, 64, 1400
XAVIER, HE, REPAIRED = "Xavier", "He", "Xavier, calibrated"


@dataclass(frozen=True)
class Deep:
    """Of each start: its audit, its losses (steps, seeds), its test accuracies."""

    audits: dict[str, Any]
    losses: dict[str, np.ndarray]
    scores: dict[str, Scores]
    calibration: Any
    steps: int


def network(params: Any, x: jax.Array) -> jax.Array:
    """Dense layers of one width with ReLU between them; the middle ones are stacked."""

    def layer(x: jax.Array, dense: Any) -> tuple[jax.Array, None]:
        return jax.nn.relu(x @ dense["kernel"] + dense["bias"][None]), None

    x, _ = layer(x, params["first"])
    x, _ = jax.lax.scan(layer, x, params["middle"])
    return x @ params["last"]["kernel"] + params["last"]["bias"][None]


def draw(key: jax.Array, init: Any) -> Any:
    """The parameters, all kernels by one initializer, biases zero."""
    first, middle, last = jax.random.split(key, 3)
    stack = (LAYERS - 2, WIDTH, WIDTH)
    return {
        "first": {"kernel": init(first, (WIDTH, WIDTH)), "bias": jnp.zeros(WIDTH)},
        "middle": {
            "kernel": initializers.stacked(init)(middle, stack),
            "bias": jnp.zeros(stack[:2]),
        },
        "last": {"kernel": init(last, (WIDTH, CLASSES)), "bias": jnp.zeros(CLASSES)},
    }


def digits() -> tuple[np.ndarray, np.ndarray]:
    """1797 handwritten digits of 8 by 8 pixels, as 64 numbers, and their labels."""
    from sklearn.datasets import load_digits

    loaded = load_digits()
    return loaded.data.astype(np.float32), loaded.target.astype(np.int32)


def measure(seeds: list[int], steps: int, tick: Callable[[], None]) -> Deep:
    """Audit the first seed's networks, repair, and train all; one compilation."""
    images, labels = digits()
    tables, orders = zip(*(_split(len(labels), s, steps) for s in seeds), strict=True)
    x, y, unseen, wanted = map(
        np.stack, zip(*(_parts(images, labels, table) for table in tables), strict=True)
    )
    keys = [jax.random.key(seed) for seed in seeds]
    starts = {
        name: [draw(key, init) for key in keys]
        for name, init in (
            (XAVIER, initializers.glorot_normal()),
            (HE, initializers.he_normal()),
        )
    }
    batches = [x[number, :128] for number in range(len(seeds))]
    repaired = []
    calibration = None
    for params, batch in zip(starts[XAVIER], batches, strict=True):
        # The first one's report is shown: only for it before and after are measured.
        shown = calibration is None
        params, report = jaxinit.calibrate(network, params, batch, measure=shown)
        repaired.append(params)
        calibration = report if shown else calibration
        tick()
    starts[REPAIRED] = repaired
    audits, losses, scores = {}, {}, {}
    for name, given in starts.items():
        audits[name] = jaxinit.audit(network, given[0], batches[0])
        tick()
        stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *given)
        found, right = _trained(stacked, x, y, np.stack(orders), unseen, wanted)
        losses[name] = np.asarray(found).T
        scores[name] = Scores(tuple(map(float, right)))
        tick()
    return Deep(audits, losses, scores, calibration, steps)


def _split(count: int, seed: int, steps: int) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    return random.permutation(count), random.integers(0, TRAINED, (steps, BATCH))


def _parts(images: np.ndarray, labels: np.ndarray, table: np.ndarray) -> Any:
    """Train and test, with the mean and the spread of the training part."""
    known, unknown = table[:TRAINED], table[TRAINED:]
    mean, spread = images[known].mean(0), images[known].std()
    scaled = (images - mean[None]) / spread
    return scaled[known], labels[known], scaled[unknown], labels[unknown]


@jax.jit
@partial(jax.vmap, in_axes=(0, 0, 0, 0, 0, 0))
def _trained(
    params: Any,
    x: jax.Array,
    y: jax.Array,
    order: jax.Array,
    unseen: jax.Array,
    wanted: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    """The losses on the batches, and the accuracy on what was never trained on."""
    tx = optax.sgd(RATE, momentum=MOMENTUM)
    error = optax.softmax_cross_entropy_with_integer_labels

    def step(carry: Any, chosen: jax.Array) -> Any:
        params, state = carry
        loss, gradients = jax.value_and_grad(
            lambda params: error(network(params, x[chosen]), y[chosen]).mean()
        )(params)
        updates, state = tx.update(gradients, state, params)
        return (optax.apply_updates(params, updates), state), loss

    (params, _), losses = jax.lax.scan(step, (params, tx.init(params)), order)
    right = network(params, unseen).argmax(-1) == wanted
    return losses, right.mean()
