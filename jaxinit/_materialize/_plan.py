"""An init function as a plan: for every leaf, how it will be made.

The function is traced as ``jax.jit`` would trace it, sliced backwards from its outputs
(so that the forward pass of a model is gone), and inlined. Each leaf is then one of:

- **given**: an argument, a key that the host derives, or a constant;
- **chain**: random bits through elementwise operations, filled in chunks;
- **program**: anything else, compiled; equal programs once, and leaves that share work
  together, as ``jax.jit`` would compile them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np
from jax.extend.core import ClosedJaxpr, Literal

from jaxinit import _jaxpr
from jaxinit._inlining import inline
from jaxinit._materialize._chains import NotAChain, chain_of
from jaxinit._materialize._exact import Unknown, is_key
from jaxinit._materialize._host import Host, wrapped
from jaxinit._materialize._programs import Compiled, Rest, compiled
from jaxinit._materialize._scans import vectorize_scans
from jaxinit._materialize._steps import Chain


@dataclasses.dataclass(frozen=True)
class Given:
    """A leaf whose value is known without running anything."""

    value: Any
    how: str


@dataclasses.dataclass(frozen=True)
class Full:
    """A leaf with one value everywhere."""

    value: np.ndarray
    how: str = "constant"


Making = Given | Full | Chain | Compiled


def plan(
    closed: ClosedJaxpr,
    arguments: Sequence[Any],
    wanted: Sequence[bool],
    *,
    in_chunks: bool,
) -> Iterator[tuple[int, Making]]:
    """How to make each wanted output of a traced function, by its number.

    What is known soonest comes first: one can begin with it while the rest is planned.

    Args:
      closed: the program of the function.
      arguments: its arguments, ShapeDtypeStructs where only shapes are known.
      wanted: for each output whether it is wanted.
      in_chunks: whether chains are filled on the host. On an accelerator they are
        compiled for it instead, equal ones once.
    """
    plans = _planned(closed, arguments, wanted, wanted, in_chunks)
    if not all(wanted):
        plans = list(plans)
        # The rest may share draws with these: then they are what they are beside it.
        if any(_depends_on_the_rest(making) for _, making in plans):
            everything = [True] * len(wanted)
            plans = _planned(closed, arguments, everything, wanted, in_chunks)
    yield from plans


def _depends_on_the_rest(making: Making) -> bool:
    """Whether XLA might compute this otherwise where more is made of what it draws."""
    return isinstance(making, Compiled) or (isinstance(making, Chain) and making.short)


def _planned(
    closed: ClosedJaxpr,
    arguments: Sequence[Any],
    planned: Sequence[bool],
    wanted: Sequence[bool],
    in_chunks: bool,
) -> Iterator[tuple[int, Making]]:
    """How to make each wanted output, as part of a program of the planned ones."""
    sliced = _jaxpr.slice_backward(closed, list(planned))
    whole = inline(sliced)
    flat = vectorize_scans(whole)
    known = [None if isinstance(a, jax.ShapeDtypeStruct) else a for a in arguments]
    host, host_of_whole = Host(flat, known), Host(whole, known)
    rest: list[Rest] = []
    outputs = [index for index, found in enumerate(planned) if found]
    for position in _one_of_each_type_first(flat.jaxpr.outvars):
        index = outputs[position]
        var, own = flat.jaxpr.outvars[position], whole.jaxpr.outvars[position]
        try:
            making = _given(host, var) or chain_of(host, var)
        except NotAChain as reason:
            rest.append(Rest(index, own, str(reason)))
            continue
        if isinstance(making, Chain) and not in_chunks:
            rest.append(Rest(index, own, "accelerators run whole programs", True))
        elif wanted[index]:
            yield index, making
    rest.sort(key=lambda leaf: leaf.index)
    together = len(wanted) > 1
    yield from compiled(whole, host_of_whole, known, rest, wanted, together)


def _one_of_each_type_first(outvars: Sequence[Any]) -> list[int]:
    """Positions of outputs: leaves that are made in another way are mostly of another
    shape, so that each way is known, and its kernel compiles, before most are planned.
    """
    seen: set[Any] = set()
    first, later = [], []
    for position, var in enumerate(outvars):
        aval = var.aval
        (later if aval in seen else first).append(position)
        seen.add(aval)
    return first + later


def _given(host: Host, var: Any) -> Given | Full | None:
    aval = var.aval
    spread = _spread_scalar(host, var)
    if spread is not None and not is_key(aval):
        return Full(spread)
    try:
        value = host.value(var)
    except Unknown:
        return None
    if is_key(aval):
        return Given(wrapped(value, aval), "key")
    return Given(value, "host")


def _spread_scalar(host: Host, var: Any) -> np.ndarray | None:
    """The value of a leaf that is one scalar everywhere, None if it is not."""
    while not isinstance(var, Literal):
        eqn = host.producer.get(var)
        if eqn is None or eqn.primitive.name not in ("broadcast_in_dim", "reshape"):
            return None
        var = eqn.invars[0]
        if var.aval.size == 1:
            break
    try:
        return host.value(var).reshape(())
    except Unknown:
        return None
