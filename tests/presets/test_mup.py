"""muP: roles and factors, its known results, and multipliers that do what they say."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn
from preset_models import filled

import jaxinit
from jaxinit import plots, presets
from jaxinit._errors import RuleError

KEY = jax.random.key(0)
pytestmark = pytest.mark.usefixtures("relaxed_promotion")

TOKENS = jnp.arange(24).reshape(4, 6) % 11


class Transformer(nn.Module):
    """Of two blocks at most; width is the number of heads times their size."""

    width: int
    heads: int = 2
    depth: int = 1
    tied: bool = True

    @nn.compact
    def __call__(self, tokens):
        table = nn.Embed(11, self.width, name="table")
        x = table(tokens)
        for n in range(self.depth):
            h = nn.LayerNorm(name=f"norm_{n}")(x)
            x = x + nn.MultiHeadDotProductAttention(self.heads, name=f"mix_{n}")(h, h)
            h = nn.relu(nn.Dense(2 * self.width, name=f"up_{n}")(x))
            x = x + nn.Dense(self.width, name=f"down_{n}")(h)
        x = nn.LayerNorm(name="norm")(x)
        return table.attend(x) if self.tied else nn.Dense(11, name="head")(x)


def shapes_of(module, x):
    variables = jax.eval_shape(module.init, KEY, x)
    return jaxinit.from_linen(module, variables, x)


def transformer(width, **options):
    return shapes_of(Transformer(width, **options), TOKENS)


X = jax.random.normal(jax.random.key(1), (16, 8))


def mlp(width):
    """Plain functions: input, hidden, output, with biases."""

    def f(params, x):
        x = jnp.tanh(x @ params["in"] + params["shift"][None])
        x = jnp.tanh(x @ params["hidden"])
        return x @ params["out"] + params["last"][None]

    sizes = {
        "in": (8, width),
        "shift": (width,),
        "hidden": (width, width),
        "out": (width, 2),
        "last": (2,),
    }
    return f, {n: jax.ShapeDtypeStruct(s, jnp.float32) for n, s in sizes.items()}, X


# -------------------------------------------------------------------- roles and factors


def test_roles_and_factors_of_a_transformer():
    spec = presets.mup(transformer(8, tied=False), transformer(32, tied=False))
    rows = {row["leaf"]: row for row in spec.report.records()}
    expected = {  # role, deviation, rate, epsilon, for a model four times as wide
        "table/embedding": ("input", 1, 1, 1 / 4),
        "mix_0/query/kernel": ("hidden", 1 / 2, 1 / 4, 1 / 4),
        "mix_0/out/kernel": ("hidden", 1 / 2, 1 / 4, 1 / 4),
        "mix_0/query/bias": ("vector", 1, 1, 1 / 4),
        "up_0/kernel": ("hidden", 1 / 2, 1 / 4, 1 / 4),
        "norm/scale": ("vector", 1, 1, 1 / 4),
        "head/kernel": ("output", 1 / 4, 1 / 4, 1),
        "head/bias": ("fixed", 1, 1, 1),
    }
    for leaf, (role, init, rate, epsilon) in expected.items():
        row = rows[leaf]
        found = row["role"], row["init"], row["rate"], row["epsilon"]
        assert found == (role, init, rate, epsilon), leaf
        assert row["rate"] * row["decay"] == 1  # what a step decays by stays


def test_deviations_are_those_of_the_base_times_the_factor():
    base = transformer(32, tied=False)
    params = filled(base[1])
    params["norm"]["scale"] = jnp.ones(32)
    params["up_0"]["bias"] = jnp.zeros(64)
    base = base[0], params, *base[2:]
    spec = presets.mup(base, transformer(256, tied=False))
    params, report = spec.init(KEY, stddev=[("head/kernel", 0.5), ("mix_.*bias", 0)])
    before = base[1]
    for path, factor in (("up_0", 8**-0.5), ("down_0", 8**-0.5)):
        old = np.asarray(before[path]["kernel"], np.float64)
        new = np.asarray(params[path]["kernel"], np.float64)
        wanted = np.sqrt(np.mean(old**2)) * factor
        # 6 standard errors of a deviation of n draws, 1 / sqrt(2 n).
        error = 6 / (2 * new.size) ** 0.5
        assert np.sqrt(np.mean(new**2)) == pytest.approx(wanted, rel=error)
    rows = {row["leaf"]: row for row in report.records()}
    assert rows["head/kernel"]["stddev"] == 0.5 / 8
    assert rows["norm/scale"]["start"] == "= 1"
    assert rows["up_0/bias"]["start"] == "= 0"


def test_more_heads_need_no_multiplier_and_larger_ones_do():
    def found(**options):
        return presets.mup(
            transformer(8, tied=False), transformer(32, tied=False, **options)
        ).multipliers

    assert found(heads=8) == ()
    (one,) = found(heads=2)
    # The model divides by sqrt(16); 1 / d needs sqrt(4) / 16 of what it has at 4.
    assert (one.kind, one.leaf) == ("attention", "mix_0/query/kernel")
    assert one.factor == pytest.approx((4 / 16) ** 0.5)


def test_forward_multiplies_the_logits_of_a_tied_table_and_the_scores():
    spec = presets.mup(transformer(8), transformer(32))
    kinds = {m.kind: m.factor for m in spec.multipliers}
    assert kinds == pytest.approx({"output": 1 / 4, "attention": 1 / 2})
    params, _ = spec.init(KEY)
    rest = transformer(32)[2:]
    # By hand: queries hold the factor of the scores, and the last norm that of logits.
    other = jax.tree.map(lambda leaf: leaf, params)
    other["mix_0"]["query"] = jax.tree.map(lambda w: w / 2, params["mix_0"]["query"])
    other["norm"] = jax.tree.map(lambda w: w / 4, params["norm"])
    by_hand = jax.jit(spec.f)(other, *rest)
    found = spec.forward(params, *rest)
    np.testing.assert_allclose(found, by_hand, rtol=1e-5, atol=1e-6)
    assert presets.mup(mlp(8), mlp(32)).multipliers == ()


def test_forward_keeps_the_types_of_the_model_with_numbers_beside_its_data():
    def model(width):
        def f(params, tokens, scale):
            return params["table"][tokens] * scale @ params["table"].T

        table = jax.ShapeDtypeStruct((11, width), jnp.bfloat16)
        return f, {"table": table}, TOKENS[0], 2.0

    spec = presets.mup(model(4), model(8))
    params, _ = spec.init(KEY)
    assert [m.kind for m in spec.multipliers] == ["output"]
    plain, found = (g(params, TOKENS[0], 2.0) for g in (spec.f, spec.forward))
    assert found.dtype == plain.dtype == jnp.bfloat16


def test_convolutions_and_stacks():
    def model(width, depth=2):
        def f(params, x):
            def layer(x, w):
                return jax.lax.conv(x, w, (1, 1), "SAME"), None

            x, _ = jax.lax.scan(layer, x, params["stack"])
            return jax.lax.conv_general_dilated(
                x, params["depthwise"], (1, 1), "SAME", feature_group_count=width
            )

        def shape(*sizes):
            return jax.ShapeDtypeStruct(sizes, jnp.float32)

        stack = shape(depth, width, width, 3, 3)
        params = {"stack": stack, "depthwise": shape(width, 1, 3, 3)}
        return f, params, shape(2, width, 8, 8)

    spec = presets.mup(model(4), model(8, depth=6))
    rows = {row["leaf"]: row for row in spec.report.records()}
    assert rows["stack"]["role"] == "hidden"
    assert (rows["stack"]["in"], rows["stack"]["out"]) == (2, 2)
    assert rows["depthwise"]["role"] == "vector"
    assert rows["depthwise"]["out"] == 2


def test_the_optimizer_scales_rate_and_epsilon_and_leaves_the_decay():
    spec = presets.mup(mlp(8), mlp(32))
    rate, decay, epsilon = 0.1, 0.3, 1e-2
    tx = spec.optimizer(optax.adamw(rate, eps=epsilon, weight_decay=decay))
    keys = iter(jax.random.split(KEY, 20))
    params = jax.tree.map(
        lambda s: jax.random.normal(next(keys), s.shape, s.dtype), spec.target.signal
        .params.unflatten(spec.target.signal.params.leaves)
    )  # fmt: skip
    gradients = jax.tree.map(
        lambda w: 1e-2 * jax.random.normal(next(keys), w.shape), params
    )
    updates, _ = jax.jit(tx.update)(gradients, tx.init(params), params)
    factors = {"in": (1, 4), "shift": (1, 4), "hidden": (4, 4), "out": (4, 1)}
    for name, (slower, smaller) in (factors | {"last": (1, 1)}).items():
        g = np.asarray(gradients[name], np.float64)
        w = np.asarray(params[name], np.float64)
        adam = g / (np.abs(g) + epsilon / smaller)  # the first step, bias-corrected
        wanted = -rate * (adam / slower + decay * w)
        np.testing.assert_allclose(updates[name], wanted, rtol=2e-4, atol=1e-6)


def test_the_rates_of_gradient_descent():
    spec = presets.mup(mlp(8), mlp(32))
    tx = spec.optimizer(optax.sgd(1.0), rule="sgd")
    ones = jax.tree.map(lambda s: jnp.ones(s.shape), mlp(32)[1])
    updates, _ = tx.update(ones, tx.init(ones), ones)
    found = {name: -float(np.ravel(u)[0]) for name, u in updates.items()}
    assert found == {"in": 4, "shift": 4, "hidden": 1, "out": 1 / 4, "last": 1}


# ------------------------------------------------------------------------ known results


def check(kind, build, base, **options):
    options = {"tx": optax.adam(2**-7), "key": KEY, "steps": 3} | options
    return kind(base, base).coordinate_check(build, **options)


def test_features_change_alike_under_mup_and_grow_under_the_standard():
    widths = (32, 128, 512)
    flat = check(presets.mup, mlp, mlp(32), widths=widths)
    assert flat.verdict == "flat", flat
    assert max(map(abs, flat.slopes.values())) < 0.25
    grown = check(presets.standard, mlp, mlp(32), widths=widths)
    assert grown.verdict == "growing"
    assert grown.slopes["out"] > 0.4
    assert {finding.code for finding in grown.findings} <= {"growing", "vanishing"}
    again = presets.CoordinateReport.from_dict(grown.to_dict())
    assert again == grown
    assert again.widths == widths
    figure = plots.coordinates(grown)
    assert [axes.get_title() for axes in figure.axes] == ["step 1", "step 2", "step 3"]


@pytest.mark.long
@pytest.mark.parametrize("tied", [False, True])
def test_the_same_on_a_transformer(tied):
    def build(width):
        return transformer(width, tied=tied, depth=2)

    options = {"widths": (32, 64, 128, 256), "tx": optax.adam(2**-8)}
    flat = check(presets.mup, build, build(32), **options)
    assert flat.verdict != "growing", flat
    grown = check(presets.standard, build, build(32), **options)
    assert grown.verdict == "growing", grown


# ---------------------------------------------------------------------------- CompleteP


def residual(width, depth, scanned=False):
    def body(x, block):
        return x + jnp.tanh(x @ block["in"]) @ block["out"], None

    def f(params, x):
        x = x @ params["first"]
        if scanned:
            x, _ = jax.lax.scan(body, x, params["blocks"])
        else:
            for block in params["blocks"]:
                x, _ = body(x, block)
        return x @ params["last"]

    def shape(*sizes):
        return jax.ShapeDtypeStruct(sizes, jnp.float32)

    lead = (depth,) if scanned else ()
    block = {"in": shape(*lead, width, width), "out": shape(*lead, width, width)}
    blocks = block if scanned else [block] * depth
    return f, {"first": shape(8, width), "blocks": blocks, "last": shape(width, 2)}, X


@pytest.mark.parametrize(("scanned", "alpha"), [(False, 1.0), (True, 0.5)])
def test_completep_scales_branches_rates_and_epsilons_with_depth(scanned, alpha):
    deep, wide = 8.0, 4.0
    spec = presets.completep(
        residual(8, 1, scanned), residual(32, 8, scanned), alpha=alpha
    )
    factors = [m.factor for m in spec.multipliers]
    assert factors == pytest.approx([deep**-alpha] * (1 if scanned else 8))
    rows = {row["leaf"]: row for row in spec.report.records()}
    inner = rows["blocks/in" if scanned else "blocks/5/in"]
    assert inner["rate"] == pytest.approx(deep ** (alpha - 1) / wide)
    assert inner["epsilon"] == pytest.approx(deep**-alpha / wide)
    assert inner["init"] == pytest.approx(wide**-0.5)
    assert rows["first"]["rate"] == 1
    assert rows["last"]["rate"] == 1 / wide
    params, _ = spec.init(KEY)
    blocks = params["blocks"]
    scale = deep**-alpha
    if scanned:
        by_hand = params | {"blocks": blocks | {"out": scale * blocks["out"]}}
    else:
        by_hand = params | {"blocks": [b | {"out": scale * b["out"]} for b in blocks]}
    wanted = jax.jit(spec.f)(by_hand, X)
    np.testing.assert_allclose(spec.forward(params, X), wanted, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("alpha", [1.0, 0.5])
def test_completep_keeps_the_decay_of_a_step_and_rates_of_gradient_descent(alpha):
    deep = 8.0
    spec = presets.completep(residual(8, 1), residual(32, 8), alpha=alpha)
    rows = {row["leaf"]: row for row in spec.report.records()}
    # Table 1: eta falls by m_L^(alpha - 1) and 1 / m, lambda grows by m.
    step = rows["blocks/5/in"]["rate"] * rows["blocks/5/in"]["decay"]
    assert step == pytest.approx(deep ** (alpha - 1))
    tx = spec.optimizer(optax.sgd(1.0), rule="sgd")
    ones = jax.tree.map(lambda s: jnp.ones(s.shape), residual(32, 8)[1])
    updates, _ = tx.update(ones, tx.init(ones), ones)
    # 8 branches of rate r change the stream by 8 r / 8^(2 alpha), which stays.
    inner = -float(updates["blocks"][5]["in"][0, 0])
    assert inner == pytest.approx(deep ** (2 * alpha - 1))
    assert -float(updates["first"][0, 0]) == 4


# ------------------------------------------------------------------------- what is said


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: presets.mup(mlp(8)[1], mlp(8)), "base must be a model as .*got dict"),
        (lambda: presets.completep(mlp(8), mlp(8)), "base has no residual branches"),
        (
            lambda: presets.completep(mlp(8), mlp(8), alpha=2),
            "1/2 and 1, got 2",
        ),
        (lambda: presets.mup(transformer(8), mlp(8)), "'hidden' has no counterpart"),
        (
            lambda: presets.mup(mlp(8), mlp(8)).optimizer(optax.sgd(1), rule="lion"),
            "rule must be 'adam' or 'sgd', got 'lion'",
        ),
        (
            lambda: presets.mup(mlp(8), mlp(8)).init(KEY, stddev=[("in", "wide")]),
            "deviation of 'in' must be a number from 0, got 'wide'",
        ),
        (
            lambda: presets.mup(mlp(8), mlp(8)).init(KEY, stddev=[("in", np.nan)]),
            "deviation of 'in' must be a number from 0, got nan",
        ),
        (
            lambda: check(presets.mup, mlp, mlp(8), widths=(8, 8)),
            "widths must be two different ones",
        ),
    ],
)
def test_errors_say_what_to_give(call, said):
    with pytest.raises((TypeError, ValueError), match=said):
        call()


def test_an_update_of_another_model_is_refused():
    tx = presets.mup(mlp(8), mlp(8)).optimizer(optax.sgd(1.0))
    with pytest.raises(RuleError, match="'other' is no leaf of the target"):
        tx.init({"other": jnp.ones(3)})
