"""One compiled kernel for each distinct chain: rows of any leaf, given as a table."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxinit import _compat
from jaxinit._hash import hash_bits, hash_words
from jaxinit._materialize._steps import Chain, Step

ROW = 4096  # elements of a row
_PROCESSOR = "/proc/cpuinfo"  # where the system tells what it can do, if anywhere


@functools.lru_cache(maxsize=256)
def _compiling(
    steps: tuple[Step, ...], strided: bool, settings: Any, avals: Any, run: _ByName
) -> Callable[[], Callable[..., jax.Array]]:
    """A kernel, lowered; what compiles it once holds no lock of Python's meanwhile."""
    kernel = functools.partial(_kernel, steps, strided, run)
    jitted = jax.jit(kernel, donate_argnums=0, keep_unused=True)
    lowered = jitted.lower(*avals)
    return functools.cache(functools.partial(lowered.compile, _wide_vectors()))


@functools.cache
def _wide_vectors() -> dict[str, str | bool]:
    """The option by which XLA uses vectors of 512 bits where the processor has them.

    By itself it does not, so that code of other kinds does not slow down beside such.
    """
    with contextlib.suppress(OSError), open(_PROCESSOR) as file:
        flags = next((line for line in file if line.startswith("flags")), "")
        if "avx512f" in flags.split():
            return {"xla_cpu_prefer_vector_width": "512"}
    return {}


def compiler(
    chain: Chain, strided: bool, rows: int
) -> Callable[[], Callable[..., jax.Array]]:
    """What compiles the kernel of a chain for a number of rows, or finds it compiled.

    The kernel is lowered here, by Python code that would only compete with the caller's
    in another thread; what is returned may well be called in one.

    The kernel takes an array to write over, see :func:`scratch`, and columns, an entry
    for each row: the two words of the first counter; if `strided`, where in its stretch
    the row starts, its width and pitch; a key for each of the chain's draws; its
    scalar.
    """
    words = [jax.ShapeDtypeStruct((rows,), np.uint32)] * (5 if strided else 2)
    keys = [jax.ShapeDtypeStruct((rows, 2), np.uint32)] * len(chain.keys)
    scalar = chain.scalar
    scalars = [] if scalar is None else [jax.ShapeDtypeStruct((rows,), scalar.dtype)]
    over = jax.ShapeDtypeStruct((rows, ROW), _exchanged(chain))
    avals = (over, *words, *keys, *scalars)
    # What is compiled without optimizations may round otherwise.
    plainly = jax.config.read("jax_disable_most_optimizations")
    settings = bool(_compat.setting("jax_enable_x64")), plainly
    with jax.default_device(_host_device()):
        return _compiling(chain.steps, strided, settings, avals, _ByName(chain))


def _host_device() -> jax.Device:
    return jax.local_devices(backend="cpu")[0]


def scratch(chain: Chain, rows: int) -> jax.Array:
    """An array that a launch of the chain's kernel may write its result over."""
    return jax.device_put(np.empty((rows, ROW), _exchanged(chain)), _host_device())


def _exchanged(chain: Chain) -> np.dtype:
    """The dtype in which results leave the kernel: words where NumPy has no such."""
    dtype = chain.dtype
    return dtype if dtype.isbuiltin == 1 else np.dtype(f"uint{8 * dtype.itemsize}")


@dataclasses.dataclass(frozen=True)
class _ByName:
    """Calls a chain; equal for chains of one name, so that a kernel compiles once."""

    chain: Chain = dataclasses.field(compare=False)

    def __call__(self, bits: dict[int, Any], scalar: Any) -> Any:
        return self.chain.run(bits, scalar)


def _kernel(
    steps: tuple[Step, ...],
    strided: bool,
    run: _ByName,
    over: Any,
    high: Any,
    low: Any,
    *rest: Any,
) -> Any:
    columns = list(rest)
    offset = lax.broadcasted_iota(np.uint32, (len(low), ROW), 1)
    if strided:
        first, width, pitch, *columns = columns
        line = first[:, None] + offset
        across = width[:, None]
        offset = line // across * pitch[:, None] + line % across
    counter_low = low[:, None] + offset
    carry = (counter_low < low[:, None]).astype(np.uint32)
    counter_high = high[:, None] + carry
    bits, keys = {}, iter(columns)
    for number, step in enumerate(steps):
        if step.operation == "bits":
            key = next(keys)
            words = key[:, :1], key[:, 1:], counter_high, counter_low
            # A loop of its own: what follows the hash has fewer lanes than the hash,
            # and newer XLA compiles the two together in five times the time.
            drawn = _of_width(words, int(step.params[0][1]))
            bits[number] = lax.optimization_barrier(drawn)
    scalar = next(keys, None)
    result = run(bits, None if scalar is None else scalar[:, None])
    if result.dtype == over.dtype:
        return result
    return lax.bitcast_convert_type(result, over.dtype)


def _of_width(words: tuple[Any, ...], width: int) -> Any:
    if width == 64:
        high, low = hash_words(*words)
        return (high.astype(jnp.uint64) << np.uint64(32)) | low.astype(jnp.uint64)
    return hash_bits(*words).astype(jnp.dtype(f"uint{width}"))
