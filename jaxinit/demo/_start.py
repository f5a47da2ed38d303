"""The first parameters of EfficientNet-Lite0, and whether they are a sound start."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jaxinit
from jaxinit.demo._network import WHOLE, EfficientNetLite0


@dataclass(frozen=True)
class Start:
    """Seconds to the first parameters, both ways, and the audit of what came out."""

    leaves: int
    numbers: int
    materialize: float
    jit: float
    identical: bool
    audit: Any
    auditing: float
    audited: str


def measure(
    seed: int, *, audited: int = WHOLE, tick: Callable[[], None] = lambda: None
) -> Start:
    """Make the parameters by `materialize`, by jit, compare each bit, and audit them.

    The network is the one with XLA's own convolutions, as anybody would write it, and
    the times include all compilation. The audit is of the first `audited` blocks.
    """
    model = EfficientNetLite0(fast=False)
    key, image = jax.random.key(seed), jnp.zeros((1, 32, 32, 3))
    # Neither side pays for starting the backend.
    jax.jit(lambda key: jax.random.normal(key, (2,)))(key).block_until_ready()
    seconds, variables = _timed(lambda: jaxinit.materialize(model.init)(key, image))
    tick()
    slower, other = _timed(lambda: jax.jit(model.init)(key, image))
    identical = all(jax.tree.leaves(jax.tree.map(_same_bits, variables, other)))
    tick()
    images = jax.random.normal(jax.random.fold_in(key, 1), (16, 32, 32, 3))
    part = model.clone(cut=audited)
    drawn = jaxinit.materialize(part.init)(key, image) if audited < WHOLE else variables
    # As it will be trained: normalized by the batch, not by statistics yet unknown.
    f, params, *args = jaxinit.from_linen(part, drawn, images, True)
    auditing, report = _timed(lambda: jaxinit.audit(f, params, *args))
    tick()
    arrays = jax.tree.leaves(variables)
    return Start(
        leaves=len(arrays),
        numbers=sum(array.size for array in arrays),
        materialize=seconds,
        jit=slower,
        identical=identical,
        audit=report,
        auditing=auditing,
        audited=_said(audited),
    )


def _said(blocks: int) -> str:
    return "the whole network" if blocks == WHOLE else f"the first {blocks} blocks"


def _timed(function: Callable[[], Any]) -> tuple[float, Any]:
    begun = time.perf_counter()
    result = function()
    waiting = [leaf for leaf in jax.tree.leaves(result) if isinstance(leaf, jax.Array)]
    jax.block_until_ready(waiting)
    return time.perf_counter() - begun, result


def _same_bits(one: Any, other: Any) -> bool:
    return np.asarray(one).tobytes() == np.asarray(other).tobytes()
