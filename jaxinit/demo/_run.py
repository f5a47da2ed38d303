"""The whole demo: what it measures, in order, and what it found."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from jaxinit.demo import _deep, _experiment, _proof, _start
from jaxinit.demo._network import WHOLE
from jaxinit.demo._pictures import Task, label_counts
from jaxinit.demo._statistics import Verdict, compare

_AUDITED_QUICKLY = 5  # blocks: it is all compilation

Progress = Callable[[str, int], Callable[[], None]]

QUICK = _experiment.Effort(
    unfreezing=14,
    small=100,
    scratch=14,
    unfreezing_rates=(3e-4,),
    small_rates=(3e-3,),
    starts=(("normal(0.01)", 1e-3),),
    labels=(10,),
)


@dataclass(frozen=True)
class Found:
    """Everything that the page and the summary show."""

    seeds: tuple[int, ...]
    quick: bool
    start: _start.Start
    deep: _deep.Deep
    proof: _proof.Proof
    experiment: _experiment.Experiment
    seconds: dict[str, float]

    @property
    def sound(self) -> bool:
        """Whether everything that must be exact was: the same bits, the same logits."""
        return self.start.identical and self.proof.holds

    def deep_verdicts(self) -> list[Verdict]:
        """He, and the repaired start, against Xavier."""
        scores = self.deep.scores
        return [
            compare(
                scores[name],
                scores[_deep.XAVIER],
                names=(name, _deep.XAVIER),
                where=f"{_deep.LAYERS} layers of ReLU on digits",
            )
            for name in (_deep.HE, _deep.REPAIRED)
        ]

    def to_dict(self) -> dict[str, Any]:
        """All numbers, as `json.dumps` takes them."""
        experiment = self.experiment
        return {
            "seeds": list(self.seeds),
            "quick": self.quick,
            "sound": self.sound,
            "seconds": {name: round(value, 2) for name, value in self.seconds.items()},
            "materialize": {
                "seconds": round(self.start.materialize, 3),
                "seconds of jit": round(self.start.jit, 3),
                "identical": self.start.identical,
            },
            "logits": {
                "relative error": self.proof.relative,
                "one channel against three": self.proof.one_channel,
            },
            "deep": {
                name: list(scores.values) for name, scores in self.deep.scores.items()
            },
            "task": experiment.task.name,
            "test images": experiment.tested,
            "accuracies": {
                name.strip(): {
                    str(count): list(experiment.scores[name, count].values)
                    for count in experiment.labels
                }
                for name in _experiment.METHODS
            },
            "chosen": experiment.chosen,
            "verdicts": [
                {
                    "ours": verdict.ours,
                    "other": verdict.other.strip(),
                    "where": verdict.where,
                    "margin": round(verdict.margin, 4),
                    "noise": round(verdict.noise, 4),
                    "beats": verdict.beats,
                }
                for verdict in (*self.deep_verdicts(), *experiment.verdicts())
            ],
        }


def run(
    task: Task,
    *,
    seed: int = 0,
    count: int = 3,
    quick: bool = False,
    effort: _experiment.Effort | None = None,
    deep_steps: int | None = None,
    progress: Progress = lambda name, total: lambda: None,
) -> Found:
    """Measure it all with the seeds `seed`, `seed` + 1, ..., `count` of them."""
    label_counts(task)  # too few images are said at once, not in the middle
    seeds = tuple(range(seed, seed + count))
    effort = effort or (QUICK if quick else _experiment.Effort())
    steps = deep_steps or (300 if quick else 600)
    seconds: dict[str, float] = {}
    start = _clocked(
        seconds,
        "first parameters",
        lambda: _start.measure(
            seed,
            audited=_AUDITED_QUICKLY if quick else WHOLE,
            tick=progress("first parameters", 3),
        ),
    )
    proof = _clocked(
        seconds,
        "checkpoint",
        lambda: _proof.measure(progress("torch checkpoint", 4)),
    )
    deep = _clocked(
        seconds,
        "30 layers",
        lambda: _deep.measure(
            list(seeds), steps, progress("30 layers on digits", count + 6)
        ),
    )
    runner = _experiment.Runner(task, seeds=seeds, effort=effort, progress=progress)
    experiment = _clocked(seconds, "transfer", runner.run)
    seconds["all"] = math.fsum(seconds.values())
    return Found(seeds, quick, start, deep, proof, experiment, seconds)


def _clocked(seconds: dict[str, float], name: str, function: Callable[[], Any]) -> Any:
    begun = time.perf_counter()
    result = function()
    seconds[name] = time.perf_counter() - begun
    return result
