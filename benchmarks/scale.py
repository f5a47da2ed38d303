"""Trees of seven billion parameters by their shapes alone, and how costs grow.

    python benchmarks/scale.py [--rounds 3] > scale.json

Every measurement is a process of its own. `seven_billion`: a decoder of 32 layers and
width 4096, of which no parameter exists; the checkpoint is a file of its whole size
whose data are a hole. Each row holds seconds and the bytes that the process came to
hold meanwhile. `growth`: the same for decoders of more and more layers, and a mapping
of more and more leaves; `exponent` is the slope of log seconds against log size, above
the smallest size: 1 is linear.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
import tempfile
import time

import numpy as np
from measuring import in_new_process, machine, resident, spread

SEVEN = {"depth": 32, "width": 4096, "words": 32000}
DEPTHS = (8, 16, 32, 64, 128)
LEAVES = (1000, 2000, 4000, 8000, 16000)


# ----------------------------------------------------------------- inside a new process


def network(**sizes):
    """A decoder's init, its inputs, the shapes of its variables, its outputs."""
    import jax
    import jax.numpy as jnp
    from networks_linen import GPT

    module = GPT(**sizes)
    inputs = jnp.ones((1, 16), jnp.int32)
    key = jax.random.key(0)
    return module, inputs, jax.eval_shape(module.init, key, inputs), key


def hollow_file(folder, shapes):
    """A checkpoint with these leaves, as large as it says, that takes no room."""
    header, start = {}, 0
    for name, leaf in _flat(shapes).items():
        size = leaf.size * 4
        offsets = [start, start + size]
        header[name] = {"dtype": "F32", "shape": leaf.shape, "data_offsets": offsets}
        start += size
    text = json.dumps(header).encode()
    path = os.path.join(folder, "hollow.safetensors")
    with open(path, "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + start)
    return path


def _flat(tree):
    import jax

    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {"/".join(str(part.key) for part in path): leaf for path, leaf in leaves}


def works(sizes):
    """Name -> (preparation, what is timed, a check of its result)."""
    import jax
    import optax

    import jaxinit
    from jaxinit import finetune as ft
    from jaxinit import presets
    from jaxinit import transfer as tr

    module, inputs, shapes, key = network(**sizes)
    count = len(jax.tree.leaves(shapes))

    def f(params, x):
        return module.apply(params, x)

    def shaped():
        return jax.eval_shape(module.init, key, inputs)

    def explained():
        return jaxinit.materialize(module.init).explain(key, inputs)

    def planned():
        with tempfile.TemporaryDirectory() as folder:
            path = hollow_file(folder, shapes)
            source = tr.open_checkpoint(path, separator="/")
            return tr.plan(shapes, source)

    def labelled():
        labels = ft.labels({".*kernel": "kernels", ".*": "others"}, shapes)
        tx = ft.learning_rates(
            optax.adamw(1e-3), {"kernels": 1.0, "others": 0.1}, labels
        )
        frozen = ft.freeze(tx, ".*embedding")
        return labels, jax.eval_shape(frozen.init, shapes)

    def used():
        return jaxinit.trace_uses(f, shapes, inputs)

    def by_width():
        narrow = network(**sizes | {"width": sizes["width"] // 2})

        def g(params, x):
            return narrow[0].apply(params, x)

        return presets.mup((g, narrow[2], inputs), (f, shapes, inputs)).report

    def predicted():
        return jaxinit.predict_signal(f, shapes, inputs)

    return {
        "eval_shape, for comparison": (shaped, lambda r: len(jax.tree.leaves(r))),
        "materialize.explain": (explained, lambda r: len(r.rows)),
        "open_checkpoint and plan": (planned, lambda r: len(r.rows)),
        "labels, rates, freeze": (labelled, lambda r: len(jax.tree.leaves(r[0]))),
        "trace_uses": (used, len),
        "predict_signal": (predicted, lambda r: count),
        "presets.mup": (by_width, lambda r: len(r.rows)),
    }, count


def measure(name, sizes):
    made, count = works(sizes)
    work, check = made[name]
    before, start = resident("VmRSS"), time.perf_counter()
    result = work()
    seconds = time.perf_counter() - start
    assert check(result) == count, f"{name}: {check(result)} of {count} leaves"
    return {
        "seconds": seconds,
        "bytes": max(0, resident("VmHWM") - before),
        "leaves": count,
    }


def of_leaves(name, leaves):
    """The same works on a mapping of many small leaves, without a model."""
    import jax

    import jaxinit
    from jaxinit import finetune as ft
    from jaxinit import transfer as tr

    tree = {
        f"layer_{i}": {"kernel": np.zeros((2, 2), np.float32)} for i in range(leaves)
    }

    def init(key):
        draw = jaxinit.initializers.normal()
        return {
            f"layer_{i}": draw(jax.random.fold_in(key, i), (2, 2))
            for i in range(leaves)
        }

    def saved_and_merged():
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "many.safetensors")
            tr.save(path, tree)
            return tr.merge(tree, tr.open_checkpoint(path))[0]

    def fill():
        return jaxinit.materialize(init)(jax.random.key(0))

    work = {
        "materialize": fill,
        "save and merge": saved_and_merged,
        "labels": lambda: ft.labels({".*": "all"}, tree),
    }[name]
    start = time.perf_counter()
    made = jax.block_until_ready(work())
    seconds = time.perf_counter() - start
    assert len(jax.tree.leaves(made)) == leaves
    return {"seconds": seconds}


# --------------------------------------------------------------------------- the parent

NAMES = (
    "eval_shape, for comparison",
    "materialize.explain",
    "open_checkpoint and plan",
    "labels, rates, freeze",
    "trace_uses",
    "predict_signal",
    "presets.mup",
)
OF_LEAVES = "materialize", "save and merge", "labels"


def exponent(sizes, seconds):
    """The least-squares slope in logarithms, of all sizes but the smallest."""
    x, y = np.log(sizes[1:]), np.log(np.maximum(seconds[1:], 1e-4))
    return round(float(np.polyfit(x, y, 1)[0]), 2)


def curve(kind, name, sizes, rounds):
    medians = []
    for size in sizes:
        runs = [in_new_process(__file__, kind, name, size) for _ in range(rounds)]
        medians.append(spread(run["seconds"] for run in runs)["median"])
    return {
        "seconds": dict(zip(sizes, medians, strict=True)),
        "exponent": exponent(sizes, medians),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("inside", nargs="*", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.inside:
        kind, name, size = options.inside
        if kind == "leaves":
            print(json.dumps(of_leaves(name, int(size))))
        else:
            depth = {"depth": int(size), "width": 128, "words": 256}
            print(json.dumps(measure(name, SEVEN if kind == "seven" else depth)))
        return
    seven = {}
    for name in NAMES:
        runs = [
            in_new_process(__file__, "seven", name, 0) for _ in range(options.rounds)
        ]
        seven[name] = {
            "seconds": spread(run["seconds"] for run in runs),
            "megabytes": spread(run["bytes"] / 1e6 for run in runs),
        }
    report = {
        "claim": "scale: seven billion parameters by their shapes; growth",
        "machine": machine(),
        "parameters": _parameters(),
        "seven_billion": seven,
        "growth_with_depth": {
            name: curve("depth", name, DEPTHS, options.rounds) for name in NAMES
        },
        "growth_with_leaves": {
            name: curve("leaves", name, LEAVES, options.rounds) for name in OF_LEAVES
        },
    }
    json.dump(report, sys.stdout, indent=1)
    print()


def _parameters():
    import jax

    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(network(**SEVEN)[2]))


if __name__ == "__main__":
    main()
