"""Roles of leaves that multiply or add one by one, and of tables."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from jaxinit._signal._use import Use
from jaxinit.presets._attention import Attention
from jaxinit.presets._branches import Branch
from jaxinit.presets._chains import carriers, is_normalizing, is_root
from jaxinit.presets._flow import Flow, Step, ones

_PLACED = frozenset({"placed", "initial", "input"})


class Vectors:
    """The roles of all leaves of a network that are no weights of products."""

    def __init__(
        self,
        flow: Flow,
        products: Collection[Step],
        attentions: Sequence[Attention],
        branches: Sequence[Branch],
    ):
        self._flow, self._products, self._attentions = flow, products, attentions
        # Nodes between the scores of an attention and the mix.
        self._scored = 0
        for attention in attentions:
            score, mix = attention.scores.outputs[0], attention.mix.outputs[0]
            for node in ones(flow.before[mix] & ~flow.before[score]):
                if flow.depends(node, score):
                    self._scored |= 1 << node
            self._scored |= 1 << score
        self._of_skips = {s for branch in branches for s in branch.skip_way.scales}
        ways = [way for branch in branches for way in branch.writers.values()]
        self._gates = {step for way in ways for step in way.scales}

    def role(self, use: Use, step: Step | None) -> str:
        """The role of a leaf that is used like this."""
        flow = self._flow
        if use.kind in _PLACED:
            return "token"
        if step is None or use.kind not in ("gather", "bias", "scale"):
            return "other"
        if self._adds_to_scores(use, step):
            return "attention_bias"
        if use.kind == "gather":
            data = any(flow.data[node] for node in step.inputs[1:])
            return "embedding" if data else "position"
        if use.kind == "scale":
            return self._scale_role(step)
        return _bias_role(flow, use, step, self._products)

    def _adds_to_scores(self, use: Use, step: Step) -> bool:
        """Whether it is added to the scores of an attention."""
        flow, out = self._flow, step.outputs[0]
        if use.kind == "bias":
            return bool(self._scored >> out & 1)
        if use.kind != "gather":
            return False
        for attention in self._attentions:
            score = attention.scores
            nodes = (*score.inputs, *attention.mix.inputs[1:])
            if flow.depends(attention.mix.outputs[0], out) and not any(
                flow.depends(node, out)
                for node in nodes
                if not flow.depends(node, score.outputs[0])
            ):
                return True
        return False

    def _scale_role(self, step: Step) -> str:
        # Ahead of the norms: where x is normalized, its factor multiplies what is so.
        if step in self._of_skips:
            return "skip_scale"
        if _scales_norm(self._flow, step):
            return "norm_scale"
        return "gate" if step in self._gates else "scale"


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


def _bias_role(flow: Flow, use: Use, step: Step, products: Collection[Step]) -> str:
    own = carriers(flow, step)
    if own:
        maker = _made_by(flow, own[0])
        if maker is not None and (
            is_normalizing(flow, maker)
            or (maker.name == "mul" and _scales_norm(flow, maker))
        ):
            return "norm_bias"
        if maker in products:
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
