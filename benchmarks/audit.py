"""What an audit costs, against compiling one training step of the same model.

    python benchmarks/audit.py [--rounds 3] [--networks mlp-50 ...] > audit.json

First, in one process, the parameter gradients of the instrumented program are held
against those of `jax.grad`, and the memory that XLA plans for both is read off: what
the program holds beside its inputs (temporaries and results). A gradient returns one
array for each parameter; an audit makes a number of it and lets it go.

Then each of the two is timed in new processes, in turn, as a user's first call is:
`jaxinit.audit(f, params, *args)` from the call to the report, and tracing, lowering and
compiling a step of plain gradient descent.
"""

from __future__ import annotations

import argparse
import json
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
from measuring import in_new_process, machine, spread
from networks import NETWORKS, built

import jaxinit
from jaxinit._signal._audit import Auditor
from jaxinit._signal._direction import DEFAULT_SEED, probe_loss
from jaxinit._signal._program import trace_signal

MEBIBYTE = 2**20


def loss_of(f):
    """The loss that an audit takes by default."""
    seed = jnp.uint32(DEFAULT_SEED)
    return lambda params, args: probe_loss(jax.tree.leaves(f(params, *args)), seed)


def planned(compiled):
    """Bytes beside the inputs."""
    memory = compiled.memory_analysis()
    return memory.temp_size_in_bytes + memory.output_size_in_bytes


def check_and_memory(name):
    """Raises if a gradient differs; else the memory of both, and their ratio."""
    f, params, *args = built(name)
    auditor = Auditor(trace_signal(f, params, *args))
    measured = auditor.meter(jax.tree.leaves(params))
    gradient = jax.jit(jax.grad(loss_of(f))).lower(params, args).compile()
    expected = jax.tree.leaves(gradient(params, args))
    worst = 0.0
    for ours, theirs in zip(measured.gradient_rms, expected, strict=True):
        rms = float(np.sqrt(np.mean(np.square(np.asarray(theirs, np.float64)))))
        difference = abs(float(np.sqrt(np.mean(np.square(ours)))) - rms)
        worst = max(worst, difference / rms if rms else difference)
    assert worst < 1e-3, f"{name}: gradients differ by {worst}"
    ours, theirs = planned(auditor.meter.compiled), planned(gradient)
    return {
        "largest_relative_difference_of_gradients": worst,
        "audit_mebibytes": ours / MEBIBYTE,
        "gradient_mebibytes": theirs / MEBIBYTE,
        "ratio": ours / theirs,
    }


def one(kind, name):
    """Seconds of a first call in this process."""
    f, params, *args = built(name)
    wall, processor = time.perf_counter(), time.process_time()
    if kind == "audit":
        report = jaxinit.audit(f, params, *args)
        assert report.rows
    else:
        gradient = jax.grad(loss_of(f))

        def step(params, args):
            slopes = gradient(params, args)
            return jax.tree.map(lambda p, g: p - 1e-3 * g, params, slopes)

        jax.jit(step).lower(params, args).compile()
    return time.perf_counter() - wall, time.process_time() - processor


def timed(name, rounds):
    """Both kinds, in turn, each in a new process."""
    found = {"audit": [], "step": []}
    for _ in range(rounds):
        for kind, seconds in found.items():
            seconds.append(in_new_process(__file__, "--one", kind, name))
    results = {}
    for place, clock in enumerate(("wall_seconds", "processor_seconds")):
        ours = [seconds[place] for seconds in found["audit"]]
        theirs = [seconds[place] for seconds in found["step"]]
        ratios = [a / b for a, b in zip(ours, theirs, strict=True)]
        results[clock] = {
            "audit": spread(ours),
            "compile_step": spread(theirs),
            "ratio": spread(ratios),
        }
    return results


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--networks", nargs="+", default=list(NETWORKS))
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        json.dump(one(*options.one), sys.stdout)
        return
    results = {
        "claim": "P9: an audit, against compiling one training step",
        "machine": machine(),
        "device": jax.devices()[0].device_kind,
        "networks": {
            name: {"memory": check_and_memory(name), **timed(name, options.rounds)}
            for name in options.networks
        },
    }
    json.dump(results, sys.stdout, indent=2)
    sys.stdout.write("\n")


if __name__ == "__main__":
    main()
