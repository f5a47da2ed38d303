"""The typical set-up of a convolutional network, whole, for linen and for nnx.

He initialization, batch norm, dropout, L2 on kernels, and a mean that is fitted on
training data only, lives in the jitted step and is saved with the parameters.
"""

import tempfile
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen, nnx
from orbax.checkpoint import StandardCheckpointer

import jaxinit
from jaxinit import finetune, initializers, inputs

he, last = initializers.he_normal(), initializers.lecun_normal()  # no ReLU after it
conv = {"kernel_size": (3, 3), "use_bias": False, "kernel_init": he}
pool = partial(linen.max_pool, window_shape=(2, 2), strides=(2, 2))
# L2 of the textbook: its gradient joins that of the loss, before the momentum.
decay = optax.add_decayed_weights(1e-3, mask=finetune.decayed)
tx = optax.chain(decay, optax.sgd(0.03, momentum=0.9))
loss_of = optax.softmax_cross_entropy_with_integer_labels


def load(seed, examples=64):
    """Ten patterns under noise: put your own images (uint8) and labels here."""
    random = np.random.default_rng(seed)
    labels = random.integers(0, 10, examples)
    patterns = np.random.default_rng(0).normal(140, 40, (10, 12, 12, 1))
    images = patterns[labels] + random.normal(0, 40, (examples, 12, 12, 1))
    return images.clip(0, 255).astype(np.uint8), labels


class LinenNetwork(linen.Module):
    @linen.compact
    def __call__(self, x, train=False):
        norm = partial(linen.BatchNorm, use_running_average=not train, momentum=0.9)
        drop = partial(linen.Dropout, deterministic=not train)
        x = pool(linen.relu(norm()(linen.Conv(16, **conv)(x))))
        x = pool(linen.relu(norm()(linen.Conv(32, **conv)(x))))
        x = drop(0.1, broadcast_dims=(1, 2))(x).reshape(len(x), -1)  # whole channels
        x = drop(0.5)(linen.relu(linen.Dense(64, kernel_init=he)(x)))
        return linen.Dense(10, kernel_init=last)(x)


def train_linen(batches):
    model, mean = LinenNetwork(), inputs.fit_mean(x for x, _ in batches)
    apply = partial(model.apply, train=True, mutable=["batch_stats"])
    variables = jaxinit.materialize(model.init)(jax.random.key(0), batches[0][0])
    state = tx.init(variables["params"])

    @jax.jit
    def step(variables, state, mean, key, x, y):
        def loss(params):
            given = {**variables, "params": params}
            logits, moved = apply(given, mean.apply(x), rngs={"dropout": key})
            return loss_of(logits, y).mean(), moved

        params = variables["params"]
        gradients, moved = jax.grad(loss, has_aux=True)(params)
        updates, state = tx.update(gradients, state, params)
        return {"params": optax.apply_updates(params, updates), **moved}, state

    for i, (x, y) in enumerate(batches, 1):
        variables, state = step(variables, state, mean, jax.random.key(i), x, y)
    return {"model": variables, "mean": mean}


def nnx_network(rngs):
    norm = partial(nnx.BatchNorm, momentum=0.9, rngs=rngs)
    layers = [nnx.Conv(1, 16, **conv, rngs=rngs), norm(16), nnx.relu, pool]
    layers += [nnx.Conv(16, 32, **conv, rngs=rngs), norm(32), nnx.relu, pool]
    layers += [nnx.Dropout(0.1, broadcast_dims=(1, 2), rngs=rngs), jax.vmap(jnp.ravel)]
    layers += [nnx.Linear(288, 64, kernel_init=he, rngs=rngs), nnx.relu]
    layers += [nnx.Dropout(0.5, rngs=rngs)]
    return nnx.Sequential(*layers, nnx.Linear(64, 10, kernel_init=last, rngs=rngs))


def train_nnx(batches):
    model, mean = nnx_network(nnx.Rngs(0)), inputs.fit_mean(x for x, _ in batches)
    optimizer = nnx.Optimizer(model, tx, wrt=nnx.Param)

    @nnx.jit
    def step(model, optimizer, mean, x, y):
        gradients = nnx.grad(lambda m: loss_of(m(mean.apply(x)), y).mean())(model)
        optimizer.update(model, gradients)

    for x, y in batches:
        step(model, optimizer, mean, x, y)
    return {"model": nnx.state(model, (nnx.Param, nnx.BatchStat)), "mean": mean}


def apply_nnx(state, x):
    model = nnx_network(nnx.Rngs(0))
    nnx.update(model, state)
    model.eval()
    return model(x)


def main(steps=100):
    training, (unseen, wanted) = [load(seed) for seed in range(steps)], load(steps, 512)
    for train, apply in (train_linen, LinenNetwork().apply), (train_nnx, apply_nnx):
        state = train(training)
        with tempfile.TemporaryDirectory() as folder, StandardCheckpointer() as saver:
            saver.save(f"{folder}/state", state)
            saver.wait_until_finished()
            state = saver.restore(
                f"{folder}/state", jax.tree.map(jnp.zeros_like, state)
            )
        predicted = apply(state["model"], state["mean"].apply(unseen)).argmax(-1)
        print(f"{train.__name__}: {np.mean(predicted == wanted):.0%} of unseen images")


if __name__ == "__main__":
    main()
