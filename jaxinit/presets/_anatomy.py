"""What each leaf is to a network: its role, its layer, its residual connection."""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any, Literal, get_args

import numpy as np

from jaxinit import _rules
from jaxinit._errors import RuleError
from jaxinit._paths import Name
from jaxinit._signal._program import Signal, trace_signal
from jaxinit._signal._use import Use
from jaxinit._signal._uses import uses_of
from jaxinit.presets._attention import Attention, attentions
from jaxinit.presets._blocks import Stream, streams_of
from jaxinit.presets._branches import Branch, branches, signal_input
from jaxinit.presets._chains import back, carriers
from jaxinit.presets._flow import Flow, Step
from jaxinit.presets._vectors import vector_role

Role = Literal[
    "embedding",
    "position",
    "attention_bias",
    "stem",
    "query",
    "key",
    "value",
    "attention_in",
    "attention_out",
    "feed_forward_in",
    "feed_forward_up",
    "feed_forward_out",
    "hidden",
    "shortcut",
    "head",
    "token",
    "norm_scale",
    "norm_bias",
    "bias",
    "gate",
    "scale",
    "skip_scale",
    "other",
]
ROLES: tuple[str, ...] = get_args(Role)


@dataclasses.dataclass(frozen=True, eq=False)
class Part:
    """A leaf in the network.

    Attributes:
      name: what it is called.
      leaf: its array, or shape.
      roles: what it is; several where one array holds several weights, or is shared.
      use: the use that its fans are taken from.
      uses: all of them.
      said: whether the roles come from a rule of the user.
      block: the number of its block in the stream, for each layer of a stack.
      stream: the stream that it stands in; None outside.
    """

    name: Name
    leaf: Any
    roles: tuple[str, ...]
    use: Use
    uses: tuple[Use, ...]
    said: bool
    block: np.ndarray
    stream: Stream | None

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(np.shape(self.leaf))

    @property
    def stacked(self) -> tuple[int, ...]:
        """Axes along which its layers lie."""
        return self.use.stacked

    @property
    def layers(self) -> int:
        """For how many layers it holds weights."""
        return int(np.prod([self.shape[axis] for axis in self.stacked], dtype=int))

    def along(self, per_layer: Any) -> np.ndarray:
        """One number for each layer, shaped to be multiplied with the leaf."""
        shape = [1] * len(self.shape)
        for axis in self.stacked:
            shape[axis] = self.shape[axis]
        return np.broadcast_to(np.asarray(per_layer, np.float64), self._lead()).reshape(
            shape
        )

    def _lead(self) -> tuple[int, ...]:
        return tuple(self.shape[axis] for axis in self.stacked)


@dataclasses.dataclass(frozen=True, eq=False)
class Anatomy:
    """A network, taken apart: see :class:`Part`."""

    signal: Signal
    flow: Flow
    parts: dict[Name, Part]
    products: dict[Step, tuple[Name, ...]]
    attentions: tuple[Attention, ...]
    branches: tuple[Branch, ...]
    streams: tuple[Stream, ...]

    def having(self, *roles: str) -> list[Part]:
        """The parts with one of these roles, in the order of the tree."""
        return [p for p in self.parts.values() if set(roles) & set(p.roles)]

    def leaves_of(self, steps: Sequence[Step]) -> list[str]:
        """The names of the leaves that these products multiply with."""
        return [name.full for step in steps for name in self.products[step]]


def anatomy(f: Callable[..., Any], params: Any, *args: Any, roles: Any = ()) -> Anatomy:
    """Take ``f(params, *args)`` apart; `roles` are rules that overrule its verdict."""
    signal = trace_signal(f, params, *args)
    return anatomy_of(signal, roles)


def anatomy_of(signal: Signal, roles: Any = ()) -> Anatomy:
    """The same for a function that was traced already."""
    flow, uses = Flow(signal), uses_of(signal)
    products: dict[Step, list[Name]] = defaultdict(list)
    for name in signal.names:
        for use in uses[name.full]:
            step = flow.by_site.get(use.site)
            if use.is_product and step is not None:
                products[step].append(name)
    order = {s: products[s] for s in sorted(products, key=lambda s: s.number)}
    found = attentions(flow, order)
    joined = branches(flow, order)
    streams = streams_of(flow, joined, found)
    said = _said(roles, signal.names)
    parts = {}
    for name, leaf in signal.params.items():
        several = uses[name.full]
        use = _main(several)
        step = flow.by_site.get(use.site)
        own = [
            role for one in several for role in _roles(flow, one, order, found, joined)
        ]
        kinds = tuple(dict.fromkeys(own))
        stream, block = _place(flow, _center(step, found), streams, use)
        parts[name] = Part(
            name,
            leaf,
            said.get(name, kinds),
            use,
            several,
            name in said,
            block,
            stream,
        )
    named = {step: tuple(names) for step, names in order.items()}
    return Anatomy(signal, flow, parts, named, found, joined, streams)


