"""Start from weights that others trained: read, plan, merge, compare, save.

Rules run in three ordered stages, and the first match wins within a stage: `drop`,
`rename`, `split`, `fuse`, `stack` and `unstack` on source paths; `layout`,
`torch_layout` and then one `adapt` on each pair, by target path; `keep` and `draw` on
target paths. Every leaf of the target ends as copied, cast, adapted, kept or drawn,
every leaf of the source as used, dropped or replaced, and anything else is an error.
"""

from jaxinit.transfer import adapters
from jaxinit.transfer._comparison._compare import CompareReport, compare
from jaxinit.transfer._export import export
from jaxinit.transfer._limits import Limits
from jaxinit.transfer._merge import merge
from jaxinit.transfer._open import open_checkpoint
from jaxinit.transfer._plan import Plan
from jaxinit.transfer._planning import plan
from jaxinit.transfer._policy import STRICT, Policy
from jaxinit.transfer._rules_json import rules_from_json
from jaxinit.transfer._save import save
from jaxinit.transfer._source import Leaf, Source
from jaxinit.transfer._source_rules import drop, fuse, rename, split, stack, unstack
from jaxinit.transfer._target_rules import adapt, draw, keep, layout, torch_layout

__all__ = [
    "open_checkpoint",
    "Limits",
    "Source",
    "Leaf",
    "save",
    "plan",
    "merge",
    "export",
    "compare",
    "CompareReport",
    "Plan",
    "Policy",
    "STRICT",
    "rules_from_json",
    "drop",
    "rename",
    "split",
    "fuse",
    "stack",
    "unstack",
    "layout",
    "torch_layout",
    "adapt",
    "keep",
    "draw",
    "adapters",
]

# Every name has one home, and says so in pickles and messages.
for _name in __all__:
    if isinstance(globals()[_name], type) or callable(globals()[_name]):
        globals()[_name].__module__ = __name__
