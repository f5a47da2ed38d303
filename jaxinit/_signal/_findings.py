"""From causes and symptoms to findings: root causes first, consequences folded."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence

from jaxinit._folding import fold_paths, skeleton
from jaxinit._report import SEVERITIES, Finding
from jaxinit._signal._causes import RANK, Cause
from jaxinit._signal._symptom import Symptom
from jaxinit._signal._use import Use

# What a weight shows by itself comes before what shows only behind it.
_ORDER = (
    "gain",
    "non-finite",
    "dead",
    "saturated",
    "no-signal",
    "vanishing",
    "exploding",
    "gradient-range",
)


def findings(
    causes: Iterable[Cause], symptoms: Iterable[Symptom]
) -> list[tuple[Finding, frozenset[str]]]:
    """Findings, the gravest first and, of these, those that come first in the program.

    Each with the labels of all layers that it is about.

    A symptom is folded into the first cause that can have brought it about: one that
    stands in front of it in the program or, for a gradient, anywhere. Layers that have
    the same thing wrong share a finding.
    """
    roots = list(causes)
    folded: dict[int, list[tuple[float, str]]] = {}
    for symptom in sorted(symptoms, key=lambda one: _ORDER.index(one.cause.code)):
        known = _explanation(symptom, roots)
        if known is None:
            roots.append(symptom.cause)
        else:
            told = (symptom.cause.order, symptom.short)
            folded.setdefault(known, []).append(told)
    found = []
    for members in _alike(roots):
        told = sorted(pair for n in members for pair in folded.get(n, ()))
        short = _counted([text for _, text in told])
        causes = [roots[n] for n in members]
        labels = frozenset(cause.label for cause in causes)
        found.append((_key(causes[0]), _finding(causes, short), labels))
    ordered = sorted(found, key=lambda one: one[0])
    return [(finding, labels) for _, finding, labels in ordered]


def not_understood(uses: Mapping[str, Sequence[Use]]) -> Iterator[Finding]:
    """A note for each parameter whose use was not understood."""
    for leaf, own in uses.items():
        for use in own:
            if use.kind == "unknown":
                where = f" ({use.where})" if use.where else ""
                yield Finding(
                    "note",
                    leaf,
                    f"How it is used was not understood: {use.detail}{where}.",
                    "jaxinit.register_product tells what an operation does with it",
                    "unknown",
                )
                break


def _explanation(symptom: Symptom, roots: Sequence[Cause]) -> int | None:
    """The number of the cause that explains a symptom; None if none does."""
    cause = symptom.cause
    for number, root in enumerate(roots):
        if root.label == cause.label and _rank(root) < _rank(cause):
            return number
    own = cause.code == "gain" or (cause.code == "dead" and cause.number is not None)
    for number, root in sorted(enumerate(roots), key=lambda pair: pair[1].order):
        if root.severity == "note" and cause.severity != "note":
            continue
        if root.code in ("unused", "stop-gradient"):
            continue
        if root.code == cause.code != "non-finite":
            continue
        # The size of a weight is its own, as is that of a bias.
        if own and root.code != "non-finite":
            continue
        if symptom.backward or root.order <= cause.order:
            return number
    return None


def _rank(cause: Cause) -> int:
    return RANK.index(cause.code) if cause.code in RANK else len(RANK)


def _key(cause: Cause) -> tuple[int, float]:
    return SEVERITIES.index(cause.severity), cause.order


def _alike(roots: Sequence[Cause]) -> list[list[int]]:
    """The numbers of causes that are the same thing in layers of the same role."""
    groups: dict[tuple[str, str, str], list[int]] = {}
    for number in sorted(range(len(roots)), key=lambda n: roots[n].order):
        root = roots[number]
        role = (root.code, root.severity, skeleton(root.label)[0])
        groups.setdefault(role, []).append(number)
    return list(groups.values())


def _counted(texts: Sequence[str]) -> list[str]:
    """The texts, of those that differ in numbers only the first."""
    alike: dict[str, list[str]] = {}
    for text in texts:
        alike.setdefault(re.sub(r"[\d.e+-]*\d", "#", text), []).append(text)
    return [
        several[0] + (f", and {len(several) - 1} alike" if len(several) > 1 else "")
        for several in alike.values()
    ]


def _finding(causes: Sequence[Cause], short: Sequence[str]) -> Finding:
    first = causes[0]
    text = first.what
    labels = list(dict.fromkeys(cause.label for cause in causes))
    if len(labels) > 1:
        others = fold_paths(labels[1:])
        text += f" (likewise {', '.join(others)}"
        numbers = [cause.number for cause in causes if cause.number is not None]
        if numbers and max(numbers) > min(numbers):
            text += f"; {min(numbers):.3g} to {max(numbers):.3g}"
        text += ")"
    if short:
        listed = "; ".join(short[:3])
        more = f"; {len(short) - 3} more" if len(short) > 3 else ""
        text += f". It explains: {listed}{more}"
    return Finding(first.severity, first.leaf, f"{text}.", first.remedy, first.code)
