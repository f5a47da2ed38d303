"""Random bits with a fast key against jax.random's own: throughput, compile time.

    python benchmarks/threefry.py [--size 4194304] [--rounds 7] > threefry.json

Each sampler is first held to be equal bit for bit. Then the two are timed in turn, A
B A B, and compared by the median of the ratios of neighbours, so that what else the
machine does falls on both. The 52 convolution kernels of a ResNet-50 are compiled and
drawn in one jitted function, by `he_normal` of either library, each time in a new
process, as a user's first call is; the drawn bytes are compared as well. Keys are
folded in the same program, as a model's init does: loops that XLA compiles alike for
either. "keys given" leaves them out, and so shows the initializers alone.
"""

from __future__ import annotations

import argparse
import functools
import hashlib
import json
import statistics
import sys
import time

import jax
import numpy as np
from measuring import in_new_process, machine, spread

from jaxinit import initializers
from jaxinit._threefry import fast_key

SAMPLERS = {
    "bits": jax.random.bits,
    "uniform": jax.random.uniform,
    "normal": jax.random.normal,
    "truncated_normal": functools.partial(
        jax.random.truncated_normal, lower=-2, upper=2
    ),
}
KEYS = {"jax": lambda key: key, "fast": fast_key}
# What a user changes by one import line; ours take the fast key by themselves.
INITIALIZERS = {
    "jax": jax.nn.initializers.he_normal(),
    "fast": initializers.he_normal(),
}


def timed(call):
    """Wall-clock and processor seconds of one call, its result finished."""
    wall, processor = time.perf_counter(), time.process_time()
    jax.block_until_ready(call())
    return time.perf_counter() - wall, time.process_time() - processor


def compared(samples):
    """Medians of both sides of interleaved measurements, and of their ratios."""
    jax_s, fast_s = samples["jax"], samples["fast"]
    ratios = [theirs / ours for theirs, ours in zip(jax_s, fast_s, strict=True)]
    return {"jax": spread(jax_s), "fast": spread(fast_s), "ratio": spread(ratios)}


def throughput(size, rounds):
    """Seconds to draw `size` elements of float32 (or words), compiled."""
    shape = (size // 1024, 1024)
    key = jax.random.key(2)
    results = {}
    for name, sampler in SAMPLERS.items():
        calls = {
            kind: jax.jit(lambda key, wrap=wrap, s=sampler: s(wrap(key), shape=shape))
            for kind, wrap in KEYS.items()
        }
        np.testing.assert_array_equal(calls["jax"](key), calls["fast"](key))
        wall, processor = {"jax": [], "fast": []}, {"jax": [], "fast": []}
        for _ in range(rounds):
            for kind, call in calls.items():
                seconds = timed(functools.partial(call, key))
                wall[kind].append(seconds[0])
                processor[kind].append(seconds[1])
        results[name] = {
            "wall_seconds": compared(wall),
            "processor_seconds": compared(processor),
            "fast_gigabytes_per_second": 4e-9 * size / statistics.median(wall["fast"]),
        }
    return results


def kernel_shapes():
    """The shapes of the convolutions of a ResNet-50, stem to last block."""
    shapes = [(7, 7, 3, 64)]
    width_in = 64
    for width, blocks in ((64, 3), (128, 4), (256, 6), (512, 3)):
        for block in range(blocks):
            shapes += [(1, 1, width_in, width), (3, 3, width, width)]
            shapes += [(1, 1, width, 4 * width)]
            if block == 0 and width > 64:
                shapes.append((1, 1, width_in, 4 * width))
            width_in = 4 * width
    return shapes


KEYS_FROM = ("keys folded", "keys given")


def kernels(init, key):
    """All kernels from one initializer, each from a key folded from one, or its own."""
    shapes = kernel_shapes()
    if not isinstance(key, list):
        key = [jax.random.fold_in(key, number) for number in range(len(shapes))]
    return [init(one, shape) for one, shape in zip(key, shapes, strict=True)]


def compile_once(kind, keys_from):
    """What one new process sees: seconds to trace and lower, to compile, to run."""
    key = jax.random.key(3)
    if keys_from == "keys given":
        key = [
            jax.random.fold_in(key, number) for number in range(len(kernel_shapes()))
        ]
    jax.block_until_ready(key)
    function = jax.jit(functools.partial(kernels, INITIALIZERS[kind]))
    start, processor = time.perf_counter(), time.process_time()
    lowered = function.lower(key)
    middle = time.perf_counter()
    compiled = lowered.compile()
    end, processor_end = time.perf_counter(), time.process_time()
    drawn = jax.block_until_ready(compiled(key))
    digest = hashlib.sha256(b"".join(np.asarray(x).tobytes() for x in drawn))
    runs = [timed(functools.partial(compiled, key))[0] for _ in range(5)]
    return {
        "lower": middle - start,
        "compile": end - middle,
        "processor": processor_end - processor,
        "run": statistics.median(runs),
        "digest": digest.hexdigest(),
    }


def compilation(rounds):
    """The same from `rounds` pairs of new processes, one after the other."""
    results, digests = {}, set()
    for keys_from in KEYS_FROM:
        seen = {"jax": [], "fast": []}
        for _ in range(rounds):
            for kind in seen:
                what = "--compile-once", kind, keys_from
                seen[kind].append(in_new_process(__file__, *what))
        digests |= {one["digest"] for side in seen.values() for one in side}
        results[keys_from] = {}
        for part in ("lower", "compile", "processor", "run"):
            sides = {kind: [one[part] for one in side] for kind, side in seen.items()}
            results[keys_from][f"{part}_seconds"] = compared(sides)
    assert len(digests) == 1, "the initializers draw different bytes"
    return results


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=2**22)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--compile-rounds", type=int, default=5)
    parser.add_argument("--compile-once", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.compile_once:
        print(json.dumps(compile_once(*options.compile_once)))
        return
    report = {
        "machine": machine(),
        "device": jax.devices()[0].device_kind,
        "size": options.size,
        "throughput": throughput(options.size, options.rounds),
        "resnet_50_kernels": compilation(options.compile_rounds),
    }
    json.dump(report, sys.stdout, indent=1)
    print()


if __name__ == "__main__":
    main()
