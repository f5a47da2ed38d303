"""Residual connections: what is added to the stream, and which product ends there."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Collection
from typing import Any

from jaxinit.presets._attention import is_meeting
from jaxinit.presets._chains import Chain, back
from jaxinit.presets._flow import Flow, Step


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


def branches(flow: Flow, products: Collection[Step]) -> tuple[Branch, ...]:
    """Every residual connection, in the order of the program."""
    found: list[Branch] = []
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
        branch = _branch(flow, step, one, two, products, found) or _branch(
            flow, step, two, one, products, found
        )
        if branch is not None:
            found.append(branch)
    return tuple(found)


def _branch(
    flow: Flow,
    step: Step,
    skip: int,
    end: int,
    products: Collection[Step],
    earlier: list[Branch],
) -> Branch | None:
    way = back(flow, skip, cutting=False)
    bits = _bits(flow, way.nodes)
    writers = _writers(flow, end, products)
    reached = [w for w in writers if flow.before[signal_input(flow, w)] & bits]
    shortcut = None
    if not reached:
        shortcuts = [s for s in way.stops if s in products]
        if len(shortcuts) != 1 or shortcuts[0] in writers:
            return None
        shortcut = shortcuts[0]
        behind = back(flow, signal_input(flow, shortcut), cutting=False)
        bits = _bits(flow, behind.nodes)
        reached = [
            w
            for w in writers
            if any(
                v is not shortcut
                and flow.before[signal_input(flow, v)] & bits
                and flow.depends(signal_input(flow, w), v.outputs[0])
                for v in products
            )
        ]
        if not reached:
            return None
    members = _members(flow, skip, end, bits, products, earlier)
    chain = Chain() if shortcut else _skip_way(flow, way.nodes, reached)
    return Branch(
        step,
        skip,
        end,
        {w: writers[w] for w in reached},
        members,
        shortcut,
        chain,
        _stream(flow, skip, shortcut, earlier),
        bits,
    )


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


def _bits(flow: Flow, nodes: Any) -> int:
    bits = 0
    for node in nodes:
        if flow.data[node]:
            bits |= 1 << node
    return bits


def _members(
    flow: Flow,
    skip: int,
    end: int,
    bits: int,
    products: Collection[Step],
    earlier: list[Branch],
) -> dict[Step, int]:
    taken = {product for branch in earlier for product in branch.members}
    levels: dict[Step, int] = {}
    for product in sorted(products, key=lambda step: step.number):
        out, into = product.outputs[0], signal_input(flow, product)
        inside = flow.depends(end, out) and not flow.depends(skip, out)
        if product in taken or not inside or not flow.before[into] & bits:
            continue
        before = [n for p, n in levels.items() if flow.depends(into, p.outputs[0])]
        levels[product] = 1 + max(before, default=0)
    return levels


def _skip_way(flow: Flow, nodes: dict[int, Chain], writers: list[Step]) -> Chain:
    """What multiplies x between the place where F reads it and the sum."""
    read = 0
    for writer in writers:
        read |= flow.before[signal_input(flow, writer)]
    return next(chain for node, chain in nodes.items() if read >> node & 1)


def _stream(flow: Flow, skip: int, shortcut: Step | None, earlier: list[Branch]) -> int:
    adds = {branch.add: branch.stream for branch in earlier}
    through = frozenset([shortcut] if shortcut else [])
    way = back(flow, skip, curved=True, through=through, stop_at=frozenset(adds))
    found = [adds[step] for step in way.stops if step in adds]
    return max(found) if found else max(adds.values(), default=-1) + 1
