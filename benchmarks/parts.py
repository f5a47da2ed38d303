"""Where the seconds go: the parts of materialize, of an audit, of compiling a draw.

    python benchmarks/parts.py [--rounds 3] > parts.json

It makes no claim; it explains what the other scripts measure. Each profile is a process
of its own, of whose clock every part is a share, medians taken:

`materialize`: the first and the second call on a network. In the second the kernels are
compiled, and its memory was given to the process before. `waiting` is for kernels.
`audit`: from the call to the report, and beside it compiling a step of training.
`draws`: the 52 kernels of a ResNet-50 in one jitted function, by XLA's own log: passes
over the program on one core, then LLVM on all of them, for what the initializers draw
and for the loops in which JAX folds keys.
"""

from __future__ import annotations

import argparse
import collections
import json
import os
import re
import statistics
import subprocess
import sys
import time

from measuring import in_new_process, machine, touch_memory

# ----------------------------------------------------------------- inside a new process


class Clock:
    """Seconds by label, of wrapped calls; those inside another are not its own."""

    def __init__(self):
        self.seconds = collections.Counter()
        self.running = []

    def start(self, label):
        self.running.append([label, time.perf_counter(), 0.0])

    def stop(self):
        label, start, inside = self.running.pop()
        whole = time.perf_counter() - start
        self.seconds[label] += whole - inside
        if self.running:
            self.running[-1][2] += whole

    def wrap(self, owner, name, label):
        """Put a clock around `owner.name`; of an iterator, around every step."""
        function = getattr(owner, name)

        def timed(*args, **kwargs):
            self.start(label)
            try:
                result = function(*args, **kwargs)
            finally:
                self.stop()
            return self.steps(result, label) if hasattr(result, "__next__") else result

        setattr(owner, name, timed)

    def steps(self, iterator, label):
        while True:
            self.start(label)
            try:
                item = next(iterator)
            except StopIteration:
                return
            finally:
                self.stop()
            yield item

    def read(self, label, call):
        """Seconds of one call, by part."""
        self.seconds.clear()
        self.start(label)
        result = call()
        self.stop()
        found = dict(self.seconds)
        found["total"] = sum(found.values())
        return found, result


def of_materialize(kind, network):
    import importlib

    import jax

    from jaxinit import _materialize, materialize
    from jaxinit._materialize import _fill, _leaves, _rows

    clock = Clock()
    clock.wrap(_materialize, "_trace", "trace")
    clock.wrap(_materialize, "plan", "slice and plan")
    clock.wrap(_fill, "compiler", "lower kernels")
    clock.wrap(_materialize, "KernelCompiler", "begin to compile")
    clock.wrap(_fill._Group, "go_on", "launch")
    clock.wrap(_fill.Filler, "run", "launch")
    clock.wrap(_fill._Group, "compile_unless_begun", "waiting")
    clock.wrap(_fill.concurrent.futures, "wait", "waiting")
    clock.wrap(_fill.concurrent.futures.Future, "result", "waiting")
    clock.wrap(_rows.Rows, "of", "rows")
    clock.wrap(_rows.Rows, "table", "rows")
    clock.wrap(_rows.Rows, "land", "compute and copy")
    clock.wrap(_leaves, "_run", "other programs")
    networks = importlib.import_module(f"networks_{kind}")
    init, inputs = networks.NETWORKS[network]()
    key = jax.block_until_ready(jax.random.key(0))
    jax.block_until_ready(inputs)
    made = materialize(init)
    touch_memory()
    found = {}
    for number in ("first", "second"):
        result = None
        call = lambda: jax.block_until_ready(made(key, *inputs))  # noqa: E731
        found[number], result = clock.read("buffers, hand-over", call)
        del result
    return found


def of_audit(network):
    import jax
    from audit import loss_of
    from networks import built

    import jaxinit
    from jaxinit._signal import _audit, _measure

    clock = Clock()
    clock.wrap(_audit, "trace_signal", "trace")
    clock.wrap(_audit, "uses_of", "uses and places")
    clock.wrap(_audit, "places", "uses and places")
    clock.wrap(_measure.Meter, "lower", "trace the gradient, lower")
    clock.wrap(_measure.Meter, "_compile", "compile")
    clock.wrap(_measure.Meter, "__call__", "run")
    f, params, *args = built(network)
    found = {}
    audit = lambda: jaxinit.audit(f, params, *args)  # noqa: E731
    found["audit"], _ = clock.read("findings, report", audit)

    gradient = jax.grad(loss_of(f))

    def step(params, args):
        slopes = gradient(params, args)
        return jax.tree.map(lambda p, g: p - 1e-3 * g, params, slopes)

    jitted = jax.jit(step)
    lower = lambda: jitted.lower(params, args)  # noqa: E731
    found["step"], lowered = clock.read("trace, lower", lower)
    compiling, _ = clock.read("compile", lowered.compile)
    found["step"] |= {"compile": compiling["compile"]}
    found["step"]["total"] += compiling["total"]
    return found


# --------------------------------------------------------------------------- the parent

LOGGED = re.compile(
    r"LLVM module: __compute_module_(\S+?)_kernel_module time: ([\d.]+) (us|ms)"
)


def of_draws(kind, keys_from):
    """Milliseconds by XLA's log, in a process whose results are not timed."""
    log = {"TF_CPP_MIN_LOG_LEVEL": "0", "TF_CPP_VMODULE": "ir_compiler=1"}
    script = os.path.join(os.path.dirname(__file__), "threefry.py")
    command = [sys.executable, script, "--compile-once", kind, keys_from]
    done = subprocess.run(
        command, capture_output=True, text=True, check=True, env=os.environ | log
    )
    found = {name: {"programs": 0, "llvm": 0} for name in ("draws", "everything else")}
    for name, number, unit in LOGGED.findall(done.stderr):
        # A draw ends in a product by its scale, or in what is cut off before that.
        draw = re.match(r"(broadcast_multiply|clamp_multiply|multiply)", name)
        one = found["draws" if draw else "everything else"]
        one["programs"] += 1
        one["llvm"] += float(number) * {"us": 1e-6, "ms": 1e-3}[unit]
    whole = json.loads(done.stdout.splitlines()[-1])["compile"]
    return {"compile": whole, **found}


def middle(runs):
    """The medians of equal trees of numbers."""
    first = runs[0]
    if isinstance(first, dict):
        keys = dict.fromkeys(name for run in runs for name in run)
        return {
            name: middle([run[name] for run in runs if name in run]) for name in keys
        }
    return float(f"{statistics.median(runs):.4g}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--one", nargs="+", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        what, *names = options.one
        profile = {"materialize": of_materialize, "audit": of_audit}[what]
        print(json.dumps(profile(*names)))
        return
    times = range(options.rounds)

    def profiled(*what):
        return middle([in_new_process(__file__, "--one", *what) for _ in times])

    report = {
        "machine": machine(),
        "materialize": {
            f"{network}, {kind}": profiled("materialize", kind, network)
            for network in ("resnet50", "gpt2", "vit")
            for kind in ("linen", "nnx")
        },
        "audit": {
            name: profiled("audit", name) for name in ("mlp-50", "resnet-50", "vit-b")
        },
        "draws": {
            f"{library}, {keys_from}": middle(
                [of_draws(library, keys_from) for _ in times]
            )
            for library in ("fast", "jax")
            for keys_from in ("keys folded", "keys given")
        },
    }
    json.dump(report, sys.stdout, indent=1)
    print()


if __name__ == "__main__":
    main()
