"""A fine-tuning job in linen: materialize, audit, merge, freeze, train, save, resume.

    python examples/train_linen.py FOLDER

trains ten steps and saves; called again, it goes on where it stopped.
"""

import pathlib
import sys
import tempfile

import jax
import jax.numpy as jnp
import optax
import orbax.checkpoint as ocp
from flax import linen as nn

import jaxinit
from jaxinit import finetune as ft
from jaxinit import initializers
from jaxinit import transfer as tr

FROZEN = "backbone/.*"


class Backbone(nn.Module):
    @nn.compact
    def __call__(self, x, train):
        for width in (16, 32):
            kernel_init = initializers.he_normal()
            x = nn.Conv(width, (3, 3), use_bias=False, kernel_init=kernel_init)(x)
            x = nn.relu(nn.BatchNorm(use_running_average=not train)(x))
        return x.mean((1, 2))


class Network(nn.Module):
    classes: int

    @nn.compact
    def __call__(self, x, train=False):
        # What is frozen has frozen statistics, too: `train` does not reach it.
        x = Backbone(name="backbone")(x, False)
        x = nn.Dropout(0.5, deterministic=not train)(x)
        return nn.Dense(self.classes, name="head")(x)


def data(step):
    """The batch of a step, by its number alone, so that a resumed run sees the same."""
    key = jax.random.fold_in(jax.random.key(1), step)
    labels = jax.random.randint(key, (32,), 0, 3)
    brightness = labels[:, None, None, None].astype(jnp.float32)
    return brightness + jax.random.normal(key, (32, 8, 8, 3)), labels


def pretrained(path):
    """Stands for the file that you have: 1000 classes, so that its head is no use."""
    variables = jaxinit.materialize(Network(1000).init)(jax.random.key(7), data(0)[0])
    tr.save(path, variables)


model = Network(classes=3)
optimizer = ft.freeze(
    optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(0.03, mask=ft.decayed)),
    FROZEN,
)


def start(path):
    """Variables whose backbone comes from a file, and whose head is new and sound."""
    variables = jaxinit.materialize(model.init)(jax.random.key(0), data(0)[0])
    source = tr.open_checkpoint(path)
    variables, merged = tr.merge(variables, source, [tr.keep("head/.*")])
    audited = jaxinit.audit(*jaxinit.from_linen(model, variables, data(0)[0]))
    return variables, merged.raise_if("error"), audited.raise_if("error")


@jax.jit
def step(variables, state, key, x, y):
    def loss(params):
        given = {**variables, "params": params}
        logits = model.apply(given, x, train=True, rngs={"dropout": key})
        return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()

    params = variables["params"]
    value, gradients = jax.value_and_grad(loss)(params)
    updates, state = optimizer.update(gradients, state, params)
    return {**variables, "params": optax.apply_updates(params, updates)}, state, value


def main(folder, steps=10):
    folder = pathlib.Path(folder).resolve()
    if not (file := folder / "pretrained.safetensors").exists():
        pretrained(file)
    begin, merged, audited = start(file)
    job = {"variables": begin, "state": optimizer.init(begin["params"])}
    with ocp.CheckpointManager(folder / "steps") as manager:
        first = 0
        if (latest := manager.latest_step()) is not None:
            job = manager.restore(latest, args=ocp.args.StandardRestore(job))
            first = latest + 1
        else:
            print(merged, audited, sep="\n\n")
        for i in range(first, first + steps):
            key = jax.random.fold_in(jax.random.key(2), i)
            variables, state, loss = step(job["variables"], job["state"], key, *data(i))
            job = {"variables": variables, "state": state}
        manager.save(i, args=ocp.args.StandardSave(job))
    ft.assert_frozen(begin, job["variables"], FROZEN)
    print(f"steps {first} to {i}: loss {loss:.3f}")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else tempfile.mkdtemp())
