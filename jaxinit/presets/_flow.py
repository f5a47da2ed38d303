"""A program as one graph: every array a node, every equation a step between nodes.

Calls stand in line, the body of a loop stands once for all its rounds, the branches of
a cond stand beside each other. What is told of a node: whether it depends on data, of
which parameters it is made, whether it repeats fewer numbers, and its value where that
is one number that the program fixes.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np
from jax.core import Tracer
from jax.extend.core import ClosedJaxpr
from jax.extend.core import Literal as Constant

from jaxinit import _jaxpr
from jaxinit._primitives import ELEMENTWISE, ELEMENTWISE_UNCHUNKED, RANDOM
from jaxinit._signal._frames import frame_of
from jaxinit._signal._program import Signal
from jaxinit._signal._use import Site
from jaxinit.presets._constants import constant

ARITHMETIC = ELEMENTWISE | ELEMENTWISE_UNCHUNKED
# Copies of fewer numbers.
_REPEATING = frozenset({"broadcast_in_dim"})
# What rearranges, or casts, keeps a node a repetition.
_KEEPING = frozenset(
    {"convert_element_type", "reshape", "squeeze", "transpose", "copy"}
)


@dataclasses.dataclass(frozen=True, eq=False)
class Step:
    """An equation, or what a loop or a branch does at its border.

    Attributes:
      number: its place among the steps.
      name: that of the primitive; of a border "slice", "stack", "either" or "shard".
      eqn: the equation; None at a border.
      site: where it is in the traced program.
      inputs: nodes.
      outputs: nodes.
      rounds: how often the loops around it run, the outermost first.
    """

    number: int
    name: str
    eqn: Any
    site: Site
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    rounds: tuple[int, ...]


def ones(bits: int) -> Iterator[int]:
    """The numbers of the bits that are set, ascending."""
    while bits:
        lowest = bits & -bits
        yield lowest.bit_length() - 1
        bits ^= lowest


class Flow:
    """The graph of a traced function, and what is told of its nodes.

    Attributes:
      steps: in the order of the program.
      shapes: of each node.
      data: whether a node depends on data that is no noise.
      leaves: for each node the parameters that it was computed from, as bits.
      repeats: whether a node repeats the numbers of a smaller array.
      values: what stands in a node all over, where the program fixes it.
      maker: for each node its step; none for inputs.
      readers: for each node the steps that read it.
      before: for each node the nodes that it depends on, itself included, as bits.
      outputs: the nodes that are returned.
    """

    def __init__(self, signal: Signal):
        self.steps: list[Step] = []
        self.shapes: list[tuple[int, ...]] = []
        self.data: list[bool] = []
        self.leaves: list[int] = []
        self.repeats: list[bool] = []
        self.before: list[int] = []
        self.values: dict[int, float] = {}
        self.maker: dict[int, Step] = {}
        self.readers: dict[int, list[Step]] = {}
        self.by_site: dict[Site, Step] = {}
        self.parameters = len(signal.names)
        inputs = []
        for place, var in enumerate(signal.program.jaxpr.invars):
            own = place < self.parameters
            key = jax.dtypes.issubdtype(var.aval.dtype, jax.dtypes.prng_key)
            inputs.append(self._node(var, not own and not key, own << place))
        self.outputs = tuple(self._enter(signal.program, (), (), inputs, ()))

    def is_weight(self, node: int) -> bool:
        """Whether a node is made of parameters alone."""
        return bool(self.leaves[node]) and not self.data[node]

    def depends(self, node: int, on: int) -> bool:
        """Whether a node depends on another, or is it."""
        return bool(self.before[node] >> on & 1)

    # ---------------------------------------------------------------------- building

    def _node(self, var: Any, data: bool, leaves: int) -> int:
        node = len(self.shapes)
        self.shapes.append(tuple(getattr(var.aval, "shape", ())))
        self.data.append(data)
        self.leaves.append(leaves)
        self.repeats.append(False)
        self.before.append(1 << node)
        return node

    def _enter(
        self,
        program: ClosedJaxpr,
        site: Site,
        within: tuple[Any, ...],
        inputs: Sequence[int],
        rounds: tuple[int, ...],
    ) -> list[int]:
        frame = frame_of(program, site, within)
        jaxpr = frame.program.jaxpr
        nodes: dict[Any, int] = dict(zip(jaxpr.invars, inputs, strict=True))
        for var, value in zip(jaxpr.constvars, frame.program.consts, strict=True):
            nodes[var] = node = self._node(var, False, 0)
            if np.ndim(value) == 0 and not isinstance(value, Tracer):
                self._fix(node, value)

        def at(atom: Any) -> int:
            if not isinstance(atom, Constant):
                return nodes[atom]
            node = self._node(atom, False, 0)
            self._fix(node, atom.val)
            return node

        for number, eqn in enumerate(frame.eqns):
            if not frame.live[number]:
                continue
            operands = [at(atom) for atom in eqn.invars]
            here, inner = frame.sites[number], (*within, eqn)
            subs = list(_jaxpr.subprograms(eqn))
            match [sub.kind for sub in subs]:
                case ["scan"]:
                    results = self._loop(eqn, here, inner, subs[0], operands, rounds)
                case ["while", "while"]:
                    skip = subs[0].constants
                    results = self._loop(
                        eqn, here, inner, subs[1], operands[skip:], rounds
                    )
                case ["branch", *_]:
                    found = [
                        self._enter(
                            sub.program,
                            (*here, sub.role),
                            inner,
                            [operands[place] for place in sub.inputs],
                            rounds,
                        )
                        for sub in subs
                    ]
                    results = [
                        self._border("either", here, several, rounds, var)
                        for several, var in zip(
                            zip(*found, strict=True), eqn.outvars, strict=True
                        )
                    ]
                case ["opaque"] if eqn.primitive.name == "shard_map":
                    (sub,) = subs
                    into = [
                        self._border("shard", here, [node], rounds, var)
                        for node, var in zip(
                            operands, sub.program.jaxpr.invars, strict=True
                        )
                    ]
                    found = self._enter(
                        sub.program, (*here, sub.role), inner, into, rounds
                    )
                    results = [
                        self._border("shard", here, [node], rounds, var)
                        for node, var in zip(found, eqn.outvars, strict=True)
                    ]
                case _:
                    results = self._step(
                        eqn.primitive.name, eqn, here, operands, eqn.outvars, rounds
                    )
            nodes.update(zip(eqn.outvars, results, strict=True))
        return [at(atom) for atom in jaxpr.outvars]

    def _loop(
        self,
        eqn: Any,
        here: Site,
        inner: tuple[Any, ...],
        sub: Any,
        operands: list[int],
        rounds: tuple[int, ...],
    ) -> list[int]:
        first = sub.constants + sub.carried
        deeper = (*rounds, int(eqn.params.get("length") or 1))
        slices = [
            self._border("slice", here, [node], deeper, var)
            for node, var in zip(
                operands[first:], sub.program.jaxpr.invars[first:], strict=True
            )
        ]
        results = self._enter(
            sub.program, (*here, sub.role), inner, [*operands[:first], *slices], deeper
        )
        stacks = [
            self._border("stack", here, [node], rounds, var)
            for node, var in zip(
                results[sub.carried :], eqn.outvars[sub.carried :], strict=True
            )
        ]
        return [*results[: sub.carried], *stacks]

    def _border(
        self,
        name: str,
        site: Site,
        inputs: Sequence[int],
        rounds: tuple[int, ...],
        var: Any,
    ) -> int:
        return self._step(name, None, site, inputs, [var], rounds)[0]

    def _step(
        self,
        name: str,
        eqn: Any,
        site: Site,
        inputs: Sequence[int],
        results: Sequence[Any],
        rounds: tuple[int, ...],
    ) -> list[int]:
        data = any(self.data[node] for node in inputs) and name not in RANDOM
        leaves = before = 0
        for node in inputs:
            leaves |= self.leaves[node]
            before |= self.before[node]
        outputs = [self._node(var, data, leaves) for var in results]
        step = Step(
            len(self.steps), name, eqn, site, tuple(inputs), tuple(outputs), rounds
        )
        self.steps.append(step)
        if eqn is not None:
            self.by_site[site] = step
        for node in dict.fromkeys(inputs):
            self.readers.setdefault(node, []).append(step)
        fixed = None
        if eqn is not None and inputs and all(node in self.values for node in inputs):
            fixed = constant(eqn, [self.values[node] for node in inputs])
        for node in outputs:
            self.before[node] |= before
            self.maker[node] = step
            self.repeats[node] = self._repeats(step, node)
            if fixed is not None:
                self._fix(node, fixed)
        return outputs

    def _repeats(self, step: Step, node: int) -> bool:
        moving = [own for own in step.inputs if self.data[own]]
        if step.name in _REPEATING:
            return bool(moving) and (
                self.repeats[moving[0]]
                or math.prod(self.shapes[node]) > math.prod(self.shapes[moving[0]])
            )
        if step.name in _KEEPING or step.name in ARITHMETIC:
            return bool(moving) and all(self.repeats[own] for own in moving)
        return False

    def _fix(self, node: int, value: Any) -> None:
        if isinstance(value, (bool, int, float, np.generic, np.ndarray, jax.Array)):
            with contextlib.suppress(TypeError, ValueError):  # a key, or complex
                self.values[node] = float(value)
