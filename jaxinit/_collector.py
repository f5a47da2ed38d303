"""Python's collector of cyclic garbage, out of the way while programs are made."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Generator


@contextlib.contextmanager
def collector_paused() -> Generator[None]:
    """Pause the collector: it would walk the whole heap, again and again.

    Tracing and slicing make thousands of equations that stay. With JAX loaded, looking
    for garbage among them takes longer than making them.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
