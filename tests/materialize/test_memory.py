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
count = int(sys.argv[2])
if sys.argv[1] == "whole":
    made = jax.jit(init, static_argnums=1)(jax.random.key(1), count)
else:
    made = make(jax.random.key(1), count)
jax.block_until_ready(made)
print(resident("VmHWM") - before - sum(leaf.nbytes for leaf in made))
"""
ARRAYS = 96
PARAMETERS = ARRAYS * 4 * 2**20


def extra(how, count):
    program = [sys.executable, "-c", PROGRAM, how, str(count)]
    done = subprocess.run(program, capture_output=True, text=True, check=True)
    return int(done.stdout)


def test_a_few_chunks_are_held_above_the_parameters():
    """Two launches of 4 MB are in flight; all else fits into a tenth as well."""
    assert extra("in chunks", ARRAYS) < 0.1 * PARAMETERS


def test_the_measure_sees_what_a_compilation_holds():
    # Of half as many, which compile in half the time.
    assert extra("whole", ARRAYS // 2) > 0.1 * PARAMETERS
