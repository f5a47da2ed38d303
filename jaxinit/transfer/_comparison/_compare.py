"""compare: two functions on one batch, and the first place where they part."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass
from typing import Any, ClassVar

import jax
import numpy as np

from jaxinit._report import Finding, Report
from jaxinit.transfer._comparison._errors import error_of
from jaxinit.transfer._comparison._lockstep import Divergence, lockstep
from jaxinit.transfer._comparison._programs import Program, as_program


@dataclass(frozen=True)
class CompareReport(Report):
    """How far two functions are apart, in the end and on the way.

    Attributes:
      maximum: the largest difference of two elements of the outputs.
      relative: the largest over the outputs of ``max |f - g| / max |f|``.
      first_divergence: the first intermediate whose relative error is above `rtol`;
        None where the outputs agree, or the intermediates cannot be seen.
    """

    path_columns: ClassVar[tuple[str, ...]] = ("place",)

    _: KW_ONLY
    maximum: float = 0.0
    relative: float = 0.0
    first_divergence: Divergence | None = None


def compare(
    f: Callable[..., Any], g: Callable[..., Any], *inputs: Any, rtol: float = 1e-5
) -> CompareReport:
    """How far `g` is from `f` on one batch, and since which intermediate.

    Both are run operation by operation, side by side. Where the outputs differ by more
    than `rtol`, the first intermediate that does is named, with the operand or the
    option of its operation that is not the same: names and shapes of all leaves may be
    right, and an epsilon, a padding or the order of two axes still be wrong.

    Args:
      f: the old function: of the inputs, an nnx Module, or a bound linen Module
        (`module.bind(variables)`). One that is not JAX's is run as it is, and what is
        no function stands for recorded outputs; then only the outputs are compared.
      g: the new function, likewise.
      *inputs: the batch. Real data: an error may hide on zeros or constants.
      rtol: the largest relative error that counts as rounding.

    Raises:
      ValueError: rtol is negative.

    >>> import jax.numpy as jnp
    >>> from jaxinit import transfer as tr
    >>> def norm(epsilon):
    ...     return lambda x: (x - x.mean()) / jnp.sqrt(x.var() + epsilon)
    >>> report = tr.compare(norm(1e-3), norm(1e-5), jnp.arange(8.0) / 8)
    >>> report.ok, report.first_divergence.operation
    (False, 'add')
    >>> print(report.first_divergence.cause)
    operand 1 is 0.001 in f and 1e-05 in g
    """
    if not rtol >= 0:
        raise ValueError(f"rtol must be 0 or more, got {rtol!r}")
    sides = [_side(function, inputs) for function in (f, g)]
    rows: list[tuple[Any, ...]] = []
    notes: list[str] = []
    divergence = None
    if all(isinstance(side, Program) for side in sides):
        rows, divergence, sides = lockstep(*sides, rtol)
    else:
        notes.append("an output was recorded or not JAX's: no intermediates are seen")
        sides = [
            _evaluated(function(*inputs)) if isinstance(side, Program) else side
            for side, function in zip(sides, (f, g), strict=True)
        ]
    (tree, outputs), (other_tree, others) = sides
    problem = _structure(tree, outputs, other_tree, others)
    errors = [] if problem else list(map(error_of, outputs, others))
    maximum = max((error[0] for error in errors), default=0.0)
    relative = max((error[1] for error in errors), default=0.0)
    agrees = not problem and relative <= rtol
    findings = () if agrees else (_finding(problem, relative, rtol, divergence),)
    return CompareReport(
        f"compare: relative error {relative:.3g} of the outputs",
        columns=("place", "operation", "shape", "maximum", "relative"),
        rows=tuple(rows),
        findings=findings,
        notes=tuple(notes),
        maximum=maximum,
        relative=relative,
        first_divergence=None if agrees else divergence,
    )


def _side(f: Any, inputs: tuple[Any, ...]) -> Any:
    """A program; or tree and outputs, of what cannot be traced or is no function."""
    if not callable(f):
        return _evaluated(f)
    try:
        return as_program(f, inputs)
    except Exception:  # whatever a library says to an array that it does not know
        return _evaluated(f(*inputs))  # raises if it is the user's error


def _evaluated(outputs: Any) -> tuple[Any, list[Any]]:
    leaves, tree = jax.tree.flatten(outputs)
    return tree, leaves


def _structure(tree: Any, outputs: Any, other_tree: Any, others: Any) -> str:
    """What keeps the outputs from being compared at all, or ""."""
    if tree != other_tree:
        return f"f returns {tree}, g {other_tree}."
    for one, other in zip(outputs, others, strict=True):
        if np.shape(one) != np.shape(other):
            return f"f returns the shape {np.shape(one)}, g {np.shape(other)}."
    return ""


def _finding(
    problem: str, relative: float, rtol: float, divergence: Divergence | None
) -> Finding:
    cause = problem or f"relative error {relative:.3g} of the outputs, above {rtol:g}."
    if divergence is None:
        remedy = "Compare two JAX functions on one batch to see where they part."
        return Finding("error", "", cause, remedy, code="outputs")
    place = f" of {divergence.place}" if divergence.place else ""
    where = f" ({divergence.where})" if divergence.where else ""
    remedy = f"Look at {divergence.operation}{place}{where}: {divergence.cause}."
    return Finding("error", divergence.place, cause, remedy, code="outputs")
