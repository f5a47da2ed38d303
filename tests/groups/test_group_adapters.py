"""Adapters, unit selection and data-dependent gains keep what they promise."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax import nnx

import jaxinit
from jaxinit import groups
from jaxinit._errors import RuleError
from jaxinit.testing import assert_moments
from jaxinit.transfer import adapters

KEY = jax.random.key(3)

# ---------------------------------------------------------------------------- LoRA

LORA = [("w", "weight"), ("a", "A"), ("b", "B")]


def adapted(inputs=48, outputs=32, rank=6, dtype=jnp.float32):
    return {
        "w": jax.random.normal(jax.random.key(9), (inputs, outputs), dtype),
        "a": jnp.ones((inputs, rank), dtype),
        "b": jnp.ones((rank, outputs), dtype),
    }


def whole(tree, scale=1.0):
    w, a, b = (np.float64(tree[name]) for name in "wab")
    return w + scale * a @ b


@pytest.mark.parametrize("start", ["pissa", "olora"])
@pytest.mark.parametrize("alpha", [None, 24.0])
def test_weight_and_adapter_together_are_the_weight(start, alpha):
    params = adapted()
    new, report = groups.lora(
        params, LORA, start=start, alpha=alpha, rank_stabilized=alpha is not None
    )
    scale = 1.0 if alpha is None else alpha / 6**0.5
    assert report.records()[0]["factor"] == pytest.approx(scale)
    old = np.float64(params["w"])
    error = np.linalg.norm(whole(new, scale) - old) / np.linalg.norm(old)
    assert error < 1e-6
    assert np.abs(whole(new, scale) - old).max() < 1e-6 * np.abs(old).max()


@pytest.mark.parametrize("start", ["pissa", "olora"])
def test_what_rounds_in_narrow_adapters_stays_in_the_weight(start):
    params = adapted()
    narrow = {name: params[name].astype(jnp.bfloat16) for name in "ab"}
    new, _ = groups.lora(params | narrow, LORA, start=start)
    error = np.abs(whole(new) - np.float64(params["w"])).max()
    assert error < 1e-6 * np.abs(params["w"]).max()


def test_pissa_takes_the_principal_part():
    params = adapted()
    new, _ = groups.lora(params, LORA, start="pissa")
    left, sizes, right = np.linalg.svd(np.float64(params["w"]), full_matrices=False)
    principal = (left[:, :6] * sizes[:6]) @ right[:6]
    a, b = np.float64(new["a"]), np.float64(new["b"])
    np.testing.assert_allclose(a @ b, principal, atol=1e-5 * sizes[0])
    np.testing.assert_allclose(a.T @ a, np.diag(sizes[:6]), atol=1e-5 * sizes[0])
    np.testing.assert_allclose(b @ b.T, np.diag(sizes[:6]), atol=1e-5 * sizes[0])


def test_olora_takes_the_first_columns_of_a_factorization():
    params = adapted()
    new, _ = groups.lora(params, LORA, start="olora")
    q, r = np.linalg.qr(np.float64(params["w"]).T)
    a, b = np.float64(new["a"]), np.float64(new["b"])
    np.testing.assert_allclose(b @ b.T, np.eye(6), atol=1e-6)
    np.testing.assert_allclose(a @ b, (q[:, :6] @ r[:6]).T, atol=1e-5)


def test_a_normal_start_changes_nothing():
    new, report = groups.lora(adapted(), LORA, key=KEY, alpha=12)
    assert not np.any(new["b"])
    np.testing.assert_array_equal(new["w"], adapted()["w"])
    assert np.abs(new["a"]).max() <= 48**-0.5
    assert_moments(np.asarray(new["a"]), mean=0.0, variance=1 / 48 / 3)
    assert [row["factor"] for row in report.records()] == [2.0, 2.0, None]


def test_an_orthogonal_start_changes_nothing_though_both_are_nonzero():
    params = adapted(400, 300, 8)
    new, _ = groups.lora(params, LORA, key=KEY, start="orthogonal")
    a, b = np.float64(new["a"]), np.float64(new["b"])
    # 8 products of numbers below 0.1 * 5, each rounded to 2^-24 of itself.
    assert np.abs(a @ b).max() < 8 * 0.25 * 2**-22
    # G Q has the covariance 1/100 Qᵀ Q, of the rank 4: its mean square is half of that.
    assert np.mean(a**2) == pytest.approx(0.005, rel=6 * (2 / 1600) ** 0.5)
    assert np.linalg.matrix_rank(a, tol=1e-3) == np.linalg.matrix_rank(b, tol=1e-3) == 4


def test_the_adapters_of_nnx_start_without_changing_the_model():
    model = nnx.LoRALinear(12, 10, lora_rank=4, rngs=nnx.Rngs(0))
    x = jax.random.normal(KEY, (5, 12))
    before, fresh = model(x), jax.tree.map(jnp.copy, nnx.state(model))
    rules = [("kernel", "weight"), ("lora/lora_a", "A"), ("lora/lora_b", "B")]
    for start in ("normal", "pissa", "olora", "orthogonal"):
        state, _ = groups.lora(fresh, rules, key=KEY, start=start)
        assert isinstance(state, nnx.State)
        nnx.update(model, state)
        np.testing.assert_allclose(model(x), before, atol=2e-5)


def test_stacked_and_many_axed_weights_are_factored():
    w = jax.random.normal(KEY, (3, 12, 2, 5))
    params = {"w": w, "a": jnp.zeros((3, 12, 4)), "b": jnp.zeros((3, 4, 10))}
    new, _ = groups.lora(params, LORA, start="pissa", stacked_axis=0)
    product = np.einsum("lir,lro->lio", np.float64(new["a"]), np.float64(new["b"]))
    total = np.float64(new["w"]) + product.reshape(w.shape)
    np.testing.assert_allclose(total, w, atol=1e-6 * float(abs(w).max()))


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        ({"rank": 5}, {"start": "orthogonal"}, "has the odd rank 5"),
        ({"rank": 40}, {"start": "pissa"}, "has rank 40, and the weight has none"),
    ],
)
def test_adapters_that_do_not_fit_are_errors(change, options, message):
    with pytest.raises(RuleError, match=message):
        groups.lora(adapted(**change), LORA, key=KEY, **options)


def test_what_a_start_needs_is_asked_for():
    with pytest.raises(RuleError, match="no leaf for the role 'weight'"):
        groups.lora(adapted(), LORA[1:], start="pissa")
    wrong = adapted() | {"b": jnp.ones((5, 32))}
    with pytest.raises(RuleError, match=r"give A \(inputs, rank\) and B"):
        groups.lora(wrong, LORA, key=KEY)
    with pytest.raises(RuleError, match="which are not the 48 inputs of A"):
        groups.lora(adapted() | {"w": jnp.ones((32, 48))}, LORA, key=KEY)
    with pytest.raises(ValueError, match="start must be one of 'normal'"):
        groups.lora(adapted(), LORA, key=KEY, start="pizza")
    with pytest.raises(ValueError, match="key is needed to draw adapters"):
        groups.lora(adapted(), LORA)
    with pytest.raises(ValueError, match="rank_stabilized needs alpha"):
        groups.lora(adapted(), LORA, key=KEY, rank_stabilized=True)


# -------------------------------------------------------------------------- units

UNITS = [
    ("(?P<at>.*)/up/kernel", {0: "model", 1: "{at}/hidden"}),
    ("(?P<at>.*)/up/bias", {0: "{at}/hidden"}),
    ("(?P<at>.*)/norm/scale", {0: "{at}/hidden"}),
    ("(?P<at>.*)/down/kernel", {0: "{at}/hidden", 1: "model"}),
]


def block(model, hidden, fill):
    return {
        "up": {"kernel": fill((model, hidden)), "bias": fill((hidden,))},
        "norm": {"scale": fill((hidden,))},
        "down": {"kernel": fill((hidden, model))},
    }


def networks():
    rng = np.random.default_rng(0)
    large = {n: block(6, 9, lambda s: jnp.float32(rng.normal(size=s))) for n in "ab"}
    small = {n: block(3, 4, jnp.zeros) for n in "ab"}
    return small, large


def test_units_are_the_same_wherever_they_are_shared():
    small, large = networks()
    ways = [(".*/hidden", "norm"), ("model", [5, 0, 2])]
    new, report = groups.select_units(small, UNITS, source=large, by=ways)
    for name in "ab":
        up, down = (np.float64(large[name][n]["kernel"]) for n in ("up", "down"))
        bias = np.float64(large[name]["up"]["bias"])
        scale = np.float64(large[name]["norm"]["scale"])
        size = (up**2).sum(0) + (down**2).sum(1) + bias**2 + scale**2
        kept = np.sort(np.argsort(size)[-4:])
        chosen = new[name]
        np.testing.assert_array_equal(
            chosen["up"]["kernel"], np.float32(up[[5, 0, 2]][:, kept])
        )
        np.testing.assert_array_equal(chosen["up"]["bias"], np.float32(bias[kept]))
        np.testing.assert_array_equal(chosen["norm"]["scale"], np.float32(scale[kept]))
        np.testing.assert_array_equal(
            chosen["down"]["kernel"], np.float32(down[kept][:, [5, 0, 2]])
        )
    row = report.records()[0]
    assert row["leaf"] == "a/down/kernel"
    assert "a/up/bias" in row["partner"]
    assert "b/up/kernel" in row["partner"]
    assert "b/up/bias" not in row["partner"]
    assert row["factor"] == pytest.approx(12 / 54)


def test_evenly_chosen_units_are_those_of_the_adapter():
    small, large = networks()
    new, _ = groups.select_units(small, UNITS, source=large)
    jax.tree.map(
        lambda one, old: np.testing.assert_array_equal(
            one, adapters.select_units(old, shape=one.shape)
        ),
        new,
        large,
    )


def test_a_network_without_its_silent_units_is_the_same_function():
    def f(params, x):
        hidden = nn.relu(x @ params["up"]["kernel"] + params["up"]["bias"][None])
        return hidden * params["norm"]["scale"][None] @ params["down"]["kernel"]

    _, large = networks()
    alive = np.array([1, 3, 4, 8])
    mask = jnp.zeros(9).at[alive].set(1.0)
    full = large["a"]
    full["up"] = {"kernel": full["up"]["kernel"] * mask[None],
                  "bias": full["up"]["bias"] * mask}  # fmt: skip
    full["norm"] = {"scale": full["norm"]["scale"] * mask}
    full["down"] = {"kernel": full["down"]["kernel"] * mask[:, None]}
    small = {"a": block(6, 4, jnp.zeros)}
    new, _ = groups.select_units(
        small, UNITS, source={"a": full}, by={".*hidden": "norm", "model": "first"}
    )
    x = jax.random.normal(KEY, (5, 6))
    np.testing.assert_allclose(f(new["a"], x), f(full, x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("rules", "change", "by", "message"),
    [
        (UNITS, {"c": block(3, 4, jnp.zeros)}, "even", "no leaf 'c/.*did you mean"),
        (UNITS, {"b": block(7, 4, jnp.zeros)}, "even", "share the units 'model'"),
        ([(".*/bias", {1: "x"})], {}, "even", "has no axis 1"),
        ([(".*/bias", {0: "{at}"})], {}, "even", "asks for the group 'at'"),
        ([(".*/bias", "x")], {}, "even", "a mapping from axis to the name"),
        (UNITS, {}, "largest", "by must be one of 'even', 'first', 'norm'"),
        (UNITS, {}, [("model", [0, 1]), (".*", "even")], "must be 3 numbers from 0 to"),
    ],
)
def test_units_that_cannot_be_chosen_are_errors(rules, change, by, message):
    small, large = networks()
    with pytest.raises(RuleError, match=message):
        groups.select_units(small | change, rules, source=large, by=by)


# -------------------------------------------------------------------- weight norm


class Normalized(nn.Module):
    """Weight normalization as Flax has it, and the bias behind it."""

    @nn.compact
    def __call__(self, x):
        layer = nn.Conv(8, (3, 3), use_bias=True, name="conv")
        x = nn.relu(nn.WeightNorm(layer, name="first")(x)).reshape(x.shape[0], -1)
        layer = nn.Dense(6, name="dense")
        return nn.WeightNorm(layer, name="second")(x)


def test_one_pass_gives_every_channel_of_a_model_its_mean_and_deviation():
    x = 3 * jax.random.normal(KEY, (32, 4, 4, 2)) + 1
    model = Normalized()
    params = model.init(KEY, x)
    rules = [
        ("(?:first|second)/(?P<layer>.*)/kernel/scale", "gain"),
        ("(?P<layer>conv|dense)/bias", "bias"),
    ]
    f, tree, *args = jaxinit.from_linen(model, params, x)
    new, report = groups.weight_norm(f, tree, rules, *args, scale=0.5)
    assert not report.findings
    outputs = np.float64(f(new, *args))
    np.testing.assert_allclose(outputs.mean(0), 0, atol=1e-5)
    np.testing.assert_allclose(outputs.std(0), 0.5, rtol=1e-5)
    # The first layer, by the formula in float64.
    own = new.get("params", new)
    old = tree.get("params", tree)
    v = np.float64(old["conv"]["kernel"])
    v = v / np.sqrt((v**2).sum((0, 1, 2)))
    padded = np.pad(np.float64(x), ((0, 0), (1, 1), (1, 1), (0, 0)))
    t = sum(
        np.einsum("bhwi,io->bhwo", padded[:, r : r + 4, c : c + 4], v[r, c])
        for r in range(3)
        for c in range(3)
    )
    gain = 0.5 / t.std((0, 1, 2))
    np.testing.assert_allclose(own["first"]["conv/kernel/scale"], gain, rtol=1e-4)
    np.testing.assert_allclose(
        own["conv"]["bias"], -gain * t.mean((0, 1, 2)), rtol=1e-3, atol=1e-4
    )


def plain(params, x):
    return jnp.tanh(x @ params["v"] * params["g"][None] + params["b"][None])


def test_layers_of_a_scan_are_set_one_after_the_other():
    def f(params, x):
        return jax.lax.scan(lambda x, p: (plain(p, x), None), x, params)[0]

    params = {"v": jax.random.normal(KEY, (3, 8, 8)), "g": jnp.ones((3, 8)),
              "b": jnp.zeros((3, 8))}  # fmt: skip
    x = jax.random.normal(jax.random.key(5), (64, 8))
    new, report = groups.weight_norm(f, params, [("g", "gain"), ("b", "bias")], x)
    assert not report.findings
    for layer in range(3):
        own = jax.tree.map(lambda leaf, n=layer: leaf[n], new)
        x = plain(own, x)
        y = np.arctanh(np.float64(x))
        np.testing.assert_allclose(y.std(0), 1, rtol=1e-3)


def test_what_one_pass_cannot_set_is_a_finding():
    x = jax.random.normal(KEY, (16, 4)).at[:, 0].set(2.0)
    params = {"g": jnp.ones(4), "b": jnp.zeros(4)}
    rules = [("g", "gain"), ("b", "bias")]
    _, report = groups.weight_norm(
        lambda p, x: x * p["g"][None] + p["b"][None], params, rules, x
    )
    assert [finding.code for finding in report.findings] == ["still-channels"]
    _, report = groups.weight_norm(
        lambda p, x: x * jnp.exp(p["g"])[None] + p["b"][None], params, rules, x
    )
    assert "not-reached" in [finding.code for finding in report.findings]


def test_a_bias_that_is_added_twice_or_elsewhere_is_an_error():
    params, x = {"g": jnp.ones(4), "b": jnp.zeros(4)}, jnp.ones((3, 4))
    rules = [("g", "gain"), ("b", "bias")]
    for f in (
        lambda p, x: (x + p["b"][None]) * p["g"][None] + p["b"][None],
        lambda p, x: x * p["g"][None] * p["b"][None],
    ):
        with pytest.raises(RuleError, match="is not added once in the program"):
            groups.weight_norm(f, params, rules, x)
    with pytest.raises(ValueError, match="scale must be a positive number"):
        groups.weight_norm(plain, params, rules, x, scale=-1.0)
