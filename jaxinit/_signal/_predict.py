"""`predict_signal`: what signal and gradient will do, without data and weights."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from jaxinit._folding import fold_paths
from jaxinit._report import Finding, Report
from jaxinit._signal._direction import seed_of
from jaxinit._signal._findings import not_understood
from jaxinit._signal._places import Place, places
from jaxinit._signal._predict_back import gradients
from jaxinit._signal._predict_draws import Draws
from jaxinit._signal._predict_inputs import stand_ins
from jaxinit._signal._predict_walk import Seen, Walk
from jaxinit._signal._program import trace_signal
from jaxinit._signal._readings import order_of
from jaxinit._signal._use import Use
from jaxinit._signal._uses import uses_of

_Table = Mapping[tuple[int, ...], Seen | None]


@dataclasses.dataclass(frozen=True)
class PredictionReport(Report):
    """What :func:`jaxinit.predict_signal` expects.

    The rows are those of :class:`jaxinit.AuditReport`, in its order and under its
    names: `out` the root mean square of the product with its bias, `mean` its mean,
    `cos` the cosine of two examples there, `grad` the root mean square of the gradient
    there. What depends on a primitive that is not understood is None, and `note` says
    so.
    """

    def __rich_console__(self, console: Any, options: Any) -> Iterable[Any]:
        # The report keeps all digits; in the table equal layers are to be one line.
        rounded = dataclasses.replace(
            self, rows=[_shown(row) for row in self.records()]
        )
        yield from Report.__rich_console__(rounded, console, options)


def _shown(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row with two digits, and without those of a mean or a cosine that is chance."""
    small = {"mean": 0.01 * (row["out"] or 0.0), "cos": 0.01}
    return {
        name: ("0" if abs(cell) < small.get(name, 0.0) else f"{cell:.2g}")
        if isinstance(cell, float)
        else cell
        for name, cell in row.items()
    }


def predict_signal(
    f: Callable[..., Any],
    params: Any,
    *args: Any,
    variance: Any = None,
    input: tuple[float, float] = (0.0, 1.0),
    correlation: float = 0.0,
    backward: bool = False,
    key: Any = None,
) -> PredictionReport:
    r"""Expect what :func:`jaxinit.audit` would measure, without running the function.

    Every array of the program is stood for by a sample of one of its elements: 8192
    neurons, each for two examples at two places (tokens, pixels). Functions of single
    elements are evaluated on the samples; a weight gives fresh Gaussians,

    .. math:: E\,y_i y_j = n\,\mathrm{Var}(w)\,E\,x_i x_j

    for the examples and places i, j and n products (averaged over what padding leaves);
    a sum over n neurons is its mean and noise of size :math:`\sqrt n`, one over places
    or examples keeps what each neuron has in common there; a maximum is found by
    repeated pairing. Time and memory depend on the number of equations alone, so that
    shapes of any size will do.

    What stands for a parameter: an array stands for itself by mean, mean square and a
    sample of its elements (of each layer, where layers are stacked along the first
    axis). For a shape it is the normal distribution of variance 1 / fan_in where it is
    the weight of a product, 1 / width where rows are looked up, 1 for learned inputs;
    scales are 1, biases and everything else 0.

    What stands for data: standard normal numbers, or those of `input`. The first axis
    is taken for the examples where it is as long as the batch, the last for the
    features, what is between for places; whole numbers are tokens. An array that has no
    axis of examples (the statistics of a normalization) stands for itself.

    Good to a few per cent where layers are wide and plain. Not modelled: a weight that
    a loop uses again, or that several layers share, is drawn anew each time; tokens
    get the same mean from attention, whatever they look at; narrow layers differ from
    draw to draw. Quotients of measured and predicted numbers are in the guide.

    Args:
      f: any JAX function of parameters and data.
      params: the parameters: a tree of arrays or ShapeDtypeStructs.
      args: further arguments, arrays or ShapeDtypeStructs.
      variance: ordered pairs of a pattern and the variance to give the elements of the
        parameters that it matches, mean zero; or one number for all. The rest as above.
      input: mean and standard deviation of the data.
      correlation: between the data of two examples.
      backward: whether to predict gradients too: of the sum of all outputs with random
        signs, as in an audit.
      key: a PRNG key for other samples; by default always the same ones.

    Raises:
      RuleError: a pattern of `variance` matches no leaf, or a value is no variance.
      ValueError: `input` is no mean and standard deviation, or `correlation` no number
        between -1 and 1.

    Source: Neal 1996, chapter 2, and Lee et al. 2018 (arXiv:1711.00165), equations 4
    and 5, for the Gaussians; Poole et al. 2016 (arXiv:1606.05340), equations 3 and 5,
    for two examples.

    >>> import jax, jax.numpy as jnp, jaxinit
    >>> def f(params, x):
    ...     for weight in params:
    ...         x = jax.nn.relu(x @ weight)
    ...     return x
    >>> params = [jax.ShapeDtypeStruct((4096, 4096), "float32")] * 3
    >>> x = jax.ShapeDtypeStruct((16, 4096), "float32")
    >>> report = jaxinit.predict_signal(f, params, x)
    >>> [round(row["out"] ** 2, 2) for row in report.records()]
    [1.0, 0.5, 0.25]
    """
    pair = _checked(input, correlation)
    signal = trace_signal(f, params, *args)
    uses = uses_of(signal)
    found = places(signal, uses)
    draws = Draws(int(seed_of(key)))
    with np.errstate(all="ignore"):
        values = stand_ins(
            signal, uses, draws, variance=variance, input=pair, correlation=correlation
        )
        walk = Walk(draws, [place.after for place in found])
        walk.run(signal.program, values)
        slopes: list[_Table] = [{}] * len(found)
        if backward:
            slopes = gradients(signal, found, values, walk)
    rows = []
    for place, slope in zip(found, slopes, strict=True):
        for index in np.ndindex(place.layers):
            seen = _at(walk.seen.get(place.after, {}), place, index)
            rows.append(
                (order_of(place, index), _row(place, index, seen, slope, backward))
            )
    rows.sort(key=lambda row: row[0])
    weights = len({place.leaf for place in found})
    return PredictionReport(
        f"predicted signal: {len(signal.names)} leaves, {weights} in products",
        columns=("leaf", "fans", "out", "mean", "cos", "grad", "note"),
        rows=tuple(row for _, row in rows),
        findings=(*_gaps(walk), *not_understood(uses)),
        notes=(*walk.notes, *_reused(found)),
    )


