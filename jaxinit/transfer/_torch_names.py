"""What torch calls the parameters of a layer, and where Flax and Haiku have them.

A name alone does not decide: of the names that torch's may mean, the one that the
target has is taken, and one only. Gates and packed attention become several leaves, the
two biases of a recurrent cell one.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence

from jaxinit._errors import RuleError
from jaxinit._paths import Name
from jaxinit._rules import listed
from jaxinit.transfer._arrivals import Arrival
from jaxinit.transfer._steps import Shape, part

ShapeOf = Callable[[str], Shape]

COUNTER = "num_batches_tracked"

# The last key in torch -> the last keys that it may be, for vectors and for the rest.
_VECTORS = {"weight": ("scale",), "bias": ("bias", "b", "offset")}
_ARRAYS = {"weight": ("kernel", "embedding", "w", "embeddings")}
_STATISTICS = {"running_mean": "mean", "running_var": "var"}

_LONE = ("weight", COUNTER, *_STATISTICS)

_RECURRENT = re.compile(r"(weight|bias)_(ih|hh)(?:_l0)?")
_PACKED = re.compile(r"in_proj_(weight|bias)")
_SEPARATE = re.compile(r"([qkv])_proj_weight")
_HEADS = {"q": "query", "k": "key", "v": "value"}

# A recurrent cell: by weight_ih, weight_hh, bias_ih, bias_hh the leaf of each gate, in
# torch's order of gates (i, f, g, o and r, z, n).
_LSTM = tuple(
    (
        tuple(f"i{gate}/kernel" for gate in gates),
        *(tuple(f"h{gate[0]}/{leaf}" for gate in gates) for leaf in leaves),
    )
    for gates in (("i", "f", "g", "o"), ("i", "f_", "g", "o"))
    for leaves in [("kernel", "bias", "bias")]
)
_GRU = (
    ("ir/kernel", "iz/kernel", "in/kernel"),
    ("hr/kernel", "hz/kernel", "hn/kernel"),
    ("ir/bias", "iz/bias", "in/bias"),
    ("ir/bias", "iz/bias", "hn/bias"),
)
_PLAIN = (("i/kernel",), ("h/kernel",), ("i/bias",), ("i/bias",))
# nnx holds all gates in one array, by their number 1, 3 or 4.
_DENSE = (("dense_i/kernel",), ("dense_h/kernel",))
_FUSED = {
    1: (*_DENSE, ("dense_i/bias",), ("dense_i/bias",)),
    3: (*_DENSE, ("dense_i/bias",), ("dense_h/bias",)),
    4: (*_DENSE, ("dense_h/bias",), ("dense_h/bias",)),
}
_NO_RESET_BIAS = (
    "torch's GRU adds a bias inside of the reset gate, for which nnx.GRUCell has no "
    "place: use a cell that has one"
)


def is_of_torch(last: str) -> bool:
    """Whether the last key of a path is one that torch alone uses."""
    return last in _LONE or bool(
        _RECURRENT.fullmatch(last)
        or _PACKED.fullmatch(last)
        or _SEPARATE.fullmatch(last)
    )


def translate(
    arrival: Arrival, targets: Mapping[Name, Shape], shape_of: ShapeOf
) -> list[Arrival]:
    """Where a leaf of torch goes in a target of these leaves; itself if unknown."""
    if arrival.name in targets:
        return [arrival]
    parent, _, last = arrival.name.path.rpartition("/")
    under = f"{parent}/" if parent else ""
    collection = arrival.name.collection
    shape = arrival.recipe.unit_shape(shape_of)
    if last in _STATISTICS:
        name = Name("batch_stats", f"{under}{_STATISTICS[last]}")
        return [arrival.to(name) if name in targets else arrival]
    if recurrent := _RECURRENT.fullmatch(last):
        return _gates(arrival, under, recurrent, shape, targets)
    if packed := _PACKED.fullmatch(last):
        leaf = "kernel" if packed[1] == "weight" else "bias"
        names = [Name(collection, f"{under}{head}/{leaf}") for head in _HEADS.values()]
        return _parts(arrival, names, shape)
    if separate := _SEPARATE.fullmatch(last):
        return [arrival.to(Name(collection, f"{under}{_HEADS[separate[1]]}/kernel"))]
    return [_renamed(arrival, under, last, len(shape), targets)]


def _renamed(
    arrival: Arrival, under: str, last: str, rank: int, targets: Mapping[Name, Shape]
) -> Arrival:
    known = (_VECTORS if rank < 2 else _ARRAYS).get(last, ())
    parents = [under]
    if under.endswith("out_proj/"):  # of torch's attention
        parents.append(under.removesuffix("out_proj/") + "out/")
    names = [
        name
        for parent in parents
        for leaf in known
        if (name := Name(arrival.name.collection, f"{parent}{leaf}")) in targets
    ]
    if len(names) > 1:
        raise RuleError(
            f"torch_layout: {arrival.recipe.sources[0]!r} could be {listed(names)}; "
            "say which with a rename"
        )
    return arrival.to(names[0]) if names else arrival


def _gates(
    arrival: Arrival,
    under: str,
    found: re.Match[str],
    shape: Shape,
    targets: Mapping[Name, Shape],
) -> list[Arrival]:
    collection = arrival.name.collection

    def has(leaf: str) -> bool:
        return Name(collection, under + leaf) in targets

    # Linen's LSTM has four inputs, its GRU three: the first weight tells them apart.
    cells = [cell for cell in (*_LSTM, _GRU, _PLAIN) if all(map(has, cell[0]))]
    if not cells and has("dense_h/kernel"):
        units, all_gates = targets[Name(collection, f"{under}dense_h/kernel")]
        cells = [cell for n, cell in _FUSED.items() if n * units == all_gates]
    if not cells:
        return [arrival]
    column = 2 * (found[1] == "bias") + (found[2] == "hh")
    names = [Name(collection, under + leaf) for leaf in cells[0][column]]
    hint = _NO_RESET_BIAS if cells[0] is _FUSED[3] else ""
    parts = _parts(arrival, names, shape)
    return [part.to(part.name, summand=column >= 2, hint=hint) for part in parts]


def _parts(arrival: Arrival, names: Sequence[Name], shape: Shape) -> list[Arrival]:
    """Equal parts of the first axis, one for each name."""
    count = len(names)
    if count == 1:
        return [arrival.to(names[0])]
    if not shape or shape[0] % count:
        raise RuleError(
            f"torch_layout: {arrival.recipe.sources[0]!r} of shape {shape} does not "
            f"hold {count} equal parts for {listed(names)}"
        )
    if arrival.recipe.join is not None and not arrival.recipe.layered:
        raise RuleError(
            f"torch_layout: {listed(map(Name.parse, arrival.recipe.sources))} were "
            "fused and are now to be cut again; leave out the fuse"
        )
    size = shape[0] // count
    return [
        arrival.to(name, arrival.recipe.select(part(0, i * size, (i + 1) * size)))
        for i, name in enumerate(names)
    ]
