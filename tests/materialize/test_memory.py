"""The memory that materialize takes above what it returns."""

import subprocess
import sys

PROGRAM = """
import sys
import jax
from jaxinit import materialize

def init(key, count):
    keys = jax.random.split(key, count)
    return [jax.random.normal(one, (1024, 1024)) * 0.02 for one in keys]

make = materialize(init, static_argnums=1)
make(jax.random.key(0), 1)  # compiles the kernel, loads what that needs

def resident(line):
    # Of this program: ru_maxrss would begin with that of the process it came from.
    for entry in open("/proc/self/status"):
        if entry.startswith(line):
            return int(entry.split()[1]) * 1024

before = resident("VmRSS")
if sys.argv[1] == "whole":
    made = jax.jit(init, static_argnums=1)(jax.random.key(1), 48)
else:
    made = make(jax.random.key(1), 48)
jax.block_until_ready(made)
print(resident("VmHWM") - before - sum(leaf.nbytes for leaf in made))
"""
PARAMETERS = 48 * 4 * 2**20


def extra(how):
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, how], capture_output=True, text=True, check=True
    )
    return int(done.stdout)


def test_a_few_chunks_are_held_above_the_parameters():
    """Two launches of 4 MB are in flight; all else fits into a tenth as well."""
    assert extra("in chunks") < 0.1 * PARAMETERS


def test_the_measure_sees_what_a_compilation_holds():
    assert extra("whole") > 0.1 * PARAMETERS
