"""Subtracting the mean of the training data, as part of the model's own state.

The mean is fitted once, on training data only, and is a pytree: it is an argument of
the jitted step beside the parameters, and is saved with them, so that whoever loads the
model subtracts what it was trained with.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

__all__ = ["Mean", "fit_mean"]


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class Mean:
    """The mean of the inputs, and their variance if it was asked for.

    Both have the shape of one example, with 1 for each further axis that was averaged.
    """

    mean: Any
    variance: Any = None

    def apply(self, x: Any) -> Any:
        """x − mean, divided by √variance where one was fitted.

        `x` is one example or has any axes in front of it. Computed in float32 or wider;
        whole numbers, such as uint8 images, become floats, other dtypes stay. Where the
        variance is 0, so that training data do not vary, nothing is divided. Another
        shape is a ValueError.
        """
        x = jnp.asarray(x)
        mean = jnp.asarray(self.mean)
        own = x.shape[x.ndim - mean.ndim :] if x.ndim >= mean.ndim else x.shape
        if len(own) != mean.ndim or any(
            b not in (1, a) for a, b in zip(own, mean.shape, strict=True)
        ):
            raise ValueError(
                f"x has shape {x.shape}, and the mean was fitted to examples of shape "
                f"{mean.shape}: give examples of that shape, with batch axes in front"
            )
        whole = not jnp.issubdtype(x.dtype, jnp.floating)
        result = mean.dtype if whole else x.dtype
        wide = jnp.float32 if result.itemsize < 4 else result

        def placed(array: Any) -> Any:
            return array.reshape((1,) * (x.ndim - mean.ndim) + mean.shape).astype(wide)

        centred = x.astype(wide) - placed(mean)
        if self.variance is not None:
            variance = placed(jnp.asarray(self.variance))
            centred = centred / jnp.sqrt(jnp.where(variance > 0, variance, 1))
        return centred.astype(result)


def fit_mean(
    batches: Any,
    *,
    axis: int | tuple[int, ...] = 0,
    variance: bool = False,
    dtype: Any = jnp.float32,
) -> Mean:
    """The mean over the examples of all batches, which should be training data only.

    `batches` is one array, read 1024 examples at a time, or an iterable of arrays of
    any length, shaped (examples, ...). `axis` says what is averaged: 0 gives the mean
    image, (0, 1, 2) of images with their channels last one number per channel. With
    `variance` the mean square deviation, over the number of examples, is fitted too.
    Batches are combined by their sizes in float64 (Chan, Golub and LeVeque, 1979), and
    the result is cast to `dtype` once. Host only.

    No example, different shapes, and numbers that are not finite are a ValueError that
    names the batch.

    >>> import numpy as np
    >>> centre = fit_mean([np.array([[0.0, 1.0]]), np.array([[3.0, 4.0], [6.0, 7.0]])])
    >>> centre.mean.tolist()
    [3.0, 4.0]
    >>> centre.apply(np.array([[3.0, 5.0]], np.float32)).tolist()
    [[0.0, 1.0]]
    """
    axes = (axis,) if isinstance(axis, int) else tuple(axis)
    if hasattr(batches, "shape"):
        batches = _slices(batches)
    elif not isinstance(batches, Iterable):
        raise ValueError(f"batches must be arrays (examples, ...), got {batches!r}")
    count, mean, square, shape = 0, np.zeros(()), np.zeros(()), None
    for i, batch in enumerate(batches):
        batch = _checked_batch(batch, i, axes, shape)
        shape = batch.shape[1:]
        if not len(batch):
            continue
        size = batch.size // np.prod(
            [n for k, n in enumerate(shape, 1) if k not in axes]
        )
        here = batch.mean(axis=axes, keepdims=True)
        square_here = np.square(batch - here).sum(axis=axes, keepdims=True)
        total = count + size
        shift = here - mean
        mean = mean + shift * (size / total)
        square = square + square_here + np.square(shift) * (count * size / total)
        count = total
    if not count:
        raise ValueError("batches: there is no example to fit the mean to")
    spread = jnp.asarray(square[0] / count, dtype) if variance else None
    return Mean(jnp.asarray(mean[0], dtype), spread)


def _slices(array: Any) -> Iterable[Any]:
    """One array in slices, so that float64 copies stay small."""
    if isinstance(array, Tracer) or not array.ndim:
        return [array]
    return (array[i : i + 1024] for i in range(0, len(array), 1024))


def _checked_batch(batch: Any, i: int, axes: tuple[int, ...], shape: Any) -> np.ndarray:
    if isinstance(batch, Tracer):
        raise ValueError("batches: fit_mean runs on the host, before the jitted step")
    batch = np.asarray(batch).astype(np.float64)
    if 0 not in axes or any(not 0 <= k < max(batch.ndim, 1) for k in axes):
        raise ValueError(
            f"axis must hold 0, the examples, and axes of a batch of shape "
            f"{batch.shape}, got {axes}"
        )
    if batch.ndim == 0:
        raise ValueError(f"batches[{i}] is a number; a batch is (examples, ...)")
    if shape is not None and batch.shape[1:] != shape:
        raise ValueError(
            f"batches[{i}] holds examples of shape {batch.shape[1:]}, the ones before "
            f"it of {shape}"
        )
    if not np.isfinite(batch).all():
        raise ValueError(f"batches[{i}] holds numbers that are not finite")
    return batch
