"""The way back: from a merged tree to the names and the layout of its source."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import jax
import numpy as np

from jaxinit import _paths
from jaxinit._errors import MergeError, RuleError
from jaxinit._folding import fold_paths
from jaxinit._report import Finding, Report
from jaxinit.transfer._plan import Plan, SourceLeaf, TargetLeaf
from jaxinit.transfer._recipe import Join, Piece, Recipe
from jaxinit.transfer._steps import apply

Inexact = Literal["adapted", "cast", "dropped", "replaced", "summed"]


def export(
    tree: Any, plan: Plan, *, allow: Collection[Inexact] = ()
) -> tuple[dict[str, np.ndarray], Report]:
    """The leaves of a merged tree under the names and in the layout of the source.

    Renames, splits, fuses, stacks and layouts are undone exactly, so that exporting
    what was merged gives the source back bit for bit. What cannot be is refused unless
    it is allowed, and listed in the report if so.

    Args:
      tree: what `merge` returned, or the same tree after training.
      plan: the plan, or the report of the merge.
      allow: of "adapted" (exported in the shape that the adapter gave), "cast" (cast
        back to the source's dtype), "replaced" (a kept or drawn leaf under the name of
        the one that it replaces), "dropped" and "summed" (not exported).

    Returns:
      The leaves by full name, for `save`, and a report that accounts for every leaf of
      the source.

    Raises:
      MergeError: the tree is not that of the plan, or a leaf cannot be restored.

    >>> import jax.numpy as jnp
    >>> from jaxinit import transfer as tr
    >>> source = {"fc": {"weight": jnp.arange(6.0).reshape(2, 3)}}
    >>> target = {"fc": {"kernel": jnp.zeros((3, 2))}}
    >>> tree, report = tr.merge(target, source, [tr.torch_layout()])
    >>> leaves, _ = tr.export(tree, report)
    >>> bool((leaves["fc/weight"] == source["fc"]["weight"]).all())
    True
    """
    unknown = [word for word in allow if word not in get_args(Inexact)]
    if unknown:
        known = ", ".join(map(repr, get_args(Inexact)))
        raise RuleError(f"allow must be of {known}, got {unknown[0]!r}")
    return _Exporter(tree, plan, allow).export()


class _Exporter:
    def __init__(self, tree: Any, plan: Plan, allow: Collection[str]) -> None:
        self.leaves = {
            name.full: leaf for name, leaf in _paths.named_leaves(tree).items()
        }
        self.plan, self.allow = plan, allow
        self.shapes = {leaf.name: leaf.shape for leaf in plan.sources}
        self.parts: defaultdict[str, list[_Part]] = defaultdict(list)
        self.failed: dict[str, tuple[str, str]] = {}  # source -> why, and in a word
        self.findings: list[Finding] = []
        self.exported: dict[str, np.ndarray] = {}

    def export(self) -> tuple[dict[str, np.ndarray], Report]:
        """All leaves of the source, or an error that says what stands in the way."""
        self._check_tree()
        for leaf in self.plan.targets:
            if leaf.recipe is not None:
                self._take_apart(leaf, leaf.recipe)
        rows = [self._restored(leaf) for leaf in self.plan.sources]
        report = Report(
            f"export of {len(self.exported)} of {len(rows)} leaves",
            columns=("fate", "source", "target", "shape", "dtype"),
            rows=tuple(rows),
            findings=tuple(self.findings),
        )
        return self.exported, report.raise_if("error", MergeError)

    def _check_tree(self) -> None:
        for leaf in self.plan.targets:
            found = self.leaves.get(leaf.name)
            if found is None or len(self.leaves) != len(self.plan.targets):
                raise MergeError(
                    f"tree has {len(self.leaves)} leaves and the plan "
                    f"{len(self.plan.targets)}; give the tree that the plan made"
                )
            if leaf.mergeable and np.shape(found) != leaf.shape:
                raise MergeError(
                    f"tree: {leaf.name!r} has shape {np.shape(found)}, the plan says "
                    f"{leaf.shape}; give the tree that the plan made"
                )

    def _take_apart(self, leaf: TargetLeaf, recipe: Recipe) -> None:
        array = np.asarray(jax.device_get(self.leaves[leaf.name]))
        word = {"copied": "restored", "kept": "replaced", "drawn": "replaced"}
        fate = word.get(leaf.fate, leaf.fate)
        try:
            pieces = recipe.unmake(array, self.shapes.__getitem__)
        except ValueError as error:
            kind = "summed" if recipe.join == Join("sum") else fate
            for source in recipe.sources:
                self.failed[source] = (kind, f"{leaf.name}: {error}.")
            return
        for piece, part in pieces:
            self.parts[piece.source].append(_Part(piece, part, fate, leaf.name))

    def _restored(self, leaf: SourceLeaf) -> tuple[Any, ...]:
        parts = self.parts.get(leaf.name, [])
        fates = [part.fate for part in parts if part.fate != "restored"]
        fate = fates[0] if fates else "restored"
        why = f"what is exported comes from a leaf that was {fate}."
        if leaf.name in self.failed:
            (fate, why), array = self.failed[leaf.name], None
        elif not parts:
            fate, why, array = "dropped", "it is in no leaf of the tree.", None
        else:
            array, unfit = _assembled(leaf, parts)
            fate, why = ("dropped", unfit) if array is None else (fate, why)
        if fate != "restored":
            self._note(fate, leaf.name, why)
        if array is not None:
            self.exported[leaf.name] = array
        targets = ", ".join(fold_paths(dict.fromkeys(part.target for part in parts)))
        shape = leaf.shape if array is None else array.shape
        return (fate, leaf.name, targets, shape, leaf.dtype)

    def _note(self, fate: str, name: str, why: str) -> None:
        severity = "note" if fate in self.allow else "error"
        remedy = f'Say export(..., allow=["{fate}"]) to accept that.'
        self.findings.append(Finding(severity, name, why, remedy, code=fate))


@dataclass(frozen=True, eq=False)
class _Part:
    """What one leaf of the target gives back to a leaf of the source."""

    piece: Piece
    array: np.ndarray
    fate: str
    target: str


def _assembled(
    leaf: SourceLeaf, parts: Sequence[_Part]
) -> tuple[np.ndarray | None, str]:
    """The source leaf from its parts; None, and why, where they do not make it up."""
    dtype = np.dtype(leaf.dtype)
    first = parts[0]
    if len(parts) == 1 and not first.piece.selection:
        return np.array(first.array.astype(dtype), order="C"), ""
    array, filled = np.zeros(leaf.shape, dtype), np.zeros(leaf.shape, bool)
    for part in parts:
        place = apply(part.piece.selection, array)
        taken = apply(part.piece.selection, filled)
        if place.shape != part.array.shape:
            return None, f"the part from {part.target} has another shape."
        values = np.ascontiguousarray(part.array.astype(dtype)).reshape(place.shape)
        if taken.any() and place.tobytes() != values.tobytes():
            return None, f"{part.target} and {first.target} were one, and differ now."
        place[...], taken[...] = values, True
    if not filled.all():
        return None, "a part of it is in no leaf of the tree."
    return array, ""
