"""The coordinate check: by how much features change in a step, over widths."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from jaxinit._keys import require_key
from jaxinit._report import Finding, Report
from jaxinit._signal._interpret import interpret
from jaxinit._signal._program import trace_signal
from jaxinit._signal._taps import wide
from jaxinit.presets._anatomy import anatomy_of
from jaxinit.presets._multipliers import probes_of
from jaxinit.presets._spec import Optimizer, Spec

THRESHOLD = 0.25
# A weight that stops learning does so by width^(-1/2) at least; narrow networks bend
# the slopes of sound ones down by up to 0.3.
_VANISHING = -0.4

Verdict = Literal["flat", "growing", "vanishing"]


@dataclasses.dataclass(frozen=True, repr=False)
class CoordinateReport(Report):
    """What a coordinate check measured: a row for each weight and step.

    Of a row, `change` holds for each width by how much the product of the weight
    differs from what it was at step 0, as a root mean square over its elements, and
    `size` how large it is; `slope` is that of the logarithm of the change over that of
    the width, and `verdict` what it amounts to.

    Attributes:
      widths: the widths.
      threshold: the slope from which a change grows.
    """

    widths: tuple[int, ...] = ()
    threshold: float = THRESHOLD

    @property
    def slopes(self) -> dict[str, float]:
        """For each weight the slope after the last step."""
        return {row["leaf"]: row["slope"] for row in self._last()}

    @property
    def verdict(self) -> Verdict:
        """That of the worst weight after the last step: growing is worst."""
        found = [row["verdict"] for row in self._last()]
        for verdict in ("growing", "vanishing"):
            if verdict in found:
                return verdict
        return "flat"

    def _last(self) -> list[dict[str, Any]]:
        rows = self.records()
        last = max((row["step"] for row in rows), default=0)
        return [row for row in rows if row["step"] == last]


def coordinate_check(
    build: Callable[[int], tuple[Any, ...]],
    *,
    widths: Sequence[int],
    tx: Any,
    parametrization: Callable[[Any], Spec],
    key: Any,
    loss: Callable[[Any], Any] | None = None,
    rule: Optimizer = "adam",
    steps: int = 4,
    seeds: int = 2,
    stddev: Any = (),
    threshold: float = THRESHOLD,
) -> CoordinateReport:
    r"""Train models of several widths for a few steps, and compare how features change.

    .. math:: \sqrt{\mathrm{mean}\,(h_t - h_0)^2} \propto width^{slope}

    for the product h of every weight, on one batch. Under a parametrization whose
    features learn alike at every width the slope is 0; under the standard one
    a product of n inputs that Adam updates changes by n^(1/2) to n as much. So a slope
    above `threshold` = 1/4, halfway to the least of these, is "growing". One below
    -0.4 is "vanishing", the weight learns less and less: at least as n^(-1/2), where
    narrow networks alone bend slopes down by 0.1 for Adam and by 0.3 for SGD.

    Args:
      build: makes the model of one width: ``(f, params, *args)`` as
        :func:`jaxinit.from_linen` returns it. The batch is the arguments, and must be
        the same for every width.
      widths: at least two, in any unit that `build` understands.
      tx: the optimizer, with the learning rate of the base.
      parametrization: makes the spec of a model, as in
        ``lambda model: presets.mup(base, model)``.
      key: a JAX random key.
      loss: of the outputs of f; half the mean square of their distance to constant
        random signs by default.
      rule: as for :meth:`Spec.optimizer`.
      steps: how many.
      seeds: over how many draws of the parameters changes are averaged.
      stddev: as for :meth:`Spec.init`.
      threshold: as above.

    Returns:
      A :class:`CoordinateReport`; ``report.verdict`` is "flat", "growing" or
      "vanishing", ``jaxinit.plots.coordinates(report)`` a picture.

    Raises:
      ValueError: there are fewer than two widths, no step, or no key.

    Example:
      >>> import jax, jax.numpy as jnp, optax
      >>> from jaxinit import presets
      >>> x = jax.random.normal(jax.random.key(1), (16, 8))
      >>> def build(width):
      ...     def f(params, x):
      ...         return jnp.tanh(x @ params["in"]) @ params["out"]
      ...     shape = lambda *sizes: jax.ShapeDtypeStruct(sizes, "float32")
      ...     return f, {"in": shape(8, width), "out": shape(width, 2)}, x
      >>> key, tx, base = jax.random.key(0), optax.adam(0.01), build(32)
      >>> check = {"widths": (32, 128, 512), "tx": tx, "key": key}
      >>> presets.mup(base, base).coordinate_check(build, **check).verdict
      'flat'
      >>> presets.standard(base, base).coordinate_check(build, **check).verdict
      'growing'

    Source: Yang et al. 2022 (arXiv:2203.03466), section D.1.
    """
    key = require_key(key, "to draw the models of a coordinate check")
    if len(set(widths)) < 2:
        raise ValueError(f"widths must be two different ones at least, got {widths!r}")
    if steps < 1 or seeds < 1:
        raise ValueError(
            f"steps and seeds must be 1 at least, got {steps!r} and {seeds!r}"
        )
    widths = tuple(sorted(set(widths)))
    keys = jax.random.split(key, seeds)
    roles: dict[str, str] = {}
    measured, title = [], ""
    for width in widths:
        model = build(width)
        spec = parametrization(model)
        title = spec.kind
        run = _trainer(spec, model, tx, rule, loss or _distance)
        own = [run(spec.init(k, stddev=stddev)[0], steps) for k in keys]
        measured.append(jax.tree.map(lambda *several: np.mean(several, axis=0), *own))
        roles = {name.full: width.role for name, width in spec.widths.items()}
    rows = [
        _row(leaf, roles, step, widths, measured, threshold)
        for leaf in measured[-1]
        for step in range(1, steps + 1)
    ]
    return CoordinateReport(
        f"{title}: change of features over widths {', '.join(map(str, widths))}",
        columns=("leaf", "role", "step", "change", "size", "slope", "verdict"),
        rows=tuple(rows),
        findings=tuple(_findings(rows, steps)),
        widths=widths,
        threshold=threshold,
    )


def _trainer(
    spec: Spec, model: tuple[Any, ...], tx: Any, rule: Optimizer, loss: Any
) -> Callable[[Any, int], dict[str, Any]]:
    """Trains from given parameters for so many steps; compiled once.

    Its result is for each weight its changes and sizes, an array (steps, 2).
    """
    import optax

    _, params, *args = model
    optimizer = spec.optimizer(tx, rule=rule)
    seen = _watched(spec, params, args)

    def objective(params: Any) -> tuple[Any, Any]:
        outputs, records = seen(params)
        return loss(outputs), records

    @jax.jit
    def step(params: Any, state: Any, first: Any) -> tuple[Any, Any, Any, Any]:
        gradients, records = jax.grad(objective, has_aux=True)(params)
        updates, state = optimizer.update(gradients, state, params)
        measured = {leaf: _difference(h, first[leaf]) for leaf, h in records.items()}
        return optax.apply_updates(params, updates), state, records, measured

    def run(params: Any, steps: int) -> dict[str, Any]:
        shapes = jax.eval_shape(lambda params: seen(params)[1], params)
        first = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
        state = optimizer.init(params)
        # Step t shows what the first t updates changed; the first call none of them.
        params, state, first, _ = step(params, state, first)
        found: dict[str, list[Any]] = {leaf: [] for leaf in first}
        for _ in range(steps):
            params, state, _, measured = step(params, state, first)
            for leaf, pair in measured.items():
                found[leaf].append(np.asarray(pair, np.float64))
        return {leaf: np.stack(pairs) for leaf, pairs in found.items()}

    return run


def _watched(spec: Spec, params: Any, args: Any) -> Any:
    """The target's forward pass, and the products of its weights."""
    signal = trace_signal(spec.f, params, *args)
    network = anatomy_of(signal)
    found = spec._found(network)
    probes = probes_of(found, list(network.products))
    rest = jax.tree.leaves(tuple(args))

    def run(params: Any) -> tuple[Any, dict[str, Any]]:
        leaves = [*jax.tree.leaves(params), *rest]
        results, records = interpret(signal.program, leaves, probes, keep_rules=False)
        named: dict[str, Any] = {}
        for step, names in network.products.items():
            label = names[0].full
            while label in named:
                label += "'"  # of a weight that is used again
            named[label] = records[step.site]
        return jax.tree.unflatten(signal.out_tree, results), named

    return run


