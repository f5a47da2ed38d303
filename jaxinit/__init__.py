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

from importlib import import_module as _import_module
from importlib.metadata import version as _version
from typing import TYPE_CHECKING as _TYPE_CHECKING

if _TYPE_CHECKING:
    from jaxinit import (
        finetune,
        groups,
        initializers,
        inputs,
        presets,
        testing,
        transfer,
    )
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
    "presets",
    "groups",
    "transfer",
    "finetune",
    "inputs",
    "testing",
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

# Where each name lives; a namespace is its own home. They are imported when they are
# first asked for, so that `jaxinit --help` does not wait for JAX.
_HOMES = {
    "materialize": "_materialize",
    "from_linen": "_signal._entry",
    "from_nnx": "_signal._entry",
    "trace_uses": "_signal._uses",
    "audit": "_signal._audit",
    "AuditReport": "_signal._audit",
    "calibrate": "_signal._calibrate",
    "CalibrationReport": "_signal._calibration",
    "predict_signal": "_signal._predict",
    "PredictionReport": "_signal._predict",
    "reinit": "_signal._reinit",
    "ByUse": "_signal._reinit",
    "Use": "_signal._use",
    "Product": "_signal._products",
    "register_product": "_signal._products",
}


def __getattr__(name: str):
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if name not in _HOMES:
        return _import_module(f"{__name__}.{name}")
    item = getattr(_import_module(f"{__name__}.{_HOMES[name]}"), name)
    item.__module__ = __name__  # its one home, in pickles and messages
    globals()[name] = item
    return item


def __dir__():
    return sorted({*globals(), *__all__})
