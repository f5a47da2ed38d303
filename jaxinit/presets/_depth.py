"""How deep a network is: from its residual connections, or said."""

from __future__ import annotations

import dataclasses
import operator
from typing import Any

import numpy as np

from jaxinit._errors import RuleError
from jaxinit._signal._use import Use
from jaxinit.presets._anatomy import Anatomy, Part

WRITERS = ("attention_out", "feed_forward_out")


@dataclasses.dataclass(frozen=True)
class Depth:
    """Blocks and residual branches of the stream that a leaf stands in.

    Attributes:
      blocks: L.
      branches: how many products end in the stream: 2 L in a transformer.
    """

    blocks: int
    branches: float


def checked_depth(preset: str, depth: Any, network: Anatomy) -> tuple[int, ...] | None:
    """The depth said for each stream; None where the program tells it."""
    if depth is None:
        return None
    several = depth if isinstance(depth, (tuple, list)) else (depth,)
    try:
        numbers = tuple(operator.index(number) for number in several)
    except TypeError:
        numbers = ()
    if not numbers or min(numbers) < 1:
        raise ValueError(
            f"depth must be the number of blocks, a whole number from 1, got {depth!r}"
        )
    streams = max(len(network.streams), 1)
    if len(numbers) == 1:
        return numbers * streams
    if len(numbers) != streams:
        raise ValueError(
            f"depth has {len(numbers)} numbers, and {preset} sees {streams} residual "
            "streams; give one number, or one for each stream in the order of the "
            "program"
        )
    return numbers


def depth_of(
    preset: str, part: Part, network: Anatomy, said: tuple[int, ...] | None
) -> Depth:
    """The depth that counts for a leaf."""
    streams = network.streams
    stream = part.stream or (streams[0] if streams else None)
    if stream is None:
        writers = sum(p.layers for p in network.having(*WRITERS))
        if said is None:
            raise RuleError(
                f"{preset}: no product's output is added to the residual stream, so "
                f"that the depth behind {part.name.full!r} is not known; pass depth="
            )
        return Depth(said[0], max(writers, said[0]))
    blocks = stream.depth
    if said is not None:
        blocks = said[streams.index(stream)]
    return Depth(blocks, blocks * stream.writers / stream.depth)


def block_of(preset: str, part: Part) -> np.ndarray:
    """The number of the block, from 0, for each layer of the leaf."""
    if part.stream is None:
        raise RuleError(
            f"{preset}: which block {part.name.full!r} belongs to is not known, since "
            "its output is not seen to be added to a residual stream; keep it, "
            f"roles=[({part.name.full!r}, None)]"
        )
    return np.asarray(part.block, np.float64)


def require_branches(preset: str, network: Anatomy) -> None:
    """RuleError where the network has no residual connection, or no such role said."""
    if not network.branches and not network.having(*WRITERS):
        raise RuleError(
            f"{preset}: no product's output is added to a residual stream, so there is "
            "no depth to scale by; if a leaf is the last of a branch, say so: "
            "roles=[(pattern, 'feed_forward_out')]"
        )


def independent_outputs(use: Use) -> float:
    """Outputs that one input of one weight reaches, fused weights taken apart."""
    blocks = use.blocks if use.groups == 1 else 1
    return float(use.fan_out or 1) / max(blocks, 1)
