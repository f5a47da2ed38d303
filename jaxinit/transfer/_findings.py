"""What a plan has to say about leaves that do not fit, and what to do about each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxinit._paths import Name
from jaxinit._report import Finding
from jaxinit.transfer._advice import STATISTICS, Unfilled, for_shape, for_unexpected
from jaxinit.transfer._arrivals import Arrival
from jaxinit.transfer._pairs import Pair
from jaxinit.transfer._plan import SourceLeaf, TargetLeaf
from jaxinit.transfer._policy import Policy
from jaxinit.transfer._rules import Rule
from jaxinit.transfer._steps import Shape

_MOST_GUESSES = 200
_LANDED = ("copied", "cast", "adapted")
_KINDS = {
    "floating": jnp.floating,
    "complex": jnp.complexfloating,
    "integer": jnp.integer,
    "bool": jnp.bool_,
}


def note(
    policy: Policy, field: str, leaf: str, cause: str, remedy: str, findings: list[Any]
) -> None:
    """Add a finding, as grave as the policy says."""
    choice = getattr(policy, field)
    if choice in ("error", "warn"):
        severity = "error" if choice == "error" else "warning"
        findings.append(Finding(severity, leaf, cause, remedy, code=field))


def missing(policy: Policy, name: Name, findings: list[Any]) -> None:
    """A leaf of the target that nothing reaches."""
    note(
        policy,
        "missing",
        name.full,
        "nothing in the source goes here.",
        "Rename the source's leaf, or say keep(...) or draw(...) for this one.",
        findings,
    )


def unexpected(
    policy: Policy,
    full: str,
    arrival: Arrival,
    unfilled: Unfilled,
    rules: Sequence[Rule],
    findings: list[Any],
) -> None:
    """A leaf of the source that reaches no leaf of the target."""
    name = arrival.name.full
    where = "the target has no such leaf"
    if name != full:
        where = f"it goes to {name!r}, which the target does not have"
    if arrival.hint:
        note(policy, "unexpected", full, f"{where}.", f"{arrival.hint}.", findings)
        return
    # Nobody reads hundreds of guesses, which would take minutes.
    few = len(findings) < _MOST_GUESSES
    remedy = for_unexpected(arrival.name, unfilled, rules, guess=few)
    note(policy, "unexpected", full, f"{where}.", remedy, findings)


def mismatch(
    policy: Policy,
    name: Name,
    pair: Pair,
    made: Shape | None,
    wanted: Shape,
    problem: str,
    findings: list[Any],
) -> None:
    """A pair whose shapes differ, or cannot be brought together at all."""
    sources = " and ".join(pair.recipe.sources[:3])
    if problem or made is None:
        cause = f"from {sources}: {problem.removesuffix('.')}."
    else:
        after = f" after {pair.recipe}" if str(pair.recipe) else ""
        cause = f"{sources} has shape {made}{after}, the target {wanted}."
    remedy = for_shape(name.path, made, wanted)
    note(policy, "shape", name.full, cause, remedy, findings)


def ambiguous(name: Name, pair: Pair, findings: list[Any]) -> None:
    """A square matrix that may or may not be transposed."""
    cause = f"{pair.recipe.sources[0]} is square: {pair.problem}."
    remedy = (
        "Say torch_layout() if it is torch's, (out, in), or layout(...) without "
        "options if it is as the target has it."
    )
    findings.append(Finding("error", name.full, cause, remedy, code="layout"))


def result_dtype(
    policy: Policy, name: Name, found: np.dtype, wanted: np.dtype, findings: list[Any]
) -> np.dtype:
    """The dtype that a leaf gets; what is said about it."""
    if found == wanted:
        return wanted
    same_kind = _kind(found) == _kind(wanted)
    if policy.dtype == "allow":
        return np.dtype(jax.dtypes.canonicalize_dtype(found))
    if policy.dtype == "cast" and same_kind:
        return wanted
    choice = "error" if policy.dtype == "error" or not same_kind else "warning"
    remedy = 'Say policy=Policy(dtype="cast") to convert, or change the target.'
    if not same_kind:
        remedy = "Rename another leaf here, or say adapt(...) with a conversion."
    cause = f"the source has {found.name}, the target {wanted.name}."
    findings.append(Finding(choice, name.full, cause, remedy, code="dtype"))
    return wanted


def _kind(dtype: np.dtype) -> str:
    return next(
        (kind for kind, parent in _KINDS.items() if jnp.issubdtype(dtype, parent)),
        dtype.name,
    )


def check_statistics(
    policy: Policy,
    targets: Sequence[TargetLeaf],
    sources: Sequence[SourceLeaf],
    findings: list[Any],
) -> None:
    """Parameters of a layer from the source, its batch statistics from elsewhere."""
    taken = {
        _parent(name): leaf.name
        for leaf in targets
        if leaf.fate in _LANDED
        and (name := Name.parse(leaf.name)).collection != "batch_stats"
    }
    for leaf in targets:
        name = Name.parse(leaf.name)
        if name.collection != "batch_stats" or leaf.fate in _LANDED:
            continue
        if leaf.mergeable and (beside := taken.get(_parent(name))) is not None:
            cause = f"is {leaf.fate} while {beside} beside it is from the source."
            note(
                policy,
                "params_without_stats",
                leaf.name,
                cause,
                "Take the statistics from the source too: they belong to its weights.",
                findings,
            )
    used = {
        _parent(Name.parse(source))
        for leaf in targets
        if leaf.fate in _LANDED and leaf.recipe
        for source in leaf.recipe.sources
    }
    for leaf in sources:
        name = Name.parse(leaf.name)
        statistics = (
            name.collection == "batch_stats"
            or name.path.rpartition("/")[2] in STATISTICS
        )
        if statistics and leaf.fate == "dropped" and _parent(name) in used:
            note(
                policy,
                "params_without_stats",
                leaf.name,
                "is dropped while the parameters beside it are used.",
                "Give the whole variables as target, batch_stats with the params.",
                findings,
            )


def _parent(name: Name) -> str:
    return name.path.rpartition("/")[0]
