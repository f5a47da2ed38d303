"""Other libraries on the tasks that they share with this one (extra `bench`).

    python benchmarks/peers.py [--rounds 5] > peers.json

Each task is held to be done right by both sides before it is timed; then the two run in
turn. Where first calls are compared each is a new process. A peer that is not installed
is named with the reason, and has no ratio.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import sys
import tempfile
import time

import numpy as np
from measuring import in_new_process, machine, spread

os.environ.setdefault("KERAS_BACKEND", "jax")

DEPTH, WIDTH, BATCH = 50, 128, 128


def seconds(work):
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def in_turn(ours, theirs, rounds):
    """Ratios of neighbours, theirs over ours; both have run before."""
    pairs = [(seconds(theirs), seconds(ours)) for _ in range(rounds)]
    return spread(one / other for one, other in pairs)


# ------------------------------------------------------------------------------- tasks


def keras_initializer(rounds):
    """A 4096 x 4096 truncated normal of He's variance."""
    import jax
    import keras

    from jaxinit import initializers

    theirs = keras.initializers.HeNormal(seed=0)
    draw = jax.jit(lambda key: initializers.he_normal()(key, (4096, 4096)))
    for made in (np.asarray(theirs((4096, 4096))), np.asarray(draw(jax.random.key(0)))):
        assert abs(made.std() / np.sqrt(2 / 4096) - 1) < 0.01
    return in_turn(
        lambda: draw(jax.random.key(1)).block_until_ready(),
        lambda: jax.block_until_ready(theirs((4096, 4096))),
        rounds,
    )


def haiku_network():
    import haiku as hk
    import jax
    import jax.numpy as jnp

    def forward(x):
        return hk.nets.ResNet50(1000)(x, is_training=True)

    return hk.transform_with_state(forward).init, jnp.ones((1, 64, 64, 3)), jax


def haiku_init(rounds):
    """The first ResNet-50 of dm-haiku: its init jitted, and materialized."""
    runs = {"jit": [], "materialize": []}
    for _ in range(rounds):
        for way, found in runs.items():
            found.append(in_new_process(__file__, "--inside", f"haiku {way}"))
    digests = {run["digest"] for way in runs.values() for run in way}
    assert len(digests) == 1, "materialize is not what jit gives"
    pairs = zip(runs["jit"], runs["materialize"], strict=True)
    return spread(one["seconds"] / other["seconds"] for one, other in pairs)


def haiku_once(way):
    import hashlib

    from jaxinit import materialize

    init, inputs, jax = haiku_network()
    call = (materialize if way == "materialize" else jax.jit)(init)
    key = jax.block_until_ready(jax.random.key(0))
    start = time.perf_counter()
    made = jax.block_until_ready(call(key, inputs))
    found = time.perf_counter() - start
    content = b"".join(np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(made))
    return {"seconds": found, "digest": hashlib.sha256(content).hexdigest()}


def plain_network():
    import jax
    from flax import linen as nn

    class Plain(nn.Module):
        @nn.compact
        def __call__(self, x):
            for _ in range(DEPTH):
                x = nn.relu(nn.Dense(WIDTH)(x))
            return nn.Dense(10)(x)

    x = jax.random.normal(jax.random.key(1), (BATCH, WIDTH))
    module = Plain()
    return module, jax.jit(module.init)(jax.random.key(0), x), x


def last_layer(module, variables, x):
    """The root mean square of the last hidden product, from float64 by numpy."""
    y = np.asarray(x, np.float64)
    layers = variables["params"]
    for number in range(DEPTH):
        layer = layers[f"Dense_{number}"]
        product = y @ np.asarray(layer["kernel"], np.float64)
        y = np.maximum(product + np.asarray(layer["bias"], np.float64), 0)
    return float(np.sqrt(np.mean(np.square(product))))


def anyinit_measured(rounds):
    """Fifty ReLU layers brought to a measured scale, first call to last."""
    import anyinit

    import jaxinit

    module, variables, x = plain_network()
    f, params, *args = jaxinit.from_linen(module, variables, x)

    def ours():
        return jaxinit.calibrate(f, params, *args, measure=False)[0]

    def theirs():
        return anyinit.initialize(
            module, "empirical", np.asarray(x), params=variables, seed=0
        )

    ours()
    report = theirs()
    found = last_layer(module, {"params": report.params["params"]}, x)
    assert 0.2 < found < 5, f"anyinit's last product has rms {found}"
    return in_turn(ours, theirs, rounds)


