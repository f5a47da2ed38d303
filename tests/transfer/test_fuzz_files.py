"""Mutations of real files: read, or refused by a CheckpointError, and nothing else.

Nothing else means: no other error, no more memory than the limits say, no long work.
"""

import gc
import pathlib
import shutil
import time
import tracemalloc

import checkpoint_files
import numpy as np
import pytest

from jaxinit._errors import CheckpointError
from jaxinit.transfer import Limits, open_checkpoint

LIMITS = Limits(max_bytes=1 << 20, max_eager_bytes=1 << 20, max_leaves=1000)
MEMORY = 16 << 20
SECONDS = 20.0  # of computing: other processes may hold up this one for minutes
INTERESTING = [b"\0", b"\xff", b"\x7f", b"\x80", b"\0" * 4, b"\xff" * 4, b"\xff" * 8]


def mutate(content, generator):
    """The bytes with one to four changes, more of them near both ends."""
    mutated = bytearray(content)
    for _ in range(generator.integers(1, 5)):
        size = len(mutated)
        if not size:
            break
        at = int(generator.integers(size))
        if generator.random() < 0.5:  # where headers and directories are
            at = int(generator.integers(min(size, 400)))
            at = at if generator.random() < 0.5 else size - 1 - at
        length = int(generator.integers(1, 1 + min(64, size - at)))
        match int(generator.integers(7)):
            case 0:
                mutated[at] ^= 1 << int(generator.integers(8))
            case 1:
                mutated[at] = int(generator.integers(256))
            case 2:
                del mutated[at : at + length]
            case 3:
                mutated[at:at] = mutated[at : at + length]
            case 4:
                piece = INTERESTING[int(generator.integers(len(INTERESTING)))]
                mutated[at : at + len(piece)] = piece
            case 5:
                other = int(generator.integers(size - length + 1))
                mutated[at : at + length] = mutated[other : other + length]
            case 6 if generator.random() < 0.2:
                del mutated[at:]
    return bytes(mutated)


def outcome(path, format):
    """Whether a file is read, once its cost has been checked."""
    tracemalloc.reset_peak()
    before, start = tracemalloc.get_traced_memory()[0], time.process_time()
    try:
        source = open_checkpoint(path, format=format, limits=LIMITS)
        for leaf in source.values():
            assert leaf.read(nonfinite="allow").shape == leaf.shape
        refusal = None
    except CheckpointError as error:
        refusal = str(error)
    assert refusal is None or str(path) in refusal
    assert tracemalloc.get_traced_memory()[1] - before < MEMORY
    assert time.process_time() - start < SECONDS
    return refusal is None


SHARED = {
    "safetensors": ("safetensors", checkpoint_files.write_safetensors),
    "index": ("index", checkpoint_files.write_sharded),
    "npz": ("npz", checkpoint_files.write_npz),
    "npz_compressed": ("npz", checkpoint_files.write_npz_compressed),
    "msgpack": ("msgpack", checkpoint_files.write_msgpack),
    "torch": ("torch", lambda _: checkpoint_files.FIXTURES / "state.pt"),
    "torch_run": ("torch", lambda _: checkpoint_files.FIXTURES / "run.pt"),
    "torch_legacy": ("torch", lambda _: checkpoint_files.FIXTURES / "run_legacy.pth"),
}


@pytest.fixture(scope="module", autouse=True)
def traced():
    tracemalloc.start()
    yield
    tracemalloc.stop()


def check_mutations(folder, format, writer, *, seed, count):
    original = writer(folder)
    target = folder / f"mutated-{original.name}"
    content = original.read_bytes()
    target.write_bytes(content)
    assert outcome(target, format)
    read = 0
    for number in range(count):
        generator = np.random.default_rng([seed, number])
        target.write_bytes(mutate(content, generator))
        # Half of the time the content has to say what it is.
        read += outcome(target, format if number % 2 else None)
    # Both ends are met: changes of the numbers alone, and of what describes them.
    assert 0 < read < count


@pytest.mark.parametrize("case", SHARED)
def test_mutated_files_are_read_or_refused(tmp_path, case):
    check_mutations(tmp_path, *SHARED[case], seed=1, count=200)


@pytest.mark.long
@pytest.mark.parametrize("case", SHARED)
def test_ten_thousand_mutated_files_are_read_or_refused(tmp_path, case):
    check_mutations(tmp_path, *SHARED[case], seed=2, count=10_000)


def check_mutated_directories(folder, *, seed, count):
    original = checkpoint_files.write_orbax(folder)
    files = sorted(path for path in original.rglob("*") if path.is_file())
    copy = pathlib.Path(shutil.copytree(original, folder / "mutated"))
    assert outcome(copy, "orbax")
    read = 0
    for number in range(count):
        generator = np.random.default_rng([seed, number])
        victim = files[int(generator.integers(len(files)))]
        content = victim.read_bytes()
        target = copy / victim.relative_to(original)
        target.write_bytes(mutate(content, generator))
        read += outcome(copy, "orbax" if number % 2 else None)
        target.write_bytes(content)
    # What Orbax had begun complains when it is collected: here, and not in the middle
    # of whatever Python does next.
    gc.collect()
    assert 0 < read < count


# What Orbax had begun when it met the damage ends in a loop that is closed already.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_mutated_directories_of_orbax_are_read_or_refused(tmp_path):
    check_mutated_directories(tmp_path, seed=1, count=100)


@pytest.mark.long
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_ten_thousand_mutated_directories_of_orbax_are_read_or_refused(tmp_path):
    check_mutated_directories(tmp_path, seed=2, count=10_000)