def _difference(now: Any, then: Any) -> tuple[Any, Any]:
    now, then = wide(now), wide(then)
    change = jnp.sqrt(jnp.mean(jnp.square(now - then)))
    return change, jnp.sqrt(jnp.mean(jnp.square(now)))


def _distance(outputs: Any) -> Any:
    total = jnp.zeros((), jnp.float32)
    for number, leaf in enumerate(jax.tree.leaves(outputs)):
        if jnp.issubdtype(leaf.dtype, jnp.floating):
            key = jax.random.fold_in(jax.random.key(0), number)
            signs = jax.random.rademacher(key, leaf.shape, jnp.float32)
            total += jnp.mean(jnp.square(leaf.astype(jnp.float32) - signs)) / 2
    return total


def _row(
    leaf: str,
    roles: dict[str, str],
    step: int,
    widths: tuple[int, ...],
    measured: Sequence[dict[str, Any]],
    threshold: float,
) -> tuple[Any, ...]:
    values = np.array([one[leaf][step - 1] for one in measured])
    change, size = values[:, 0], values[:, 1]
    slope = 0.0
    if not np.all(np.isfinite(change)):
        slope = np.inf
    elif np.all(change > 0):
        slope = float(np.polyfit(np.log(widths), np.log(change), 1)[0])
    elif np.any(change > 0):  # no line goes through a change of zero
        slope = np.inf if change[-1] > 0 else -np.inf
    verdict = "flat"
    if slope > threshold:
        verdict = "growing"
    elif slope < _VANISHING:
        verdict = "vanishing"
    first = leaf  # of a weight that is used again, the name without what marks that
    while first not in roles:
        first = first[:-1]
    return leaf, roles[first], step, tuple(change), tuple(size), slope, verdict


def _findings(rows: Sequence[tuple[Any, ...]], steps: int) -> list[Finding]:
    found = []
    for leaf, role, step, _, _, slope, verdict in rows:
        if step != steps or verdict == "flat":
            continue
        learns = "more and more" if slope > 0 else "less and less"
        found.append(
            Finding(
                "warning",
                leaf,
                f"After {step} steps its product changes by width^{slope:.2f}: with "
                f"width the layer ({role}) learns {learns}.",
                "Use init, optimizer and forward of the same spec, or look for a "
                "multiplier that depends on width and is not among its multipliers.",
                verdict,
            )
        )
    return found