def lsuv_of_torch(rounds):
    """Fifty ReLU layers by LSUV in torch, and by one calibrated pass."""
    import contextlib
    import io

    import lsuv
    import torch

    import jaxinit

    module, variables, x = plain_network()
    f, params, *args = jaxinit.from_linen(module, variables, x)
    batch = torch.tensor(np.asarray(x))

    def theirs():
        layers = []
        for _ in range(DEPTH):
            layers += [torch.nn.Linear(WIDTH, WIDTH), torch.nn.ReLU()]
        network = torch.nn.Sequential(*layers)
        with contextlib.redirect_stdout(io.StringIO()), torch.no_grad():
            return lsuv.lsuv_with_singlebatch(network, batch, verbose=False)

    def ours():
        return jaxinit.calibrate(f, params, *args, measure=False)[0]

    ours()
    with torch.no_grad():
        deviation = float(theirs()[:-1](batch).std())
    assert abs(deviation - 1) < 0.2, f"lsuv's last layer deviates by {deviation}"
    return in_turn(ours, theirs, rounds)


def orbax_restore(rounds):
    """A tree of 128 MB from an Orbax directory into place."""
    import jax
    import orbax.checkpoint as ocp

    from jaxinit import transfer as tr

    random = np.random.default_rng(0)
    tree = {f"layer_{i}": random.normal(size=(1024, 1024)) for i in range(32)}
    tree = {name: leaf.astype(np.float32) for name, leaf in tree.items()}
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "orbax")
        with ocp.StandardCheckpointer() as writer:
            writer.save(path, tree)
        target = jax.eval_shape(lambda: tree)

        def ours():
            found, _ = tr.merge(target, tr.open_checkpoint(path))
            return jax.block_until_ready(found)

        def theirs():
            with ocp.StandardCheckpointer() as reader:
                return jax.block_until_ready(reader.restore(path, target))

        for made in (ours(), theirs()):
            for name, leaf in tree.items():
                np.testing.assert_array_equal(np.asarray(made[name]), leaf)
        return in_turn(ours, theirs, rounds)


TASKS = {
    "Keras 3 on JAX": ("keras", "he_normal of 4096 x 4096", keras_initializer, ""),
    "dm-haiku": ("haiku", "first ResNet-50, jitted init", haiku_init, "same bytes"),
    "anyinit": (
        "anyinit",
        "50 ReLU layers, scaled by measurement",
        anyinit_measured,
        "both measure; ours is one compiled pass",
    ),
    "lsuv": (
        "lsuv",
        "50 ReLU layers, unit variance",
        lsuv_of_torch,
        "theirs in torch, orthonormal start included",
    ),
    "Orbax": (
        "orbax.checkpoint",
        "restore 128 MB",
        orbax_restore,
        "ours reads through Orbax, and accounts for every leaf",
    ),
}
ELSEWHERE = [
    ("flax init (jit, eager, lazy)", "first parameters", "see P1, materialize.json"),
    ("jax.nn.initializers", "sampling, compile", "see P6 and P8, threefry.json"),
    ("torch.nn.init, torch construction", "filling", "see P7 and P2"),
    ("safetensors", "reading a file", "`library` in read_checkpoint.json"),
    (
        "timm",
        "position grids, input channels",
        "defines numbers, no time: held to 1e-5 in tests/transfer",
    ),
]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", choices=TASKS)
    parser.add_argument("--inside", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.inside:
        print(json.dumps(haiku_once(options.inside.split()[1])))
        return
    peers = []
    for peer, (needs, task, work, note) in TASKS.items():
        if options.only not in (None, peer):
            continue
        try:
            importlib.import_module(needs)
        except ImportError as error:
            entry = {"ratio": None, "note": f"cannot be imported here: {error}"}
        else:
            entry = {"ratio": work(options.rounds), "note": note}
        peers.append({"peer": peer, "task": task, **entry})
    peers += [
        {"peer": peer, "task": task, "ratio": None, "note": note}
        for peer, task, note in ELSEWHERE
    ]
    report = {"claim": "beside other libraries", "machine": machine(), "peers": peers}
    json.dump(report, sys.stdout, indent=1)
    print()


if __name__ == "__main__":
    main()
