"""Functional initialization and transfer learning for JAX and Flax.

Keys and pytrees in, pytrees and reports out. ``jaxinit.initializers`` replaces
``jax.nn.initializers`` and ``flax.linen.initializers``; ``jaxinit.materialize`` gives
the parameters of ``jax.jit(model.init)``, bit for bit, sooner; ``jaxinit.trace_uses``
tells how a function uses each of its parameters, ``jaxinit.audit`` whether they are a
sound start, ``jaxinit.predict_signal`` what to expect of shapes alone,
``jaxinit.calibrate`` and ``jaxinit.reinit`` make them one;
``jaxinit.testing`` holds assertions about random values whose bounds follow from a
stated failure rate.
"""

from importlib.metadata import version as _version

from jaxinit import groups, initializers
from jaxinit._materialize import materialize
from jaxinit._signal._audit import AuditReport, audit
from jaxinit._signal._calibrate import calibrate
from jaxinit._signal._calibration import CalibrationReport
from jaxinit._signal._entry import from_linen, from_nnx
from jaxinit._signal._predict import PredictionReport, predict_signal
from jaxinit._signal._products import Product, register_product
from jaxinit._signal._reinit import ByUse, reinit
from jaxinit._signal._use import Use
from jaxinit._signal._uses import trace_uses

__version__ = _version("jaxinit")

__all__ = [
    "initializers",
    "groups",
    "materialize",
    "from_linen",
    "from_nnx",
    "trace_uses",
    "audit",
    "AuditReport",
    "calibrate",
    "CalibrationReport",
    "predict_signal",
    "PredictionReport",
    "reinit",
    "ByUse",
    "Use",
    "Product",
    "register_product",
]

# Every name has one home, and says so in pickles and messages.
for _name in __all__:
    if callable(_item := globals()[_name]):
        _item.__module__ = __name__
