"""Labelled pictures, and how they are split: a task."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from jaxinit._errors import DataError

MOST = 20  # labels a class, at most
STEPS = (5, 10, 20)


@dataclass(frozen=True)
class Task:
    """Pictures with labels.

    `images` is (n, height, width, channels) in the units of the network, about -1 to 1;
    `wide` the same at the size at which the pretrained network sees them. `held` is
    True where a picture may be used for testing only, or None where that is drawn.
    """

    name: str
    title: str
    about: str
    classes: tuple[str, ...]
    images: np.ndarray
    wide: np.ndarray
    labels: np.ndarray
    held: np.ndarray | None = None
    notes: tuple[str, ...] = field(default=())

    @property
    def channels(self) -> int:
        return self.images.shape[-1]

    @property
    def size(self) -> int:
        return self.wide.shape[1]


@dataclass(frozen=True)
class Split:
    """Numbers of pictures: for training by class, (classes, k), and for the rest."""

    train: np.ndarray
    validation: np.ndarray
    test: np.ndarray

    def first(self, labels: int) -> np.ndarray:
        """So many of each class, repeated to the full number: one shape for all."""
        most = self.train.shape[1]
        return np.tile(self.train[:, :labels], (1, most // labels)).reshape(-1)


def label_counts(task: Task) -> tuple[int, ...]:
    """How many labels a class there can be, those of 5, 10 and 20 that leave enough.

    As many again are for validation, and as many at least for the test.
    """
    available, tested = _available(task)
    room = available // 3 if task.held is None else min(available // 2, tested)
    found = tuple(step for step in STEPS if step <= room)
    if not found:
        need = (
            "15 in each class" if task.held is None else "10 to train on and 5 to test"
        )
        raise DataError(
            f"{task.title}: the smallest class has {available} images; the demo needs "
            f"{need}: 5 to train on, 5 to choose settings with, 5 to test"
        )
    return found


def split(task: Task, seed: int) -> Split:
    """Draw who trains, who decides about settings, who is tested; no image twice."""
    most = label_counts(task)[-1]
    random = np.random.default_rng(seed)
    train, validation, test = [], [], []
    for number in range(len(task.classes)):
        own = np.flatnonzero(task.labels == number)
        open_ = own if task.held is None else own[~task.held[own]]
        drawn = random.permutation(open_)
        train.append(drawn[:most])
        validation.append(drawn[most : 2 * most])
        test.append(drawn[2 * most :] if task.held is None else own[task.held[own]])
    return Split(np.stack(train), np.concatenate(validation), np.concatenate(test))


def _available(task: Task) -> tuple[int, int]:
    """The smallest number of images of a class to draw from, and of those held back."""
    held = np.zeros(len(task.labels), bool) if task.held is None else task.held
    numbers = range(len(task.classes))
    return (
        min(int(((task.labels == number) & ~held).sum()) for number in numbers),
        min(int(((task.labels == number) & held).sum()) for number in numbers),
    )
