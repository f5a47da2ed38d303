"""Streams of a network, and how their residual connections make up blocks."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import numpy as np

from jaxinit.presets._attention import Attention
from jaxinit.presets._branches import Branch, signal_input
from jaxinit.presets._chains import back
from jaxinit.presets._flow import Flow, Step


@dataclasses.dataclass(frozen=True, eq=False)
class Stream:
    """The residual connections that add to one signal, in order.

    Attributes:
      branches: the connections.
      blocks: for each of them the number of its block, from 0; an array for the rounds
        of a loop.
      depth: how many blocks there are.
      writers: how many products end in the stream, those of a loop once for each round.
      crosses: whether some attention reads from another signal: a decoder's.
    """

    branches: tuple[Branch, ...]
    blocks: tuple[np.ndarray, ...]
    depth: int
    writers: int
    crosses: bool


def streams_of(
    flow: Flow, joined: Sequence[Branch], found: Sequence[Attention]
) -> tuple[Stream, ...]:
    """The streams, in the order of the program."""
    numbers = dict.fromkeys(branch.stream for branch in joined)
    return tuple(
        _stream(flow, [b for b in joined if b.stream == number], found)
        for number in numbers
    )


def _stream(flow: Flow, own: Sequence[Branch], found: Sequence[Attention]) -> Stream:
    mixes = {attention.mix: attention for attention in found}
    kinds = [_kinds(flow, branch, mixes) for branch in own]
    blocks: list[np.ndarray] = []
    first = place = 0  # of the loop or the straight part, and in it
    while place < len(own):
        rounds = own[place].add.rounds
        loop = own[place].add.site[:-1] if rounds else ()
        end = place
        while end < len(own) and own[end].add.rounds == rounds:
            if rounds and own[end].add.site[: len(loop)] != loop:
                break
            end += 1
        numbers, taken = [], 0
        seen: set[str] = set()
        for kind in kinds[place:end]:
            if seen & kind:
                taken, seen = taken + 1, set()
            seen |= kind
            numbers.append(taken)
        each = taken + 1
        turns = np.arange(math.prod(rounds)).reshape(rounds) * each
        blocks += [first + turns + number for number in numbers]
        first += each * math.prod(rounds)
        place = end
    writers = sum(len(branch.writers) * branch.layers for branch in own)
    crosses = any("cross" in kind for kind in kinds)
    return Stream(tuple(own), tuple(blocks), first, writers, crosses)


def _kinds(flow: Flow, branch: Branch, mixes: dict[Step, Attention]) -> set[str]:
    kinds = set()
    for writer in branch.writers:
        way = back(flow, signal_input(flow, writer), curved=True).stops
        inner = [mixes[step] for step in way if step in mixes]
        if not inner:
            kinds.add("feed_forward")
        for attention in inner:
            read = [flow.before[signal_input(flow, key)] for key in attention.keys]
            own = any(before & branch.skip_bits for before in read)
            kinds.add("self" if own else "cross")
    return kinds
