"""Leaves that only compiled programs make: cut out of the whole, equal ones once."""

from __future__ import annotations

import collections
import contextlib
import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np
from jax.core import ShapedArray
from jax.extend.core import ClosedJaxpr, Jaxpr, Literal

from jaxinit._materialize._exact import Unknown, is_key, is_threefry
from jaxinit._materialize._host import Host, wrapped


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
class Rest:
    """A leaf that only a program can make."""

    index: int
    var: Any
    why: str
    local: bool = False


def compiled(
    whole: ClosedJaxpr,
    host: Host,
    known: list[Any],
    rest: list[Rest],
    wanted: Sequence[bool],
    together: bool,
) -> Iterator[tuple[int, Compiled]]:
    """The programs of leaves that only programs can make.

    Args:
      whole: the program of the function, inlined.
      host: what is known of it.
      known: the values of its arguments, None where only a shape is known.
      rest: the leaves.
      wanted: for each output of the function whether it is wanted. Others are made only
        with wanted ones that share their work, and if their arguments are known.
      together: whether the function has other leaves, too.
    """
    programs = []
    given = zip(whole.jaxpr.invars, known, strict=True)
    unknown = {var for var, value in given if value is None}
    rest = [
        leaf
        for leaf in rest
        if wanted[leaf.index] or not unknown or not _needs(host, leaf, unknown)
    ]
    for leaves in _sharing(host, rest):
        if not any(wanted[leaf.index] for leaf in leaves):
            continue
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
            if wanted[leaf.index]:
                yield leaf.index, Compiled(program, output, leaf.why, leaf.local)


def _needs(host: Host, leaf: Rest, unknown: set[Any]) -> bool:
    """Whether a leaf is made of one of these arguments."""
    return any(
        not isinstance(var, Literal) and var in unknown
        for eqn in _behind(host, [leaf.var])
        for var in eqn.invars
    )


def _sharing(host: Host, rest: list[Rest]) -> list[list[Rest]]:
    """Leaves in groups: two that share the work of an array are in one."""
    groups: dict[int, list[Rest]] = {}
    group_of_work: dict[Any, int] = {}
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
            other = current(group_of_work.setdefault(_work(host, eqn), group))
            if other != group:
                older, younger = sorted((other, group))
                groups[older] += groups.pop(younger)
                joined[younger] = older
                group = older
    return list(groups.values())


def _work(host: Host, eqn: Any) -> Any:
    """Equal for equations that compute the same: XLA draws what is drawn twice once."""
    if eqn.primitive.name == "random_bits":
        with contextlib.suppress(Unknown):
            return host.draw(eqn)
    return id(eqn)


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
    leaves: list[Rest],
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
    eqns = _with_equal_keys_once(eqns, host)
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


def _with_equal_keys_once(eqns: list[Any], host: Host) -> list[Any]:
    """The equations, where keys that are equal are one input, drawn from once."""
    first: dict[Any, Any] = {}

    def one_of_its_value(var: Any) -> Any:
        if isinstance(var, Literal) or not _is_input(host, var):
            return var
        return first.setdefault((var.aval, host.value(var).tobytes()), var)

    return [eqn.replace(invars=[*map(one_of_its_value, eqn.invars)]) for eqn in eqns]


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
