"""Making a plan: the three stages in order, then what is wrong with the outcome."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from jaxinit._errors import RuleError
from jaxinit._folding import fold_paths
from jaxinit._paths import Name
from jaxinit._rules import Rule as Matching
from jaxinit._rules import first_matches
from jaxinit.transfer import _findings as say
from jaxinit.transfer._advice import Unfilled
from jaxinit.transfer._arrivals import depart
from jaxinit.transfer._functions import (
    adapter_of,
    initializer_of,
    same_function,
    supplied,
)
from jaxinit.transfer._pairs import Meeting, Pair, meet
from jaxinit.transfer._plan import COLUMNS, Plan, SourceLeaf, TargetLeaf, titled
from jaxinit.transfer._policy import STRICT, Policy
from jaxinit.transfer._rules import Draw, Keep, Rule
from jaxinit.transfer._source import Source, as_source
from jaxinit.transfer._steps import Shape
from jaxinit.transfer._target import Target, as_target


def plan(
    target: Any,
    source: Any,
    rules: Sequence[Rule] = (),
    *,
    policy: Policy = STRICT,
) -> Plan:
    """What a merge would do with each leaf of the target and of the source.

    Shapes and dtypes are read, and no numbers: a plan of a checkpoint of any size costs
    its headers, one of a target given as a function costs a trace. What is wrong stands
    in `.findings`; `.raise_if()` raises it, as `merge` would.

    Args:
      target: a tree (linen variables, nnx State, any pytree; ShapeDtypeStructs will
        do), or a function of no arguments that returns one.
      source: what `open_checkpoint` returned, or a tree.
      rules: in the order in which they are tried, see the module.
      policy: what to do about what does not fit.

    Raises:
      RuleError: a rule matches nothing, or contradicts another.

    >>> import jax.numpy as jnp
    >>> from jaxinit import transfer as tr
    >>> source = {"fc": {"weight": jnp.zeros((2, 3))}}
    >>> target = {"head": {"kernel": jnp.zeros((3, 2)), "bias": jnp.zeros(2)}}
    >>> rules = [tr.rename("fc/(.*)", r"head/\\1"), tr.torch_layout()]
    >>> plan = tr.plan(target, source, rules)
    >>> plan.target_fates
    {'head/bias': 'missing', 'head/kernel': 'copied'}
    >>> plan.ok
    False
    """
    rules = _checked(rules)
    if not isinstance(policy, Policy):
        raise RuleError(f"policy must be a Policy, got {policy!r}")
    return Planner(as_target(target), as_source(source), rules, policy).plan()


class Planner:
    """One plan in the making."""

    def __init__(
        self, target: Target, source: Source, rules: Sequence[Rule], policy: Policy
    ) -> None:
        self.target, self.source = target, source
        self.rules, self.policy = rules, policy
        self.arrays = {
            full: leaf for full, leaf in source.items() if leaf.dtype != object
        }
        self.specs = target.specs()
        self.functions: dict[str, Callable[..., Any]] = {}
        self.findings: list[Any] = []
        self.used: dict[str, str] = {}  # source leaf -> fate
        self.how: dict[str, str] = {}

    def plan(self) -> Plan:
        """The three stages, then the account."""
        shapes = {full: leaf.shape for full, leaf in self.arrays.items()}
        departure = depart(self.rules, shapes)
        wanted = {name: shape for name, (shape, _) in self.specs.items()}
        meeting = meet(self.rules, departure.arrivals, wanted, shapes.__getitem__)
        settled = self._settled(meeting)
        targets = tuple(
            self._target_leaf(name, leaf, meeting.pairs.get(name), settled)
            for name, leaf in self.target.flat.items()
        )
        for full, reason in {**departure.dropped, **meeting.dropped}.items():
            self.used[full], self.how[full] = "dropped", reason
        unfilled = [leaf.name for leaf in targets if leaf.fate == "missing"]
        self._stray(meeting, Unfilled.of(unfilled))
        sources = tuple(
            SourceLeaf(full, self.used[full], leaf.shape, leaf.dtype.name)
            for full, leaf in self.arrays.items()
        )
        say.check_statistics(self.policy, targets, sources, self.findings)
        return Plan(
            titled("plan", targets),
            columns=COLUMNS,
            rows=(*self._target_rows(targets), *self._source_rows(sources)),
            findings=tuple(self.findings),
            notes=self._notes(),
            targets=targets,
            sources=sources,
            policy=self.policy,
            rules=tuple(map(str, self.rules)),
            functions=self.functions,
            origin=self.source,
        )

    def _settled(self, meeting: Meeting) -> dict[Name, Rule]:
        """The third stage: leaves that are kept or drawn, whatever the source has."""
        chosen = [(i, r) for i, r in enumerate(self.rules) if r.stage == "target"]
        first = first_matches(
            [Matching(r.patterns[0], None, r.may_match_nothing) for _, r in chosen],
            self.specs,
            labels=[f"rules[{i}], {rule}" for i, rule in chosen],
        )
        return {name: chosen[winner][1] for name, winner in first.items()}

    def _target_leaf(
        self, name: Name, leaf: Any, pair: Pair | None, settled: dict[Name, Rule]
    ) -> TargetLeaf:
        own = "kept" if self.target.init_fn is None else "drawn"
        if name not in self.specs:
            shape = tuple(getattr(leaf, "shape", ()))
            dtype = str(getattr(leaf, "dtype", type(leaf).__name__))
            random = self.target.flat.is_random_state(name)
            self.how[f"> {name.full}"] = "random state" if random else "not an array"
            return TargetLeaf(name.full, own, shape, dtype, dtype, mergeable=False)
        shape, dtype = self.specs[name]
        recipe = pair.recipe if pair else None

        def outcome(fate: str, function: str = "", kind: Any = dtype) -> TargetLeaf:
            held, made = np.dtype(dtype).name, np.dtype(kind).name
            return TargetLeaf(name.full, fate, shape, held, made, recipe, function)

        match settled.get(name):
            case Keep():
                self._mark(pair, "replaced")
                return outcome(own)
            case Draw(initializer=function):
                self._mark(pair, "replaced")
                label = self._labelled(initializer_of(function), function)
                return outcome("drawn", label)
        if pair is None:
            say.missing(self.policy, name, self.findings)
            return outcome("missing" if self.policy.missing == "error" else own)
        made, function, problem = self._made(pair, name)
        if problem or made != shape:
            say.mismatch(self.policy, name, pair, made, shape, problem, self.findings)
            self._mark(pair, "replaced")
            return outcome("mismatched" if self.policy.shape == "error" else own)
        if pair.problem:
            say.ambiguous(name, pair, self.findings)
        self._mark(pair, "used")
        found = self._dtype(pair)
        kind = say.result_dtype(self.policy, name, found, dtype, self.findings)
        if function:
            return outcome("adapted", function, kind)
        return outcome("copied" if kind == found else "cast", kind=kind)

    def _made(self, pair: Pair, name: Name) -> tuple[Shape | None, str, str]:
        """The shape that comes of a pair, the label of its adapter, what went wrong."""
        if pair.shape is None:
            return None, "", pair.problem
        if pair.adapt is None:
            return pair.shape, "", ""
        label, function = adapter_of(pair.adapt)
        label = self._labelled(label, function)
        found = jax.ShapeDtypeStruct(pair.shape, self._dtype(pair))
        try:
            options = supplied(function, self.specs[name][0], jax.random.key(0))
            made = jax.eval_shape(lambda array: function(array, **options), found)
            return made.shape, label, ""
        except (ValueError, TypeError, AttributeError, IndexError) as error:
            return None, label, f"{label} refuses it: {error}"

    def _dtype(self, pair: Pair) -> np.dtype:
        kinds = [self.arrays[source].dtype for source in pair.recipe.sources]
        return np.result_type(*kinds)

    def _labelled(self, label: str, function: Callable[..., Any]) -> str:
        """The label, made unique where two functions would share it."""
        number, unique = 1, label
        while unique in self.functions and not same_function(
            self.functions[unique], function
        ):
            number += 1
            unique = f"{label} #{number}"
        self.functions[unique] = function
        return unique

    def _mark(self, pair: Pair | None, fate: str) -> None:
        """Note the fate of a pair's sources; one that is used anywhere is used."""
        for full in pair.recipe.sources if pair else ():
            if self.used.get(full) != "used":
                self.used[full] = fate

    def _stray(self, meeting: Meeting, unfilled: Unfilled) -> None:
        findings: list[Any] = []
        for arrival in meeting.stray:
            for full in arrival.recipe.sources:
                allowed = self.policy.unexpected != "error"
                self.used.setdefault(full, "dropped") if allowed else (
                    self.used.__setitem__(full, "unexpected")
                )
                say.unexpected(
                    self.policy, full, arrival, unfilled, self.rules, findings
                )
        self.findings += findings

    def _target_rows(self, targets: Sequence[TargetLeaf]) -> list[tuple[Any, ...]]:
        rows = []
        for leaf in targets:
            landed = leaf.recipe and leaf.fate in ("copied", "cast", "adapted")
            used = leaf.recipe.sources if leaf.recipe and landed else ()
            sources = ", ".join(fold_paths(used))
            words = [str(leaf.recipe)] if landed else []
            if leaf.fate == "cast":
                found = {self.arrays[source].dtype.name for source in used}
                words.append(f"{' and '.join(sorted(found))} → {leaf.result}")
            words += [
                leaf.function.partition(".")[2] or leaf.function,
                self.how.get(f"> {leaf.name}", ""),
            ]
            if leaf.fate == "drawn" and not leaf.function and leaf.mergeable:
                words.append("by the target")
            how = ", ".join(filter(None, words))
            rows.append((leaf.fate, leaf.name, sources, leaf.shape, how))
        return rows

    def _source_rows(self, sources: Sequence[SourceLeaf]) -> list[tuple[Any, ...]]:
        return [
            (leaf.fate, "", leaf.name, leaf.shape, self.how.get(leaf.name, ""))
            for leaf in sources
            if leaf.fate != "used"
        ]

    def _notes(self) -> tuple[str, ...]:
        notes = []
        if self.source.random_state:
            names = ", ".join(fold_paths(self.source.random_state))
            notes.append(f"random-number state of the source is not merged: {names}")
        objects = [full for full in self.source if full not in self.arrays]
        if objects:
            names = ", ".join(fold_paths(objects))
            notes.append(f"leaves of the source that are no arrays: {names}")
        return tuple(notes)


def _checked(rules: Any) -> tuple[Rule, ...]:
    if isinstance(rules, Rule):
        raise RuleError(f"rules must be a list, got one rule; write [{rules}]")
    rules = tuple(rules)
    for position, rule in enumerate(rules):
        if not isinstance(rule, Rule):
            raise RuleError(
                f"rules[{position}] must be a rule such as drop('...'), got {rule!r}"
            )
    return rules
