"""What compiles beside the trace, when nothing is known of the function yet.

Tracing is Python's, on one core. Meanwhile another one compiles the kernel that most
networks turn out to need, that of a scaled truncated normal, and XLA readies itself for
the kernels to come.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import jax
import numpy as np

from jaxinit._compat import setting
from jaxinit._materialize._fill import ROWS
from jaxinit._materialize._kernels import compiler
from jaxinit._materialize._plan import plan
from jaxinit._materialize._steps import Chain


class KernelCompiler:
    """One thread that compiles kernels, and has begun with the usual one."""

    def __init__(self):
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="jaxinit-compiler")
        self._futures: dict[Callable[[], Any], Future] = {}
        usual = _usual_kernel(
            jax.default_backend(),
            setting("jax_default_prng_impl"),
            setting("jax_enable_x64"),
            setting("jax_threefry_partitionable"),
        )
        if usual is not None:
            self.submit(usual)

    def submit(self, compile_kernel: Callable[[], Any]) -> Future:
        """The compiling of a kernel: the one in line or begun, if there is one."""
        if compile_kernel not in self._futures:
            self._futures[compile_kernel] = self._pool.submit(compile_kernel)
        return self._futures[compile_kernel]

    def close(self):
        """Begin with nothing more; what nobody needs may end when it will."""
        self._pool.shutdown(wait=False, cancel_futures=True)


@functools.cache
def _usual_kernel(backend: str, impl: str, *settings: Any) -> Callable[[], Any] | None:
    """What compiles it; None where leaves are not filled by kernels."""
    if backend != "cpu" or impl != "threefry2x32":
        return None
    initializer = jax.nn.initializers.lecun_normal()

    def weights(words: jax.Array) -> jax.Array:
        key = jax.random.wrap_key_data(words, impl=impl)
        return initializer(key, (64, 64), np.float32)

    words = np.zeros(2, np.uint32)
    traced = jax.jit(weights).trace(jax.ShapeDtypeStruct(words.shape, words.dtype))
    ((_, making),) = plan(traced.jaxpr, [words], [True], in_chunks=True)
    return compiler(making, False, ROWS) if isinstance(making, Chain) else None
