"""What the benchmarks share: the machine, memory, spreads, new processes."""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import sys
import time


def machine():
    """Where numbers come from; they mean little without it."""
    import jax

    return {
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)),
        "load": round(os.getloadavg()[0], 2),
        "python": platform.python_version(),
        "jax": jax.__version__,
        "date": time.strftime("%Y-%m-%d"),
    }


def _processor():
    with open("/proc/cpuinfo") as file:
        for line in file:
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def spread(values):
    """The median, and how far the measurements lie apart."""
    values = sorted(values)
    found = {"median": statistics.median(values), "min": values[0], "max": values[-1]}
    return {name: float(f"{value:.6g}") for name, value in found.items()}


def resident(line):
    """Bytes that this program has ("VmRSS") or had at most ("VmHWM")."""
    with open("/proc/self/status") as file:
        for entry in file:
            if entry.startswith(line):
                return int(entry.split()[1]) * 1024
    raise OSError(f"/proc/self/status has no {line}")


def in_new_process(script, *arguments, environment=None):
    """The JSON on the last line of what a script prints."""
    command = [sys.executable, script, *map(str, arguments)]
    everything = os.environ | (environment or {})
    done = subprocess.run(command, capture_output=True, text=True, env=everything)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}:\n{done.stderr[-3000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def touch_memory(size=3 << 30):
    """Have the machine back its free memory, by a process that ends again.

    On a virtual machine the first touch of a page can cost more than computing what
    goes there, and would be measured in its place.
    """
    code = f"""
import mmap
memory = mmap.mmap(-1, {size}, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
memory.madvise(mmap.MADV_HUGEPAGE)
for start in range(0, {size}, 4096):
    memory[start] = 1
"""
    subprocess.run([sys.executable, "-c", code], check=True)
