"""Back along the signal: from a node to the products that it is a sum of.

What only rearranges, casts, scales, masks, normalizes or adds is passed. Kept on the
way are the constants that multiplied, the parameters that did, and whether there was a
normalization.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Set

from jaxinit._primitives import REDUCTIONS, TRANSPARENT
from jaxinit.presets._flow import ARITHMETIC, Flow, Step

_MOVING = TRANSPARENT | frozenset(
    {
        "broadcast_in_dim",
        "concatenate",
        "convert_element_type",
        "either",
        "pad",
        "psum",
        "psum_invariant",
        "reduce_sum",
        "reduce_window_sum",
        "reshape",
        "rev",
        "shard",
        "squeeze",
        "stack",
        "transpose",
    }
)
_CUTTING = frozenset({"dynamic_slice", "gather", "slice", "split", "unstack"})
_ROOTS = frozenset({"rsqrt", "sqrt", "pow"})
_SCALING = frozenset({"add", "clamp", "div", "integer_pow", "max", "mul"})


@dataclasses.dataclass(frozen=True)
class Chain:
    """One way back from a node.

    Attributes:
      factor: the product of the constants on the way.
      scales: the steps that multiplied by parameters, those near the node first.
      normalized: whether a normalization lies on the way.
      curved: whether a function that is not linear does.
    """

    factor: float = 1.0
    scales: tuple[Step, ...] = ()
    normalized: bool = False
    curved: bool = False


@dataclasses.dataclass(frozen=True)
class Back:
    """Where the ways back from a node lead.

    Attributes:
      stops: the steps that are not passed, with the way to them.
      nodes: every node on the way, the first one included.
    """

    stops: dict[Step, Chain]
    nodes: dict[int, Chain]


def carriers(flow: Flow, step: Step) -> list[int]:
    """The operands in which the signal comes, statistics and gates beside it left out.

    A row of numbers that is repeated over the rest is beside the signal.
    """
    inputs = step.inputs[1:] if step.name == "select_n" else step.inputs
    if step.name in ("gather", "dynamic_slice"):
        inputs = inputs[:1]
    moving = [node for node in inputs if flow.data[node]]
    if step.name not in ARITHMETIC:
        return moving
    full = math.prod(flow.shapes[step.outputs[0]])
    whole = [
        node
        for node in moving
        if not flow.repeats[node] and math.prod(flow.shapes[node]) == full
    ]
    return whole or moving


def back(
    flow: Flow,
    start: int,
    *,
    curved: bool = False,
    cutting: bool = True,
    through: Set[Step] = frozenset(),
    stop_at: Set[Step] = frozenset(),
) -> Back:
    """Follow a node back to what it is a sum of.

    Args:
      flow: the graph.
      start: the node.
      curved: whether functions that are not linear are passed as well.
      cutting: whether slices and look-ups are.
      through: steps to pass whatever they are.
      stop_at: steps not to pass.
    """
    stops: dict[Step, Chain] = {}
    nodes = dict(
        ways(
            flow,
            start,
            stops,
            curved=curved,
            cutting=cutting,
            through=through,
            stop_at=stop_at,
        )
    )
    return Back(stops, nodes)


def ways(
    flow: Flow,
    start: int,
    stops: dict[Step, Chain] | None = None,
    *,
    curved: bool = False,
    cutting: bool = True,
    through: Set[Step] = frozenset(),
    stop_at: Set[Step] = frozenset(),
) -> Iterator[tuple[int, Chain]]:
    """The nodes on the ways back from a node, one by one; `stops` is filled meanwhile.

    The other arguments are those of :func:`back`.
    """
    stops = {} if stops is None else stops
    known = {start: Chain()}
    yield start, known[start]
    todo = [start]
    while todo:
        node = todo.pop()
        chain = known[node]
        step = flow.maker.get(node)
        if step is None or not flow.data[node]:
            continue
        passed = None if step in stop_at else _passed(flow, step, chain, curved)
        if step.name in _CUTTING and not cutting:
            passed = None
        if step in through:
            passed = chain
        if passed is None:
            stops.setdefault(step, chain)
            continue
        for before in carriers(flow, step):
            if before not in known:
                known[before] = passed
                todo.append(before)
                yield before, passed


class Reach:
    """The nodes on the ways back from many nodes, as bits: those that hold data.

    Curves and cuts are not passed. What one node reaches is part of what another does,
    and found once.
    """

    def __init__(self, flow: Flow):
        self._flow = flow
        self._found: dict[int, int] = {}

    def __call__(self, start: int) -> int:
        todo = [start]
        while todo:
            node = todo[-1]
            ahead = [n for n in self._next(node) if n not in self._found]
            if ahead and node not in self._found:
                todo += ahead
                continue
            todo.pop()
            bits = 1 << node if self._flow.data[node] else 0
            for before in self._next(node):
                bits |= self._found[before]
            self._found[node] = bits
        return self._found[start]

    def _next(self, node: int) -> list[int]:
        step = self._flow.maker.get(node)
        if step is None or not self._flow.data[node] or step.name in _CUTTING:
            return []
        if _passed(self._flow, step, Chain(), False) is None:
            return []
        return carriers(self._flow, step)


def _passed(flow: Flow, step: Step, chain: Chain, curved: bool) -> Chain | None:
    """The way that goes on behind a step; None where it ends."""
    if step.name in _MOVING or step.name in _CUTTING or step.name == "slice":
        return chain
    many = len(carriers(flow, step)) > 1
    if step.name in ("add", "sub", "add_any", "select_n", "neg"):
        return chain
    if step.name in ("mul", "div") and not many:
        if is_normalizing(flow, step):
            return dataclasses.replace(chain, normalized=True)
        others = [node for node in step.inputs if node not in carriers(flow, step)]
        for node in others:
            if flow.is_weight(node):
                chain = dataclasses.replace(chain, scales=(*chain.scales, step))
            elif node in flow.values:
                value = flow.values[node]
                down = step.name == "div" and node == step.inputs[1]
                by = (1 / value if value else 0.0) if down else value
                chain = dataclasses.replace(chain, factor=chain.factor * by)
        return chain
    plain = step.name in ARITHMETIC or step.name in REDUCTIONS
    plain = plain or step.name.startswith(("reduce_", "cum"))
    if curved and plain:
        return dataclasses.replace(chain, curved=True)
    return None


def is_normalizing(flow: Flow, step: Step) -> bool:
    """Whether a step divides the signal by the root of a mean square."""
    if step.name not in ("mul", "div"):
        return False
    beside = [node for node in step.inputs if node not in carriers(flow, step)]
    return any(flow.data[node] and is_root(flow, node) for node in beside)


def is_root(flow: Flow, node: int) -> bool:
    """Whether a node is a root, scaled and repeated."""
    seen, todo = set(), [node]
    while todo:
        node = todo.pop()
        step = flow.maker.get(node)
        if node in seen or step is None or not flow.data[node]:
            continue
        seen.add(node)
        if step.name in _ROOTS:
            return True
        moving = [own for own in step.inputs if flow.data[own]]
        if step.name in _MOVING or (step.name in _SCALING and len(moving) == 1):
            todo += moving
    return False