def _reused(found: Sequence[Place]) -> Iterable[str]:
    """What is known of a weight at one use is not made use of at the next."""
    reused = [p.name.full for p in found if p.use.tied or p.repeated]
    if reused:
        listed = ", ".join(fold_paths(list(dict.fromkeys(reused))))
        yield f"drawn anew at each use, though it is one and the same weight: {listed}"


def _checked(input: Any, correlation: Any) -> tuple[float, float]:
    try:
        mean, deviation = map(float, input)
    except (TypeError, ValueError):
        mean = deviation = math.nan
    if not (math.isfinite(mean) and 0 <= deviation < math.inf):
        raise ValueError(
            f"input must be a mean and a standard deviation, got {input!r}; "
            "write input=(0.0, 1.0)"
        )
    if not (isinstance(correlation, (int, float)) and -1 <= correlation <= 1):
        raise ValueError(
            f"correlation must be a number from -1 to 1, got {correlation!r}"
        )
    return mean, deviation


def _row(
    place: Place,
    index: tuple[int, ...],
    seen: Seen | None,
    slope: _Table,
    backward: bool,
) -> tuple[Any, ...]:
    use = place.use
    fans = "/".join("?" if fan is None else f"{fan:.4g}" for fan in _fans(use))
    label = place.name.full + "".join(f"[{number}]" for number in index)
    back = _at(slope, place, index)
    gradient = None if back is None else math.sqrt(back.square)
    if seen is None:
        return label, fans, None, None, None, gradient, "not-understood"
    note = "no-gradient" if backward and back is None else ""
    cosine = None if math.isnan(seen.cosine) else seen.cosine
    return label, fans, math.sqrt(seen.square), seen.mean, cosine, gradient, note


def _fans(use: Use) -> tuple[float | None, float | None]:
    return use.fan_in, use.fan_out


def _at(table: _Table, place: Place, index: Sequence[int]) -> Seen | None:
    """What was seen at one layer, averaged over what is no layer."""
    own = [n for n, axis in enumerate(place.layer_axes) if axis is not None]
    several = []
    # Of a loop that was not followed to its end, the last round stands for the rest.
    last = [max((rounds[n] for rounds in table), default=0) for n in own]
    at = [min(i, end) for i, end in zip(index, last, strict=True)]
    for rounds, seen in table.items():
        if all(rounds[n] == i for n, i in zip(own, at, strict=True)):
            several.append(seen)
    if not several or any(seen is None for seen in several):
        return None
    known = [seen for seen in several if seen is not None]
    means = [np.mean([getattr(one, name) for one in known]) for name in Seen.names()]
    return Seen(*map(float, means))


def _gaps(walk: Walk) -> Iterable[Finding]:
    for primitive, where in walk.gaps.items():
        at = f" at {where}" if where else ""
        yield Finding(
            "note",
            "",
            f"What {primitive!r}{at} does to a signal is not known; nothing is "
            "predicted of what depends on it.",
            "Measure it: jaxinit.audit(f, params, *args).",
            "not-understood",
        )
