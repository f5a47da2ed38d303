"""A safetensors file of a gigabyte into JAX arrays, against reading the file itself.

    python benchmarks/read_checkpoint.py [--megabytes 1024] [--rounds 5] > read.json
    python benchmarks/read_checkpoint.py --ways merge "merge, torch layout"

Every way runs in a process of its own, in turn with the others, on a file that the
system has in its cache: `file` reads the bytes into fresh memory and keeps them;
`stream` reads them into the same memory again and again, and keeps nothing;
`read` gives NumPy arrays, `place` JAX arrays on a device, `merge` a tree that fits its
target, `merge, torch layout` one in which every matrix is transposed, as `torch_layout`
has it; `library` is `safetensors.numpy.load_file` and a copy to JAX. All others are
first held to give the right numbers. Before each measurement another process touches
memory and gives it back; see `measuring.touch_memory`. `over_file` is the median of the
ratios to the reading of the same round, `extra` the peak of host memory above the
arrays that are returned, as a part of them.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time

import jax
import jax.numpy as jnp
import numpy as np
from measuring import in_new_process, machine, resident, spread, touch_memory

from jaxinit import transfer

TORCH = "merge, torch layout"
WAYS = ("file", "stream", "read", "place", "merge", TORCH, "library")
SHAPE = (1024, 2048)  # eight megabytes of float32
PART = 4 * SHAPE[0] * SHAPE[1]


def names(count):
    """Full names of as many leaves."""
    return [f"layer_{number}/kernel" for number in range(count)]


def content(number):
    """The values of one leaf, cheap to make again."""
    base = np.arange(SHAPE[0] * SHAPE[1], dtype=np.float32).reshape(SHAPE)
    return base * np.float32(1 / 1024) + np.float32(number)


def write(path, count):
    """The file: as many leaves as fill it, written one by one."""
    import safetensors.numpy

    tree = {name: content(number) for number, name in enumerate(names(count))}
    safetensors.numpy.save_file(tree, path)


def run(way, path):
    """What a way returns; lazily, so that nothing is imported for it before."""
    if way == "file":
        parts = {}
        with open(path, "rb", buffering=0) as file:
            part = np.empty(PART, np.uint8)
            while count := file.readinto(part.data):
                parts[len(parts)] = part[:count]
                part = np.empty(PART, np.uint8)
        return parts
    if way == "stream":
        part = np.empty(PART, np.uint8)
        with open(path, "rb", buffering=0) as file:
            while file.readinto(part.data):
                pass
        return {"": part}
    if way == "library":
        from safetensors.numpy import load_file

        return {name: jnp.array(value) for name, value in load_file(path).items()}
    source = transfer.open_checkpoint(path, separator="/")
    if way == "read":
        return {name: leaf.read() for name, leaf in source.items()}
    if way == "place":
        sharding = jax.sharding.SingleDeviceSharding(jax.devices()[0])
        return {name: leaf.place(sharding) for name, leaf in source.items()}
    shape, rules = SHAPE, []
    if way == TORCH:
        shape, rules = SHAPE[::-1], [transfer.torch_layout()]
    target = {}
    for name in source:
        layer, leaf = name.split("/")
        target[layer] = {leaf: jax.ShapeDtypeStruct(shape, jnp.float32)}
    tree, _ = transfer.merge(target, source, rules)
    return {f"{layer}/kernel": leaves["kernel"] for layer, leaves in tree.items()}


def measure(way, path, check):
    """Seconds and memory of one way, in this process."""
    jnp.zeros(1).block_until_ready()  # the backend is started by whoever uses JAX
    touch_memory(2 * os.path.getsize(path))
    before = resident("VmRSS")
    start = time.perf_counter()
    result = jax.block_until_ready(run(way, path))
    seconds = time.perf_counter() - start
    peak = resident("VmHWM")
    nbytes = sum(value.nbytes for value in result.values())
    if check and way not in ("file", "stream"):
        assert sorted(result) == sorted(names(len(result)))
        for number, name in enumerate(names(len(result))):
            found = np.asarray(result[name])
            wanted = content(number).T if way == TORCH else content(number)
            np.testing.assert_array_equal(found, wanted)
    return {"seconds": seconds, "extra": (peak - before - nbytes) / nbytes}


def run_alone(way, path, *options):
    """The same in a process of its own."""
    time.sleep(3)  # until what the process before gave back is no longer moved about
    return in_new_process(__file__, "--way", way, "--path", path, *options)


def order(ways, number):
    """The ways in the order of one round: each comes first in its turn."""
    first = number % len(ways)
    return [*ways[first:], *ways[:first]]


def main():
    """Print the JSON of all ways."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--megabytes", type=int, default=1024)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=WAYS)
    parser.add_argument("--way", choices=WAYS)
    parser.add_argument("--path")
    parser.add_argument("--check", action="store_true")
    options = parser.parse_args()
    if options.way:
        print(json.dumps(measure(options.way, options.path, options.check)))
        return
    chosen = tuple(dict.fromkeys(("file", *options.ways)))  # what all are held against
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "model.safetensors")
        write(path, options.megabytes // 8)
        for way in chosen:
            run_alone(way, path, "--check")
        rounds = [
            {way: run_alone(way, path) for way in order(chosen, number)}
            for number in range(options.rounds)
        ]
    ways = {
        way: {
            "seconds": spread([r[way]["seconds"] for r in rounds]),
            "over_file": spread(
                [r[way]["seconds"] / r["file"]["seconds"] for r in rounds]
            ),
            "extra": spread([r[way]["extra"] for r in rounds]),
        }
        for way in chosen
    }
    record = {
        "machine": machine(),
        "megabytes": options.megabytes,
        "ways": ways,
    }
    print(json.dumps(record, indent=2))


if __name__ == "__main__":
    main()
