"""The page: one file that needs no other, for wide and narrow, light and dark."""

from __future__ import annotations

import importlib.resources
from typing import Any

from jaxinit import __version__
from jaxinit.demo import _deep, _experiment, _figures
from jaxinit.demo._network import WHOLE
from jaxinit.demo._run import Found


def page(found: Found) -> str:
    """The whole page as text."""
    import jinja2

    file = importlib.resources.files("jaxinit.demo").joinpath("_page.html")
    text = file.read_text(encoding="utf-8")
    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )  # fmt: skip
    return environment.from_string(text).render(_facts(found))


def _facts(found: Found) -> dict[str, Any]:
    experiment, deep = found.experiment, found.deep
    verdicts = experiment.verdicts()
    against = [v for v in verdicts if v.other in _experiment.BASELINES]
    fates: dict[str, int] = {}
    for fate in experiment.merge.target_fates.values():
        fates[fate] = fates.get(fate, 0) + 1
    return {
        "version": __version__,
        "found": found,
        "experiment": experiment,
        "deep": deep,
        "start": found.start,
        "proof": found.proof,
        "fates": fates,
        "left": sum(f != "used" for f in experiment.merge.source_fates.values()),
        "methods": _experiment.METHODS,
        "recipe": _experiment.RECIPE,
        "best": _best(experiment),
        "rows_of_depth": _depths(experiment),
        "against": against,
        "unfreezing": [v for v in verdicts if v.other == _experiment.FROZEN],
        "deep_verdicts": found.deep_verdicts(),
        "headline": headline(found),
        "layers": _deep.LAYERS,
        "xavier": _deep.XAVIER,
        "he": _deep.HE,
        "figures": {
            "signal": _figures.signal(deep),
            "losses": _figures.losses(deep),
            "examples": _figures.examples(experiment.task, found.seeds[0]),
            "accuracies": _figures.accuracies(experiment),
            "slices": _figures.slices(found.proof.slices),
        },
    }


def headline(found: Found) -> str:
    """What the transfer came to, in one sentence that is no stronger than the data."""
    experiment = found.experiment
    verdicts = [v for v in experiment.verdicts() if v.other in _experiment.BASELINES]
    won = sum(v.beats for v in verdicts)
    if won == len(verdicts):
        return (
            "Transfer beat every baseline by more than the spread over seeds, "
            "at every number of labels."
        )
    return (
        f"Transfer beat a baseline by more than the spread over seeds in {won} of "
        f"{len(verdicts)} comparisons; the rest is within the spread, or worse."
    )


def _best(experiment: Any) -> dict[int, str]:
    """The method with the highest mean, for each number of labels."""
    return {
        count: max(
            _experiment.METHODS, key=lambda name: experiment.scores[name, count].mean
        )
        for count in experiment.labels
    }


def _depths(experiment: Any) -> list[tuple[str, bool, list[Any]]]:
    return [
        (
            "the whole network, 1280 features"
            if cut == WHOLE
            else f"{cut} of 16 blocks",
            cut == experiment.cut,
            [experiment.depths[cut, count] for count in experiment.labels],
        )
        for cut in sorted({cut for cut, _ in experiment.depths})
    ]
