"""`calibrate`: every product brought to its target in one forward pass."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxinit._errors import RuleError
from jaxinit._paths import Name
from jaxinit._rules import Pattern, assign, select
from jaxinit._signal._calibration import CalibrationReport, Run, report_of
from jaxinit._signal._measure import Meter
from jaxinit._signal._parts import Part, separate
from jaxinit._signal._places import Place, places
from jaxinit._signal._program import Signal, trace_signal
from jaxinit._signal._rescale import SETTLED, Goal, Rescaler
from jaxinit._signal._use import Use
from jaxinit._signal._uses import uses_of


def calibrate(
    f: Callable[..., Any],
    params: Any,
    *args: Any,
    target: float = 1.0,
    targets: Sequence[Any] = (),
    only: Pattern | Sequence[Pattern] | None = None,
    max_passes: int = 1,
    loss: Callable[[Any], Any] | None = None,
    measure: bool = True,
) -> tuple[Any, CalibrationReport]:
    r"""Rescale each weight so that its product has a given root mean square.

    .. math::
        W \leftarrow \frac{t}{\mathrm{rms}(W x)} W

    in the order of the program, each W with the signal x that the rescaled weights
    before it make. This happens while the program runs: one forward pass and one
    compilation, whatever the depth. One factor for each weight, and for each layer of a
    scanned one; biases are untouched, and nothing is centred.

    Variance alone is no verdict: a deep ReLU net with perfect variances maps all inputs
    to one direction. So the report also shows the ratio of the gradients at both ends
    and the cosine between examples, before and after.

    Left alone, each with a note: weights that are zero (residual gates and heads that
    shall start at zero), weights that pass through arithmetic of their own first
    (weight normalization), and weights whose product goes straight into a normalization
    (their scale has no effect on the signal). A weight with several uses, or one that a
    loop applies again and again, cannot be right at all of them: with `max_passes`
    above 1 the root mean square over its uses is brought to the target by whole passes.

    Args:
      f: any function ``f(params, *args)``; see :func:`jaxinit.from_linen` and
        :func:`jaxinit.from_nnx`.
      params: the parameters, any tree of arrays.
      args: further arguments, with one batch of typical data. The more examples, the
        better the result fits others: with 16 of them within some 10%.
      target: of the products, in the unit of the signal.
      targets: rules, pairs of a pattern and a target, that come before `target`.
      only: a pattern, or several: the weights to calibrate; all by default.
      max_passes: how often the program may run for the sake of shared weights.
      loss: a function of the outputs whose gradient is reported; by default their sum
        with constant random signs.
      measure: whether to measure signal and gradient before and after. Costs a second
        compilation and two gradients; without, the report says less.

    Returns:
      A tree like `params`, and a :class:`CalibrationReport`.

    Raises:
      RuleError: a pattern matches no leaf.
      ValueError: a target is not positive, or `max_passes` is less than 1.

    >>> import jax, jax.numpy as jnp
    >>> def f(params, x):
    ...     for weight in params:
    ...         x = jnp.tanh(x @ weight)
    ...     return x
    >>> keys = jax.random.split(jax.random.key(0), 8)
    >>> params = [jax.random.normal(key, (64, 64)) for key in keys]
    >>> x = jax.random.normal(jax.random.key(1), (32, 64))
    >>> params, report = calibrate(f, params, x)
    >>> {round(row["after"], 4) for row in report.records()}
    {1.0}

    Source: Mishkin & Matas 2016, "All you need is a good init" (arXiv:1511.06422),
    whose algorithm 1 runs the network anew for every layer.
    """
    if max_passes < 1:
        raise ValueError(f"max_passes must be at least 1, got {max_passes}")
    signal = trace_signal(f, params, *args)
    uses = uses_of(signal)
    found = places(signal, uses)
    wanted = assign(targets, signal.names, argument="targets", default=target)
    for name, value in wanted.items():
        if not (np.ndim(value) == 0 and 0 < value < np.inf):
            raise ValueError(
                f"the target of {name.full!r} must be a positive number, got "
                f"{value!r}; leave a weight out with `only`"
            )
    chosen = set(select(only, signal.names))
    goals, reasons = _goals(signal, uses, found, wanted, chosen)
    rescaler = Rescaler(signal, goals)
    meter = Meter(signal, found, uses, loss=loss) if measure else None
    before = meter(signal.params.leaves) if meter else None

    run = _passes(rescaler, signal, max_passes)
    after = meter(run.leaves) if meter else None
    report = report_of(found, goals, reasons, run, before, after)
    return signal.params.unflatten(run.leaves), report


def _passes(rescaler: Rescaler, signal: Signal, most: int) -> Run:
    """Whole passes, until the shared weights are settled."""
    leaves: Sequence[Any] = signal.params.leaves
    factors = rescaler.neutral()
    scales = {leaf: np.asarray(factor) for leaf, factor in factors.items()}
    if not rescaler.goals:
        return Run(leaves, scales, {}, 0, 0.0)
    passes, records, change = 0, {}, 0.0
    while passes < most:
        leaves, found = rescaler(leaves, factors)
        records = jax.device_get(found)
        passes += 1
        for goal in rescaler.goals:
            if not goal.shared:
                array, rest = goal.place.by_layer(goal.record(records)["scale"])
                leaf = goal.place.leaf
                scales[leaf] = scales.get(leaf, 1.0) * np.mean(array, axis=rest)
        factors = rescaler.corrections(records)
        change = max(
            (float(np.max(np.abs(np.log(factor)))) for factor in factors.values()),
            default=0.0,
        )
        if change < SETTLED:
            break
        if passes < most:
            for leaf, factor in factors.items():
                scales[leaf] = scales[leaf] * np.asarray(factor)
    return Run(leaves, scales, records, passes, change)


def _goals(
    signal: Signal,
    uses: dict[str, tuple[Use, ...]],
    found: Sequence[Place],
    wanted: dict[Name, float],
    chosen: set[Name],
) -> tuple[list[Goal], dict[int, str]]:
    """What to bring where, and why the other weights are left alone."""
    reasons, targets = {}, {}
    by_site: dict[Any, dict[Place, Part | None]] = {}
    for place in found:
        if place.name not in chosen:
            reasons[place.leaf] = "not chosen"
        elif reason := _why_not(signal.leaves[place.leaf], uses[place.name.full]):
            reasons[place.leaf] = reason
        targets[place.leaf] = float(wanted[place.name])
        by_site.setdefault(place.site, {})[place] = place.use.part
    parts = {
        place: (part, members)
        for several in by_site.values()
        for part, members in separate(several)
        for place in members
    }
    for place, (_, members) in parts.items():
        # A factor of them all is one of the product; zeros need none.
        others = [one for one in members if reasons.get(one.leaf) != "zero"]
        alone = len(members) == 1 or not any(one.use.transformed for one in members)
        if place.leaf not in reasons and not (
            alone and all(one.leaf not in reasons for one in others)
        ):
            reasons[place.leaf] = "stands in one product with another weight"
    goals = []
    for place in found:
        part, members = parts[place]
        own = [one for one in members if one.leaf not in reasons]
        if place in own:
            _same_target(own, targets)
            shared = any(_has_several(one, uses[one.name.full]) for one in own)
            goals.append(Goal(place, targets[place.leaf], shared, part))
    return goals, reasons


def _has_several(place: Place, own: Sequence[Use]) -> bool:
    """Whether one factor has to serve several products."""
    looped = any(role == "body_jaxpr" for role in place.site)
    return len(own) > 1 or place.repeated or place.use.recurrent or looped


def _same_target(members: Sequence[Place], targets: dict[int, float]) -> None:
    first = members[0]
    for place in members:
        if targets[place.leaf] != targets[first.leaf]:
            raise RuleError(
                f"targets: {first.name.full!r} and {place.name.full!r} make one "
                f"product together, and shall have {targets[first.leaf]} and "
                f"{targets[place.leaf]}; give both the same target"
            )


def _why_not(leaf: Any, uses: Sequence[Use]) -> str:
    if not jnp.issubdtype(jnp.result_type(leaf), jnp.inexact):
        return "whole numbers"
    if not np.any(np.asarray(leaf)):
        return "zero"
    products = [use for use in uses if use.is_product]
    if any(use.transformed and not use.scales for use in products):
        return "transformed first"
    if not all(use.scales for use in products):
        return "its scale is not that of the product"
    if all(use.feeds_norm for use in products):
        return "a normalization follows"
    return ""
