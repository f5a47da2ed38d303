"""What a few seeds allow one to say."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Scores:
    """One number for each seed; its mean, and its spread.

    The spread is the standard deviation of the sample, with n - 1 in the denominator:
    of three seeds the other one would be too small by a fifth.

    >>> Scores((0.5, 0.7, 0.9)).spread
    0.2
    """

    values: tuple[float, ...]

    def __post_init__(self) -> None:
        if len(self.values) < 2:
            raise ValueError(f"a spread needs two seeds or more, got {self.values}")

    @property
    def mean(self) -> float:
        return math.fsum(self.values) / len(self.values)

    @property
    def spread(self) -> float:
        return round(float(np.std(self.values, ddof=1)), 12)

    def __str__(self) -> str:
        return f"{self.mean:.3f} ± {self.spread:.3f}"


@dataclass(frozen=True)
class Verdict:
    """Whether one mean lies above another by more than both spreads together."""

    ours: str
    other: str
    where: str
    margin: float
    noise: float

    @property
    def beats(self) -> bool:
        return self.margin > self.noise

    def __str__(self) -> str:
        if self.beats:
            said = "by more than the spread"
        elif self.margin < -self.noise:
            said = "worse by more than the spread"
        else:
            said = "within the spread"
        return f"{self.margin:+.3f} against ±{self.noise:.3f}: {said}"


def compare(
    ours: Scores, other: Scores, *, names: Sequence[str], where: str
) -> Verdict:
    """The verdict, with the sum of both spreads as the noise."""
    return Verdict(
        ours=names[0],
        other=names[1],
        where=where,
        margin=ours.mean - other.mean,
        noise=ours.spread + other.spread,
    )


def accuracy(logits: np.ndarray, labels: np.ndarray) -> float:
    """The share of examples whose largest logit is their label's."""
    return float((np.asarray(logits).argmax(-1) == labels).mean())


def log_loss(logits: np.ndarray, labels: np.ndarray) -> float:
    """The mean of −log p(label), for choices where accuracies are the same."""
    logits = np.asarray(logits, np.float64)
    shifted = logits - logits.max(-1, keepdims=True)
    total = np.log(np.exp(shifted).sum(-1))
    return float((total - shifted[np.arange(len(labels)), labels]).mean())


def quality(logits: np.ndarray, labels: np.ndarray) -> tuple[float, float]:
    """What settings are chosen by, on validation data: accuracy, then the log loss."""
    return accuracy(logits, labels), -log_loss(logits, labels)
