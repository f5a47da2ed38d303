"""Numbers that the program multiplies by on its way: found, and put in."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import jax

from jaxinit._signal._interpret import interpret
from jaxinit._signal._program import trace_signal
from jaxinit.presets._anatomy import Anatomy, anatomy_of
from jaxinit.presets._widths import Width


@dataclasses.dataclass(frozen=True)
class Multiplier:
    """A number that a forward pass has to be multiplied by, at one place.

    Attributes:
      kind: "output" multiplies the logits of a tied table, "attention" scores in front
        of the softmax, "branch" what is added to the residual stream.
      leaf: the weight at whose product it is: the table, the queries, the last weight
        of the branch.
      factor: the number.
      where: the line of the user's code.
    """

    kind: Literal["output", "attention", "branch"]
    leaf: str
    factor: float
    where: str | None


# For each kind the number for the network at hand, by the place in the program.
Found = list[tuple[Multiplier, Any, int | None]]


def multipliers_of(
    network: Anatomy,
    widths: Mapping[Any, Width],
    base: Anatomy,
    branch_factor: float,
    *,
    scores: bool,
) -> Found:
    """Each multiplier, with its step, and of a sum the operand that it is for."""
    found: Found = []
    where = {
        use.site: use.where for part in network.parts.values() for use in part.uses
    }
    for width in widths.values():
        for use in width.part.uses if width.role == "tied" else ():
            step = network.flow.by_site.get(use.site)
            if use.is_product and step is not None and width.grows_in != 1:
                factor = 1 / width.grows_in
                name = width.part.name.full
                one = Multiplier("output", name, factor, use.where)
                found.append((one, step, None))
    if scores:
        pairs = zip(network.attentions, _cycled(base, network), strict=True)
        for own, other in pairs:
            factor = other.width / own.width * other.scale / own.scale
            if abs(factor - 1) > 1e-6 and own.softmax:
                (leaf, *_) = network.leaves_of([*own.queries])
                line = where.get(next(iter(own.queries)).site)
                one = Multiplier("attention", leaf, factor, line)
                found.append((one, own.scores, None))
    for branch in network.branches if branch_factor != 1 else ():
        (leaf, *_) = network.leaves_of([*branch.writers])
        line = where.get(next(iter(branch.writers)).site)
        one = Multiplier("branch", leaf, branch_factor, line)
        found.append((one, branch.add, branch.add.inputs.index(branch.end)))
    return found


def _cycled(base: Anatomy, network: Anatomy) -> list[Any]:
    """For each attention that of the base, by its number; deeper ones begin again."""
    own = base.attentions
    return [own[n % len(own)] for n in range(len(network.attentions))] if own else []


def multiplied(
    f: Callable[..., Any], find: Callable[[Anatomy], Found]
) -> Callable[..., Any]:
    """The function with its multipliers put in; traced once for each shape."""

    def run(params: Any, *args: Any) -> Any:
        shapes = jax.tree.map(_shape, (params, *args))
        signal = trace_signal(f, *shapes)
        probes = probes_of(find(anatomy_of(signal)), ())
        leaves = jax.tree.leaves((params, *args))
        results, _ = interpret(signal.program, leaves, probes, keep_rules=False)
        return jax.tree.unflatten(signal.out_tree, results)

    return jax.jit(run)


def probes_of(found: Found, recorded: Sequence[Any]) -> dict[Any, Any]:
    """What `interpret` does at each place: multiply, and record the product."""
    places: dict[Any, list[Any]] = {step.site: [] for step in recorded}
    for one, step, operand in found:
        places.setdefault(step.site, []).append((one.factor, operand))
    wanted = {step.site for step in recorded}
    return {site: _probe(steps, site in wanted) for site, steps in places.items()}


def _probe(factors: Sequence[tuple[float, int | None]], record: bool) -> Any:
    def probe(eqn: Any, operands: Any, results: Any, tap: Any) -> Any:
        (value,) = results
        for factor, operand in factors:
            if operand is None:
                value = value * jax.numpy.asarray(factor, value.dtype)
            else:
                less = jax.numpy.asarray(factor - 1, value.dtype)
                value = value + less * operands[operand]
        return [value], value if record else None

    return probe


def _shape(leaf: jax.Array) -> jax.ShapeDtypeStruct:
    # A number of Python's stays weak, and takes the type of what it meets.
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, weak_type=leaf.weak_type)
