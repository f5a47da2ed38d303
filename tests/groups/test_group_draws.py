"""Asymmetric, mimetic and tied weights against float64 and published numbers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from flax import linen as nn

from jaxinit import groups
from jaxinit._errors import RuleError
from jaxinit._paths import named_leaves
from jaxinit.testing import assert_follows, assert_moments

KEY = jax.random.key(1)

# ------------------------------------------------------------- randomized asymmetric

NARROW = [{"w": jnp.zeros((n, 2)), "b": jnp.zeros(2)} for n in [1] + [2] * 8]
RULES = [("(?P<layer>.*)/w", "kernel"), ("(?P<layer>.*)/b", "bias")]
INPUTS = np.linspace(-(3**0.5), 3**0.5, 51)


def born_dead(layers):
    """Which of many networks give all inputs the same outputs; (networks, in, out)."""
    x = np.broadcast_to(INPUTS[:, None], (len(layers[0][0]), len(INPUTS), 1))
    for kernel, bias in layers:
        x = np.maximum(np.einsum("nxi,nio->nxo", x, kernel) + bias[:, None], 0)
    return (np.ptp(x, axis=1) == 0).all(1)


def by_definition(draw, count):
    layers = [draw(n, count) for n in [1] + [2] * 8]
    return born_dead(layers)


def asymmetric_in_numpy(rng, inputs, count):
    rows = rng.normal(size=(count, inputs + 1, 2)) * 0.6007 / inputs**0.5
    place = rng.integers(0, inputs + 1, size=(count, 1, 2))
    np.put_along_axis(rows, place, rng.beta(2, 1, size=(count, 1, 2)), 1)
    return rows[:, :-1], rows[:, -1]


def test_few_networks_are_born_dead():
    count = 4000
    keys = jax.random.split(KEY, count)
    draw = jax.jit(
        jax.vmap(lambda key: groups.randomized_asymmetric(NARROW, RULES, key=key)[0])
    )
    layers = [(np.float64(layer["w"]), np.float64(layer["b"])) for layer in draw(keys)]
    rng = np.random.default_rng(0)
    reference = by_definition(lambda n, c: asymmetric_in_numpy(rng, n, c), 8000)
    found, wanted = born_dead(layers).mean(), reference.mean()
    # Two binomial proportions, of which one differs with probability 1e-6.
    error = np.sqrt(wanted * (1 - wanted) * (1 / count + 1 / 8000))
    assert abs(found - wanted) < 4.9 * error
    assert abs(found - 0.25) < 0.25 * 0.2
    he = by_definition(
        lambda n, c: (rng.normal(size=(c, n, 2)) * (2 / n) ** 0.5, np.zeros((c, 2))),
        count,
    )
    assert abs(he.mean() - 0.88) < 4.9 * np.sqrt(0.88 * 0.12 / count)


def test_one_weight_of_each_unit_is_from_beta():
    params = {"w": jnp.zeros((2, 3, 4096)), "b": jnp.zeros(4096)}
    new, report = groups.randomized_asymmetric(
        params, [("w", "kernel"), ("b", "bias")], key=KEY
    )
    rows = np.concatenate([new["w"].reshape(6, -1), new["b"][None]])
    sigma = report.records()[0]["factor"]
    # σ²/2 + E[p] √(2/π) σ + E[p²] = 1 with the moments of Beta(2, 1).
    scaled, beta = sigma * 6**0.5, scipy.stats.beta(2, 1)
    second = beta.var() + beta.mean() ** 2
    total = scaled**2 / 2 + beta.mean() * np.sqrt(2 / np.pi) * scaled + second
    assert total == pytest.approx(1, abs=1e-12)
    normal = scipy.stats.norm(scale=sigma)

    def mixed(x):
        return (6 * normal.cdf(x) + beta.cdf(x)) / 7

    assert_follows(rows, mixed)
    assert_follows(np.asarray(new["b"]), mixed)


def test_a_bias_that_fits_no_kernel_is_an_error():
    params = {"w": jnp.zeros((3, 2)), "b": jnp.zeros(3)}
    with pytest.raises(RuleError, match=r"'b', the bias, has shape \(3,\), which does"):
        groups.randomized_asymmetric(params, [("w", "kernel"), ("b", "bias")], key=KEY)


# ------------------------------------------------------------------------- mimetic

ATTENTION = [
    ("(?P<at>.*)/query/kernel", "query"),
    ("(?P<at>.*)/key/kernel", "key"),
    ("(?P<at>.*)/value/kernel", "value"),
    ("(?P<at>.*)/out/kernel", "output"),
]


def attention(model=32, heads=4, width=8):
    into, out = (model, heads, width), (heads, width, model)
    shapes = {"query": into, "key": into, "value": into, "out": out}
    return {"h": {name: {"kernel": jnp.zeros(s)} for name, s in shapes.items()}}


def products(new):
    kernels = {n: np.float64(leaf["kernel"]) for n, leaf in new["h"].items()}
    logits = np.einsum("dhk,ehk->hde", kernels["query"], kernels["key"])
    values = np.einsum("dhk,hke->de", kernels["value"], kernels["out"])
    return logits, values


def test_products_are_noise_about_the_identity():
    new, report = groups.mimetic(
        attention(64, 2, 64), ATTENTION, key=KEY, query_key=(0.6, 0.5)
    )
    logits, values = products(new)
    # Whole heads: the products are exact up to the rounding of a factorization.
    noise = (logits - 0.5 * np.eye(64)) / 0.6 * 8
    assert_moments(noise, mean=0.0, variance=1.0, kurtosis=3.0)
    assert abs(np.corrcoef(noise[0].ravel(), noise[1].ravel())[0, 1]) < 6 / 64
    assert_moments((values + 0.4 * np.eye(64)) / 0.4 * 8, mean=0.0, variance=1.0)
    row = report.records()[0]
    assert row["leaf"] == "h/key/kernel"
    assert (row["set"], row["factor"]) == ("V√S of 0.6 Z + 0.5 I", 0.5)
    assert row["partner"] == "h/out/kernel, h/query/kernel, h/value/kernel"


def test_a_narrow_head_is_the_nearest_of_its_rank():
    # The noise depends on the width of the model alone, so wide heads tell it.
    wide, _ = products(groups.mimetic(attention(32, 4, 32), ATTENTION, key=KEY)[0])
    narrow, _ = products(groups.mimetic(attention(32, 4, 8), ATTENTION, key=KEY)[0])
    for found, target in zip(narrow, wide, strict=True):
        left, sizes, right = np.linalg.svd(target)
        best = (left[:, :8] * sizes[:8]) @ right[:8]
        np.testing.assert_allclose(found, best, atol=2e-6 * sizes[0])


def test_halves_of_a_product_share_its_size():
    new = groups.mimetic(attention(), ATTENTION, key=KEY)[0]["h"]
    query, key = (np.float64(new[name]["kernel"]) for name in ("query", "key"))
    for head in range(4):
        one, other = query[:, head].T @ query[:, head], key[:, head].T @ key[:, head]
        np.testing.assert_allclose(one, other, atol=1e-5)
        np.testing.assert_allclose(one, np.diag(np.diag(one)), atol=1e-5)


def test_heads_wider_than_the_model_have_no_dead_units():
    new, _ = groups.mimetic(attention(16, 2, 24), ATTENTION, key=KEY)
    logits, values = products(new)
    assert_moments((logits - 0.7 * np.eye(16)) / 0.7 * 4, mean=0.0, variance=1.0)
    assert_moments((values + 0.4 * np.eye(16)) / 0.4 * 4, mean=0.0, variance=1.0)
    for name in ("query", "value"):
        assert np.abs(new["h"][name]["kernel"]).sum(0).min() > 0.05


@pytest.mark.parametrize("shape", [(32, 96), (32, 3, 4, 8), (32, 4, 24)])
def test_packed_kernels_hold_the_same_products(shape):
    params = {"qkv": jnp.zeros(shape), "out": jnp.zeros((32, 32))}
    rules = [("qkv", "query_key_value"), ("out", "output")]
    new, _ = groups.mimetic(params, rules, key=KEY, heads=4)
    packed = np.float64(new["qkv"])
    if len(shape) == 3:
        packed = np.moveaxis(packed.reshape(32, 4, 3, 8), 2, 1)
    query, key, value = np.moveaxis(packed.reshape(32, 3, 4, 8), 1, 0)
    logits = np.einsum("dhk,ehk->hde", query, key)
    assert all(np.linalg.matrix_rank(one, tol=1e-4) == 8 for one in logits)
    # Of 0.7 (Z + I) the largest singular values lie above those of 0.7 I.
    assert np.all(np.linalg.norm(logits, 2, (1, 2)) > 0.7)
    product = value.reshape(32, 32) @ np.float64(new["out"])
    assert_moments((product + 0.4 * np.eye(32)) / 0.4 * 32**0.5, mean=0, variance=1)
    kept, _ = groups.mimetic({"qkv": jnp.ones(shape)}, rules[:1], key=KEY, heads=4)
    assert (np.asarray(kept["qkv"]) == 1).sum() == 32 * 32


def test_real_attention_of_flax_is_filled_and_stacks():
    model = nn.MultiHeadDotProductAttention(num_heads=2, name="attention")
    params = model.init(KEY, jnp.ones((1, 3, 16)))
    stack = jax.tree.map(lambda leaf: jnp.stack([leaf] * 3, 1), params)
    rules = [(pattern.replace(".*)/", ")"), role) for pattern, role in ATTENTION]
    rules = [(pattern.replace("(?P<at>)", ""), role) for pattern, role in rules]
    three, _ = groups.mimetic(stack, rules, key=KEY, stacked_axis=1)
    assert jax.tree.map(jnp.shape, three) == jax.tree.map(jnp.shape, stack)
    value, out = (np.float64(three["params"][n]["kernel"]) for n in ("value", "out"))
    for layer in range(3):
        product = np.einsum("dhk,hke->de", value[:, layer], out[:, layer])
        assert_moments((product + 0.4 * np.eye(16)) / 0.1, mean=0.0, variance=1.0)


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        ({"key": (32, 2, 8)}, {}, "4 heads of width 8, and 'h/key/kernel' has 2 of"),
        ({"query": (32, 32)}, {}, "has its heads in one axis, .* say heads="),
        ({"query": (32, 32)}, {"heads": 5}, "has no 5 equal heads"),
        ({"query": (32,)}, {}, "which is no attention kernel"),
        ({"out": (4, 4, 32)}, {}, "the value and the output need the same"),
    ],
)
def test_attention_that_has_no_such_product_is_an_error(change, options, message):
    params = attention()
    for name, shape in change.items():
        params["h"][name]["kernel"] = jnp.zeros(shape)
    with pytest.raises(RuleError, match=message):
        groups.mimetic(params, ATTENTION, key=KEY, **options)


def test_a_query_without_its_key_is_an_error():
    with pytest.raises(RuleError, match="no leaf for the role 'key'"):
        groups.mimetic(attention(), ATTENTION[:1], key=KEY)


# --------------------------------------------------------------------------- tied


class Tied(nn.Module):
    multiplier: float = 1.0

    @nn.compact
    def __call__(self, tokens):
        table = nn.Embed(4096, 64, name="table")
        x = table(tokens) * self.multiplier
        return x, table.attend(nn.RMSNorm(name="norm")(nn.Dense(64, name="body")(x)))


@pytest.mark.parametrize(("multiplier", "norm"), [(1.0, True), (8.0, False)])
def test_inputs_and_logits_of_a_tied_table_are_sound(multiplier, norm):
    model, tokens = Tied(multiplier), jnp.arange(512)
    params = model.init(KEY, tokens)
    rules = [("table/embedding", "embedding"), ("norm/scale", "norm")]
    new, report = groups.tied_embedding(
        params, rules[: 1 + norm], key=KEY, input_multiplier=multiplier
    )
    inputs, logits = model.apply(new, tokens)
    assert not report.findings
    assert_moments(np.asarray(inputs), mean=0.0, variance=1.0, kurtosis=3.0)
    # Logits share 64 features; their mean square has a relative error below 64^-1/2.
    assert abs(float(jnp.mean(logits**2)) - 1) < 6 * (2 / 64 / 64) ** 0.5
    assert report.notes == ("table/embedding: inputs 1, logits 1",)


def test_a_table_that_cannot_serve_both_is_a_finding():
    params = {"table": jnp.zeros((128, 64))}
    new, report = groups.tied_embedding(params, [("table", "embedding")], key=KEY)
    (finding,) = report.findings
    assert finding.code == "tied-inputs"
    assert "multiply looked up rows in the model by 8 " in finding.remedy
    assert named_leaves(new)
    with pytest.raises(ValueError, match="logits must be a positive number, got 0"):
        groups.tied_embedding(params, [("table", "embedding")], key=KEY, logits=0)
    empty = {"table": jnp.zeros((5, 0))}
    with pytest.raises(RuleError, match=r"is not \(words, d\)"):
        groups.tied_embedding(empty, [("table", "embedding")], key=KEY)
    with pytest.raises(RuleError, match="which is not"):
        groups.tied_embedding(
            {"table": jnp.zeros((4, 2)), "g": jnp.ones(3)},
            [("table", "embedding"), ("g", "norm")],
            key=KEY,
        )
