"""A tree of a billion parameters over eight devices, in one process and in two.

    python benchmarks/sharded.py [--depth 18] [--width 2048] > sharded.json

Parameters are made on a mesh, every leaf cut along its first axis that eight divides,
saved, and merged from the file onto the mesh again. Checked first: every shard's bytes
equal those of `jax.jit(model.init)` without a mesh, leaf by leaf, by checksum; so
the values do not depend on the mesh, nor on the number of processes. `extra` is the
peak of a process's memory above its own shards, as a part of them.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
import zlib

from measuring import machine, resident

DEVICES = 8


# ----------------------------------------------------------------- inside a new process


def network(sizes):
    import jax.numpy as jnp
    from networks_linen import GPT

    return GPT(**sizes).init, jnp.ones((1, 16), jnp.int32)


def placed(mesh, leaf):
    """Cut along the first axis that all devices divide, else a copy on each."""
    from jax.sharding import NamedSharding, PartitionSpec

    for axis, size in enumerate(leaf.shape):
        if size % DEVICES == 0:
            return NamedSharding(mesh, PartitionSpec(*[None] * axis, "all"))
    return NamedSharding(mesh, PartitionSpec())


def checksums(tree):
    """Leaf and index -> checksum of the bytes that lie there."""
    import jax
    import numpy as np

    found = {}
    for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]:
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        for shard in leaf.addressable_shards:
            where = [part.indices(size) for part, size in _parts(shard, leaf)]
            data = np.ascontiguousarray(shard.data)
            found[f"{name} {where}"] = zlib.crc32(data)
    return found


def _parts(shard, leaf):
    return zip(shard.index, leaf.shape, strict=True)


def own_bytes(tree):
    import jax

    return sum(
        shard.data.nbytes
        for leaf in jax.tree.leaves(tree)
        for shard in leaf.addressable_shards
    )


def one(options):
    """Make, and merge from the file where there is one; what that took and gave."""
    import jax

    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", DEVICES // options.processes)
    if options.processes > 1:
        jax.distributed.initialize(
            options.address, num_processes=options.processes, process_id=options.index
        )
    import jaxinit
    from jaxinit import transfer as tr

    init, inputs = network({"depth": options.depth, "width": options.width})
    key = jax.random.key(0)
    mesh = jax.make_mesh((DEVICES,), ("all",))
    shapes = jax.eval_shape(init, key, inputs)
    shardings = jax.tree.map(lambda leaf: placed(mesh, leaf), shapes)
    if options.work == "materialize":
        work = jaxinit.materialize(init, out_shardings=shardings)
    else:
        source = tr.open_checkpoint(options.path, separator="/")

        def work(key, inputs):
            return tr.merge(shapes, source, out_shardings=shardings)[0]

    before, start = resident("VmRSS"), time.perf_counter()
    made = jax.block_until_ready(work(key, inputs))
    seconds = time.perf_counter() - start
    peak = resident("VmHWM") - before
    if options.save:
        tr.save(options.path, made)
    own = own_bytes(made)
    print(
        json.dumps(
            {
                "seconds": round(seconds, 2),
                "own_megabytes": round(own / 1e6),
                "extra": round(peak / own - 1, 4),
                "checksums": checksums(made),
            }
        )
    )


def of_jit(options):
    """The same checksums from `jax.jit`, cut on the host; no mesh anywhere."""
    import jax
    import numpy as np

    init, inputs = network({"depth": options.depth, "width": options.width})
    made = jax.jit(init)(jax.random.key(0), inputs)
    found = {}
    for path, leaf in jax.tree_util.tree_flatten_with_path(made)[0]:
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        axis = next((a for a, s in enumerate(leaf.shape) if s % DEVICES == 0), None)
        whole = [slice(None)] * leaf.ndim
        cuts = [slice(None)]
        if axis is not None:
            size = leaf.shape[axis] // DEVICES
            cuts = [slice(i * size, (i + 1) * size) for i in range(DEVICES)]
        for cut in cuts:
            index = list(whole)
            if axis is not None:
                index[axis] = cut
            where = [p.indices(s) for p, s in zip(index, leaf.shape, strict=True)]
            data = np.ascontiguousarray(np.asarray(leaf)[tuple(index)])
            found[f"{name} {where}"] = zlib.crc32(data)
    print(json.dumps({"checksums": found}))


# --------------------------------------------------------------------------- the parent


def started(work, options, *more):
    sizes = ["--depth", str(options.depth), "--width", str(options.width)]
    command = [sys.executable, __file__, *sizes, "--work", work, *more]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def finished(processes):
    results = []
    # All are read at once: one that waits to be read keeps the others from ending.
    with concurrent.futures.ThreadPoolExecutor(len(processes)) as readers:
        told = list(readers.map(lambda process: process.communicate(), processes))
    for process, (out, err) in zip(processes, told, strict=True):
        if process.returncode:
            raise RuntimeError(err[-3000:])
        results.append(json.loads(out.splitlines()[-1]))
    return results


def in_processes(number, work, options, *more):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    joint = ["--processes", str(number), "--address", address]
    results = finished(
        [
            started(work, options, *joint, "--index", str(index), *more)
            for index in range(number)
        ]
    )
    sums = {}
    for result in results:
        sums |= result.pop("checksums")
    return results, sums


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--depth", type=int, default=18)
    parser.add_argument("--width", type=int, default=2048)
    parser.add_argument("--work", help=argparse.SUPPRESS)
    parser.add_argument("--processes", type=int, default=1, help=argparse.SUPPRESS)
    parser.add_argument("--index", type=int, default=0, help=argparse.SUPPRESS)
    parser.add_argument("--address", help=argparse.SUPPRESS)
    parser.add_argument("--path", help=argparse.SUPPRESS)
    parser.add_argument("--save", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.work:
        (of_jit if options.work == "jit" else one)(options)
        return
    (expected,) = finished([started("jit", options)])
    report = {
        "claim": "P5: each process makes and reads its own shards; exact on any mesh",
        "machine": machine(),
    }
    with tempfile.TemporaryDirectory() as folder:
        path = ["--path", os.path.join(folder, "all.safetensors")]
        for number in (1, 2):
            for work in ("materialize", "merge"):
                first = number == 1 and work == "materialize"
                more = [*path, "--save"] if first else path
                results, sums = in_processes(number, work, options, *more)
                assert sums == expected["checksums"], f"{work} in {number}: other bytes"
                report[f"{work}, {number} processes of {DEVICES // number}"] = results
    json.dump(report, sys.stdout, indent=1)
    print()


if __name__ == "__main__":
    main()
