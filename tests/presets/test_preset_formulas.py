"""The deviations of each preset, against formulas typed again in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from preset_models import (
    HEADS,
    TOKENS_IN,
    WIDTH,
    LanguageModel,
    NnxModel,
    Translator,
    split,
)
from scipy.stats import truncnorm

import jaxinit
from jaxinit import presets
from jaxinit._paths import named_leaves

KEY = jax.random.key(7)
pytestmark = pytest.mark.usefixtures("relaxed_promotion")

D, KV, FF, L = WIDTH, WIDTH // HEADS, 3 * WIDTH, 3


def small():
    return (2 / (5 * D)) ** 0.5


# What a block of number n has, then what stands outside; None is kept as it is.
BLOCKS = {
    "gpt2": lambda n: {
        "query|key|value|w1|w3": 0.02,
        "out|w2": 0.02 / (2 * L) ** 0.5,
    },
    "megatron": lambda n: {
        "query|key|value|w1|w3": 0.02,
        "out|w2": 0.02 / (2 * L) ** 0.5,
    },
    "olmo": lambda n: {
        "query|key|value|w1|w3": D**-0.5,
        "out": (2 * D * (n + 1)) ** -0.5,
        "w2": (2 * FF * (n + 1)) ** -0.5,
    },
    "torchtitan": lambda n: {
        "query|key|value|w1": 0.02,
        "out|w2|w3": 0.02 / (2 * (n + 1)) ** 0.5,
    },
    "small_init": lambda n: {"query|key|value|w1|w3|out|w2": small()},
    "wang": lambda n: {"query|key|value|w1|w3": small(), "out|w2": 2 / (L * D**0.5)},
    "t5": lambda n: {
        "query": (D * KV) ** -0.5,
        "key|value|w1|w3": D**-0.5,
        "out": D**-0.5,
        "w2": FF**-0.5,
    },
}
OUTSIDE = {  # table, places, head
    "gpt2": (0.02, 0.02, 0.02),
    "megatron": (0.02, 0.02, D**-0.5),
    "olmo": (D**-0.5,) * 3,
    "torchtitan": (1.0, 0.02, D**-0.5),
    "small_init": (small(),) * 3,
    "wang": (small(),) * 3,
    "t5": (1.0, 1.0, D**-0.5),
}


@pytest.fixture(scope="module")
def models():
    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        return {
            scanned: split(LanguageModel(L, gated=True, scanned=scanned), TOKENS_IN)
            for scanned in (False, True)
        }


def expected(preset, path):
    """The deviation that a leaf of the model must have, for each of its layers."""
    if not path.endswith(("kernel", "embedding")):
        return 0.0
    for place, name in enumerate(("table", "places", "head")):
        if path.startswith(name + "/"):
            return OUTSIDE[preset][place]
    leaf = path.split("/")[-2]

    def of(layer):
        return next(
            value for names, value in BLOCKS[preset](layer).items()
            if leaf in names.split("|")
        )  # fmt: skip

    head = path.split("/")[0]
    if head == "blocks":
        return np.array([of(layer) for layer in range(L)])
    return of(int(head.split("_")[1]))


# One model with its layers in a list, for what differs from block to block.
LISTED = [
    pytest.param(name, False, marks=() if name == "torchtitan" else pytest.mark.long)
    for name in BLOCKS
]


@pytest.mark.parametrize(
    ("preset", "scanned"), [*((name, True) for name in BLOCKS), *LISTED]
)
def test_every_leaf_has_the_deviation_of_the_formula(models, preset, scanned):
    f, params, *args = models[scanned]
    new, report = getattr(presets, preset)(f, params, *args, key=KEY)
    rows = {row["leaf"]: row for row in report.records()}
    for name, leaf in named_leaves(new).items():
        wanted = np.asarray(expected(preset, name.path), np.float64)
        np.testing.assert_allclose(
            np.broadcast_to(rows[name.path]["stddev"], wanted.shape), wanted, rtol=1e-12
        )
        values = np.asarray(leaf, np.float64)
        if wanted.any():
            values = values.reshape(-1, values.size // max(wanted.size, 1))
            measured = np.sqrt(np.mean(values**2, axis=1))
            # 1 / sqrt(2 n) is the relative error of a deviation; 6 of them once in 1e9.
            error = 6 / (2 * values.shape[1]) ** 0.5
            np.testing.assert_allclose(measured, np.ravel(wanted), rtol=error)
        else:
            np.testing.assert_array_equal(
                values, 1.0 if name.path.endswith("scale") else 0.0
            )


@pytest.mark.parametrize("preset", ["gpt2", "olmo"])
def test_without_a_key_weights_are_rescaled_and_keep_their_direction(models, preset):
    f, params, *args = models[True]
    new, report = getattr(presets, preset)(f, params, *args)
    old = named_leaves(params)
    for name, leaf in named_leaves(new).items():
        wanted = np.asarray(expected(preset, name.path), np.float64)
        if not wanted.any():
            continue
        before, after = np.asarray(old[name], float), np.asarray(leaf, float)
        axes = tuple(range(1 if wanted.ndim else 0, before.ndim))
        factor = wanted / np.sqrt(np.mean(before**2, axis=axes))
        shape = [-1] + [1] * (before.ndim - 1) if wanted.ndim else ()
        np.testing.assert_allclose(after, before * factor.reshape(shape), rtol=2e-6)
    assert {row["start"] for row in report.records()} == {"rescaled", "= 0", "= 1"}


@pytest.mark.parametrize("preset", ["megatron", "olmo"])
def test_the_cut_is_at_three_deviations_of_the_normal_before_it(models, preset):
    f, params, *args = models[False]
    new, _ = getattr(presets, preset)(f, params, *args, key=KEY)
    head = np.asarray(new["head"]["kernel"]) * D**0.5
    edge = 3 / truncnorm(-3, 3).std()
    assert 2.5 < np.abs(head).max() <= edge * (1 + 1e-6)


@pytest.mark.parametrize("cut", [1.0, 2.0, 3.0])
def test_the_deviation_after_a_cut_is_that_of_scipy(cut):
    from jaxinit.presets._starts import cut_stddev

    assert abs(cut_stddev(cut) / truncnorm(-cut, cut).std() - 1) < 1e-12


def test_a_depth_that_is_said_counts_instead(models):
    f, params, *args = models[True]
    _, report = presets.gpt2(f, params, *args, depth=50, key=KEY)
    rows = {row["leaf"]: row for row in report.records()}
    assert rows["blocks/mlp/w2/kernel"]["stddev"] == pytest.approx(0.02 / 10)
    assert rows["blocks/mlp/w2/kernel"]["factor"] == pytest.approx(0.1)


def test_an_nnx_state_stays_one_and_sixteen_bits_are_rounded_once():
    model = NnxModel(nnx.Rngs(0))
    f, state, *args = jaxinit.from_nnx(model, TOKENS_IN)
    half = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), state)
    new, _ = presets.gpt2(f, half, *args, key=KEY)
    wide, _ = presets.gpt2(f, state, *args, key=KEY)
    assert type(new) is type(state)
    rounded = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), wide)
    jax.tree.map(np.testing.assert_array_equal, new, rounded)
    nnx.update(model, wide)
    outer = np.asarray(wide["blocks"][1]["outer"]["kernel"][...])
    assert abs(outer.std() / 0.01 - 1) < 6 / (2 * outer.size) ** 0.5


def alphas(n, m):
    return 0.81 * (n**4 * m) ** (1 / 16), (3 * m) ** 0.25


def test_deepnorm_of_an_encoder_and_a_decoder():
    n, m = 2, 3
    f, params, *args = split(Translator(n, m, alphas(n, m)), TOKENS_IN, TOKENS_IN)
    _, report = presets.deepnorm(f, params, *args, key=KEY)
    rows = {row["leaf"]: row for row in report.records()}
    beta = {
        "encoder": 0.87 * (n**4 * m) ** (-1 / 16),
        "decoder": (12 * m) ** -0.25,
    }
    checked = 0
    for path, row in rows.items():
        side = path.split("_")[0]
        if side not in beta or not path.endswith("kernel"):
            assert row["start"] == "kept"
            continue
        gain = 1.0 if "/query/" in path or "/key/" in path else beta[side]
        fans = D + (FF if "/mlp/" in path else D)
        assert row["stddev"] == pytest.approx(gain * (2 / fans) ** 0.5, rel=1e-12)
        checked += 1
    assert checked == n * 6 + m * 10


def test_deepnorms_constants_follow_from_its_bound():
    # Section 4 bounds the update of a stack by the sum over its branches of
    # (v^2 + w^2) / alpha^2, and what an encoder adds to a decoder by
    # M v w / alpha times 2 N (v_e^2 + w_e^2) / alpha_e^2; each is set to 1.
    for n, m in ((6, 6), (12, 3), (100, 40)):
        alpha, beta = (2 * n) ** 0.25, (8 * n) ** -0.25
        assert 2 * n * 2 * beta**2 / alpha**2 == pytest.approx(1)
        alpha_d, beta_d = (3 * m) ** 0.25, (12 * m) ** -0.25
        assert 3 * m * 2 * beta_d**2 / alpha_d**2 == pytest.approx(1)
        from jaxinit.presets._deep import _alpha_beta

        assert _alpha_beta(n, None, False) == pytest.approx((alpha, beta))
        assert _alpha_beta(m, n, True) == pytest.approx((alpha_d, beta_d))
        alpha_e, beta_e = _alpha_beta(n, m, False)
        into = m * beta_d**2 / alpha_d
        # The paper prints 0.81 and 0.87 for 0.8138 and 0.8689.
        assert into * 2 * n * 2 * beta_e**2 / alpha_e**2 == pytest.approx(1, abs=0.02)
        assert alpha_e * beta_e == pytest.approx(alpha * beta, rel=0.01)


def test_sublns_gains_of_an_encoder_with_a_decoder():
    from jaxinit.presets._deep import _gammas

    n, m = 6, 12  # figure 2: of encoders N blocks, of decoders M
    encoder = (np.log(3 * m) * np.log(2 * n) / 3) ** 0.5
    assert _gammas(n, m, False) == pytest.approx(encoder, rel=1e-12)
    assert _gammas(m, n, True) == pytest.approx(np.log(3 * m) ** 0.5, rel=1e-12)
