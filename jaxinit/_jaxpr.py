"""Walking traced programs: one recursion over the programs inside of programs.

An equation may hold programs of its own: the body of a `jit`, of a loop, the branches
of a `cond`. How their inputs and outputs line up with those of the equation is told
once, by :func:`subprograms`; whatever walks a program stands on it. What is not
understood is called opaque, never guessed.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal

import jax
from jax.extend.core import ClosedJaxpr, Jaxpr

from jaxinit import _compat
from jaxinit._primitives import COMBINING

_HERE = os.path.join(os.path.dirname(__file__), "")

Kind = Literal["inline", "scan", "while", "branch", "opaque"]


@dataclasses.dataclass(frozen=True, eq=False)
class Subprogram:
    """A program inside an equation.

    Attributes:
      kind: "inline" runs once, on the operands themselves; "scan" and "while" may run
        many times; "branch" runs or not; of "opaque" nothing is known.
      role: the parameter of the equation that holds it, with its place in a tuple.
      program: the program itself.
      inputs: for each of its inputs, the number of the equation's operand it gets.
      outputs: for each of its outputs, the number of the equation's result it becomes;
        None for one that becomes none (the verdict of a loop's condition).
      carried: how many of its outputs are its next inputs; they follow `constants`.
      constants: how many of its inputs stay the same from run to run.
    """

    kind: Kind
    role: str
    program: ClosedJaxpr
    inputs: tuple[int, ...] = ()
    outputs: tuple[int | None, ...] = ()
    carried: int = 0
    constants: int = 0


@dataclasses.dataclass(frozen=True)
class Traced:
    """A program, and the trees of its arguments and results."""

    program: ClosedJaxpr
    in_tree: Any
    out_tree: Any
    results: tuple[jax.ShapeDtypeStruct, ...]


def trace(
    f: Callable[..., Any],
    *args: Any,
    axis_env: Sequence[tuple[str, int]] = (),
    **kwargs: Any,
) -> Traced:
    """The program of ``f(*args, **kwargs)``, traced as ``jax.make_jaxpr`` traces it.

    Args:
      f: any JAX function.
      args: arrays, numbers, or ShapeDtypeStructs.
      axis_env: names and sizes of mapped axes that `f` reduces over, as ``pmean`` does.
      kwargs: further arguments.
    """
    leaves, in_tree = jax.tree.flatten((args, kwargs))

    def flat(*leaves: Any) -> Any:
        args, kwargs = jax.tree.unflatten(in_tree, leaves)
        return f(*args, **kwargs)

    maker = jax.make_jaxpr(flat, axis_env=list(axis_env) or None, return_shape=True)
    program, results = maker(*leaves)
    shapes, out_tree = jax.tree.flatten(results)
    return Traced(program, in_tree, out_tree, tuple(shapes))


def subprograms(eqn: Any) -> Iterator[Subprogram]:
    """The programs inside an equation, and how they line up with it.

    A call is told by its form: one program, with the operands' and results' own types.
    The little programs by which a reduction or a scatter combines two elements are
    none of these.
    """
    name, params = eqn.primitive.name, eqn.params
    operands, results = len(eqn.invars), len(eqn.outvars)
    everything = tuple(range(operands)), tuple(range(results))
    if name == "scan":
        constants, carried = _compat.scan_counts(params)
        program = params["jaxpr"]
        yield Subprogram("scan", "jaxpr", program, *everything, carried, constants)
        return
    if name == "while":
        yield from _of_while(params, operands, results)
        return
    if name == "cond":
        for place, branch in enumerate(params["branches"]):
            inputs, outputs = everything[0][1:], everything[1]
            yield Subprogram("branch", f"branches[{place}]", branch, inputs, outputs)
        return
    if name in COMBINING:
        return
    held = list(_held(params))
    for role, program in held:
        same = _same_types(program.jaxpr.invars, eqn.invars) and _same_types(
            program.jaxpr.outvars, eqn.outvars
        )
        # A shard_map's program sees shards, and axes that end with it: even on one
        # device, where the types are the same, it does not stand alone.
        if same and len(held) == 1 and name != "shard_map":
            yield Subprogram("inline", role, program, *everything)
        else:
            yield Subprogram("opaque", role, program)


def walk(
    program: ClosedJaxpr | Jaxpr, within: tuple[Any, ...] = ()
) -> Iterator[tuple[Any, tuple[Any, ...]]]:
    """Every equation, those of inner programs after the one that holds them.

    Yields pairs of an equation and the equations around it, from the outside in.
    """
    for eqn in _jaxpr_of(program).eqns:
        yield eqn, within
        for sub in subprograms(eqn):
            yield from walk(sub.program, (*within, eqn))


def slice_backward(
    program: ClosedJaxpr, outputs: Sequence[bool] | None = None
) -> ClosedJaxpr:
    """The part of a program that the wanted outputs depend on.

    Loops and branches are sliced within, so that a carry that nothing reads is gone
    (from a while only since JAX 0.12). Inputs stay, needed or not; equations with
    effects stay.

    Args:
      program: the program.
      outputs: for each output whether it is wanted; all are by default.
    """
    wanted = [True] * len(program.jaxpr.outvars) if outputs is None else list(outputs)
    sliced = _compat.slice_backward(program.jaxpr, wanted)
    return ClosedJaxpr(sliced, program.consts)


def source_location(eqn: Any, within: Sequence[Any] = ()) -> str | None:
    """The file, line and function of the user's code behind an equation.

    That is the innermost line outside of installed packages and of this one; where all
    are inside, the innermost one. None if nothing is known.

    Args:
      eqn: an equation.
      within: the equations around it, as :func:`walk` tells them. What a function of
        JAX does inside has no line of the user but that of the call.
    """
    behind = [frame for e in (eqn, *reversed(within)) for frame in _compat.frames(e)]
    behind = [frame for frame in behind if not frame[0].startswith(_HERE)]
    own = [frame for frame in behind if "site-packages" not in frame[0]]
    for file, line, function in own or behind:
        return f"{file}:{line} ({function})"
    return None


# ------------------------------------------------------------------------ the insides


def _same_types(inner: Sequence[Any], outer: Sequence[Any]) -> bool:
    return len(inner) == len(outer) and all(
        type(one.aval) is type(other.aval)
        and getattr(one.aval, "shape", None) == getattr(other.aval, "shape", None)
        and getattr(one.aval, "dtype", None) == getattr(other.aval, "dtype", None)
        for one, other in zip(inner, outer, strict=True)
    )


def _of_while(
    params: dict[str, Any], operands: int, results: int
) -> Iterator[Subprogram]:
    ahead, own = params["cond_nconsts"], params["body_nconsts"]
    carried = tuple(range(ahead + own, operands))
    yield Subprogram(
        "while",
        "cond_jaxpr",
        params["cond_jaxpr"],
        (*range(ahead), *carried),
        (None,),
        constants=ahead,
    )
    yield Subprogram(
        "while",
        "body_jaxpr",
        params["body_jaxpr"],
        (*range(ahead, ahead + own), *carried),
        tuple(range(results)),
        carried=results,
        constants=own,
    )


def _held(params: dict[str, Any]) -> Iterator[tuple[str, ClosedJaxpr]]:
    for role, value in params.items():
        several = value if isinstance(value, (tuple, list)) else (value,)
        for place, item in enumerate(several):
            where = role if several is not value else f"{role}[{place}]"
            if hasattr(item, "jaxpr") and hasattr(item, "consts"):
                yield where, item
            elif isinstance(item, Jaxpr) and not item.constvars:
                yield where, ClosedJaxpr(item, ())


def _jaxpr_of(program: ClosedJaxpr | Jaxpr) -> Jaxpr:
    return program if isinstance(program, Jaxpr) else program.jaxpr
