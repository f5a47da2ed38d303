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
    made = jax.jit(init, static_argnums=1)(jax.random.key(1), int(sys.argv[2]))
else:
    made = make(jax.random.key(1), int(sys.argv[2]))
jax.block_until_ready(made)
print(resident("VmHWM") - before - sum(leaf.nbytes for leaf in made))
"""


def extra(how, count):
    """Bytes held above so many arrays of 4 MB, over their own."""
    command = [sys.executable, "-c", PROGRAM, how, str(count)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return int(done.stdout) / (count * 4 * 2**20)


def test_a_few_chunks_are_held_above_the_parameters():
    """Two launches of 4 MB are in flight; all else fits into a tenth as well."""
    assert extra("in chunks", 96) < 0.1


def test_the_measure_sees_what_a_compilation_holds():
    assert extra("whole", 24) > 0.1
