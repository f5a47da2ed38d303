"""Unit selection and data-dependent gains keep what they promise."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

import jaxinit
from jaxinit import groups
from jaxinit._errors import RuleError
from jaxinit.transfer import adapters

KEY = jax.random.key(3)

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


def test_the_size_of_complex_units_has_both_parts():
    old = {"kernel": jnp.array([[1.0 + 0j, 3j, 2.0 + 0j]])}
    rules = [("kernel", {1: "hidden"})]
    small = {"kernel": jnp.zeros((1, 2), old["kernel"].dtype)}
    new, _ = groups.select_units(small, rules, source=old, by="norm")
    np.testing.assert_array_equal(new["kernel"], [[3j, 2]])


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
