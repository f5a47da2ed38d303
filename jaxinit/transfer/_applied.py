"""A plan that was made earlier, held against what it is to be applied to."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from jaxinit._errors import MergeError
from jaxinit._folding import fold_paths
from jaxinit.transfer._plan import Plan
from jaxinit.transfer._policy import STRICT, Policy
from jaxinit.transfer._source import Source
from jaxinit.transfer._target import Target


def renewed(made: Plan, target: Target, source: Source, policy: Policy) -> Plan:
    """The plan for this target and source, if their leaves are those it was made for.

    Raises:
      MergeError: a leaf is new, gone, or of another shape or dtype; or the plan was
        made for a tree, and a function is given, or the other way round.
    """
    if policy not in (STRICT, made.policy):
        raise MergeError(
            f"policy cannot be given with a plan, which brings its own: {made.policy}"
        )
    _require_equal(
        {
            leaf.name: (leaf.shape, leaf.dtype)
            for leaf in made.targets
            if leaf.mergeable
        },
        {
            name.full: (shape, str(kind))
            for name, (shape, kind) in target.specs().items()
        },
        "target",
    )
    _require_equal(
        {leaf.name: (leaf.shape, leaf.dtype) for leaf in made.sources},
        {
            name: (leaf.shape, str(leaf.dtype))
            for name, leaf in source.items()
            if leaf.dtype != object
        },
        "source",
    )
    names = [name.full for name in target.flat.names]
    if names != [leaf.name for leaf in made.targets]:
        raise MergeError(
            "target: its leaves without numbers are not those of the plan; make a new "
            "plan"
        )
    own = {leaf.fate for leaf in made.targets if not leaf.function}
    if ("kept" if target.init_fn else "drawn") in own:
        kind = "a tree" if target.init_fn else "a function"
        raise MergeError(
            f"target: the plan was made for {kind}; give the same kind, or make a new "
            "plan"
        )
    return dataclasses.replace(made, origin=source)


def _require_equal(
    planned: Mapping[str, Any], found: Mapping[str, Any], argument: str
) -> None:
    differences = []
    if gone := [name for name in planned if name not in found]:
        differences.append(f"{_some(gone)} not there")
    if new := [name for name in found if name not in planned]:
        differences.append(f"{_some(new)} not in the plan")
    for name in (n for n in planned if n in found and planned[n] != found[n]):
        (was, kind), (shape, dtype) = planned[name], found[name]
        differences.append(
            f"{name!r} {kind}{list(was)} in the plan, {dtype}{list(shape)}"
        )
    if differences:
        shown = "; ".join(differences[:5])
        raise MergeError(
            f"{argument}: not what the plan was made for: {shown}; make a new plan"
        )


def _some(names: list[str]) -> str:
    folded = fold_paths(names)
    more = f" and {len(folded) - 3} more" if len(folded) > 3 else ""
    return ", ".join(map(repr, folded[:3])) + more
