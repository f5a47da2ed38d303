"""Many and long paths in little room: folded, `layers_{0..11}/bias`, and shortened.

Folding is exact: the braces of a folded path stand for every combination of their
numbers and for no other, so the text can be expanded again.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from itertools import product
from typing import NamedTuple

# A number as a program writes one. "007" is not: as a number it would become "7".
_NUMBER = re.compile(r"(?<![0-9])(?:0|[1-9][0-9]{0,8})(?![0-9])")

Point = tuple[int, ...]


class Fold(NamedTuple):
    """One folded row: its texts, and the positions of the rows it stands for."""

    texts: tuple[str, ...]
    members: tuple[int, ...]


def skeleton(path: str) -> tuple[str, Point]:
    """The path with its numbers taken out, and the numbers.

    `text.format(*numbers)` gives the path back, whatever braces it holds.

    >>> skeleton("encoder/layers_0/kernel")
    ('encoder/layers_{}/kernel', (0,))
    """
    numbers = tuple(int(number) for number in _NUMBER.findall(path))
    escaped = path.replace("{", "{{").replace("}", "}}")
    return _NUMBER.sub("{}", escaped), numbers


def fold_paths(paths: Iterable[str]) -> list[str]:
    """The paths, with those that differ only in their numbers written as one.

    >>> fold_paths(["h/0/w", "h/1/w", "h/2/w", "h/7/w", "head"])
    ['h/{0..2,7}/w', 'head']
    """
    return [fold.texts[0] for fold in fold_rows([(path,) for path in paths])]


def fold_rows(
    rows: Sequence[tuple[str, ...]], others: Sequence[Hashable] | None = None
) -> list[Fold]:
    """Fold rows of one or more paths, only where their entries in `others` are equal.

    The first path of a row that is not empty leads: its numbers are free. Those of the
    other paths must be constant or run alongside it at a fixed distance, as the layers
    of a target and of a source do. Every row is a member of exactly one fold, and the
    folds stand in the order of their first members.

    >>> fold_rows([("h_0", "layer.1"), ("h_1", "layer.2")])
    [Fold(texts=('h_{0,1}', 'layer.{1,2}'), members=(0, 1))]
    """
    led: defaultdict[int, list[int]] = defaultdict(list)
    for position, row in enumerate(rows):
        led[next((i for i, path in enumerate(row) if path), 0)].append(position)
    folds = []
    for lead, positions in led.items():
        # The leading path is moved to the front, and back again in what comes out.
        found = [rows[position] for position in positions]
        chosen = [(row[lead], *row[:lead], *row[lead + 1 :]) for row in found]
        rest = None if others is None else [others[position] for position in positions]
        for fold in _led_folds(chosen, rest):
            first, *texts = fold.texts
            texts.insert(lead, first)
            members = tuple(positions[member] for member in fold.members)
            folds.append(Fold(tuple(texts), members))
    return sorted(folds, key=lambda fold: fold.members[0])


def _led_folds(
    rows: Sequence[tuple[str, ...]], others: Sequence[Hashable] | None
) -> Iterator[Fold]:
    """Folds of rows whose first path leads."""
    groups: defaultdict[Hashable, _Group] = defaultdict(dict)
    repeats: defaultdict[Hashable, int] = defaultdict(int)
    for position, row in enumerate(rows):
        parts = [skeleton(path) for path in row]
        texts = tuple(text for text, _ in parts)
        (_, lead), *followers = parts
        key = (texts, None if others is None else others[position])
        # The same row twice is shown twice: one text cannot stand for both.
        repeat = repeats[key, lead]
        repeats[key, lead] += 1
        entry = _Entry(position, texts, tuple(numbers for _, numbers in followers))
        groups[key, repeat][lead] = entry
    for group in groups.values():
        for part in _parallel(group):
            yield from _folds(part)


class _Entry(NamedTuple):
    position: int
    texts: tuple[str, ...]
    followers: tuple[Point, ...]


_Group = dict[Point, _Entry]  # by the numbers of the leading path


def _parallel(group: _Group) -> Iterable[_Group]:
    """The group whole if its other paths run alongside, else split until they do."""
    points = list(group)
    followers = zip(*(entry.followers for entry in group.values()), strict=True)
    if all(_runs_alongside(points, numbers) for numbers in followers):
        return [group]
    parts: defaultdict[tuple[Point, ...], _Group] = defaultdict(dict)
    for point, entry in group.items():
        parts[entry.followers][point] = entry
    return parts.values()


def _runs_alongside(points: list[Point], numbers: tuple[Point, ...]) -> bool:
    """Whether each number that varies keeps its distance to one of the leading path's.

    No two may follow the same one: `a_{0,1}/b_{0,1}` would then read as four leaves.
    """
    free = list(zip(*points, strict=True))
    for column in zip(*numbers, strict=True):
        if len(set(column)) == 1:
            continue
        for lead in free:
            if len({a - b for a, b in zip(column, lead, strict=True)}) == 1:
                free.remove(lead)
                break
        else:
            return False
    return True


def _folds(group: _Group) -> Iterator[Fold]:
    for box in _boxes(list(group)):
        entries = [group[point] for point in product(*box)]
        (text, *texts), followers = entries[0].texts, [e.followers for e in entries]
        folded = [text.format(*map(_braces, box))]
        for text, numbers in zip(texts, zip(*followers, strict=True), strict=True):
            columns = zip(*numbers, strict=True)
            folded.append(text.format(*(_braces(sorted({*c})) for c in columns)))
        yield Fold(tuple(folded), tuple(sorted(e.position for e in entries)))


def _boxes(points: list[Point]) -> list[tuple[Sequence[int], ...]]:
    """Disjoint products of sets of numbers that together are exactly the points.

    Numbers that are followed by the same remainders share a box: blocks of unequal
    depth, `stage_0/block_{0..2}` and `stage_1/block_{0..3}`, are kept apart.
    """
    if not points[0]:
        return [()]
    remainders: defaultdict[int, list[Point]] = defaultdict(list)
    for first, *rest in points:
        remainders[first].append(tuple(rest))
    firsts: defaultdict[frozenset[Point], list[int]] = defaultdict(list)
    for first, rests in remainders.items():
        firsts[frozenset(rests)].append(first)
    return [
        (sorted(shared), *box)
        for rests, shared in firsts.items()
        for box in _boxes(sorted(rests))
    ]


def _braces(numbers: Sequence[int]) -> str:
    """Sorted numbers as text: "3", "{0,1}", "{0..2,7}"."""
    if len(numbers) == 1:
        return str(numbers[0])
    runs: list[list[int]] = []
    for number in numbers:
        if runs and runs[-1][-1] == number - 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    parts = [
        f"{run[0]}..{run[-1]}" if len(run) > 2 else ",".join(map(str, run))
        for run in runs
    ]
    return "{" + ",".join(parts) + "}"


def fitted(paths: Iterable[str], width: int) -> dict[str, str]:
    """For each path its text in a column: shortened where it can still be told apart.

    Of the keys, those that most of the paths have are left out first, and those with
    numbers never. A path that could then be taken for another is left whole. What is
    still too long stands on several lines, broken between keys.

    >>> paths = ["encoder/layers_{0..11}/attention/query/kernel", "head/kernel"]
    >>> list(fitted(paths, 32).values())
    ['…/layers_{0..11}/…/query/kernel', 'head/kernel']
    """
    paths = tuple(dict.fromkeys(paths))
    common = Counter(key for path in paths for key in set(_keys(path)[0]))
    short = {path: _shortened(path, width, common) for path in paths}
    shared = Counter(short.values())
    return {
        path: _wrapped(text if shared[text] == 1 else path, width)
        for path, text in short.items()
    }


def _shortened(path: str, width: int, common: Mapping[str, int]) -> str:
    keys, separator = _keys(path)
    named = [i for i, key in enumerate(keys[:-1]) if not re.search("[0-9]", key)]
    text, left_out = path, "…" + separator
    for i in sorted(named, key=lambda i: -common[keys[i]]):
        if len(text) <= width:
            break
        keys[i] = "…"
        text = separator.join(keys)
        while left_out * 2 in text:
            text = text.replace(left_out * 2, left_out)
        if separator == ".":  # beside an ellipsis only one dot more
            text = re.sub(r"\.?…\.", "…", text)
    return text


def _wrapped(path: str, width: int) -> str:
    if len(path) <= width:
        return path
    ends = "/" if "/" in path else ".…"
    lines = [""]
    for piece in re.split(rf"(?<=[{ends}])(?![^{{}}]*\}})", path):
        if lines[-1] and len(lines[-1] + piece) > width:
            lines.append("")
        lines[-1] += piece
    return "\n".join(lines)


def _keys(path: str) -> tuple[list[str], str]:
    """The keys of a path or of a dotted name; the dots of {0..11} separate nothing."""
    separator = "/" if "/" in path else "."
    return re.split(rf"{re.escape(separator)}(?![^{{}}]*\}})", path), separator
