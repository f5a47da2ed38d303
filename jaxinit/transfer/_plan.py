"""A plan: what becomes of every leaf, on both sides, known before a number is read."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import KW_ONLY, dataclass, field
from importlib.metadata import version
from typing import Any, ClassVar, Self

from jaxinit._errors import MergeError, RuleError
from jaxinit._report import Report
from jaxinit.transfer._functions import resolve
from jaxinit.transfer._policy import STRICT, Policy
from jaxinit.transfer._recipe import Recipe
from jaxinit.transfer._source import Source
from jaxinit.transfer._steps import Shape

COLUMNS = ("fate", "target", "source", "shape", "how")


@dataclass(frozen=True)
class TargetLeaf:
    """A leaf of the target: what it is, what becomes of it, and from what.

    `fate` is copied, cast, adapted, kept or drawn; missing or mismatched where the plan
    fails. `recipe` also stands beside a leaf that replaces what would have come from
    the source, for the way back. `dtype` is the target's and `result` that of the
    result; `function` is the label of an adapter or an initializer; `mergeable` is
    false for random-number state and for leaves that are no arrays.
    """

    name: str
    fate: str
    shape: Shape
    dtype: str
    result: str
    recipe: Recipe | None = None
    function: str = ""
    mergeable: bool = True


@dataclass(frozen=True)
class SourceLeaf:
    """A leaf of the source and what becomes of it.

    `fate` is used, dropped or replaced; unexpected where the plan fails.
    """

    name: str
    fate: str
    shape: Shape
    dtype: str


@dataclass(frozen=True)
class Plan(Report):
    """What `jaxinit.transfer.merge` will do, or has done, with each leaf.

    A report: it prints with the indices of layers folded, its findings are what is
    wrong, and `raise_if` raises MergeError. It is also data: `to_json` writes it down,
    `Plan.from_json` reads it back, and `merge(target, source, plan)` applies it, to the
    leaves that it was made for.
    """

    error_type: ClassVar[Callable[[str], Exception]] = MergeError

    _: KW_ONLY
    targets: tuple[TargetLeaf, ...] = ()
    sources: tuple[SourceLeaf, ...] = ()
    policy: Policy = STRICT
    rules: tuple[str, ...] = ()
    functions: Mapping[str, Callable[..., Any]] = field(
        default_factory=dict, compare=False
    )
    origin: Source | None = field(default=None, compare=False)

    @property
    def target_fates(self) -> dict[str, str]:
        """The fate of each target leaf, by full name."""
        return {leaf.name: leaf.fate for leaf in self.targets}

    @property
    def source_fates(self) -> dict[str, str]:
        """The fate of each source leaf, by full name."""
        return {leaf.name: leaf.fate for leaf in self.sources}

    def provenance(self) -> dict[str, Any]:
        """Where the numbers come from: files with their sha256, versions, rules, fates.

        The hashes are computed now, which reads the files.
        """
        libraries = ("jaxinit", "jax", "numpy")
        return {
            "source": None if self.origin is None else self.origin.provenance(),
            "versions": {name: version(name) for name in libraries},
            "rules": list(self.rules),
            "policy": dataclasses.asdict(self.policy),
            "targets": self.target_fates,
            "sources": self.source_fates,
            "findings": [dataclasses.asdict(finding) for finding in self.findings],
        }

    def to_dict(self) -> dict[str, Any]:
        """The plan as plain data; functions are in it by their labels alone."""
        data = super().to_dict()
        return {key: data[key] for key in data if key not in ("functions", "origin")}

    @classmethod
    def from_dict(
        cls,
        data: Mapping[str, Any],
        functions: Mapping[str, Callable[..., Any]] | None = None,
    ) -> Self:
        """The plan that `to_dict` wrote; see `from_json`."""
        values = dict(data)
        targets = tuple(map(_target_leaf, values.pop("targets")))
        sources = tuple(map(_source_leaf, values.pop("sources")))
        policy = Policy(**values.pop("policy"))
        report = super().from_dict(values)
        labels = {leaf.function for leaf in targets if leaf.function}
        return dataclasses.replace(
            report,
            targets=targets,
            sources=sources,
            policy=policy,
            functions={label: resolve(label, functions or {}) for label in labels},
        )

    def to_json(self, *, indent: int | None = None) -> str:
        """The plan as a JSON text."""
        return json.dumps(self.to_dict(), allow_nan=False, indent=indent)

    @classmethod
    def from_json(
        cls, text: str, *, functions: Mapping[str, Callable[..., Any]] | None = None
    ) -> Self:
        """The plan that `to_json` wrote.

        Adapters and initializers of this library are found by the labels in the plan.
        Those of one's own are given: nothing that a text names is ever imported.

        Args:
          text: what `to_json` returned.
          functions: one's own adapters and initializers, by label; the error names the
            labels that are missing.

        Raises:
          RuleError: the text is no plan, or a function that it names is not given.
        """
        try:
            data = json.loads(text)
            return cls.from_dict(data, functions)
        except (KeyError, TypeError, AttributeError, json.JSONDecodeError) as error:
            raise RuleError(
                f"text is not a plan: {error!r}; give what Plan.to_json returned"
            ) from error


def titled(kind: str, targets: tuple[TargetLeaf, ...]) -> str:
    """A title that counts the fates."""
    fates = Counter(leaf.fate for leaf in targets)
    counted = ", ".join(f"{number} {fate}" for fate, number in fates.items())
    return f"{kind} of {len(targets)} leaves: {counted or 'none'}"


def _target_leaf(data: Mapping[str, Any]) -> TargetLeaf:
    recipe = None if data["recipe"] is None else Recipe.from_dict(data["recipe"])
    changed: Any = {**data, "shape": tuple(data["shape"]), "recipe": recipe}
    return TargetLeaf(**changed)


def _source_leaf(data: Mapping[str, Any]) -> SourceLeaf:
    changed: Any = {**data, "shape": tuple(data["shape"])}
    return SourceLeaf(**changed)
