"""Pictures of reports; needs the extra `plots` (matplotlib)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

__all__ = ["audit", "coordinates"]

# What is drawn: the column, what to call it, and whether its scale is logarithmic.
_PANELS = (
    ("out", "rms of the product", True),
    ("grad", "rms of the gradient", True),
    ("cos", "cosine of two examples", False),
    ("flat", "dead or saturated", False),
)


def audit(report: Any, *, figure: Any = None) -> Any:
    """Draw what :func:`jaxinit.audit` measured, layer by layer.

    Four panels over the weights in the order of the program: signal, gradient, cosine
    between examples, and the share of dead or saturated units. Layers that the report's
    errors and warnings are about are marked.

    Args:
      report: an audit report.
      figure: a matplotlib figure to draw into; a new one by default, which no window
        shows until pyplot is asked to.

    Returns:
      The figure.

    Raises:
      ImportError: matplotlib is not installed.

    >>> import jax, jaxinit
    >>> from jaxinit import plots
    >>> f = lambda params, x: jax.numpy.tanh(x @ params["w"])
    >>> params = {"w": jax.random.normal(jax.random.key(0), (8, 8))}
    >>> report = jaxinit.audit(f, params, jax.random.normal(jax.random.key(1), (4, 8)))
    >>> figure = plots.audit(report)
    >>> [axes.get_ylabel() for axes in figure.axes][:2]
    ['rms of the product', 'rms of the gradient']
    """
    rows = report.records()
    figure = _figure(figure, max(6.0, 2.0 + 0.2 * len(rows)), 9.0)
    grave = {f.code for f in report.findings if f.severity != "note"}
    marked = [n for n, row in enumerate(rows) if grave & {*row["note"].split(", ")}]
    panels = figure.subplots(len(_PANELS), 1, sharex=True, squeeze=True)
    for axes, (column, title, logarithmic) in zip(panels, _PANELS, strict=True):
        values = [_number(row[column]) for row in rows]
        axes.plot(range(len(rows)), values, marker="o", markersize=3)
        for place in marked:
            axes.axvspan(
                place - 0.5, place + 0.5, color="tab:red", alpha=0.15, linewidth=0
            )
        drawn = [value for value in values if 0 < value < math.inf]
        if logarithmic and drawn:
            # Whole decades: every axis has two numbers at least.
            low, high = math.log10(min(drawn)), math.log10(max(drawn))
            axes.set_yscale("log")
            axes.set_ylim(10.0 ** math.floor(low - 0.1), 10.0 ** math.ceil(high + 0.1))
        elif not logarithmic:
            below = any(value < -0.05 for value in values)
            axes.set_ylim(-1.05 if below else -0.05, 1.05)
        axes.set_xlim(-0.5, max(len(rows), 1) - 0.5)
        axes.set_ylabel(title)
        axes.grid(visible=True, alpha=0.3)
    _label(panels[-1], [row["leaf"] for row in rows])
    figure.suptitle(report.title, fontsize="medium")
    figure.set_layout_engine("tight")
    return figure


def coordinates(report: Any, *, figure: Any = None) -> Any:
    """Draw what a coordinate check measured: change over width, a panel for each step.

    Both axes are logarithmic: flat lines learn alike at every width. Lines of weights
    that grow or vanish are dashed.

    Args:
      report: of :func:`jaxinit.presets.coordinate_check`.
      figure: a matplotlib figure to draw into; a new one by default.

    Returns:
      The figure.

    Raises:
      ImportError: matplotlib is not installed.

    >>> from jaxinit import plots, presets
    >>> report = presets.CoordinateReport(
    ...     "check", columns=("leaf", "step", "change", "verdict"), widths=(32, 64),
    ...     rows=[("w", 1, (0.1, 0.1), "flat"), ("w", 2, (0.2, 0.3), "growing")])
    >>> figure = plots.coordinates(report)
    >>> [axes.get_title() for axes in figure.axes]
    ['step 1', 'step 2']
    """
    rows = report.records()
    steps = sorted({row["step"] for row in rows})
    figure = _figure(figure, 1.0 + 2.4 * max(len(steps), 1), 3.2)
    panels = figure.subplots(1, max(len(steps), 1), sharey=True, squeeze=False)[0]
    for axes, step in zip(panels, steps, strict=False):
        for row in rows:
            if row["step"] == step:
                style = "-" if row["verdict"] == "flat" else "--"
                axes.plot(
                    report.widths,
                    row["change"],
                    style,
                    marker="o",
                    markersize=3,
                    label=row["leaf"],
                )
        axes.set_xscale("log", base=2)
        axes.set_yscale("log", base=2)
        axes.set_title(f"step {step}", fontsize="small")
        axes.set_xlabel("width")
        axes.grid(visible=True, alpha=0.3)
    panels[0].set_ylabel("rms of the change")
    if len({row["leaf"] for row in rows}) <= 12:
        panels[-1].legend(fontsize="x-small")
    figure.suptitle(report.title, fontsize="medium")
    figure.set_layout_engine("tight")
    return figure


def _figure(figure: Any, width: float, height: float) -> Any:
    """The figure that was given, or a new one."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError(
            "plots needs matplotlib; install it with: pip install 'jaxinit[plots]'"
        ) from error
    return Figure(figsize=(width, height)) if figure is None else figure


def _label(axes: Any, names: Sequence[str]) -> None:
    """As many names as have room."""
    step = math.ceil(len(names) / 60)
    places = range(0, len(names), max(step, 1))
    axes.set_xticks(
        list(places), [names[n] for n in places], rotation=90, fontsize="x-small"
    )


def _number(cell: Any) -> float:
    return math.nan if cell is None else float(cell)


audit.__module__ = coordinates.__module__ = __name__
