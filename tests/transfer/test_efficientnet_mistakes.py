"""compare exposes and places mistakes in EfficientNet-Lite0 that nothing else sees.

Each keeps every name and every shape, and a merge fills the network without complaint.
"""

import functools
import re
from functools import partial

import efficientnet
import jax
import pytest
from efficientnet import example
from flax import nnx

from jaxinit import transfer as tr

IMAGE = efficientnet.photographs()[:1, 40:104, 40:104]  # a part, as it is quicker
SPATIAL = "(stem|.*/depthwise)/conv/kernel"
KERNEL_5 = r"blocks.5/depthwise/conv/kernel"
KERNEL_8 = r"blocks.8/depthwise/conv/kernel"
ALLOWED = tr.Policy(params_without_stats="allow")


def symmetric(*sizes):
    """As most of torch's networks pad, kernels of these sizes."""
    return {"padding": lambda size: size // 2 if size in sizes else "SAME"}


# Options of all layers, rules that come first; where it shows, and what is said of it.
MISTAKES = {
    "default epsilon": (
        {"epsilon": 1e-5},
        [],
        "stem/norm",
        "operand 1 is 0.001 in f and 1e-05 in g",
    ),
    "symmetric padding": (
        symmetric(3, 5),
        [],
        "stem/conv",
        "padding is ((0, 1), (0, 1)) in f and ((1, 1), (1, 1)) in g",
    ),
    "symmetric padding of large kernels": (
        symmetric(5),
        [],
        "blocks.3/depthwise/conv",
        "padding is ((1, 2), (1, 2)) in f and ((2, 2), (2, 2)) in g",
    ),
    "mirrored kernels": (
        {},
        [tr.layout(SPATIAL, transpose=(2, 3, 1, 0), flip=(0, 1))],
        "stem/conv",
        "that of f backwards along the axes 0, 1",
    ),
    "height and width exchanged": (
        {},
        [tr.layout(SPATIAL, transpose=(3, 2, 1, 0))],
        "stem/conv",
        "that of f with the axes 0 and 1 exchanged",
    ),
    "one square kernel transposed": (
        {},
        [tr.layout(KERNEL_8, transpose=(3, 2, 1, 0))],
        "blocks.8/depthwise/conv",
        "that of f with the axes 0 and 1 exchanged",
    ),
    "one kernel not loaded": (
        {},
        [tr.keep(KERNEL_5)],
        "blocks.5/depthwise/conv",
        "conv/kernel, differs",
    ),
    "statistics forgotten": (
        {},
        [tr.keep("batch_stats:.*")],
        "stem/norm",
        "norm/mean, is all 0 in g",
    ),
}
IN_MAKE_TEST = {
    "nnx": ["one square kernel transposed", "statistics forgotten"],
    "linen": list(MISTAKES),
}


def in_linen(options, rules):
    model = example.EfficientNetLite0(layer=partial(example.Layer, **options))
    variables, report = tr.merge(
        lambda: model.init(jax.random.key(0), IMAGE),
        example.weights(),
        [*rules, *example.rules()],
        policy=ALLOWED,
    )
    return model.bind(variables), report


def in_nnx(options, rules):
    definitions = []

    def create():
        layer = partial(efficientnet.Layer, **options)
        model = efficientnet.EfficientNetLite0(layer=layer, rngs=nnx.Rngs(0))
        definition, state = nnx.split(model)
        definitions.append(definition)  # to trace a network of nnx takes long: once
        return state

    state, report = tr.merge(
        create,
        example.weights(),
        [*rules, *example.rules(r"blocks/\1")],
        policy=ALLOWED,
    )
    return nnx.merge(definitions[0], state), report


KINDS = {"linen": in_linen, "nnx": in_nnx}


@functools.cache
def trained(kind):
    return KINDS[kind]({}, [])[0]


CASES = [
    pytest.param(
        kind,
        mistake,
        marks=() if mistake in short else pytest.mark.long,
        id=f"{kind}-{mistake}",
    )
    for kind, short in IN_MAKE_TEST.items()
    for mistake in MISTAKES
]


@pytest.mark.parametrize(("kind", "mistake"), CASES)
def test_a_mistake_is_exposed_and_placed(kind, mistake):
    options, rules, place, cause = MISTAKES[mistake]
    wrong, merged = KINDS[kind](options, rules)
    assert merged.ok
    report = tr.compare(trained(kind), wrong, IMAGE)
    assert not report.ok
    assert report.relative > 0.01  # of the largest logit
    first = report.first_divergence
    assert re.fullmatch(f"(EfficientNetLite0/)?{place}", first.place)
    assert cause in first.cause
    assert first.cause in report.findings[0].remedy
    errors = {row["place"]: row["relative"] for row in report.records()}
    before = list(errors)[: list(errors).index(first.place)]
    assert not any(errors[place] for place in before)


def test_linen_and_nnx_agree_at_every_operation():
    report = tr.compare(trained("linen"), trained("nnx"), IMAGE)
    assert report.ok
    assert max(row["relative"] for row in report.records()) <= 1e-6


def test_the_example_runs(capsys):
    example.main()
    arrived, wrong, own = capsys.readouterr().out.splitlines()
    assert arrived.startswith("merge of 247 leaves: 247 copied; classes [442 985]")
    assert "add of EfficientNetLite0/stem/norm" in wrong
    assert wrong.endswith("operand 1 is 0.001 in f and 1e-05 in g.")
    assert own == "merge of 247 leaves: 245 copied, 2 drawn"
