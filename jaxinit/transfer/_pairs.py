"""The second stage: what has arrived at a leaf of the target, laid out and adapted."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

from jaxinit._errors import RuleError
from jaxinit._paths import Name
from jaxinit._rules import Rule as Matching
from jaxinit._rules import compile_pattern, first_matches, listed, matches, select
from jaxinit.transfer._arrivals import Arrival
from jaxinit.transfer._layouts import is_ambiguous, said_steps, torch_steps
from jaxinit.transfer._recipe import Join, Recipe
from jaxinit.transfer._rules import Adapt, Layout, Rule, TorchLayout
from jaxinit.transfer._steps import Shape, axis_of
from jaxinit.transfer._torch_names import COUNTER, translate

ShapeOf = Callable[[str], Shape]


@dataclass(frozen=True)
class Pair:
    """A leaf of the target and what it is made from.

    `shape` is that of the recipe's array, None where the pieces do not fit together;
    `problem` then says why, and otherwise what nobody has said.
    """

    recipe: Recipe
    rules: tuple[str, ...]
    shape: Shape | None
    problem: str = ""
    adapt: Adapt | None = None


@dataclass(frozen=True)
class Meeting:
    """Pairs by target name, arrivals at no leaf of the target, and what was dropped."""

    pairs: Mapping[Name, Pair]
    stray: tuple[Arrival, ...]
    dropped: Mapping[str, str]


def meet(
    rules: Sequence[Rule],
    arrivals: Sequence[Arrival],
    targets: Mapping[Name, Shape],
    shape_of: ShapeOf,
) -> Meeting:
    """Apply the rules of the second stage."""
    arrivals, dropped = _translated(rules, arrivals, targets, shape_of)
    stray = tuple(arrival for arrival in arrivals if arrival.name not in targets)
    met: dict[Name, list[Arrival]] = {}
    for arrival in arrivals:
        if arrival.name in targets:
            met.setdefault(arrival.name, []).append(arrival)
    united = {name: _united(name, several) for name, several in met.items()}
    names = [name for name in targets if name in united]
    layouts = _assigned(rules, "layout", names, targets)
    for rule in rules:
        if isinstance(rule, TorchLayout) and rule.transposed is not None:
            select(
                rule.transposed, names, argument="transposed", optional=rule.optional
            )
    adapts = _assigned(rules, "adapt", names, targets)
    pairs = {
        name: _pair(
            united[name], layouts.get(name), adapts.get(name), targets, shape_of
        )
        for name in names
    }
    return Meeting(pairs, stray, dropped)


def _translated(
    rules: Sequence[Rule],
    arrivals: Sequence[Arrival],
    targets: Mapping[Name, Shape],
    shape_of: ShapeOf,
) -> tuple[list[Arrival], dict[str, str]]:
    """The arrivals under the names of the target, where they come with torch's."""
    scopes = [rule for rule in rules if isinstance(rule, TorchLayout)]
    if not scopes:
        return list(arrivals), {}
    within = {
        name: targets[name]
        for rule in scopes
        for name in select(
            rule.pattern,
            targets,
            argument="torch_layout",
            optional=rule.may_match_nothing,
        )
    }
    translated, dropped = [], {}
    for arrival in arrivals:
        counter = arrival.name.path.rpartition("/")[2] == COUNTER
        if counter and arrival.name not in targets:
            reason = "torch's count of batches"
            dropped |= dict.fromkeys(arrival.recipe.sources, reason)
            continue
        translated += translate(arrival, within, shape_of)
    return translated, dropped


def _united(name: Name, several: Sequence[Arrival]) -> Arrival:
    """The one arrival at a leaf; two only where they are the summands of a bias."""
    first = several[0]
    if len(several) == 1:
        return first
    plain = all(a.summand and a.recipe.join is None for a in several)
    if plain and len(several) == 2:
        pieces = tuple(piece for a in several for piece in a.recipe.pieces)
        return first.to(name, Recipe(pieces, Join("sum")))
    sources = [Name.parse(source) for a in several for source in a.recipe.sources]
    unique = list(dict.fromkeys(sources))
    if len(unique) == 1:
        raise RuleError(
            f"{first.rule or 'rules'}: {unique[0].full!r} is sent to {name.full!r} "
            "twice; let the replacements tell the parts apart"
        )
    said = [a.rule for a in several if a.rule]
    raise RuleError(
        f"{said[-1] if said else 'rules'}: two sources for one target, "
        f"{listed(unique)} for {name.full!r}; drop or rename one of them"
    )


def _assigned(
    rules: Sequence[Rule],
    stage: str,
    names: Sequence[Name],
    targets: Collection[Name],
) -> dict[Name, Rule]:
    """For each pair the first rule of the stage that matches its target's path."""
    chosen = [(i, rule) for i, rule in enumerate(rules) if rule.stage == stage]
    loose = [rule for _, rule in chosen if isinstance(rule, TorchLayout)]
    for position, rule in chosen:
        if rule not in loose:
            _check_reaches(position, rule, names, targets)
    first = first_matches(
        [
            Matching(r.patterns[0], None, r.may_match_nothing or r in loose)
            for _, r in chosen
        ],
        names,
        labels=[f"rules[{position}], {rule}" for position, rule in chosen],
    )
    return {name: chosen[winner][1] for name, winner in first.items()}


def _check_reaches(
    position: int, rule: Rule, names: Sequence[Name], targets: Collection[Name]
) -> None:
    """Refuse a rule whose leaves exist, but get nothing from the source."""
    pattern = compile_pattern(rule.patterns[0])
    if rule.may_match_nothing or any(matches(pattern, n) for n in names):
        return
    found = [name for name in targets if matches(pattern, name)]
    if found:
        raise RuleError(
            f"rules[{position}], {rule}: it matches {listed(found)}, but nothing from "
            "the source goes there; check the renames before it"
        )


def _pair(
    arrival: Arrival,
    layout: Rule | None,
    adapt: Rule | None,
    targets: Mapping[Name, Shape],
    shape_of: ShapeOf,
) -> Pair:
    name, recipe = arrival.name, arrival.recipe
    wanted = targets[name]
    said = tuple(str(rule) for rule in (arrival.rule, layout, adapt) if rule)
    adapt = adapt if isinstance(adapt, Adapt) else None
    try:
        recipe, problem = _laid_out(recipe, name, layout, wanted, shape_of)
        return Pair(recipe, said, recipe.shape(shape_of), problem, adapt)
    except ValueError as error:
        return Pair(recipe, said, None, str(error), adapt)


def _laid_out(
    recipe: Recipe,
    name: Name,
    layout: Rule | None,
    wanted: Shape,
    shape_of: ShapeOf,
) -> tuple[Recipe, str]:
    """The recipe with its layout, and what is unsaid about it."""
    found, goal = recipe.unit_shape(shape_of), wanted
    if recipe.layered and recipe.join is not None:
        axis = axis_of(recipe.join.axis, len(wanted))
        recipe = dataclasses.replace(recipe, join=Join("stack", axis))
        goal = (*wanted[:axis], *wanted[axis + 1 :])
    match layout:
        case Layout():
            steps = said_steps(layout, found, goal)
        case TorchLayout(transposed=pattern):
            backwards = pattern is not None and matches(compile_pattern(pattern), name)
            steps = torch_steps(name.path, found, goal, transposed=backwards)
        case _:
            unsaid = any(is_ambiguous(s, name.path, found) for s in recipe.sources)
            problem = "whether it is transposed is not said" if unsaid else ""
            return recipe, problem
    return recipe.arranged(steps), ""
