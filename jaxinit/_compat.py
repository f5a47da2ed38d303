"""The few private JAX names that have no public equivalent, one function for each."""

from __future__ import annotations

from typing import Any

from jax._src.sharding_impls import canonicalize_sharding as _canonicalize_sharding
from jax.sharding import NamedSharding


def canonicalize_sharding(out_sharding: Any, name: str) -> NamedSharding | None:
    """The NamedSharding that `out_sharding` means here, with the errors of jax.random.

    Private, because jax.random resolves its own argument with it and exports nothing:
    written again it would drift from the messages that JAX gives.
    """
    return _canonicalize_sharding(out_sharding, name)
