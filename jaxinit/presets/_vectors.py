"""Roles of leaves that multiply or add one by one, and of tables."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from jaxinit._signal._use import Use
from jaxinit.presets._attention import Attention
from jaxinit.presets._branches import Branch
from jaxinit.presets._chains import back, carriers, is_normalizing, is_root
from jaxinit.presets._flow import Flow, Step

_PLACED = frozenset({"placed", "initial", "input"})


def vector_role(
    flow: Flow,
    use: Use,
    step: Step | None,
    found: Sequence[Attention],
    joined: Sequence[Branch],
    products: Any,
) -> str:
    """The role of a leaf that is no weight of a product."""
    if use.kind in _PLACED:
        return "token"
    if step is None or use.kind not in ("gather", "bias", "scale"):
        return "other"
    if _adds_to_scores(flow, use, step, found):
        return "attention_bias"
    if use.kind == "gather":
        return "embedding" if any(flow.data[n] for n in step.inputs[1:]) else "position"
    if use.kind == "scale":
        return _scale_role(flow, step, joined)
    return _bias_role(flow, use, step, products)


def _adds_to_scores(
    flow: Flow, use: Use, step: Step, found: Sequence[Attention]
) -> bool:
    """Whether it is added to the scores of an attention."""
    for attention in found:
        score = attention.scores
        if not flow.depends(attention.mix.outputs[0], step.outputs[0]):
            continue
        if use.kind == "bias" and flow.depends(step.outputs[0], score.outputs[0]):
            return True
        if use.kind == "gather" and not any(
            flow.depends(node, step.outputs[0])
            for node in (*score.inputs, *attention.mix.inputs[1:])
            if not flow.depends(node, score.outputs[0])
        ):
            return True
    return False


def _scale_role(flow: Flow, step: Step, joined: Sequence[Branch]) -> str:
    # Ahead of the norms: where x is normalized, its factor multiplies what is so.
    if any(step in branch.skip_way.scales for branch in joined):
        return "skip_scale"
    if _scales_norm(flow, step):
        return "norm_scale"
    for branch in joined:
        if any(step in chain.scales for chain in branch.writers.values()):
            return "gate"
    return "scale"


def _scales_norm(flow: Flow, step: Step) -> bool:
    """Whether the leaf multiplies a normalized signal, or what normalizes it."""
    for node in step.inputs:
        if flow.is_weight(node) or not flow.data[node]:
            continue
        if is_root(flow, node):
            return True
        maker = _made_by(flow, node)
        if maker is not None and is_normalizing(flow, maker):
            return True
    return False


def _bias_role(flow: Flow, use: Use, step: Step, products: Any) -> str:
    own = carriers(flow, step)
    if own:
        maker = _made_by(flow, own[0])
        if maker is not None and (
            is_normalizing(flow, maker)
            or (maker.name == "mul" and _scales_norm(flow, maker))
        ):
            return "norm_bias"
        if any(maker is product for product in products):
            return "bias"
        way = back(flow, own[0]).stops
        if any(stop in products and not chain.scales for stop, chain in way.items()):
            after = _made_by(flow, own[0])
            if after is not None and after in products:
                return "bias"
    extents = len(use.out_axis)
    return "position" if extents > 1 else "bias"


def _made_by(flow: Flow, node: int) -> Step | None:
    """The step that made a node, behind casts and reshapes."""
    while (step := flow.maker.get(node)) is not None:
        moving = [n for n in step.inputs if flow.data[n]]
        rearranging = step.name in (
            "convert_element_type",
            "reshape",
            "squeeze",
            "transpose",
            "broadcast_in_dim",
            "copy",
        )
        if not rearranging or not moving:
            return step
        node = moving[0]
    return None
