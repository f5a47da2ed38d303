"""An init function as a plan: for every leaf, how it will be made.

The function is traced as ``jax.jit`` would trace it, sliced backwards from its outputs
(so that the forward pass of a model is gone), and inlined. Each leaf is then one of:

- **given**: an argument, a key that the host derives, or a constant;
- **chain**: random bits through elementwise operations, filled in chunks;
- **program**: anything else, compiled; equal programs once, and leaves that share work
  together, as ``jax.jit`` would compile them.
"""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np
from jax.core import ShapedArray
from jax.extend.core import ClosedJaxpr, Jaxpr, Literal

from jaxinit import _jaxpr
from jaxinit._materialize._chains import NotAChain, chain_of
from jaxinit._materialize._host import Host, Unknown, is_key, is_threefry, wrapped
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


@dataclasses.dataclass(frozen=True)
class Compiled:
    """A leaf that is one output of a compiled program.

    Attributes:
      program: shared by leaves that share work.
      output: which of its outputs.
      why: it is not filled in chunks.
      local: whether every element can be computed where it lies.
    """

    program: Program
    output: int
    why: str
    local: bool


Making = Given | Full | Chain | Compiled


@dataclasses.dataclass(frozen=True, eq=False)
class Program:
    """A sub-program with the values it needs from outside.

    Attributes:
      closed: the program, its inputs being keys and arguments.
      inputs: their values.
      name: equal for programs that compute the same thing.
    """

    closed: ClosedJaxpr
    inputs: tuple[Any, ...]
    name: str


@dataclasses.dataclass(frozen=True)
class _Rest:
    """A leaf that only a program can make."""

    index: int
    var: Any
    why: str
    local: bool = False


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
    sliced = _jaxpr.slice_backward(closed, list(wanted))
    whole = _jaxpr.inline(sliced)
    flat = vectorize_scans(whole)
    known = [None if isinstance(a, jax.ShapeDtypeStruct) else a for a in arguments]
    host, host_of_whole = Host(flat, known), Host(whole, known)
    rest: list[_Rest] = []
    outputs = [index for index, want in enumerate(wanted) if want]
    for position in _one_of_each_type_first(flat.jaxpr.outvars):
        index = outputs[position]
        var, own = flat.jaxpr.outvars[position], whole.jaxpr.outvars[position]
        try:
            making = _given(host, var) or chain_of(host, var)
        except NotAChain as reason:
            rest.append(_Rest(index, own, str(reason)))
            continue
        if isinstance(making, Chain) and not in_chunks:
            rest.append(_Rest(index, own, "accelerators run whole programs", True))
        else:
            yield index, making
    rest.sort(key=lambda leaf: leaf.index)
    together = len(wanted) > 1
    yield from _compiled(whole, host_of_whole, known, rest, together)


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


# -------------------------------------------------------------------------- programs


def _compiled(
    whole: ClosedJaxpr,
    host: Host,
    known: list[Any],
    rest: list[_Rest],
    together: bool,
) -> Iterator[tuple[int, Compiled]]:
    programs = []
    for leaves in _sharing(host, rest):
        programs.append((leaves, _program(leaves, whole, host, known, together)))
    times = collections.Counter(program.name for _, program in programs)
    # What is there once is compiled together, as jit would: one compilation is less
    # than many. What repeats is compiled once and called again.
    once = [leaf for leaves, own in programs if times[own.name] == 1 for leaf in leaves]
    programs = [(leaves, own) for leaves, own in programs if times[own.name] > 1]
    if once:
        programs.append((once, _program(once, whole, host, known, together)))
    for leaves, program in programs:
        for output, leaf in enumerate(leaves):
            yield leaf.index, Compiled(program, output, leaf.why, leaf.local)


def _sharing(host: Host, rest: list[_Rest]) -> list[list[_Rest]]:
    """Leaves in groups: two that share the work of an array are in one."""
    groups: dict[int, list[_Rest]] = {}
    group_of_work: dict[int, int] = {}
    joined: dict[int, int] = {}  # a group, and the older one that took its leaves

    def current(group: int) -> int:
        while group in joined:
            group = joined[group]
        return group

    for number, leaf in enumerate(rest):
        group = number
        groups[group] = [leaf]
        for eqn in _behind(host, [leaf.var]):
            if all(var.aval.size <= 1 for var in eqn.outvars):
                continue
            other = current(group_of_work.setdefault(id(eqn), group))
            if other != group:
                older, younger = sorted((other, group))
                groups[older] += groups.pop(younger)
                joined[younger] = older
                group = older
    return list(groups.values())


def _behind(host: Host, roots: list[Any]) -> list[Any]:
    """The equations behind some variables, up to what the host knows, in any order."""
    seen: dict[int, Any] = {}
    stack = list(roots)
    while stack:
        var = stack.pop()
        if isinstance(var, Literal) or _is_input(host, var):
            continue
        eqn = host.producer.get(var)
        if eqn is not None and id(eqn) not in seen:
            seen[id(eqn)] = eqn
            stack.extend(eqn.invars)
    return list(seen.values())


def _is_input(host: Host, var: Any) -> bool:
    """Keys that the host derives enter a program from outside."""
    return is_threefry(var.aval) and host.knows(var)


def _program(
    leaves: list[_Rest],
    whole: ClosedJaxpr,
    host: Host,
    known: list[Any],
    together: bool,
) -> Program:
    roots = [leaf.var for leaf in leaves]
    if together and len(roots) == 1:
        # XLA fuses a lone result otherwise than one of several.
        roots.append(Literal(np.int32(0), ShapedArray((), np.dtype(np.int32))))
    eqns = sorted(_behind(host, roots), key=lambda eqn: host.position[id(eqn)])
    made = {var for eqn in eqns for var in eqn.outvars}
    wanted = [var for eqn in eqns for var in eqn.invars] + roots
    outside = list(
        dict.fromkeys(v for v in wanted if not isinstance(v, Literal) and v not in made)
    )
    constants = dict(zip(whole.jaxpr.constvars, whole.consts, strict=True))
    given = dict(zip(whole.jaxpr.invars, known, strict=True))
    inputs = [var for var in outside if var not in constants]
    values = [_input_value(var, host, given) for var in inputs]
    inner = [var for var in outside if var in constants]
    debug_info = whole.jaxpr.debug_info
    jaxpr = Jaxpr(inner, inputs, roots, eqns, debug_info=debug_info)
    closed = ClosedJaxpr(jaxpr, [constants[var] for var in inner])
    return Program(closed, tuple(values), _name(jaxpr, closed.consts))


def _input_value(var: Any, host: Host, given: dict[Any, Any]) -> Any:
    if var in given:
        if given[var] is None:
            raise ValueError(
                "a leaf depends on the values of an argument that was given as a "
                f"ShapeDtypeStruct ({var.aval.str_short()}); pass the array"
            )
        return given[var]
    return wrapped(host.value(var), var.aval)


def _name(jaxpr: Jaxpr, consts: Sequence[Any]) -> str:
    """A text that is equal for equal programs: variables print in order of use."""
    content = [str(jaxpr)]
    for const in consts:
        if is_key(jax.typeof(const)):
            const = jax.random.key_data(const)
        array = np.asarray(const)
        content.append(f"{array.dtype}{array.shape}{array.tobytes().hex()}")
    return "\n".join(content)
