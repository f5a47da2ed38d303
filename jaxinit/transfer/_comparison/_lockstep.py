"""Two programs run side by side, to the first equation whose results differ."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxinit._jaxpr import source_location
from jaxinit.transfer._comparison._alignment import aligned
from jaxinit.transfer._comparison._errors import error_of, relation
from jaxinit.transfer._comparison._programs import Execution, Program, Ran, variables

_NOTHING = "its operands and options are the same"


@dataclass(frozen=True)
class Divergence:
    """The first intermediate that differs.

    Attributes:
      place: the module, by its scope or by its parameters; "" where neither is known.
      operation: the primitive.
      shape: of the intermediate.
      where: file, line and function in the source of the second function.
      maximum: the largest difference of two elements.
      relative: `maximum` over the largest element of the first function's.
      cause: which operand or option of the operation differs, or of an earlier one
        whose result is still within rounding.
    """

    place: str
    operation: str
    shape: tuple[int, ...]
    where: str
    maximum: float
    relative: float
    cause: str


@dataclass(frozen=True, eq=False)
class _Step:
    """One pair of equations: their positions, their error, what was found."""

    positions: tuple[int, int]
    error: tuple[float, float]
    telling: bool  # floating, not all zero, and it depends on the batch
    above: bool  # the error is more than rounding
    divergence: Divergence | None  # where there is any, and somebody may ask for it


def lockstep(
    one: Program, other: Program, rtol: float
) -> tuple[list[tuple[Any, ...]], Divergence | None, list[tuple[Any, list[Any]]]]:
    """Rows, one for each place; the first divergence; tree and outputs of both."""
    pairs, all_aligned = aligned(one, other)
    runs = Execution(one), Execution(other)
    steps: list[_Step] = []
    rows: dict[str, tuple[Any, ...]] = {}
    for positions, ran in _meetings(runs, pairs):
        # Where all are in step, nobody asks for what comes after the first.
        wanted = not all_aligned or not any(step.above for step in steps)
        step = _step(one, other, positions, ran, rtol, wanted)
        steps.append(step)
        place = other.place(ran[1].eqn) or one.place(ran[0].eqn)
        shape = np.shape(ran[1].results[0])
        row = (place, ran[1].eqn.primitive.name, shape, *step.error)
        rows.pop(place, None)  # a place stands where it is left for the last time
        rows[place] = row
    found = [step for step in steps if step.above]
    if not all_aligned:
        # A pair by mistake is followed by agreement; what really differs is not.
        found = [step for step in found if not _agrees_later(other, step, steps, rtol)]
    first = _explained(other, found[0], steps) if found else None
    sides = [(run.program.out_tree, run.outputs) for run in runs]
    return list(rows.values()), first, sides


def _meetings(
    runs: tuple[Execution, Execution], pairs: Sequence[tuple[int, int]]
) -> Iterator[tuple[tuple[int, int], tuple[Ran, Ran]]]:
    """Run both to each pair of positions in turn, then to the end."""
    ones, others = (enumerate(run) for run in runs)
    for first, second in pairs:
        ran = next(r for i, r in ones if i == first)
        yield (first, second), (ran, next(r for i, r in others if i == second))
    for rest in (ones, others):
        for _ in rest:
            pass


def _step(
    one: Program,
    other: Program,
    positions: tuple[int, int],
    ran: tuple[Ran, Ran],
    rtol: float,
    wanted: bool,
) -> _Step:
    results = list(zip(ran[0].results, ran[1].results, strict=True))
    error = max((error_of(*pair) for pair in results), key=lambda pair: pair[1])
    floating = [r for r in ran[1].results if jnp.issubdtype(r.dtype, jnp.inexact)]
    on_batch = ran[1].eqn.outvars[0] in other.depends
    telling = on_batch and any(bool((r != 0).any()) for r in floating)
    divergence = None
    if wanted and error[1] > 0:
        eqn = ran[1].eqn
        divergence = Divergence(
            other.place(eqn) or one.place(ran[0].eqn),
            eqn.primitive.name,
            np.shape(ran[1].results[0]),
            source_location(eqn) or "",
            *error,
            _cause(one, other, *ran, rtol),
        )
    return _Step(positions, error, telling, error[1] > rtol, divergence)


def _explained(
    program: Program, step: _Step, steps: Sequence[_Step]
) -> Divergence | None:
    """The divergence of a step, which an earlier one may have to explain.

    A difference within rounding, of a large sum and a small summand, may be magnified
    by what comes after: 100 + 1e-3 and 100 + 1e-5, where another element is 1e-4.
    """
    first = step.divergence
    if first is None or first.cause != _NOTHING:
        return first
    earlier = {s.positions[1]: s for s in steps}
    needed = set(variables(program.jaxpr.eqns[step.positions[1]].invars))
    for position in range(step.positions[1] - 1, -1, -1):
        eqn, met = program.jaxpr.eqns[position], earlier.get(position)
        if needed.isdisjoint(eqn.outvars) or (met is not None and met.error[0] == 0):
            continue
        origin = met.divergence if met is not None else None
        if origin is not None and origin.cause != _NOTHING:
            line = f" ({origin.where})" if origin.where else ""
            cause = f"it magnifies an earlier {origin.operation}{line}: {origin.cause}"
            return replace(first, place=first.place or origin.place, cause=cause)
        needed.update(variables(eqn.invars))
    return first


def _agrees_later(
    program: Program, step: _Step, steps: Sequence[_Step], rtol: float
) -> bool:
    """Whether something that depends on the step is the same in both programs."""
    reached = set(program.jaxpr.eqns[step.positions[1]].outvars)
    later = {s.positions[1]: s for s in steps if s.positions[1] > step.positions[1]}
    for position in range(step.positions[1] + 1, len(program.jaxpr.eqns)):
        eqn = program.jaxpr.eqns[position]
        if reached.isdisjoint(a for a in eqn.invars if not hasattr(a, "val")):
            continue
        reached.update(eqn.outvars)
        met = later.get(position)
        if met is not None and met.telling and met.error[1] <= rtol:
            return True
    return False


def _cause(one: Program, other: Program, first: Ran, second: Ran, rtol: float) -> str:
    """Which operand of an operation is not the same, or which of its options."""
    for position, pair in enumerate(zip(first.operands, second.operands, strict=False)):
        said = _difference(*pair, rtol)
        if said:
            names = (
                other.origin(second.eqn.invars[position]),
                one.origin(first.eqn.invars[position]),
            )
            name = next((f", {name}," for name in names if name), "")
            return f"operand {position}{name} {said}"
    params = first.eqn.params, second.eqn.params
    for option in params[1]:
        found = [str(side.get(option)) for side in params]
        if found[0] != found[1]:
            return f"{option} is {found[0]} in f and {found[1]} in g"
    return _NOTHING


def _difference(one: Any, other: Any, rtol: float) -> str:
    if np.shape(one) != np.shape(other):
        return f"has shape {np.shape(one)} in f and {np.shape(other)} in g"
    maximum, relative = error_of(one, other)
    if relative <= rtol:
        return ""
    if np.size(one) == 1:
        return (
            f"is {np.asarray(one).item():g} in f and {np.asarray(other).item():g} in g"
        )
    simple = relation(one, other)
    said = f"is {simple}" if simple else "differs"
    return f"{said} (by up to {maximum:.3g}, relative {relative:.3g})"
