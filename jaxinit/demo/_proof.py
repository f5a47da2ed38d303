"""A checkpoint of torch's in Flax: planned, merged, and proved on two photographs."""

from __future__ import annotations

import hashlib
import importlib.resources
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxinit import transfer as tr
from jaxinit.demo import _medical
from jaxinit.demo._network import EfficientNetLite0, checkpoint, rules

TOLERANCE = 1e-5  # of the largest logit, as torch's own versions differ
# The check sum of the photographs that torch was shown, as they were decoded.
_PICTURES = "ca12c6fbe1bec166d00ce80a41749dfa2ccfccffcba3da1ae33a92c56ba64cdf"
_SIZE = 208  # of the photographs, so that slices need no further compilation


@dataclass(frozen=True)
class Proof:
    """Logits against those that torch gave, and one channel against three."""

    unplanned: Any
    report: Any
    relative: float
    same_pictures: bool
    classes: tuple[int, ...]
    slices: tuple[_medical.Slice, ...]
    one_channel: float

    @property
    def holds(self) -> bool:
        """Whether the network says what torch said."""
        return self.relative <= TOLERANCE


def measure(tick: Callable[[], None]) -> Proof:
    """Plan a grey network of 3 classes, merge all, compare; then read CT and MR."""
    source = checkpoint()
    grey = EfficientNetLite0(classes=3)
    target = jax.eval_shape(grey.init, jax.random.key(0), jnp.zeros((1, 64, 64, 1)))
    # What a plan says before anything is said about it: the channels and the head.
    unplanned = tr.plan(target, source, rules())
    tick()
    whole = EfficientNetLite0()
    target = jax.eval_shape(whole.init, jax.random.key(0), jnp.zeros((1, 64, 64, 3)))
    variables, report = tr.merge(target, source, rules())
    images, wanted = photographs(), _recorded()
    tick()
    with jax.default_matmul_precision("highest"):
        apply = jax.jit(whole.apply)
        logits = np.asarray(apply(variables, images))
        tick()
        slices = tuple(_medical.examples())
        one = _one_channel(source, apply, variables, slices)
    tick()
    found = hashlib.sha256(images.tobytes()).hexdigest()
    return Proof(
        unplanned=unplanned,
        report=report,
        relative=float(np.abs(logits - wanted).max() / np.abs(wanted).max()),
        same_pictures=found == _PICTURES,
        classes=tuple(int(label) for label in logits.argmax(-1)),
        slices=slices,
        one_channel=one,
    )


def photographs() -> np.ndarray:
    """The middle of two photographs at half their size, as the network wants them."""
    from sklearn.datasets import load_sample_image

    found = []
    for name in ("china", "flower"):
        image = load_sample_image(f"{name}.jpg")[5:421, 112:528].astype(np.float32)
        found.append((image.reshape(208, 2, 208, 2, 3).mean((1, 3)) - 127) / 128)
    return np.stack(found)


def _recorded() -> np.ndarray:
    """What torch 2.13 said about them: tests/transfer/make_efficientnet.py."""
    file = importlib.resources.files("jaxinit.demo") / "_recorded.npy"
    with importlib.resources.as_file(file) as path:
        return np.load(path)


def _one_channel(source: Any, colour: Any, variables: Any, slices: Any) -> float:
    """How far the sum over channels is from repeating the slice in all three."""
    from jaxinit.demo._builtin import enlarged

    pictures = [_as_input(part.pixels) for part in slices]
    x = np.concatenate([enlarged(picture, _SIZE) for picture in pictures])
    grey = EfficientNetLite0()
    target = jax.eval_shape(grey.init, jax.random.key(0), x[:1])
    adapted, _ = tr.merge(target, source, rules(channels=1))
    one = np.asarray(jax.jit(grey.apply)(adapted, x))
    three = np.asarray(colour(variables, np.repeat(x, 3, -1)))
    return float(np.abs(one - three).max() / np.abs(three).max())


def _as_input(pixels: np.ndarray) -> np.ndarray:
    """One slice as a batch, in the units of the network."""
    return ((pixels - 127) / 128)[None, :, :, None].astype(np.float32)
