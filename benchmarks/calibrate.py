"""One-pass calibration against layer-by-layer LSUV, on deep plain networks.

    python benchmarks/calibrate.py [--depth 50] [--rounds 7] > calibrate.json

Classic LSUV (Mishkin & Matas 2016, algorithm 1) runs the network for each layer until
that layer's output has unit variance. It is given its best case: the forward pass, with
the moment of every product, is compiled once for all layers. Both are first held to
bring every product to its target within 1e-5, measured in float64 by numpy. Then the
compiled passes are timed in turn, A B A B; compilation, and the whole call with its
report, are timed beside them.
"""

from __future__ import annotations

import argparse
import json
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
from measuring import machine, spread

import jaxinit
from jaxinit._signal._places import places
from jaxinit._signal._program import trace_signal
from jaxinit._signal._rescale import Goal, Rescaler
from jaxinit._signal._uses import uses_of

TOLERANCE = 1e-5
ACTIVATIONS = {
    "relu": (jax.nn.relu, lambda x: np.maximum(x, 0)),
    "tanh": (jnp.tanh, np.tanh),
}


def network(activation):
    def f(weights, x):
        for weight in weights:
            x = activation(x @ weight)
        return x

    return f


def lsuv(measure, weights, x):
    """Layer by layer; how often the network ran is returned as well."""
    weights, runs = list(weights), 0
    for layer in range(len(weights)):
        while True:
            size = float(measure(weights, x)[layer])
            runs += 1
            if abs(size - 1) < TOLERANCE:
                break
            weights[layer] = weights[layer] / size
    return weights, runs


def measuring(activation):
    """The root mean square of every product, in one forward pass."""

    def sizes(weights, x):
        found = []
        for weight in weights:
            product = x @ weight
            found.append(jnp.sqrt(jnp.mean(jnp.square(product))))
            x = activation(product)
        return jnp.stack(found)

    return sizes


def check(weights, x, activation):
    """The largest distance of a product from its target, in float64."""
    x, worst = np.asarray(x, np.float64), 0.0
    for weight in weights:
        product = x @ np.asarray(weight, np.float64)
        worst = max(worst, abs(float(np.sqrt(np.mean(product**2))) - 1))
        x = activation(product)
    assert worst < 2 * TOLERANCE, f"off by {worst}"
    return worst


def seconds_of(call):
    start = time.perf_counter()
    result = jax.block_until_ready(call())
    return time.perf_counter() - start, result


def compared(name, depth, width, batch, rounds):
    """One activation."""
    activation, reference = ACTIVATIONS[name]
    f = network(activation)
    keys = jax.random.split(jax.random.key(0), depth)
    weights = [jax.random.normal(key, (width, width)) * width**-0.5 for key in keys]
    x = jax.random.normal(jax.random.key(1), (batch, width))

    start = time.perf_counter()
    signal = trace_signal(f, weights, x)
    goals = [Goal(place, 1.0, False) for place in places(signal, uses_of(signal))]
    rescaler = Rescaler(signal, goals)
    rescaler.compiled = rescaler.lower([*weights, x], {}).compile()
    ours_compile = time.perf_counter() - start
    start = time.perf_counter()
    measure = jax.jit(measuring(activation)).lower(weights, x).compile()
    theirs_compile = time.perf_counter() - start

    new, _ = rescaler(weights, {})
    old, runs = lsuv(measure, weights, x)
    result = {
        "largest_error": {
            "one_pass": check(new, x, reference),
            "lsuv": check(old, x, reference),
        },
        "forward_passes": {"one_pass": 1, "lsuv": runs},
    }
    times = {"forward": [], "one_pass": [], "lsuv": []}
    for _ in range(rounds):
        times["forward"].append(seconds_of(lambda: measure(weights, x))[0])
        times["one_pass"].append(seconds_of(lambda: rescaler(weights, {})[0])[0])
        times["lsuv"].append(seconds_of(lambda: lsuv(measure, weights, x)[0])[0])
    pairs = list(zip(times["lsuv"], times["one_pass"], strict=True))
    whole, _ = seconds_of(lambda: jaxinit.calibrate(f, weights, x, measure=False)[0])
    report, _ = seconds_of(lambda: jaxinit.calibrate(f, weights, x)[0])
    return result | {
        "run_seconds": {kind: spread(values) for kind, values in times.items()},
        "lsuv_over_one_pass": spread([theirs / ours for theirs, ours in pairs]),
        "compile_seconds": {"one_pass": ours_compile, "lsuv": theirs_compile},
        "whole_call_seconds": {"without_report": whole, "with_report": report},
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--depth", type=int, default=50)
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    sizes = options.depth, options.width, options.batch, options.rounds
    results = {
        "claim": "P10: calibrate in one pass, against layer-by-layer LSUV",
        "machine": machine(),
        "device": jax.devices()[0].device_kind,
        "depth": options.depth,
        "activations": {name: compared(name, *sizes) for name in ACTIVATIONS},
    }
    json.dump(results, sys.stdout, indent=2)
    sys.stdout.write("\n")


if __name__ == "__main__":
    main()
