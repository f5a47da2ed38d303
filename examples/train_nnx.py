"""A fine-tuning job in nnx: materialize, audit, merge, freeze, train, save, resume.

    python examples/train_nnx.py FOLDER

trains ten steps and saves; called again, it goes on where it stopped.
"""

import pathlib
import sys
import tempfile

import jax
import jax.numpy as jnp
import optax
import orbax.checkpoint as ocp
from flax import nnx

import jaxinit
from jaxinit import finetune as ft
from jaxinit import initializers
from jaxinit import transfer as tr

FROZEN = "backbone/.*"


class Backbone(nnx.Module):
    def __init__(self, rngs):
        options = {"use_bias": False, "kernel_init": initializers.he_normal()}
        self.conv_1 = nnx.Conv(3, 16, (3, 3), rngs=rngs, **options)
        self.norm_1 = nnx.BatchNorm(16, rngs=rngs)
        self.conv_2 = nnx.Conv(16, 32, (3, 3), rngs=rngs, **options)
        self.norm_2 = nnx.BatchNorm(32, rngs=rngs)

    def __call__(self, x):
        x = nnx.relu(self.norm_1(self.conv_1(x)))
        return nnx.relu(self.norm_2(self.conv_2(x))).mean((1, 2))


class Network(nnx.Module):
    def __init__(self, classes, *, rngs):
        self.backbone = Backbone(rngs)
        self.drop = nnx.Dropout(0.5, rngs=rngs)
        self.head = nnx.Linear(32, classes, rngs=rngs)

    def __call__(self, x):
        return self.head(self.drop(self.backbone(x)))


def data(step):
    """The batch of a step, by its number alone, so that a resumed run sees the same."""
    key = jax.random.fold_in(jax.random.key(1), step)
    labels = jax.random.randint(key, (32,), 0, 3)
    brightness = labels[:, None, None, None].astype(jnp.float32)
    return brightness + jax.random.normal(key, (32, 8, 8, 3)), labels


def new_state(classes, seed):
    """What `nnx.state(Network(...))` holds, without running the constructor's draws."""

    def construct(key):
        return nnx.state(Network(classes, rngs=nnx.Rngs(key)))

    return jaxinit.materialize(construct)(jax.random.key(seed))


def pretrained(path):
    """Stands for the file that you have: 1000 classes, so that its head is no use."""
    tr.save(path, new_state(1000, seed=7))


optimizer = ft.freeze(
    optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(0.03, mask=ft.decayed)),
    FROZEN,
)


def start(path):
    """A model whose backbone comes from a file, and whose head is new and sound."""
    model = nnx.eval_shape(lambda: Network(3, rngs=nnx.Rngs(0)))
    source = tr.open_checkpoint(path)
    state, merged = tr.merge(new_state(3, seed=0), source, [tr.keep("head/.*")])
    nnx.update(model, state)
    audited = jaxinit.audit(*jaxinit.from_nnx(model, data(0)[0]))
    model.backbone.eval()  # what is frozen has frozen statistics, too
    return model, merged.raise_if("error"), audited.raise_if("error")


@nnx.jit
def step(model, optimizer, x, y):
    def loss(model):
        return optax.softmax_cross_entropy_with_integer_labels(model(x), y).mean()

    value, gradients = nnx.value_and_grad(loss)(model)
    optimizer.update(model, gradients)
    return value


def main(folder, steps=10):
    folder = pathlib.Path(folder).resolve()
    if not (file := folder / "pretrained.safetensors").exists():
        pretrained(file)
    model, merged, audited = start(file)
    training = nnx.Optimizer(model, optimizer, wrt=nnx.Param)
    begin = jax.tree.map(jnp.copy, nnx.state(model))  # the state itself is a view
    with ocp.CheckpointManager(folder / "steps") as manager:
        first = 0
        job = nnx.state((model, training))
        if (latest := manager.latest_step()) is not None:
            args = ocp.args.StandardRestore(job)
            nnx.update((model, training), manager.restore(latest, args=args))
            first = latest + 1
        else:
            print(merged, audited, sep="\n\n")
        for i in range(first, first + steps):
            loss = step(model, training, *data(i))
        job = nnx.state((model, training))
        manager.save(i, args=ocp.args.StandardSave(job))
    ft.assert_frozen(begin, nnx.state(model), FROZEN)
    print(f"steps {first} to {i}: loss {loss:.3f}")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else tempfile.mkdtemp())
