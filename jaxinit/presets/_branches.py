"""Residual connections: what is added to the stream, and which product ends there."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Collection, Iterator

from jaxinit.presets._attention import is_meeting
from jaxinit.presets._chains import Chain, Reach, back, ways
from jaxinit.presets._flow import Flow, Step, ones


@dataclasses.dataclass(frozen=True, eq=False)
class Branch:
    """One residual connection, x + F(x).

    Attributes:
      add: the sum.
      skip: the node of x, as it is added.
      end: the node of F(x).
      writers: the products that end in F(x), with the way from there to the sum.
      members: all products between x and F(x), with the number of the layer in F.
      shortcut: the product on the way of x, if one is.
      skip_way: what multiplies x on its way.
      stream: the number of the stream that it belongs to.
      skip_bits: the nodes of x, as bits.
    """

    add: Step
    skip: int
    end: int
    writers: dict[Step, Chain]
    members: dict[Step, int]
    shortcut: Step | None
    skip_way: Chain
    stream: int
    skip_bits: int

    @property
    def layers(self) -> int:
        """How many layers of the network it stands for."""
        return math.prod(self.add.rounds)


def signal_input(flow: Flow, product: Step) -> int:
    """The node that a product multiplies its weight with."""
    moving = [node for node in product.inputs if flow.data[node]]
    return moving[0] if moving else product.inputs[0]


def inner_nodes(flow: Flow, branch: Branch) -> Iterator[int]:
    """The nodes of F, those that x flows into, in the order of the program."""
    for node in ones(flow.before[branch.end] & ~flow.before[branch.skip]):
        if flow.before[node] & branch.skip_bits:
            yield node


def branches(flow: Flow, products: Collection[Step]) -> tuple[Branch, ...]:
    """Every residual connection, in the order of the program."""
    finder = _Finder(flow, products)
    for step in flow.steps:
        if step.name not in ("add", "add_any"):
            continue
        one, two = step.inputs
        if one == two or not (flow.data[one] and flow.data[two]):
            continue
        if flow.repeats[one] or flow.repeats[two]:
            continue
        if flow.shapes[one] != flow.shapes[two]:
            continue
        finder.find(step, one, two) or finder.find(step, two, one)
    return tuple(finder.found)


class _Finder:
    """Residual connections as they are found, and what that takes.

    Attributes:
      found: the connections so far.
    """

    def __init__(self, flow: Flow, products: Collection[Step]):
        self.found: list[Branch] = []
        self._flow, self._products = flow, products
        self._reach = Reach(flow)
        self._product = {product.outputs[0]: product for product in products}
        self._free = 0  # the outputs of products that no connection holds, as bits
        for node in self._product:
            self._free |= 1 << node
        self._streams: dict[Step, int] = {}  # by the sums

    def find(self, step: Step, skip: int, end: int) -> Branch | None:
        """The connection that ends in a sum of x, at `skip`, and F(x), at `end`."""
        flow, before = self._flow, self._flow.before
        bits, shortcut = self._reach(skip), None
        writers: dict[Step, Chain] | None = None
        reached: list[Step] = []
        # Writers are looked for only where x flows into the end at all: the other way
        # round, F(x) + x, it would lead along the whole stream.
        if before[end] & bits:
            writers = _writers(flow, end, self._products)
            reached = [w for w in writers if before[signal_input(flow, w)] & bits]
        if not reached:
            stops = back(flow, skip, cutting=False).stops
            shortcuts = [s for s in stops if s in self._products]
            if len(shortcuts) != 1:
                return None
            shortcut = shortcuts[0]
            bits = self._reach(signal_input(flow, shortcut))
            if not before[end] & bits:
                return None
            if writers is None:
                writers = _writers(flow, end, self._products)
            reached = [w for w in writers if self._fed(w, shortcut, bits)]
            if shortcut in writers or not reached:
                return None
        assert writers is not None
        members = self._members(skip, end, bits)
        branch = Branch(
            step,
            skip,
            end,
            {w: writers[w] for w in reached},
            members,
            shortcut,
            Chain() if shortcut else _skip_way(flow, skip, reached),
            self._stream(skip, shortcut),
            bits,
        )
        self.found.append(branch)
        for member in members:
            self._free ^= 1 << member.outputs[0]
        self._streams[step] = branch.stream
        return branch

    def _fed(self, writer: Step, shortcut: Step, bits: int) -> bool:
        """Whether a product that reads x feeds a writer."""
        flow = self._flow
        into = flow.before[signal_input(flow, writer)]
        return any(
            product is not shortcut
            and flow.before[signal_input(flow, product)] & bits
            and into >> product.outputs[0] & 1
            for product in self._products
        )

    def _members(self, skip: int, end: int, bits: int) -> dict[Step, int]:
        flow = self._flow
        levels: dict[Step, int] = {}
        for node in ones(flow.before[end] & ~flow.before[skip] & self._free):
            product = self._product[node]
            into = flow.before[signal_input(flow, product)]
            if into & bits:
                before = [n for p, n in levels.items() if into >> p.outputs[0] & 1]
                levels[product] = 1 + max(before, default=0)
        return levels

    def _stream(self, skip: int, shortcut: Step | None) -> int:
        adds = self._streams
        through = frozenset([shortcut] if shortcut else [])
        way = back(self._flow, skip, curved=True, through=through, stop_at=adds.keys())
        found = [adds[step] for step in way.stops if step in adds]
        return max(found) if found else max(adds.values(), default=-1) + 1


def _writers(flow: Flow, end: int, products: Collection[Step]) -> dict[Step, Chain]:
    way = back(flow, end)
    writers = {s: chain for s, chain in way.stops.items() if s in products}
    through: frozenset[Step] = frozenset()
    while not writers:  # experts are weighted and added up by a product of signals
        more = {s for s in way.stops if is_meeting(flow, s)} - through
        if not more:
            break
        through |= more
        way = back(flow, end, through=through)
        writers = {s: chain for s, chain in way.stops.items() if s in products}
    return writers


def _skip_way(flow: Flow, skip: int, writers: list[Step]) -> Chain:
    """What multiplies x between the place where F reads it and the sum."""
    read = 0
    for writer in writers:
        read |= flow.before[signal_input(flow, writer)]
    found = ways(flow, skip, cutting=False)
    return next(chain for node, chain in found if read >> node & 1)
