"""What a model needs to train as a smaller one does: `Spec`."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, Literal

from jaxinit import _rules
from jaxinit._errors import RuleError
from jaxinit._keys import require_key
from jaxinit._paths import Name
from jaxinit._report import Report
from jaxinit.presets._anatomy import Anatomy
from jaxinit.presets._bases import base_starts
from jaxinit.presets._multipliers import (
    Found,
    Multiplier,
    multiplied,
    multipliers_of,
)
from jaxinit.presets._scaled import Factors, scaled_optimizer
from jaxinit.presets._starts import Start, by_name, started
from jaxinit.presets._widths import Width, compared, model_of

Kind = Literal["mup", "completep", "standard"]
Optimizer = Literal["adam", "sgd"]


@dataclasses.dataclass(frozen=True, eq=False)
class Spec:
    """What a model needs to train as its smaller base does.

    Made by :func:`mup`, :func:`completep` and :func:`standard`. Use all of it together:
    `init` for the parameters, `optimizer` around the optimizer that is right for the
    base, and `forward` in place of the model's function where there are `multipliers`.

    Attributes:
      kind: which of the three it is.
      f: the target's function, without multipliers.
      base: the base.
      target: the target.
      widths: for each leaf of the target its role, and by how much it grows.
      deepens: how many times more blocks the target has.
      alpha: the exponent of depth; see :func:`completep`.
    """

    kind: Kind
    f: Callable[..., Any]
    base: Anatomy
    target: Anatomy
    widths: dict[Name, Width]
    deepens: float
    alpha: float

    @property
    def multipliers(self) -> tuple[Multiplier, ...]:
        """The numbers that the forward pass has to be multiplied by, and where.

        `forward` does so. Whoever would rather write them into the model multiplies by
        the factor what the kind says (the logits, the scores, what is added to the
        stream), and uses the model as it is.
        """
        return tuple(one for one, _, _ in self._found(self.target))

    @property
    def forward(self) -> Callable[..., Any]:
        """The target's function with its multipliers: ``forward(params, *args)``.

        The function itself where there are none.
        """
        if not self.multipliers:
            return self.f
        return multiplied(self.f, self._found)

    @property
    def report(self) -> Report:
        """For each leaf its role, and its factors over the base, for Adam."""
        rows = []
        for name, width in self.widths.items():
            own = self._factors(width, "adam")
            rows.append(
                (
                    name.full,
                    width.role,
                    width.grows_in,
                    width.grows_out,
                    self._init_factor(width),
                    own.rate,
                    own.decay / own.rate,
                    own.epsilon,
                )
            )
        notes = [
            f"Multiply the {_SAID[m.kind]} {m.leaf} by {m.factor:.6g}."
            for m in self.multipliers
        ]
        return Report(
            f"{self.kind}: factors over the base",
            columns=("leaf", "role", "in", "out", "init", "rate", "decay", "epsilon"),
            rows=tuple(rows),
            notes=tuple(notes),
        )

    def init(
        self, key: Any, *, stddev: Sequence[Any] | dict[Any, Any] = ()
    ) -> tuple[Any, Report]:
        """Draw the target's parameters.

        Each weight has the deviation of its counterpart in the base, times what its
        role says. Where the base holds arrays, their root mean square is that
        deviation, and an array of one number stays that number; where it holds shapes,
        weights of products have gain / √fan_in with the activation behind them, tables
        1, scales 1, biases 0.

        Args:
          key: a JAX random key; each leaf is drawn from it folded with its name.
          stddev: ordered pairs of a pattern and a deviation at the width of the base,
            which overrule it; 0 starts at zero.

        Returns:
          ``(params, report)``, a tree like the target's.
        """
        key = require_key(key, "to draw the target's parameters")
        said = _rules.assign(stddev, self.widths, argument="stddev") if stddev else {}
        starts: dict[Name, Start | None] = {}
        for name, width in self.widths.items():
            base = base_starts(width, said.get(name))
            factor = self._init_factor(width)
            if base.stddev is None:
                starts[name] = base
            else:
                starts[name] = Start(base.stddev * factor, factor)
        return started(self.kind, self.target, by_name(starts), key)

    def optimizer(self, tx: Any, *, rule: Optimizer = "adam") -> Any:
        r"""An optax transformation for the target, from the one that suits the base.

        For Adam and its like, whose updates do not depend on the size of the gradient,

        .. math:: η_{leaf} = η / m_{in}, \qquad η\,λ = const, \qquad
            ε_{leaf} = ε / m_{out}

        for hidden and output weights, η for the rest; the decay of a step stays what
        it is at the base, and ε keeps its share in the root of the second moment. For
        ``rule="sgd"`` the rates are η m_out for input weights and vectors, η m_out /
        m_in for hidden ones, η / m_in for output ones, and there is no ε.

        `tx` runs once over all leaves; its state is the state. Parameters may enter
        into its updates as weight decay only (not through their norm, as in LAMB), and
        with SGD not in front of the momentum. What looks at gradients of all leaves
        together, clipping by the global norm, belongs outside:
        ``optax.chain(clip, spec.optimizer(tx))``.

        Args:
          tx: the optimizer of the base, with its learning rate, decay and ε.
          rule: "adam" for Adam, Adafactor, Lion and other optimizers that divide by the
            size of the gradient; "sgd" for those that do not.

        Raises:
          RuleError: `rule` is neither, or tx is no transformation; at the update, for a
            leaf that the target does not have.
        """
        if rule not in ("adam", "sgd"):
            raise RuleError(f"rule must be 'adam' or 'sgd', got {rule!r}")
        factors = {name: self._factors(w, rule) for name, w in self.widths.items()}
        return scaled_optimizer(tx, factors, f"{self.kind}(...).optimizer")

    def coordinate_check(
        self, build: Callable[[int], tuple[Any, ...]], **options: Any
    ) -> Any:
        """Whether features change by as much at every width: see
        :func:`coordinate_check`, with this parametrization and this base.
        """
        from jaxinit.presets._coordinates import coordinate_check

        return coordinate_check(build, parametrization=self._again, **options)

    def _again(self, target: Any) -> Spec:
        """The same parametrization of another target."""
        return make_spec(self.kind, self.base, target, self.alpha)

    def _found(self, network: Anatomy) -> Found:
        if self.kind == "standard":
            return []
        widths = self.widths
        if network is not self.target:
            widths = compared(self.base, network)
        branch = self.deepens**-self.alpha if self.kind == "completep" else 1.0
        return multipliers_of(network, widths, self.base, branch, scores=True)

    def _init_factor(self, width: Width) -> float:
        if width.role in ("hidden", "output") and (
            self.kind == "standard" or width.role == "hidden"
        ):
            return width.grows_in**-0.5
        return 1 / width.grows_in if width.role == "output" else 1.0

    def _factors(self, width: Width, rule: Optimizer) -> Factors:
        if self.kind == "standard":
            return Factors()
        role, into, out = width.role, width.grows_in, width.grows_out
        deep = self.deepens if self.kind == "completep" and width.inside else 1.0
        slower = deep ** (self.alpha - 1)
        if rule == "sgd":
            rate = {
                "input": out,
                "vector": out,
                "tied": out,
                "hidden": out / into,
                "output": 1 / into,
                "fixed": 1.0,
            }[role]
            # A gradient inside of a branch is smaller by the branch's multiplier.
            return Factors(rate * slower * deep**self.alpha, slower, 1.0)
        rate = 1 / into if role in ("hidden", "output") else 1.0
        epsilon = 1.0 if role in ("output", "fixed") else 1 / out
        return Factors(rate * slower, slower, epsilon * deep**-self.alpha)


_SAID = {
    "output": "logits made by",
    "attention": "scores of the queries of",
    "branch": "residual branch that ends in",
}


def make_spec(kind: Kind, base: Any, target: Any, alpha: float) -> Spec:
    small = base if isinstance(base, Anatomy) else model_of(base, "base")
    large = model_of(target, "target")
    deepens = 1.0
    if kind == "completep":
        depths = [sum(s.depth for s in network.streams) for network in (small, large)]
        if not all(depths):
            which = "base" if not depths[0] else "target"
            raise RuleError(
                f"completep: the {which} has no residual branches, so that there is no "
                "depth to scale by; use presets.mup"
            )
        deepens = depths[1] / depths[0]
    widths = compared(small, large)
    return Spec(kind, target[0], small, large, widths, deepens, alpha)
