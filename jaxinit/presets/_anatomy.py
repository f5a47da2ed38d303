"""What each leaf is to a network: its role, its layer, its residual connection."""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any, Literal, get_args

import numpy as np

from jaxinit import _rules
from jaxinit._collector import collector_paused
from jaxinit._errors import RuleError
from jaxinit._paths import Name
from jaxinit._signal._program import Signal, trace_signal
from jaxinit._signal._use import Use
from jaxinit._signal._uses import uses_of
from jaxinit.presets._attention import Attention, attentions
from jaxinit.presets._blocks import Stream, streams_of
from jaxinit.presets._branches import Branch, branches
from jaxinit.presets._flow import Flow, Step
from jaxinit.presets._roles import Places, Roles

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


@collector_paused()
def anatomy(f: Callable[..., Any], params: Any, *args: Any, roles: Any = ()) -> Anatomy:
    """Take ``f(params, *args)`` apart; `roles` are rules that overrule its verdict."""
    signal = trace_signal(f, params, *args)
    return anatomy_of(signal, roles)


@collector_paused()
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
    known, places = Roles(flow, order, found, joined), Places(flow, streams, found)
    parts = {}
    for name, leaf in signal.params.items():
        several = uses[name.full]
        use = _main(several)
        kinds = tuple(dict.fromkeys(role for one in several for role in known.of(one)))
        stream, block = places.of(flow.by_site.get(use.site), use)
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
