"""Attention in a program: which products make queries, keys and values."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection

from jaxinit._signal._weights import Dim, axes_of, dims_of, reshaped
from jaxinit.presets._chains import Chain, back
from jaxinit.presets._flow import ARITHMETIC, Flow, Step


@dataclasses.dataclass(frozen=True, eq=False)
class Attention:
    """Two products of signals: of queries and keys, and of their weights with values.

    Attributes:
      scores: the step that multiplies queries with keys.
      mix: the step that adds the values up.
      queries, keys, values: the products that make them, with the way from there.
      width: d_k, how many products one score sums.
      scale: the constant that the program multiplies a score by, before the softmax.
      softmax: whether there is one; else nobody can tell queries from keys.
    """

    scores: Step
    mix: Step
    queries: dict[Step, Chain]
    keys: dict[Step, Chain]
    values: dict[Step, Chain]
    width: int
    scale: float
    softmax: bool


def is_meeting(flow: Flow, step: Step) -> bool:
    """Whether a step sums products of two signals."""
    return step.name == "dot_general" and all(flow.data[n] for n in step.inputs)


def attentions(flow: Flow, products: Collection[Step]) -> tuple[Attention, ...]:
    """Every attention, in the order of the program."""
    meetings = dict.fromkeys(step for step in flow.steps if is_meeting(flow, step))
    found = []
    for mix in meetings:
        for side in (0, 1):
            weights = back(flow, mix.inputs[side], curved=True)
            scores = [step for step in weights.stops if step in meetings]
            if len(scores) != 1:
                continue
            attention = _attention(flow, scores[0], mix, side, products)
            if attention is not None:
                found.append(attention)
                break
    return tuple(found)


def _attention(
    flow: Flow, scores: Step, mix: Step, side: int, products: Collection[Step]
) -> Attention | None:
    made = [_made(flow, node, products) for node in scores.inputs]
    values = _made(flow, mix.inputs[1 - side], products)
    if not all(made):
        return None
    (contracted, _), _ = scores.eqn.params["dimension_numbers"]
    width = 1
    for dim in contracted:
        width *= flow.shapes[scores.inputs[0]][dim]
    curve = _softmax(flow, mix.inputs[side], scores)
    key = _key_side(flow, scores, mix, side)
    if curve is None or key is None:
        # Without a softmax it is linear attention, in either order of the two sums.
        return Attention(scores, mix, made[0], made[1], values, width, 1.0, False)
    queries, keys = made[1 - key], made[key]
    one = next(iter(queries.values())).factor * next(iter(keys.values())).factor
    return Attention(scores, mix, queries, keys, values, width, one * curve, True)


def _made(flow: Flow, node: int, products: Collection[Step]) -> dict[Step, Chain]:
    found = back(flow, node)
    return {step: chain for step, chain in found.stops.items() if step in products}


def _softmax(flow: Flow, weights: int, scores: Step) -> float | None:
    """The constant between a score and the exponential; None if there is none."""
    for node in back(flow, weights, curved=True).nodes:
        step = flow.maker.get(node)
        if step is None or step.name not in ("exp", "exp2"):
            continue
        way = back(flow, step.inputs[0], curved=False).stops
        if scores in way:
            return way[scores].factor
        way = back(flow, step.inputs[0], curved=True).stops  # a soft cap of the scores
        if scores in way:
            return way[scores].factor
    return None


def _key_side(flow: Flow, scores: Step, mix: Step, side: int) -> int | None:
    """Which operand of the scores has the axis that the mix sums over."""
    (left, _), (batch, _) = scores.eqn.params["dimension_numbers"]
    free = len(flow.shapes[scores.inputs[0]]) - len(left) - len(batch)
    start = scores.outputs[0]
    dims = {start: dims_of(flow.shapes[start])}
    for step in flow.steps[scores.number + 1 : mix.number]:
        known = [node for node in step.inputs if node in dims]
        if known:
            moved = _moved(flow, step, dims[known[0]], known[0])
            if moved is not None:
                dims[step.outputs[0]] = moved
    if mix.inputs[side] not in dims:
        return None
    summed = mix.eqn.params["dimension_numbers"][0][side]
    axes = axes_of([dims[mix.inputs[side]][dim] for dim in summed])
    own = set(range(len(batch), len(batch) + free))
    other = set(range(len(batch) + free, len(flow.shapes[start])))
    if axes & own and not axes & other:
        return 0
    if axes & other and not axes & own:
        return 1
    return None


def _moved(
    flow: Flow, step: Step, dims: tuple[Dim, ...], node: int
) -> tuple[Dim, ...] | None:
    """Where the dimensions of the scores are behind a step."""
    shape = flow.shapes[step.outputs[0]]
    if step.name == "transpose":
        return tuple(dims[dim] for dim in step.eqn.params["permutation"])
    if step.name in ("reshape", "squeeze"):
        return reshaped(dims, shape)
    if step.name == "broadcast_in_dim":
        places = step.eqn.params["broadcast_dimensions"]
        if len(places) == len(dims):
            spread: list[Dim] = [()] * len(shape)
            for dim, place in zip(dims, places, strict=True):
                spread[place] = dim
            return tuple(spread)
        return None
    same = flow.shapes[node] == shape
    passing = step.name in ARITHMETIC or step.eqn is None or step.name == "copy"
    return dims if same and (passing or len(step.inputs) == 1) else None
