"""The learning rate of a narrow network, carried over to wide ones: muP on digits.

    python examples/mup.py [picture.png]

Trains networks of four widths at each of several learning rates, once parametrized as
usual and once by `presets.mup`, and tells at which rate each does best. Needs the extra
`plots` for the picture.
"""

import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn
from sklearn.datasets import load_digits

import jaxinit
from jaxinit import presets

WIDTHS = (64, 128, 256, 512)
RATES = 2.0 ** np.arange(-11, -2)
STEPS, BATCH, SEEDS = 100, 64, 2


class Network(nn.Module):
    width: int

    @nn.compact
    def __call__(self, x):
        for name in ("first", "second", "third"):
            x = nn.relu(nn.Dense(self.width, name=name)(x))
        return nn.Dense(10, name="head")(x)


def digits():
    """Images between -1 and 1, and what they show."""
    images, labels = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(images))
    return jnp.asarray(images[order] / 8 - 1, "float32"), jnp.asarray(labels[order])


def build(width):
    """A model of shapes alone, as `presets` takes it."""
    model, x = Network(width), jnp.zeros((BATCH, 64))
    variables = jax.eval_shape(model.init, jax.random.key(0), x)
    return jaxinit.from_linen(model, variables, x)


def final_loss(spec, state, images, labels, rate, key):
    """The mean loss of the last ten steps, with one learning rate and one start."""
    params, _ = spec.init(key)
    optimizer = spec.optimizer(optax.adam(rate))
    forward = spec.forward

    def loss(params, x, y):
        logits = forward(params, state, x)
        return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()

    def step(carry, batch):
        params, memory = carry
        value, gradients = jax.value_and_grad(loss)(params, *batch)
        updates, memory = optimizer.update(gradients, memory, params)
        return (optax.apply_updates(params, updates), memory), value

    start = params, optimizer.init(params)
    _, losses = jax.lax.scan(step, start, (images, labels))
    return losses[-10:].mean()


def sweep(parametrization, width, seeds=SEEDS):
    """The loss at each rate, averaged over seeds."""
    images, labels = digits()
    chosen = jax.random.randint(jax.random.key(1), (STEPS, BATCH), 0, len(images))
    model = build(width)
    spec = parametrization(build(WIDTHS[0]), model)
    keys = jax.random.split(jax.random.key(2), seeds)

    @jax.jit
    def run(rates, keys):
        def one(rate, key):
            batches = images[chosen], labels[chosen]
            return final_loss(spec, model[2], *batches, rate, key)

        return jax.vmap(jax.vmap(one, (None, 0)), (0, None))(rates, keys)

    return np.asarray(run(jnp.asarray(RATES, "float32"), keys)).mean(axis=1)


def best(losses):
    """The power of two of the best rate, between those tried by a parabola."""
    logs = np.log2(RATES)
    place = int(np.clip(np.nanargmin(losses), 1, len(losses) - 2))
    near = slice(place - 1, place + 2)
    bend, slope, _ = np.polyfit(logs[near], np.log(losses[near]), 2)
    return float(np.clip(-slope / (2 * bend), logs[place - 1], logs[place + 1]))


def picture(found, path):
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 3.2))
    for axes, (title, curves) in zip(
        figure.subplots(1, 2, sharey=True), found.items(), strict=True
    ):
        for width, losses in curves.items():
            axes.plot(np.log2(RATES), losses, marker="o", markersize=3, label=width)
        axes.set_title(title, fontsize="medium")
        axes.set_xlabel("log2 of the learning rate")
        axes.set_yscale("log")
        axes.grid(visible=True, alpha=0.3)
    figure.axes[0].set_ylabel("loss after 100 steps")
    figure.axes[0].set_ylim(top=3.0)
    figure.axes[1].legend(title="width", fontsize="small")
    figure.set_layout_engine("tight")
    figure.savefig(path, dpi=80)


def main(path=None):
    found = {}
    for kind in (presets.standard, presets.mup):
        curves = found[kind.__name__] = {w: sweep(kind, w) for w in WIDTHS}
        for width, losses in curves.items():
            print(
                f"{kind.__name__:>9}, width {width:4}: best rate 2^{best(losses):.1f}, "
                f"loss {np.nanmin(losses):.4f}",
                flush=True,
            )
    if path is not None:
        picture(found, path)


if __name__ == "__main__":
    main(*sys.argv[1:])
