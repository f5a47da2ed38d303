"""What a product is to a network, and whereabouts: looked up, not searched for."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np

from jaxinit._signal._use import Use
from jaxinit.presets._attention import Attention
from jaxinit.presets._blocks import Stream
from jaxinit.presets._branches import Branch, inner_nodes, signal_input
from jaxinit.presets._chains import back, carriers
from jaxinit.presets._flow import Flow, Step
from jaxinit.presets._vectors import Vectors

_PARTS = ("query", "key", "value")


class Roles:
    """The roles of all leaves of a network, which is gone through once for all."""

    def __init__(
        self,
        flow: Flow,
        products: Collection[Step],
        attentions: Sequence[Attention],
        branches: Sequence[Branch],
    ):
        self._flow = flow
        self._mixes = {attention.mix for attention in attentions}
        self._parts: dict[Step, dict[str, None]] = {}  # in the order of attention
        for attention in attentions:
            makers = (attention.queries, attention.keys, attention.values)
            for part, made in zip(_PARTS, makers, strict=True):
                role = part if attention.softmax else "attention_in"
                for step in made:
                    self._parts.setdefault(step, {})[role] = None
        self._ends: dict[Step, str] = {}  # of the first branch that they end
        self._layer: dict[Step, int] = {}  # in the first branch that they are in
        self._made = self._read = self._ahead = 0  # nodes as bits
        for branch in branches:
            if branch.shortcut is not None:
                self._ends.setdefault(branch.shortcut, "shortcut")
            for step in branch.writers:
                self._ends.setdefault(step, "writer")
            for step, layer in branch.members.items():
                self._layer.setdefault(step, layer)
            self._ahead |= flow.before[branch.end]
        for step in products:
            self._made |= 1 << step.outputs[0]
            self._read |= flow.before[signal_input(flow, step)]
        self._straight = not branches
        self._gating = [step for step in flow.steps if _is_gating(flow, step)]
        self._vectors = Vectors(flow, products, attentions, branches)

    def of(self, use: Use) -> list[str]:
        """What a leaf is that is used like this."""
        step = self._flow.by_site.get(use.site)
        if use.is_product and step is not None:
            return self._of_product(step)
        return [self._vectors.role(use, step)]

    def _of_product(self, step: Step) -> list[str]:
        if step in self._parts:
            return list(self._parts[step])
        if step in self._ends:
            writer = self._ends[step] == "writer"
            return [self._writer(step) if writer else "shortcut"]
        if step in self._layer:
            if self._layer[step] > 1:
                return ["hidden"]
            return ["feed_forward_up" if self._is_up(step) else "feed_forward_in"]
        flow, into, out = self._flow, signal_input(self._flow, step), step.outputs[0]
        last = not self._read >> out & 1
        first = not flow.before[into] & self._made and not flow.leaves[into]
        ahead = self._straight or self._ahead >> out & 1
        if first and ahead and not last:
            return ["stem"]
        return ["head" if last else "hidden"]

    def _writer(self, step: Step) -> str:
        """Whether a product that ends a branch reads from attention."""
        way = back(self._flow, signal_input(self._flow, step), curved=True)
        inside = not self._mixes.isdisjoint(way.stops)
        return "attention_out" if inside else "feed_forward_out"

    def _is_up(self, step: Step) -> bool:
        """Whether it is multiplied, as it is, with another behind an activation."""
        flow, bits = self._flow, 1 << step.outputs[0]
        for later in self._gating:
            own = [n for n in later.inputs if flow.before[n] & bits]
            if later.number <= step.number or len(own) != 1:
                continue
            (other,) = set(later.inputs) - set(own)
            way = back(flow, own[0], curved=True).stops
            beside = back(flow, other, curved=True).stops
            if step in way and not way[step].curved and step not in beside:
                return any(chain.curved for chain in beside.values())
        return False


def _is_gating(flow: Flow, step: Step) -> bool:
    """Whether a step multiplies two signals."""
    return (
        step.name == "mul"
        and all(flow.data[node] for node in step.inputs)
        and len(set(step.inputs)) == 2
        and len(carriers(flow, step)) == 2
    )


class Places:
    """In which block of which stream a product is."""

    def __init__(
        self, flow: Flow, streams: Sequence[Stream], attentions: Sequence[Attention]
    ):
        self._center: dict[Step, Step] = {}
        for attention in attentions:
            for made in (attention.queries, attention.keys, attention.values):
                for step in made:
                    self._center.setdefault(step, attention.mix)
        # Where several branches hold one, the first does.
        self._found: list[tuple[Stream, np.ndarray]] = []
        self._aside: dict[Step, int] = {}
        self._inside: dict[int, int] = {}
        for stream in streams:
            for branch, blocks in zip(stream.branches, stream.blocks, strict=True):
                number = len(self._found)
                self._found.append((stream, blocks))
                if branch.shortcut is not None:
                    self._aside.setdefault(branch.shortcut, number)
                for chain in branch.writers.values():
                    for step in chain.scales:
                        self._aside.setdefault(step, number)
                for node in inner_nodes(flow, branch):
                    self._inside.setdefault(node, number)

    def of(self, step: Step | None, use: Use) -> tuple[Stream | None, np.ndarray]:
        """The stream, and the block for each layer of a stack; (None, 0) outside."""
        if step is None:
            return None, np.zeros((), int)
        # Of a product that attention reads, another signal's as well, the attention.
        step = self._center.get(step, step)
        beyond = len(self._found)
        number = min(
            self._aside.get(step, beyond), self._inside.get(step.outputs[0], beyond)
        )
        if number == beyond:
            return None, np.zeros((), int)
        stream, blocks = self._found[number]
        return stream, blocks if use.stacked else np.max(blocks)
