"""Which equation of the one program is which of the other."""

from __future__ import annotations

from collections.abc import Sequence
from difflib import SequenceMatcher
from typing import Any

from jaxinit.transfer._comparison._programs import MOVING, Program

Key = tuple[Any, ...]


def aligned(one: Program, other: Program) -> tuple[list[tuple[int, int]], bool]:
    """Pairs of positions in the order of both programs, and whether they are all.

    Equations that only move elements are left out. The others are told apart by what
    they do, by the shapes of their results, and by their scopes where both have the
    same ones.
    """
    scoped = _scopes(one) == _scopes(other)
    ones, others = _keys(one, scoped), _keys(other, scoped)
    (first_places, first), (second_places, second) = ones, others
    pairs = [(first_places[i], second_places[j]) for i, j in _matched(first, second)]
    return pairs, len(pairs) == len(first) == len(second)


def _scopes(program: Program) -> set[str]:
    return {str(eqn.source_info.name_stack) for eqn in program.jaxpr.eqns}


def _keys(program: Program, scoped: bool) -> tuple[list[int], list[Key]]:
    places, keys = [], []
    for position, eqn in enumerate(program.jaxpr.eqns):
        if eqn.primitive.name in MOVING:
            continue
        shapes = tuple(getattr(var.aval, "shape", None) for var in eqn.outvars)
        scope = str(eqn.source_info.name_stack) if scoped else ""
        places.append(position)
        keys.append((eqn.primitive.name, shapes, scope))
    return places, keys


def _matched(first: Sequence[Key], second: Sequence[Key]) -> list[tuple[int, int]]:
    """A common subsequence; what is equal at both ends needs no search."""
    size = min(len(first), len(second))
    start = next((i for i in range(size) if first[i] != second[i]), size)
    rest = size - start
    end = next((i for i in range(rest) if first[-1 - i] != second[-1 - i]), rest)
    middle = first[start : len(first) - end], second[start : len(second) - end]
    matcher = SequenceMatcher(None, *middle, autojunk=False)
    pairs = [(i, i) for i in range(start)]
    for i, j, count in matcher.get_matching_blocks():
        pairs += [(start + i + k, start + j + k) for k in range(count)]
    ends = len(first) - end, len(second) - end
    return pairs + [(ends[0] + i, ends[1] + i) for i in range(end)]
