"""Many cycles of making, saving and merging in one process; prints what grew.

Run with the number of cycles and a folder; prints JSON.
"""

import gc
import json
import os
import sys
import threading

import jax

jax.config.update("jax_platforms", "cpu")

import jax.numpy as jnp  # noqa: E402
from flax import linen as nn  # noqa: E402

import jaxinit  # noqa: E402
from jaxinit import transfer as tr  # noqa: E402

WARM = 50


class Network(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.relu(nn.Conv(8, (3, 3), name="stem")(x)).mean((1, 2))
        x = nn.Dense(64, kernel_init=nn.initializers.orthogonal(), name="body")(x)
        return nn.Dense(10, name="head")(x)


def resident():
    gc.collect()
    with open("/proc/self/status") as file:
        return next(
            int(line.split()[1]) * 1024 for line in file if line.startswith("VmRSS")
        )


def main(cycles, folder):
    """Print bytes, compiled programs, threads and files before and after."""
    compiled = []
    jax.monitoring.register_event_duration_secs_listener(
        lambda event, seconds, **_: (
            compiled.append(event) if event.endswith("backend_compile_duration") else 0
        )
    )
    network, x = Network(), jnp.ones((1, 8, 8, 3))
    path = os.path.join(folder, "network.safetensors")

    def cycle(number):
        key = jax.random.key(number)
        made = jaxinit.materialize(network.init)(key, x)
        tr.save(path, made)
        rules = [tr.draw("head/.*", jaxinit.initializers.zeros)]
        tree, _ = tr.merge(made, tr.open_checkpoint(path), rules, key=key)
        assert bool(
            (tree["params"]["body"]["kernel"] == made["params"]["body"]["kernel"]).all()
        )

    for number in range(WARM):
        cycle(number)
    programs, before = len(compiled), resident()
    descriptors = len(os.listdir("/proc/self/fd"))
    for number in range(WARM, WARM + cycles):
        cycle(number)
    print(
        json.dumps(
            {
                "bytes": resident() - before,
                "programs": len(compiled) - programs,
                "threads": threading.active_count(),
                "descriptors": len(os.listdir("/proc/self/fd")) - descriptors,
                "files": sorted(os.listdir(folder)),
            }
        )
    )


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])
