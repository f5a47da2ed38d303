"""Running a program on samples, equation by equation, loops round by round."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr
from jax.extend.core import Literal as Constant

from jaxinit import _jaxpr
from jaxinit._primitives import RANDOM, TRANSPARENT
from jaxinit._signal import _predict_products, _predict_reductions  # noqa: F401
from jaxinit._signal._predict_draws import Draws
from jaxinit._signal._predict_inputs import KEY, constant, of_array
from jaxinit._signal._predict_rules import EACH, evaluate
from jaxinit._signal._predict_values import (
    EXAMPLE,
    FREE,
    FULL,
    PLACE,
    SAME,
    Factor,
    Stack,
    Value,
    joined,
    roles_of,
    shuffled,
)
from jaxinit._signal._use import Site

# Rounds of a loop that are run one by one; by then a state has mostly settled.
ROUNDS = 128


class Unknown:
    """Depends on something that was not understood."""


UNKNOWN = Unknown()


@dataclasses.dataclass(frozen=True)
class Seen:
    """Moments of a sample: its mean, its mean square, the cosine of two examples."""

    mean: float
    square: float
    cosine: float

    @staticmethod
    def names() -> tuple[str, ...]:
        """Of the numbers."""
        return tuple(field.name for field in dataclasses.fields(Seen))


class Walk:
    """Runs a program on samples.

    Attributes:
      wanted: the sites whose results are to be looked at.
      seen: for each of them and each round of the loops around it what was there.
      gaps: the primitives that were not understood, with a line of the user's code.
      notes: what was simplified.
    """

    def __init__(self, draws: Draws, wanted: Iterable[Site] = ()):
        self.draws = draws
        self.wanted = set(wanted)
        self.seen: dict[Site, dict[tuple[int, ...], Seen | None]] = {}
        self.gaps: dict[str, str | None] = {}
        self.notes: dict[str, None] = {}
        self.within: list[Any] = []

    def run(
        self,
        program: ClosedJaxpr,
        inputs: Sequence[Any],
        site: Site = (),
        rounds: tuple[int, ...] = (),
    ) -> list[Any]:
        """What the outputs are, from what the inputs are."""
        jaxpr = program.jaxpr
        values: dict[Any, Any] = {
            var: of_array(const, self.draws)
            for var, const in zip(jaxpr.constvars, program.consts, strict=True)
        }
        values.update(zip(jaxpr.invars, inputs, strict=True))

        def value(atom: Any) -> Any:
            return (
                of_array(atom.val, self.draws)
                if isinstance(atom, Constant)
                else values[atom]
            )

        for number, eqn in enumerate(jaxpr.eqns):
            here = (*site, number)
            operands = [value(atom) for atom in eqn.invars]
            results = self._equation(eqn, operands, here, rounds)
            values.update(zip(eqn.outvars, results, strict=True))
            if here in self.wanted:
                self.seen.setdefault(here, {})[rounds] = look(results[0])
        return [value(atom) for atom in jaxpr.outvars]

    def _equation(
        self, eqn: Any, operands: list[Any], here: Site, rounds: tuple[int, ...]
    ) -> list[Any]:
        subs = list(_jaxpr.subprograms(eqn))
        kinds = [sub.kind for sub in subs]
        count = len(eqn.outvars)
        if kinds in (["inline"], ["scan"]) or kinds[:1] == ["branch"]:
            enter = {"inline": self._call, "scan": self._scan, "branch": self._branch}
            self.within.append(eqn)
            results = enter[kinds[0]](eqn, subs, operands, here, rounds)
            self.within.pop()
            return results
        if any(operand is UNKNOWN for operand in operands):
            return [UNKNOWN] * count
        if not subs or eqn.primitive.name in RANDOM:
            found = self._plain(eqn, operands)
            if found is not None:
                return found
        self._gap(eqn)
        return [UNKNOWN] * count

    def _plain(self, eqn: Any, operands: list[Any]) -> list[Any] | None:
        """The results of an equation; None if it is not understood."""
        if eqn.primitive.name in RANDOM and eqn.primitive.name != "random_bits":
            known = eqn.primitive.name != "random_gamma"
            return [KEY] * len(eqn.outvars) if known else None
        if eqn.primitive.name == "random_bits":
            return evaluate(eqn, [], self.draws)
        if any(operand is KEY for operand in operands):
            if any(jnp.issubdtype(v.aval.dtype, jnp.inexact) for v in eqn.outvars):
                return None  # numbers made of a key by other means than JAX's own
            return [KEY] * len(eqn.outvars)
        lengths = {len(op.rounds) for op in operands if isinstance(op, Stack)}
        if not lengths:
            return evaluate(eqn, operands, self.draws)
        return self._stacked(eqn, operands)

    def _stacked(self, eqn: Any, operands: list[Any]) -> list[Any] | None:
        """An equation outside of the loop whose rounds it works on."""
        (length, *more) = {len(op.rounds) for op in operands if isinstance(op, Stack)}
        aligned = not more and _keeps_rounds(eqn, operands, length)
        if not aligned:
            return evaluate(eqn, [self.merged(op) for op in operands], self.draws)
        rounds = [
            evaluate(
                eqn,
                [op.rounds[n] if isinstance(op, Stack) else op for op in operands],
                self.draws,
            )
            for n in range(length)
        ]
        if any(found is None for found in rounds):
            return None
        return [Stack(several) for several in zip(*rounds, strict=True)]

    def merged(self, value: Any) -> Any:
        """One sample of a whole stack, which is an array with an axis of rounds."""
        if not isinstance(value, Stack):
            return value
        one = self.mixed([self.merged(part) for part in value.rounds])
        if not isinstance(one, Value):
            return one
        return one.but(axes=((Factor(FREE, len(value.rounds)),), *one.axes))

    def mixed(self, values: Sequence[Any]) -> Any:
        """One sample with a share of each of several in it."""
        special = [value for value in values if not isinstance(value, Value)]
        if special:
            return special[0]
        wide = np.stack([np.broadcast_to(one.sample, FULL) for one in values])
        chosen = self.draws.generator.permutation(np.arange(FULL[0]) % len(values))
        sample = wide[chosen, np.arange(FULL[0])]
        weight = all(value.weight for value in values)
        return Value(sample, joined(values)[1], weight)

    # ------------------------------------------------------------------ what is inside

    def _call(
        self, eqn: Any, subs: Any, operands: Any, here: Site, rounds: Any
    ) -> list[Any]:
        (sub,) = subs
        return self.run(sub.program, operands, (*here, sub.role), rounds)

    def _branch(
        self, eqn: Any, subs: Any, operands: Any, here: Site, rounds: Any
    ) -> list[Any]:
        several = [
            self.run(
                sub.program,
                [operands[place] for place in sub.inputs],
                (*here, sub.role),
                rounds,
            )
            for sub in subs
        ]
        self._note("branches count alike, whatever they depend on")
        return [
            self.mixed([self.merged(value) for value in values])
            for values in zip(*several, strict=True)
        ]

    def _scan(
        self, eqn: Any, subs: Any, operands: Any, here: Site, rounds: Any
    ) -> list[Any]:
        (sub,) = subs
        length, first = eqn.params["length"], sub.constants + sub.carried
        carry, rows = list(operands[sub.constants : first]), []
        order = list(range(length))
        if eqn.params["reverse"]:
            order.reverse()
        for number in order[:ROUNDS]:
            sliced = [one_round(value, number) for value in operands[first:]]
            inputs = [*operands[: sub.constants], *carry, *sliced]
            site = (*here, sub.role)
            results = self.run(sub.program, inputs, site, (*rounds, number))
            carry = results[: sub.carried]
            rows.append(results[sub.carried :])
        if length > ROUNDS:
            self._note(
                f"a loop of {length} rounds was followed for {ROUNDS}; the rest is "
                "taken to be like the last of them"
            )
        if not length:
            return [*carry, *(constant(0, v.aval) for v in eqn.outvars[sub.carried :])]
        rows += rows[-1:] * (length - len(rows))
        if eqn.params["reverse"]:
            rows.reverse()
        return [*carry, *(Stack(several) for several in zip(*rows, strict=True))]

    # -------------------------------------------------------------------- what is said

    def _gap(self, eqn: Any) -> None:
        where = _jaxpr.source_location(eqn, tuple(self.within))
        self.gaps.setdefault(eqn.primitive.name, where)

    def _note(self, text: str) -> None:
        self.notes.setdefault(text)


def one_round(value: Any, number: int) -> Any:
    """What a loop is given in one round."""
    if isinstance(value, Stack):
        return value.rounds[number]
    if not isinstance(value, Value):
        return value
    lead = roles_of(value.axes[:1])
    inner = value.but(axes=value.axes[1:])
    if not lead - {SAME}:
        return inner
    left = roles_of(inner.axes)
    for role, column in ((EXAMPLE, 1), (PLACE, 2)):
        if role in lead and role not in left and inner.sample.shape[column] == 2:
            one = np.take(inner.sample, [number % 2], column)
            inner = inner.but(sample=one)
    return shuffled(inner, 10_000 + number)  # other elements in each round


def look(value: Any) -> Seen | None:
    """The moments of a sample; of a stack, of all its rounds together."""
    if isinstance(value, Stack):
        several = [look(one) for one in value.rounds]
        if any(one is None for one in several):
            return None
        known = [one for one in several if one is not None]
        return Seen(
            float(np.mean([one.mean for one in known])),
            float(np.mean([one.square for one in known])),
            float(np.mean([one.cosine for one in known])),
        )
    if not isinstance(value, Value):
        return None
    wide = value.wide
    one, other = wide[:, 0], wide[:, 1]
    scale = np.sqrt(np.mean(one**2) * np.mean(other**2))
    cosine = np.mean(one * other) / scale if scale > 0 else np.nan
    return Seen(float(np.mean(wide)), float(np.mean(wide**2)), float(cosine))


def _keeps_rounds(eqn: Any, operands: Sequence[Any], length: int) -> bool:
    """Whether an equation does the same to every round of a stack."""
    shape = eqn.outvars[0].aval.shape
    return (
        eqn.primitive.name in EACH | TRANSPARENT
        and shape[:1] == (length,)
        and all(
            isinstance(operand, Stack) or var.aval.shape == ()
            for operand, var in zip(operands, eqn.invars, strict=True)
        )
    )
