"""The pages of the lecture fail where the effect that they speak of is taken away.

`documents.py` runs the pages as they are. Here each is run with one expression changed,
so that what it claims no longer holds.
"""

import pytest
from documents import ROOT, run_page

RANDOM_WEIGHTS = """\
variables = materialize(network.init)(jax.random.key(0), left[0, :1])
apply = jax.jit(network.apply)"""

CHANGES = {
    "a network that is linear, and so convex": (
        "convex",
        "hidden = jnp.tanh(corners @ params",
        "hidden = (lambda z: z)(corners @ params",
    ),
    "no L2, and so no single minimum nearby": (
        "convex",
        " + 0.05 * jnp.sum(weight**2)",
        "",
    ),
    "zeros that are random": (
        "symmetry",
        "start(initializers.zeros)",
        "start(initializers.glorot_normal())",
    ),
    "equal units that are random": (
        "symmetry",
        "initializers.constant(0.05)",
        "initializers.normal(0.05)",
    ),
    "a deep network that is shallow": (
        "dying-units",
        "depth=30, width=4)",
        "depth=2, width=4)",
    ),
    "weights a tenth too small": (
        "variance",
        "units(width, width**-0.5)",
        "units(width, 0.9 * width**-0.5)",
    ),
    "a mean that is not subtracted": (
        "variance",
        "np.asarray(inputs.fit_mean(images).apply(images))",
        "images",
    ),
    "one fan for all": (
        "xavier",
        "initializers.variance_scaling(1.0, mode,",
        'initializers.variance_scaling(1.0, "fan_in",',
    ),
    "Xavier that is He": (
        "he",
        '"Xavier": initializers.glorot_normal()',
        '"Xavier": initializers.he_normal()',
    ),
    "a small start that is He": (
        "typical-setup",
        "initializers.normal(0.01)",
        "initializers.he_normal()",
    ),
    "pretrained features that are random": (
        "transfer",
        "apply = jax.jit(network.apply)",
        RANDOM_WEIGHTS,
    ),
}


@pytest.mark.long
@pytest.mark.parametrize("change", CHANGES)
def test_without_the_effect_the_page_fails(change, monkeypatch, relaxed_promotion):
    name, expression, other = CHANGES[change]
    page = ROOT / "docs" / "lecture" / f"{name}.md"
    text = page.read_text()
    assert expression in text
    with pytest.raises(AssertionError):
        run_page(page, monkeypatch, text.replace(expression, other))
