"""Learned positions for other grids, sequences and patches."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from jaxinit.transfer.adapters._common import check_prefix, narrow, require, wide
from jaxinit.transfer.adapters._resizing import (
    METHODS,
    Method,
    resize_axis,
    resizing_matrix,
)


def resize_position_grid(
    table: Any,
    *,
    old_grid: Sequence[int],
    new_grid: Sequence[int],
    prefix: int = 0,
    method: Method = "cubic",
    antialias: bool = True,
) -> jax.Array:
    """Position embeddings of one grid of patches, interpolated to another.

    The rows behind the prefix are a picture of old_grid pixels with as many channels as
    the embedding is wide; it is resized with half-pixel centers. Class and register
    tokens, the prefix, stay as they are.

    Args:
      table: (..., prefix + height * width, features).
      old_grid: height and width of the grid that the table was trained on. It is not
        guessed: 144 rows are 12 x 12, 9 x 16 or 8 x 18.
      new_grid: height and width of the new one.
      prefix: how many tokens stand before the grid.
      method: "cubic" (Keys, a = -1/2), "linear" or "nearest".
      antialias: whether a smaller grid averages over what it leaves out.

    Returns:
      (..., prefix + new height * new width, features), in the dtype of the table.

    Raises:
      ValueError: the table has not as many rows as prefix and old grid say.

    Source: Dosovitskiy et al. 2021, section 3.2; the defaults are those of timm
    (`resample_abs_pos_embed`), and so are the numbers, to 1e-5.

    >>> import jax.numpy as jnp
    >>> from jaxinit.transfer import adapters
    >>> table = jnp.zeros((1, 1 + 14 * 14, 64))
    >>> grids = {"old_grid": (14, 14), "new_grid": (9, 16)}
    >>> adapters.resize_position_grid(table, **grids, prefix=1).shape
    (1, 145, 64)
    """
    values = wide(table)
    require("method", method, METHODS)
    old, new = _grid("old_grid", old_grid), _grid("new_grid", new_grid)
    rows = values.shape[-2] if values.ndim >= 2 else 0
    if rows != prefix + math.prod(old) or prefix < 0:
        raise ValueError(
            f"table of shape {values.shape} has {rows} rows, not {prefix} of a prefix "
            f"and {math.prod(old)} of a grid of {old}"
        )
    first, positions = values[..., :prefix, :], values[..., prefix:, :]
    batch, features = values.shape[:-2], values.shape[-1]
    picture = positions.reshape(*batch, *old, features)
    for axis, size in zip((-3, -2), new, strict=True):
        picture = resize_axis(picture, axis, size, method, antialias)
    resized = picture.reshape(*batch, math.prod(new), features)
    return narrow(jnp.concatenate([first, resized], -2), table)


def resize_positions(
    table: Any,
    *,
    length: int,
    prefix: int = 0,
    method: Literal["cubic", "linear", "nearest", "truncate"] = "linear",
    antialias: bool = True,
) -> jax.Array:
    """Position embeddings of a sequence, for another length.

    "truncate" keeps the first ones, which is exact for shorter sequences; the other
    methods stretch or shrink all of them alike, with half-pixel centers.

    Args:
      table: (..., prefix + positions, features).
      length: how many rows there are to be, the prefix included.
      prefix: how many rows stand before the positions and stay as they are.
      method: see above.
      antialias: whether a shorter table averages over what it leaves out.

    Returns:
      (..., length, features), in the dtype of the table.

    Raises:
      ValueError: an option is unknown, or "truncate" is asked for more rows than there
        are.

    >>> import jax.numpy as jnp
    >>> from jaxinit.transfer import adapters
    >>> table = jnp.arange(4.0)[:, None]
    >>> adapters.resize_positions(table, length=8)[:, 0].tolist()
    [0.0, 0.25, 0.75, 1.25, 1.75, 2.25, 2.75, 3.0]
    """
    values = wide(table)
    require("method", method, (*METHODS, "truncate"))
    if values.ndim < 2:
        raise ValueError(f"table must be (rows, features), got shape {values.shape}")
    rows = values.shape[-2]
    check_prefix(prefix, min(rows, length))
    if method == "truncate":
        if length > rows:
            raise ValueError(
                f'method="truncate" cannot make {length} rows of {rows}; use "linear"'
            )
        return narrow(values[..., :length, :], table)
    first, positions = values[..., :prefix, :], values[..., prefix:, :]
    resized = resize_axis(positions, -2, length - prefix, method, antialias)
    return narrow(jnp.concatenate([first, resized], -2), table)


def resize_patch_kernel(
    kernel: Any,
    *,
    size: Sequence[int],
    method: Method = "cubic",
    antialias: bool = True,
) -> jax.Array:
    """A patch embedding for patches of another size, by the pseudo-inverse.

    With B the matrix that resizes a patch, W' = pinv(Bᵀ) W is the kernel for which a
    resized patch gives what the patch gave, as nearly as a kernel can. (Resizing the
    kernel as if it were a picture changes the size of its response instead.)

    Args:
      kernel: (height, width, in, out).
      size: the new height and width.
      method: how pictures are resized: "cubic", "linear" or "nearest".
      antialias: whether smaller pictures average over what they leave out.

    Returns:
      ``(*size, in, out)``, in the dtype of the kernel.

    Raises:
      ValueError: an option is unknown, or the kernel has not four axes.

    Source: Beyer et al. 2023 (FlexiViT), equation 5; the defaults are those of timm
    (`resample_patch_embed`), and so are the numbers, to 1e-5.

    >>> import jax.numpy as jnp
    >>> from jaxinit.transfer import adapters
    >>> adapters.resize_patch_kernel(jnp.ones((8, 8, 3, 64)), size=(16, 16)).shape
    (16, 16, 3, 64)
    """
    values = wide(kernel)
    require("method", method, METHODS)
    new = _grid("size", size)
    if values.ndim != 4:
        raise ValueError(
            f"kernel must be (height, width, in, out), got shape {values.shape}"
        )
    old = values.shape[:2]
    # Heights and widths are resized apart, Bᵀ = H ⊗ W, and so are their inverses.
    down, across = (
        jnp.asarray(
            np.linalg.pinv(resizing_matrix(n, k, method, antialias)), values.dtype
        )
        for n, k in zip(old, new, strict=True)
    )
    highest = jax.lax.Precision.HIGHEST
    made = jnp.einsum("Hh,Ww,hwio->HWio", down, across, values, precision=highest)
    return narrow(made, kernel)


def _grid(argument: str, sizes: Sequence[int]) -> tuple[int, int]:
    sizes = tuple(sizes) if isinstance(sizes, Sequence) else (sizes,)
    if len(sizes) != 2 or not all(isinstance(n, int) and n > 0 for n in sizes):
        raise ValueError(f"{argument} must be a height and a width, got {sizes}")
    return sizes[0], sizes[1]
