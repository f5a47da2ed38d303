"""A fine-tuning job on all devices of all processes, none of which holds it all.

    python examples/train_sharded.py FOLDER
    python examples/train_sharded.py FOLDER HOST:PORT PROCESSES INDEX    # in each

trains ten steps and saves; called again, it goes on where it stopped.
"""

import pathlib
import sys
import tempfile
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
from flax import linen as nn
from jax.experimental.multihost_utils import sync_global_devices
from jax.sharding import AxisType, NamedSharding, PartitionSpec

import jaxinit
from jaxinit import finetune as ft
from jaxinit import initializers
from jaxinit import transfer as tr

FROZEN = "backbone_.*"


class Network(nn.Module):
    classes: int

    @nn.compact
    def __call__(self, x):
        for i in range(3):
            kernel_init = initializers.he_normal()
            x = nn.relu(nn.Dense(64, kernel_init=kernel_init, name=f"backbone_{i}")(x))
        return nn.Dense(self.classes, name="head")(x)


def data(step):
    """The batch of a step, by its number alone; the devices take their rows of it."""
    random = np.random.default_rng(step)
    labels, noise = random.integers(0, 8, 64), random.normal(size=(64, 16))
    patterns = np.random.default_rng(0).normal(size=(8, 16))
    return (patterns[labels] + noise / 2).astype(np.float32), labels


def pretrained(path):
    """Stands for the file that you have: 1000 classes, so that its head is no use."""
    with jax.default_device(jax.local_devices()[0]):
        variables = jaxinit.materialize(Network(1000).init)(
            jax.random.key(7), data(0)[0]
        )
        tr.save(path, variables)


def sharding_of(mesh, leaf):
    """Cut along the first axis that the devices divide; else a copy on each."""
    axes = (axis for axis, size in enumerate(leaf.shape) if size % mesh.size == 0)
    cut = next(axes, None)
    names = [None] * leaf.ndim if cut is None else [None] * cut + ["all"]
    return NamedSharding(mesh, PartitionSpec(*names))


def on(mesh, array):
    """The array on the mesh, its rows cut; each process makes its own rows."""
    rows = NamedSharding(mesh, PartitionSpec("all"))
    return jax.make_array_from_callback(array.shape, rows, lambda index: array[index])


model = Network(classes=8)
optimizer = ft.freeze(
    optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(0.03, mask=ft.decayed)),
    FROZEN,
)


def start(path, mesh):
    """Sharded parameters and optimizer state, of which no process ever holds all."""
    place = partial(jax.tree.map, partial(sharding_of, mesh))
    key, x = jax.random.key(0), data(0)[0]
    shardings = place(jax.eval_shape(model.init, key, x))
    params = jaxinit.materialize(model.init, out_shardings=shardings)(key, x)
    rules = [tr.keep("head/.*")]
    params, merged = tr.merge(params, tr.open_checkpoint(path), rules)
    print(merged.raise_if("error"))
    print(jaxinit.audit(model.apply, params, on(mesh, x)).raise_if("error"))
    shardings = place(jax.eval_shape(optimizer.init, params))
    state = jax.jit(optimizer.init, out_shardings=shardings)(params)
    return {"params": params, "state": state}


@partial(jax.jit, donate_argnums=(0, 1))
def step(params, state, x, y):
    def loss(params):
        logits = model.apply(params, x)
        return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()

    value, gradients = jax.value_and_grad(loss)(params)
    updates, state = optimizer.update(gradients, state, params)
    return optax.apply_updates(params, updates), state, value


def main(folder, coordinator=None, processes="1", index="0", *, steps=10):
    if coordinator is not None:
        jax.distributed.initialize(coordinator, int(processes), int(index))
    folder = pathlib.Path(folder).resolve()
    file, first_process = folder / "pretrained.safetensors", jax.process_index() == 0
    if first_process and not file.exists():
        pretrained(file)
    sync_global_devices("the file is written")
    mesh = jax.make_mesh((jax.device_count(),), ("all",), axis_types=(AxisType.Auto,))
    job = start(file, mesh)
    begin = jax.tree.map(jnp.copy, job["params"])  # since `step` takes the buffers
    with ocp.CheckpointManager(folder / "steps") as manager:
        first = 0
        if (latest := manager.latest_step()) is not None:
            job = manager.restore(latest, args=ocp.args.StandardRestore(job))
            first = latest + 1
        for i in range(first, first + steps):
            x, y = (on(mesh, array) for array in data(i))
            params, state, loss = step(job["params"], job["state"], x, y)
            job = {"params": params, "state": state}
        manager.save(i, args=ocp.args.StandardSave(job))
    ft.assert_frozen(begin, job["params"], FROZEN)
    if first_process:
        print(f"steps {first} to {i} on {mesh.size} devices: loss {loss:.4f}")


if __name__ == "__main__":
    main(*(sys.argv[1:] or [tempfile.mkdtemp()]))
