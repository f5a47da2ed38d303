"""Transfer and its baselines, at few labels, over several seeds."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import jax
import numpy as np

from jaxinit import initializers
from jaxinit.demo import _finetuning as tuning
from jaxinit.demo._linear import Linear, fit
from jaxinit.demo._network import WHOLE, EfficientNetLite0
from jaxinit.demo._pictures import Split, Task, label_counts, split
from jaxinit.demo._statistics import Scores, Verdict, accuracy, compare, quality
from jaxinit.demo._training import Scratch, SmallNetwork

RECIPE = "ImageNet, then unfrozen"
FROZEN = "ImageNet, frozen, new head"
LINEAR = "linear, raw pixels"
SMALL = "small CNN from scratch, He"
SCRATCH = "same network from scratch"
LAGGING = "  its statistics not renewed"
METHODS = (RECIPE, FROZEN, SMALL, SCRATCH, LAGGING, LINEAR)
BASELINES = (SMALL, SCRATCH, LINEAR)

Progress = Callable[[str, int], Callable[[], None]]


@dataclass(frozen=True)
class Effort:
    """How long to train, and what to choose from."""

    unfreezing: int = 40
    small: int = 150
    scratch: int = 60
    unfreezing_rates: tuple[float, ...] = (1e-4, 3e-4)
    small_rates: tuple[float, ...] = (1e-3, 3e-3)
    starts: tuple[tuple[str, float], ...] = (
        ("he_normal()", 1e-3),
        ("he_normal()", 3e-3),
        ("normal(0.01)", 1e-3),
    )
    labels: tuple[int, ...] | None = None  # a class; None: 5, 10 and 20


@dataclass(frozen=True)
class Experiment:
    """Test accuracies by method and labels a class, and how they came about."""

    task: Task
    labels: tuple[int, ...]
    seeds: tuple[int, ...]
    scores: dict[tuple[str, int], Scores]
    depths: dict[tuple[int, int], Scores]
    cut: int
    chosen: dict[str, str]
    merge: Any
    tested: int
    seconds: dict[str, float] = field(default_factory=dict)

    def verdicts(self) -> list[Verdict]:
        """The whole recipe against each baseline, and against its own first step."""
        return [
            compare(
                self.scores[RECIPE, count],
                self.scores[other, count],
                names=(RECIPE, other),
                where=f"{count} labels a class",
            )
            for count in self.labels
            for other in (*BASELINES, FROZEN)
        ]


class Runner:
    """One task; each stage fills in scores, and notes what was chosen and why."""

    def __init__(
        self, task: Task, *, seeds: tuple[int, ...], effort: Effort, progress: Progress
    ) -> None:
        self.task, self.seeds, self.effort, self.progress = (
            task,
            seeds,
            effort,
            progress,
        )
        possible = label_counts(task)
        wanted = effort.labels or possible
        # The demo's numbers as far as there are images for them.
        self.labels = tuple(n for n in possible if n in wanted) or possible[-1:]
        self.splits = {seed: split(task, seed) for seed in seeds}
        self.found: dict[tuple[str, int], list[float]] = {}
        self.depths: dict[tuple[int, int], list[float]] = {}
        self.chosen: dict[str, str] = {}
        self.seconds: dict[str, float] = {}
        # Settings are chosen once, with the first seed and this many labels.
        self.pilot = (seeds[0], self.labels[min(1, len(self.labels) - 1)])

    def run(self) -> Experiment:
        """All stages, in order."""
        for name, stage in (
            ("linear", self._linear),
            ("pretrained", self._pretrained),
            ("small", self._small),
            ("scratch", self._scratch),
        ):
            begun = time.perf_counter()
            stage()
            self.seconds[name] = time.perf_counter() - begun
        return Experiment(
            task=self.task,
            labels=self.labels,
            seeds=self.seeds,
            scores={key: Scores(tuple(found)) for key, found in self.found.items()},
            depths={key: Scores(tuple(found)) for key, found in self.depths.items()},
            cut=self.cut,
            chosen=self.chosen,
            merge=self.merge,
            tested=len(self.splits[self.seeds[0]].test),
            seconds=self.seconds,
        )

    def _runs(self) -> list[tuple[int, int]]:
        return [(seed, count) for count in self.labels for seed in self.seeds]

    def _fit(self, x: np.ndarray, parts: Split, count: int) -> Linear:
        y, train = self.task.labels, parts.train[:, :count].reshape(-1)
        return fit(x[train], y[train], x[parts.validation], y[parts.validation])

    def _linear(self) -> None:
        x = self.task.images.reshape(len(self.task.labels), -1)
        tick = self.progress("linear on raw pixels", len(self._runs()))
        for seed, count in self._runs():
            parts = self.splits[seed]
            linear = self._fit(x, parts, count)
            self._record(LINEAR, count, linear(x[parts.test]), parts)
            tick()

    def _pretrained(self) -> None:
        task, classes = self.task, len(self.task.classes)
        key = jax.random.key(self.seeds[0])
        options = {"channels": task.channels, "key": key, "size": task.size}
        whole, _ = tuning.merged(classes, cut=max(tuning.STARTS), **options)
        found = tuning.features(whole, task.wide, classes)
        heads: dict[tuple[int, int, int], Linear] = {}
        tick = self.progress("heads on frozen features", len(self._runs()))
        for seed, count in self._runs():
            parts = self.splits[seed]
            for cut in tuning.STARTS:
                x = found[f"mean {cut}"]
                head = heads[cut, seed, count] = self._fit(x, parts, count)
                right = accuracy(head(x[parts.test]), task.labels[parts.test])
                self.depths.setdefault((cut, count), []).append(right)
            tick()
        self.cut = max(tuning.STARTS, key=lambda cut: self._agreement(heads, cut))
        self.chosen["where the network ends"] = _place(self.cut)
        for seed, count in self._runs():
            x, parts = found[f"mean {self.cut}"], self.splits[seed]
            self._record(
                FROZEN, count, heads[self.cut, seed, count](x[parts.test]), parts
            )
        variables, self.merge = tuning.merged(classes, cut=self.cut, **options)
        self._unfreeze(variables, heads, found)

    def _agreement(self, heads: Any, cut: int) -> tuple[float, ...]:
        """The mean quality on validation data at the pilot's number of labels."""
        found = [heads[cut, seed, self.pilot[1]].quality for seed in self.seeds]
        return tuple(np.mean(found, 0))

    def _unfreeze(self, variables: Any, heads: Any, found: Any) -> None:
        steps, rates = self.effort.unfreezing, self.effort.unfreezing_rates
        network = tuning.Unfreezing(
            variables, classes=len(self.task.classes), cut=self.cut, steps=steps
        )
        maps, y = found[f"block {network.start}"], self.task.labels
        total = (_tried(rates) + len(self._runs())) * steps
        tick = self.progress("gradual unfreezing", total)

        def trained(run: tuple[int, int], rate: float) -> Any:
            seed, count = run
            train = self.splits[seed].first(count)
            head = heads[self.cut, seed, count]
            return network.train(
                head, maps[train], y[train], rate=rate, seed=seed, tick=tick
            )

        rate = self._best("rate of unfreezing", rates, trained, network.logits, maps)
        for seed, count in self._runs():
            after, test = trained((seed, count), rate), self.splits[seed].test
            logits = network.logits(after, maps[test])
            self._record(RECIPE, count, logits, self.splits[seed])

    def _small(self) -> None:
        network = Scratch(SmallNetwork(len(self.task.classes)))
        images, y = self.task.images, self.task.labels
        steps, rates = self.effort.small, self.effort.small_rates
        tick = self.progress("small CNN", (_tried(rates) + len(self._runs())) * steps)

        def trained(run: tuple[int, int], rate: float) -> Any:
            seed, count = run
            train = self.splits[seed].first(count)
            start = network.draw(jax.random.key(seed), images)
            return network.train(
                start, images[train], y[train], rate=rate, steps=steps, seed=seed,
                tick=tick,
            )  # fmt: skip

        rate = self._best(
            "rate of the small CNN", rates, trained, network.logits, images
        )
        for seed, count in self._runs():
            logits = network.logits(
                trained((seed, count), rate), images[self.splits[seed].test]
            )
            self._record(SMALL, count, logits, self.splits[seed])

    def _scratch(self) -> None:
        model = EfficientNetLite0(classes=len(self.task.classes), cut=self.cut)
        network, images, y = Scratch(model), self.task.wide, self.task.labels
        steps, starts = self.effort.scratch, self.effort.starts
        inits = {
            "he_normal()": initializers.he_normal(),
            "normal(0.01)": initializers.normal(0.01),
        }
        total = (_tried(starts) + len(self._runs())) * steps
        tick = self.progress("the same network from scratch", total)

        def trained(run: tuple[int, int], start: tuple[str, float]) -> tuple[Any, Any]:
            seed, count = run
            train = self.splits[seed].first(count)
            drawn = network.draw(
                jax.random.key(seed), images, kernel_init=inits[start[0]]
            )
            variables = network.train(
                drawn, images[train], y[train], rate=start[1], steps=steps, seed=seed,
                tick=tick,
            )  # fmt: skip
            return variables, network.renewed(variables, images[train])

        def logits(pair: tuple[Any, Any], x: np.ndarray) -> np.ndarray:
            return network.logits(pair[1], x)

        start = self._best(
            "start of the scratch network", starts, trained, logits, images
        )
        for seed, count in self._runs():
            parts = self.splits[seed]
            variables, renewed = trained((seed, count), start)
            for name, given in ((LAGGING, variables), (SCRATCH, renewed)):
                self._record(
                    name, count, network.logits(given, images[parts.test]), parts
                )

    def _best(
        self, name: str, options: Any, trained: Any, logits: Any, images: np.ndarray
    ) -> Any:
        """The option that does best on the pilot's validation data."""
        if len(options) == 1:
            return options[0]
        parts = self.splits[self.pilot[0]]
        y = self.task.labels[parts.validation]
        results = {
            option: quality(
                logits(trained(self.pilot, option), images[parts.validation]), y
            )
            for option in options
        }
        best = max(results, key=partial(dict.__getitem__, results))
        tried = ", ".join(f"{_said(o)} {q[0]:.2f}" for o, q in results.items())
        self.chosen[name] = f"{_said(best)} (on validation: {tried})"
        return best

    def _record(self, name: str, count: int, logits: np.ndarray, parts: Split) -> None:
        right = accuracy(logits, self.task.labels[parts.test])
        self.found.setdefault((name, count), []).append(right)


def _tried(options: Any) -> int:
    """One option needs no trial."""
    return len(options) if len(options) > 1 else 0


def _said(option: Any) -> str:
    return (
        f"{option[0]} at {option[1]:g}" if isinstance(option, tuple) else f"{option:g}"
    )


def _place(cut: int) -> str:
    return "whole" if cut == WHOLE else f"behind block {cut - 1} of 15"
