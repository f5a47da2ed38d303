"""More words, and fewer units, than the network was trained with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from jaxinit._keys import require_key
from jaxinit.transfer.adapters._common import narrow, require, wide


def extend_vocabulary(
    table: Any,
    *,
    size: int,
    mode: Literal["mean", "covariance"] = "mean",
    key: Any = None,
    scale: float = 1.0,
    axis: int = 0,
) -> jax.Array:
    """Rows for new words behind those of the old ones, which stay as they are.

    - "mean": the mean m of the old rows, so that no new word is likelier than the
      average; all new rows are equal, until they are trained.
    - "covariance": m plus normal noise with the covariance of the old rows times
      scale², so that they differ as words do.

    Args:
      table: an embedding (words, features), a head's kernel with axis=-1, or its bias.
      size: how many words there are to be.
      mode: see above.
      key: for "covariance". A merge gives its own, folded with the name of the leaf.
      scale: the size of the noise.
      axis: along which the words lie.

    Returns:
      The table with `size` words, in its dtype.

    Raises:
      ValueError: the table has more words, or "covariance" has no key or one word only.

    Source: Hewitt 2021, "Initializing new word embeddings for pretrained language
    models": with the mean, the normalizer grows by a factor of at most 1 + k/n.

    >>> import jax.numpy as jnp
    >>> from jaxinit.transfer import adapters
    >>> table = jnp.array([[0.0, 2.0], [2.0, 0.0]])
    >>> adapters.extend_vocabulary(table, size=3)[2].tolist()
    [1.0, 1.0]
    """
    values = jnp.moveaxis(wide(table), axis, 0)
    require("mode", mode, ("mean", "covariance"))
    words = values.shape[0]
    new = size - words
    if new < 0:
        raise ValueError(
            f"size must be at least the {words} words of the table, got {size}; fewer "
            "are a matter of select_units"
        )
    mean = values.mean(0, keepdims=True)
    rows = jnp.repeat(mean, new, 0)
    if mode == "covariance":
        if words < 2:
            raise ValueError("one word has no covariance; use mode='mean'")
        key = require_key(key, "to draw new words")
        # A random combination of the old rows has their covariance, and no matrix of it
        # need be formed or factored.
        noise = jax.random.normal(key, (new, words), values.dtype)
        centered = (values - mean).reshape(words, -1)
        drawn = jnp.matmul(noise, centered, precision=jax.lax.Precision.HIGHEST)
        rows = rows + scale / (words - 1) ** 0.5 * drawn.reshape(rows.shape)
    # The old rows take no way by another dtype.
    old = jnp.moveaxis(jnp.asarray(table), axis, 0)
    return jnp.moveaxis(jnp.concatenate([old, narrow(rows, table)]), 0, axis)


def select_units(
    array: Any,
    *,
    shape: Sequence[int],
    units: Mapping[int, Sequence[int]] | None = None,
) -> jax.Array:
    """A part of a larger network's array: units at equal distances along every axis.

    Along an axis of n units of which k are wanted, those are i n/k where k divides n,
    and else round(i (n - 1) / (k - 1)). They depend on the sizes alone, so layers that
    are connected agree about which units stay.

    Args:
      array: of the larger network.
      shape: of the smaller one's; a merge gives that of the target's leaf.
      units: which ones, for some axes, in the place of those at equal distances.

    Returns:
      An array of that shape, in the dtype of the larger.

    Raises:
      ValueError: an axis is to grow, or the number of axes differs.

    Source: Xu et al. 2024, "Initializing Models with Larger Ones", section 3.

    >>> import jax.numpy as jnp
    >>> from jaxinit.transfer import adapters
    >>> adapters.select_units(jnp.arange(12.0), shape=(4,)).tolist()
    [0.0, 3.0, 6.0, 9.0]
    """
    values = jnp.asarray(array)
    shape = tuple(shape)
    if len(shape) != values.ndim or any(
        k > n for k, n in zip(shape, values.shape, strict=True)
    ):
        raise ValueError(f"{values.shape} has no part of shape {shape}")
    said = {axis % values.ndim: chosen for axis, chosen in (units or {}).items()}
    for axis, (wanted, found) in enumerate(zip(shape, values.shape, strict=True)):
        chosen = np.asarray(said.get(axis, _even(wanted, found)), np.int32)
        if chosen.shape != (wanted,) or ((chosen < 0) | (chosen >= found)).any():
            raise ValueError(
                f"units[{axis}] must be {wanted} numbers from 0 to {found - 1}, got "
                f"{chosen.tolist()}"
            )
        if wanted < found or axis in said:
            values = jnp.take(values, chosen, axis)
    return values


def _even(wanted: int, found: int) -> np.ndarray:
    if wanted and found % wanted == 0:
        return np.arange(wanted) * (found // wanted)
    return np.round(np.linspace(0, found - 1, wanted))
