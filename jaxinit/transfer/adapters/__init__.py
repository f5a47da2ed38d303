"""Arrays of one shape from arrays of another, as pure functions of the numbers.

A merge applies one where a rule says so, `adapt(pattern, adapter, **options)`, and
never by itself. They compute in float32 or wider, return the dtype that they were
given, and run inside jit, vmap and grad.
"""

from jaxinit.transfer.adapters._channels import inflate_channels, inflate_depth
from jaxinit.transfer.adapters._positions import (
    resize_patch_kernel,
    resize_position_grid,
    resize_positions,
)
from jaxinit.transfer.adapters._units import extend_vocabulary, select_units

__all__ = [
    "inflate_channels",
    "inflate_depth",
    "resize_position_grid",
    "resize_positions",
    "resize_patch_kernel",
    "extend_vocabulary",
    "select_units",
]

# Every name has one home, and says so in pickles and messages.
for _name in __all__:
    globals()[_name].__module__ = __name__
