"""materialize against jax.jit(init), each in a new process (extra `bench`).

    python benchmarks/materialize.py [--rounds 5] [--networks resnet50 gpt2 vit]

Every way of getting the first parameters of a network runs in a process of its own,
imports done, until the arrays are there; the ways take turns. Each process reports a
digest of its parameters, and nothing is reported unless materialize and jit agree on
every byte. Ratios are taken round by round, and above 1 where materialize is faster.
The persistent compilation cache of JAX is shown empty and filled.

Before each measurement another process touches memory and gives it back, for every
way alike; see `measuring.touch_memory`.

Also: how the time to compile grows with depth (by the clock, while the rest of the
network is planned), and the memory that materialize takes above the parameters.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib
import json
import sys
import tempfile
import time

from measuring import in_new_process, machine, resident, spread, touch_memory

KINDS = ("linen", "nnx")
WAYS = (
    "materialize",
    "jit",
    "jit, cache empty",
    "jit, cache filled",
    "eager",
    "lazy_init",
    "torch",
    "torch, same distributions",
)
# Shown for comparison, in the first round only: no claim is made of them, and they are
# slow.
ONCE = ("jit, cache empty", "jit, cache filled", "eager", "lazy_init")


# ----------------------------------------------------------------- inside a new process


def one(way, kind, network, sizes):
    """Seconds, processor seconds, peak memory and digest of one way."""
    if way.startswith("torch"):
        return of_torch(way, network, sizes)
    import jax
    import numpy as np

    from jaxinit import materialize

    compiling = []
    jax.monitoring.register_event_duration_secs_listener(
        lambda event, seconds, **_: (
            compiling.append(seconds)
            if event.endswith("backend_compile_duration")
            else 0
        )
    )
    networks = importlib.import_module(f"networks_{kind}")
    init, inputs = networks.NETWORKS[network](**sizes)
    key = jax.block_until_ready(jax.random.key(0))
    jax.block_until_ready(inputs)
    calls = {"materialize": materialize, "eager": lambda f: f}
    call = calls.get(way, jax.jit)(init)
    if way == "lazy_init":
        call, inputs = init.__self__.lazy_init, jax.eval_shape(lambda: inputs)
    compiling.clear()
    touch_memory()
    before = resident("VmRSS")
    start, processor = time.perf_counter(), time.process_time()
    made = jax.block_until_ready(call(key, *inputs))
    seconds = time.perf_counter() - start, time.process_time() - processor
    peak = resident("VmHWM")
    digest = hashlib.sha256()
    for leaf in jax.tree.leaves(made):
        leaf = (
            jax.random.key_data(leaf)
            if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)
            else leaf
        )
        digest.update(np.asarray(leaf).tobytes())
    return {
        "seconds": seconds[0],
        "processor": seconds[1],
        "compile": sum(compiling),
        "parameters": sum(leaf.nbytes for leaf in jax.tree.leaves(made)),
        "extra": peak - before,
        "digest": digest.hexdigest(),
    }


def of_torch(way, network, sizes):
    import networks_torch

    touch_memory()
    start, processor = time.perf_counter(), time.process_time()
    made = networks_torch.NETWORKS[network](same=way != "torch", **sizes)
    return {
        "seconds": time.perf_counter() - start,
        "processor": time.process_time() - processor,
        "parameters": sum(p.numel() * p.element_size() for p in made.parameters()),
    }


# --------------------------------------------------------------------------- the parent


def run(way, kind, network, cache=None, **sizes):
    environment = {}
    if cache:
        environment = {
            "JAX_COMPILATION_CACHE_DIR": cache,
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        }
    what = "--one", way, kind, network, json.dumps(sizes)
    return in_new_process(__file__, *what, environment=environment)


def compared(kind, network, rounds, ways):
    """All ways in turn; the digests of materialize and jit must be equal."""
    seen = {way: [] for way in ways}
    for number in range(rounds):
        with tempfile.TemporaryDirectory() as cache:
            for way in ways:
                if number and way in ONCE:
                    continue
                own = cache if "cache" in way else None
                seen[way].append(run(way, kind, network, own))
    exact = {
        one["digest"]
        for way in ways
        if way.startswith(("mat", "jit"))
        for one in seen[way]
    }
    assert len(exact) == 1, f"{kind} {network}: materialize is not what jit gives"
    result = {"parameters_megabytes": seen["materialize"][0]["parameters"] / 1e6}
    for way, runs in seen.items():
        result[way] = {"seconds": spread(one["seconds"] for one in runs)}
        for measure in ("seconds", "processor"):
            pairs = zip(runs, seen["materialize"], strict=False)
            ratios = [one[measure] / ours[measure] for one, ours in pairs]
            result[way][f"{measure}_over_materialize"] = spread(ratios)
    runs = seen["materialize"]
    result["extra_memory_over_parameters"] = spread(
        one["extra"] / one["parameters"] - 1 for one in runs
    )
    return result


def growth(rounds, depths=(12, 24, 48, 96)):
    """Seconds that XLA compiles for, by depth, at a fixed width."""
    result = {}
    seen = {
        (way, depth): []
        for way in ("materialize", "jit")
        for depth in (depths[:2] if way == "jit" else depths)
    }
    for _ in range(rounds):
        for (way, depth), runs in seen.items():
            sizes = {"depth": depth, "width": 128, "words": 1000}
            runs.append(run(way, "linen", "gpt2", **sizes)["compile"])
    for (way, depth), runs in seen.items():
        result.setdefault(way, {})[depth] = spread(runs)
    return result


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--networks", nargs="*", default=["resnet50", "gpt2", "vit"])
    parser.add_argument("--kinds", nargs="*", default=KINDS)
    parser.add_argument("--ways", nargs="*", default=WAYS)
    parser.add_argument("--one", nargs=4, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        *what, sizes = options.one
        print(json.dumps(one(*what, json.loads(sizes))))
        return
    report = {"machine": machine()}
    for kind in options.kinds:
        # lazy_init is linen's; eager construction is what nnx users do.
        ways = [way for way in options.ways if kind == "linen" or way != "lazy_init"]
        for network in options.networks:
            name = f"{kind} {network}"
            report[name] = compared(kind, network, options.rounds, ways)
    report["compile_seconds_by_depth"] = growth(options.rounds)
    json.dump(report, sys.stdout, indent=1)
    print()


if __name__ == "__main__":
    main()