def _said(roles: Any, names: Sequence[Name]) -> dict[Name, tuple[str, ...]]:
    found = _rules.assign(roles, names, argument="roles") if roles else {}
    for name, role in found.items():
        if role is not None and role not in ROLES:
            known = ", ".join(map(repr, ROLES))
            raise RuleError(
                f"roles: {role!r} for {name.full!r} is no role; the roles are {known}, "
                "and None keeps a leaf as it is"
            )
    return {name: () if role is None else (role,) for name, role in found.items()}


def _main(several: tuple[Use, ...]) -> Use:
    return next((use for use in several if use.is_product), several[0])


def _roles(
    flow: Flow,
    use: Use,
    products: Any,
    found: Sequence[Attention],
    joined: Sequence[Branch],
) -> list[str]:
    step = flow.by_site.get(use.site)
    if use.is_product and step is not None:
        return _product_roles(flow, step, products, found, joined)
    return [vector_role(flow, use, step, found, joined, products)]


def _product_roles(
    flow: Flow,
    step: Step,
    products: Any,
    found: Sequence[Attention],
    joined: Sequence[Branch],
) -> list[str]:
    roles = []
    for attention in found:
        kinds = ("query", "key", "value")
        makers = (attention.queries, attention.keys, attention.values)
        for kind, made in zip(kinds, makers, strict=True):
            if step in made:
                roles.append(kind if attention.softmax else "attention_in")
    if roles:
        return list(dict.fromkeys(roles))
    into = signal_input(flow, step)
    for branch in joined:
        if step is branch.shortcut:
            return ["shortcut"]
        if step in branch.writers:
            return [writer_role(flow, step, found)]
    for branch in joined:
        if step in branch.members:
            if branch.members[step] > 1:
                return ["hidden"]
            return ["feed_forward_up" if is_up(flow, step) else "feed_forward_in"]
    if not any(flow.depends(into, p.outputs[0]) for p in products):
        looked_up = any(flow.leaves[node] for node in [into])
        ahead = any(flow.depends(b.end, step.outputs[0]) for b in joined)
        if (
            not looked_up
            and (ahead or not joined)
            and not _is_last(flow, step, products)
        ):
            return ["stem"]
    if _is_last(flow, step, products):
        return ["head"]
    return ["hidden"]


def writer_role(flow: Flow, step: Step, found: Sequence[Attention]) -> str:
    """Whether a product that ends a branch reads from attention."""
    way = back(flow, signal_input(flow, step), curved=True)
    mixes = {attention.mix for attention in found}
    return "attention_out" if mixes & set(way.stops) else "feed_forward_out"


def is_up(flow: Flow, step: Step) -> bool:
    """Whether a product is multiplied, as it is, with another behind an activation."""
    bits = 1 << step.outputs[0]
    for later in flow.steps[step.number + 1 :]:
        if later.name != "mul" or not all(flow.data[n] for n in later.inputs):
            continue
        own = [n for n in later.inputs if flow.before[n] & bits]
        if len(own) != 1 or len(set(later.inputs)) != 2:
            continue
        (other,) = set(later.inputs) - set(own)
        if len(carriers(flow, later)) < 2:
            continue
        way = back(flow, own[0], curved=True).stops
        beside = back(flow, other, curved=True).stops
        if step in way and not way[step].curved and step not in beside:
            return any(chain.curved for chain in beside.values())
    return False


def _is_last(flow: Flow, step: Step, products: Any) -> bool:
    return not any(
        flow.depends(signal_input(flow, p), step.outputs[0]) for p in products
    )


def _place(
    flow: Flow, step: Step | None, streams: Sequence[Stream], use: Use
) -> tuple[Stream | None, np.ndarray]:
    if step is not None:
        for stream in streams:
            for branch, blocks in zip(stream.branches, stream.blocks, strict=True):
                aside = step is branch.shortcut or _on_way(step, branch)
                if aside or _between(flow, step, branch):
                    if not use.stacked:
                        return stream, np.max(blocks)
                    return stream, blocks
    return None, np.zeros((), int)


def _center(step: Step | None, found: Sequence[Attention]) -> Step | None:
    """Of a product that attention reads, another signal's as well, the attention."""
    for attention in found:
        if step in {**attention.queries, **attention.keys, **attention.values}:
            return attention.mix
    return step


def _between(flow: Flow, step: Step, branch: Branch) -> bool:
    out = step.outputs[0]
    ends_here = flow.depends(branch.end, out) and not flow.depends(branch.skip, out)
    return ends_here and bool(flow.before[out] & branch.skip_bits)


def _on_way(step: Step, branch: Branch) -> bool:
    return any(step in chain.scales for chain in branch.writers.values())
