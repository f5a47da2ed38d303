"""How the leaves of a base start: measured where there are arrays, else by fans."""

from __future__ import annotations

import math
from typing import Any

import jax
import numpy as np

from jaxinit._errors import RuleError
from jaxinit._signal._reinit import ByUse
from jaxinit.presets._starts import Start
from jaxinit.presets._widths import Width

_CONSTANTS = {"scale": 1.0, "bias": 0.0}


def base_starts(width: Width, said: Any) -> Start:
    """The start of the base's leaf; a deviation that was said counts first."""
    part = width.base
    if said is not None:
        number = isinstance(said, (int, float)) and not isinstance(said, bool)
        if not number or not 0 <= said < math.inf:
            raise RuleError(
                f"stddev: the deviation of {part.name.full!r} must be a number from 0, "
                f"got {said!r}"
            )
        return Start(value=0.0) if said == 0 else Start(float(said))
    leaf = part.leaf
    if isinstance(leaf, (jax.Array, np.ndarray)):
        values = np.asarray(leaf, np.float64)
        first = values.ravel()[0] if values.size else 0.0
        if np.all(values == first):
            return Start(value=float(first))
        return Start(float(np.sqrt(np.mean(values**2))))
    if part.use.is_product and "gather" not in {use.kind for use in part.uses}:
        scale = ByUse().scale(part.use) / float(part.use.fan_in or 1)
        return Start(scale**0.5)
    if part.uses[0].kind == "gather":
        return Start(1.0)
    if part.use.kind in _CONSTANTS:
        return Start(value=_CONSTANTS[part.use.kind])
    raise RuleError(
        f"base: how {part.name.full!r} starts is not known, it is a shape and no "
        f"weight ({part.use.kind}); give arrays, or stddev=[({part.name.full!r}, 0.02)]"
    )
