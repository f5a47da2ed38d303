"""The pictures of the page, each in a light and in a dark version."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from jaxinit.demo import _deep, _experiment
from jaxinit.demo._medical import Slice
from jaxinit.demo._pictures import Task, split

# Colours that the colour-blind can tell apart (Okabe and Ito), fit for both grounds.
_COLOURS = {
    _deep.XAVIER: "#d55e00",
    _deep.HE: "#0072b2",
    _deep.REPAIRED: "#009e73",
    _experiment.RECIPE: "#0072b2",
    _experiment.FROZEN: "#56b4e9",
    _experiment.SMALL: "#d55e00",
    _experiment.SCRATCH: "#e69f00",
    _experiment.LINEAR: "#8a8f98",
}
_MARKS = dict(zip(_COLOURS, "osD" + "osD^v", strict=True))
_SHOWN = 6  # pictures of a class, on either side


@dataclass(frozen=True)
class Picture:
    """One figure as two data URIs, and what it shows in words."""

    light: str
    dark: str
    words: str
    width: int


def picture(draw: Callable[[Any], None], words: str, *, size: Any) -> Picture:
    """Draw into a new figure of `size` inches, once for each ground."""
    light = _drawn(draw, size, text="#1f2328", ground="#ffffff", grid="#d8dce1")
    dark = _drawn(draw, size, text="#e6e8eb", ground="#1a1d23", grid="#3a3f47")
    return Picture(light, dark, words, round(size[0] * 100))


def _drawn(
    draw: Callable[[Any], None], size: Any, *, text: str, ground: str, grid: str
) -> str:
    import matplotlib as mpl
    from matplotlib.figure import Figure

    style: Any = {
        "text.color": text,
        "axes.labelcolor": text,
        "axes.edgecolor": grid,
        "axes.facecolor": ground,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.titlesize": "medium",
        "xtick.color": text,
        "ytick.color": text,
        "grid.color": grid,
        "figure.facecolor": ground,
        "legend.frameon": False,
        "font.size": 10,
    }
    with mpl.rc_context(style):
        figure = Figure(figsize=size, dpi=160, layout="constrained")
        draw(figure)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def signal(deep: Any) -> Picture:
    """Signal and gradient at each layer, for each start."""

    def draw(figure: Any) -> None:
        panels = figure.subplots(1, 2, squeeze=True)
        for axes, (column, title) in zip(
            panels, (("out", "signal"), ("grad", "gradient")), strict=True
        ):
            for name, report in deep.audits.items():
                values = [float(row[column]) for row in report.records()]
                axes.plot(
                    range(1, len(values) + 1), values, color=_COLOURS[name],
                    marker=_MARKS[name], markersize=3, label=name,
                )  # fmt: skip
            axes.set_yscale("log")
            axes.set_title(f"{title}, root mean square")
            axes.set_xlabel("layer")
            axes.grid(visible=True, axis="y")
        panels[0].legend(loc="lower left")

    words = "Root mean square of signal and gradient at each of 30 layers."
    return picture(draw, words, size=(8.4, 3.2))


def losses(deep: Any) -> Picture:
    """The loss while training, one thin line for each seed."""

    def draw(figure: Any) -> None:
        axes = figure.subplots()
        for name, found in deep.losses.items():
            smooth = _smoothed(found)
            label = f"{name}: accuracy {deep.scores[name]}"
            for number, line in enumerate(smooth.T):
                axes.plot(
                    line, color=_COLOURS[name], linewidth=1.2,
                    label=None if number else label,
                )  # fmt: skip
        axes.axhline(math.log(_deep.CLASSES), color="#8a8f98", linestyle=":")
        axes.annotate(
            "log 10: knows nothing",
            (1, math.log(_deep.CLASSES)),
            xycoords=("axes fraction", "data"),
            xytext=(-2, 4),
            textcoords="offset points",
            ha="right",
            color="#8a8f98",
        )
        axes.set_ylim(0, 2.75)
        axes.set_xlabel("step")
        axes.set_ylabel("loss, mean of 20 steps")
        axes.grid(visible=True, axis="y")
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=1)

    words = "Training loss of 30 layers of ReLU on digits, three starts."
    return picture(draw, words, size=(8.4, 4.2))


def _smoothed(found: np.ndarray, window: int = 20) -> np.ndarray:
    window = min(window, len(found))
    total = np.cumsum(np.concatenate([np.zeros((1, found.shape[1])), found]), 0)
    return (total[window:] - total[:-window]) / window


def accuracies(experiment: Any) -> Picture:
    """Test accuracy by labels a class, mean and spread over seeds."""

    def draw(figure: Any) -> None:
        axes = figure.subplots()
        methods = [name for name in _experiment.METHODS if name in _COLOURS]
        places = np.arange(len(experiment.labels), dtype=float)
        for number, name in enumerate(methods):
            scores = [experiment.scores[name, count] for count in experiment.labels]
            axes.errorbar(
                places + 0.06 * (number - (len(methods) - 1) / 2),
                [score.mean for score in scores],
                [score.spread for score in scores],
                color=_COLOURS[name], marker=_MARKS[name], capsize=3, label=name,
            )  # fmt: skip
        chance = 1 / len(experiment.task.classes)
        axes.axhline(chance, color="#8a8f98", linestyle=":")
        axes.annotate(
            "chance", (1, chance), xycoords=("axes fraction", "data"), ha="right",
            xytext=(-2, -13), textcoords="offset points", color="#8a8f98",
        )  # fmt: skip
        axes.set_xticks(places, [str(count) for count in experiment.labels])
        axes.set_xlim(-0.4, len(places) - 0.6)
        axes.set_xlabel("labels a class")
        axes.set_ylabel("accuracy on the test images")
        axes.set_ylim(0, 1.03)
        axes.grid(visible=True, axis="y")
        axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))

    words = "Test accuracy of each method by the number of labels a class."
    return picture(draw, words, size=(8.4, 3.9))


def examples(task: Task, seed: int) -> Picture:
    """Some pictures that were trained on, and some of the test."""
    parts = split(task, seed)
    classes = task.classes[:6]

    def draw(figure: Any) -> None:
        grid = figure.subplots(len(classes), 2 * _SHOWN + 1, squeeze=False)
        for row, name in enumerate(classes):
            test = parts.test[task.labels[parts.test] == row]
            chosen = [*parts.train[row][:_SHOWN], None, *test[:_SHOWN]]
            chosen += [None] * (2 * _SHOWN + 1 - len(chosen))
            for axes, number in zip(grid[row], _gapped(chosen), strict=True):
                axes.set_axis_off()
                if number is not None:
                    _show(axes, task.images[number])
            grid[row][0].set_title(name, loc="left", fontsize=10)
        grid[0][_SHOWN + 1].set_title("test", loc="left", fontsize=10)

    words = f"Examples of {', '.join(classes)}: to train on, left; of the test, right."
    return picture(draw, words, size=(8.4, 0.75 * len(classes) + 0.35 * len(classes)))


def _gapped(chosen: list[Any]) -> list[Any]:
    """With the gap in the middle, also where there are few to train on."""
    gap = chosen.index(None)
    return [*chosen[:gap], *[None] * (_SHOWN - gap), *chosen[gap:]][: 2 * _SHOWN + 1]


def _show(axes: Any, image: np.ndarray) -> None:
    shown = np.clip((image + 1) / 2, 0, 1)
    shown = shown[..., 0] if shown.shape[-1] == 1 else shown
    axes.imshow(shown, cmap="gray", vmin=0, vmax=1, interpolation="nearest")


def slices(found: tuple[Slice, ...]) -> Picture:
    """CT and MR as they were read."""

    def draw(figure: Any) -> None:
        panels = figure.subplots(1, len(found), squeeze=False)[0]
        for axes, part in zip(panels, found, strict=True):
            axes.imshow(part.pixels, cmap="gray", vmin=0, vmax=255)
            axes.set_axis_off()
            size = " by ".join(map(str, part.pixels.shape))
            axes.set_title(
                f"{part.modality}, {size}\n{part.low:.0f} to {part.high:.0f} "
                + part.unit
            )

    words = "A slice of CT and a slice of MR from the files that pydicom tests with."
    return picture(draw, words, size=(5.2, 3.0))
