"""Filling a weight: this library, jitted, against torch.nn.init (extra `bench`).

    python benchmarks/against_torch.py [--rounds 7] > against_torch.json

Each filled weight is first held to its moments, or to orthonormality. Then the two are
timed in turn, A B A B; a ratio above 1 means that this library is faster. Both may use
all cores; torch's samplers use one.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time

import jax
import numpy as np
import torch
from measuring import machine, spread

from jaxinit import initializers

SIZE = 4096
ROWS = {
    "normal": (initializers.normal(1.0), torch.nn.init.normal_, SIZE),
    "uniform": (initializers.uniform(1.0), torch.nn.init.uniform_, SIZE),
    "truncated_normal": (
        initializers.truncated_normal(1.0),
        torch.nn.init.trunc_normal_,
        SIZE,
    ),
    "orthogonal 1024": (
        initializers.orthogonal(method="householder"),
        torch.nn.init.orthogonal_,
        1024,
    ),
    "orthogonal 1024, by QR": (
        initializers.orthogonal(),
        torch.nn.init.orthogonal_,
        1024,
    ),
    "orthogonal 4096": (
        initializers.orthogonal(method="householder"),
        torch.nn.init.orthogonal_,
        4096,
    ),
}


def check(name, ours, theirs):
    """Both do what their name says, or nothing is timed."""
    for weight in (ours, theirs):
        if name.startswith("orthogonal"):
            probe = np.random.default_rng(0).normal(size=(len(weight), 8))
            probe = probe.astype(np.float32)
            np.testing.assert_allclose(weight.T @ (weight @ probe), probe, atol=1e-3)
    if not name.startswith("orthogonal"):
        assert abs(ours.mean() - theirs.mean()) < 0.01, name
        assert abs(ours.std() / theirs.std() - 1) < 0.01, name


def measure(name, rounds):
    init, fill, size = ROWS[name]
    draw = jax.jit(lambda key: init(key, (size, size)))
    weight = torch.empty(size, size)
    check(name, np.asarray(draw(jax.random.key(0))), fill(weight).numpy())
    ours, theirs = [], []
    for seed in range(rounds):
        start = time.perf_counter()
        draw(jax.random.key(seed)).block_until_ready()
        middle = time.perf_counter()
        fill(weight)
        ours.append(middle - start)
        theirs.append(time.perf_counter() - middle)
    ratios = [b / a for a, b in zip(ours, theirs, strict=True)]
    return {
        "jaxinit_s": statistics.median(ours),
        "torch_s": statistics.median(theirs),
        "ratio": spread(ratios),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--only", choices=ROWS)
    options = parser.parse_args()
    names = [options.only] if options.only else list(ROWS)
    result = {
        "machine": machine(),
        "versions": {"jax": jax.__version__, "torch": torch.__version__},
        "ratio": "torch over jaxinit; above 1, jaxinit is faster",
        "rows": {name: measure(name, options.rounds) for name in names},
    }
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
