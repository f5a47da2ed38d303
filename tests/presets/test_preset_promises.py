"""What each preset promises: a stream of one size, the identity, bounded updates."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from preset_models import IMAGES, TOKENS_IN, LanguageModel, ResNet, split

from jaxinit import presets
from jaxinit.presets._anatomy import anatomy

KEY = jax.random.key(3)
pytestmark = pytest.mark.usefixtures("relaxed_promotion")


def shape(*sizes):
    return jax.ShapeDtypeStruct(sizes, jnp.float32)


def rms(x, axis=None):
    return jnp.sqrt(jnp.mean(jnp.square(x), axis=axis, keepdims=axis is not None))


# ----------------------------------------------------------------- growth of the stream

WIDTH = 64


def stream(params, x):
    """Blocks with a norm in front, scanned; what is returned is the stream itself."""

    def body(x, block):
        hidden = jax.nn.relu(x / rms(x, -1) @ block["in"])
        return x + hidden @ block["out"], None

    return jax.lax.scan(body, x, params)[0]


def growth(preset, depth, said=None):
    params = {"in": shape(depth, WIDTH, WIDTH), "out": shape(depth, WIDTH, WIDTH)}
    x = jax.random.normal(jax.random.key(1), (64, WIDTH)) * 0.02
    new, _ = preset(stream, params, x, key=KEY, depth=said)
    return float(rms(jax.jit(stream)(new, x) - x))


def test_gpt2_adds_as_much_to_the_stream_at_every_depth():
    found = [growth(presets.gpt2, depth) for depth in (4, 16, 64)]
    # Of depth branches each adds 1 / depth of the mean square: exact but for chance,
    # 1 / sqrt(2 * 64) of a branch and what the first ones share.
    np.testing.assert_allclose(found, found[0], rtol=0.15)


def test_without_the_depth_the_stream_grows_by_its_root():
    # A depth of 1 says that there is one branch, so that nothing is scaled.
    found = [growth(presets.gpt2, depth, said=1) for depth in (4, 64)]
    assert 3.4 < found[1] / found[0] < 4.6


def test_wang_and_olmo_grow_less_than_the_root_of_depth():
    wang = [growth(presets.wang, depth) for depth in (4, 64)]
    # depth * (2 / depth)^2 in the mean square: a quarter for sixteen times the depth.
    assert 0.2 < wang[1] / wang[0] < 0.3
    olmo = [growth(presets.olmo, depth) for depth in (4, 64)]
    harmonic = [sum(1 / (2 * n) for n in range(1, d + 1)) ** 0.5 for d in (4, 64)]
    assert olmo[1] / olmo[0] == pytest.approx(harmonic[1] / harmonic[0], rel=0.15)


# --------------------------------------------------------------------------- identities


@pytest.mark.parametrize(
    ("preset", "scanned"), [(presets.rezero, False), (presets.skipinit, True)]
)
def test_with_gates_of_zero_every_block_is_the_identity(preset, scanned):
    model = LanguageModel(2, scanned=scanned, gate=())
    f, params, *args = split(model, TOKENS_IN)
    new, report = preset(f, params, *args)
    rows = report.records()
    gates = [row for row in rows if row["role"] == "gate"]
    assert len(gates) == (2 if scanned else 4)
    assert {row["start"] for row in gates} == {"= 0"}
    assert {row["start"] for row in rows if row not in gates} == {"kept"}
    # What the blocks hold no longer matters.
    other = jax.tree.map(lambda leaf: leaf, new)
    blocks = [name for name in other if name.startswith("blocks")]
    for name in blocks:
        for part in ("attention", "mlp"):
            other[name][part] = jax.tree.map(lambda w: 3 * w, other[name][part])
    outputs = jax.jit(f)
    np.testing.assert_array_equal(outputs(new, *args), outputs(other, *args))
    assert np.any(outputs(params, *args) != outputs(new, *args))


@pytest.mark.parametrize(
    ("depth", "value"), [(None, 0.1), (18, 0.1), (24, 1e-5), (25, 1e-6)]
)
def test_layerscale_is_smaller_for_deeper_networks(depth, value):
    from preset_models import WIDTH as width

    f, params, *args = split(LanguageModel(2, gate=(width,)), TOKENS_IN)
    new, _ = presets.layerscale(f, params, *args, depth=depth)
    np.testing.assert_array_equal(new["blocks_1"]["gate2"], np.float32(value))
    np.testing.assert_array_equal(
        new["blocks_1"]["mlp"]["w2"]["kernel"],
        params["blocks_1"]["mlp"]["w2"]["kernel"],
    )


def test_a_gate_of_the_other_form_is_named():
    f, params, *args = split(LanguageModel(1, gate=()), TOKENS_IN)
    with pytest.raises(ValueError, match=r"gate1.*are scalars: presets.rezero is for"):
        presets.layerscale(f, params, *args)


def test_fixup_on_a_resnet():
    f, params, *args = split(ResNet(multiplier=True, normalized=False), IMAGES)
    new, report = presets.fixup(f, params, *args, key=KEY)
    rows = {row["leaf"]: row for row in report.records()}
    for n, fan in ((0, 72), (1, 72), (2, 72), (3, 144)):
        wanted = (2 / fan) ** 0.5 * 4**-0.5  # He, and L^(-1/2) for L = 4 and m = 2
        assert rows[f"b{n}/first/kernel"]["stddev"] == pytest.approx(wanted, rel=1e-6)
        assert not np.any(new[f"b{n}"]["second"]["kernel"])
        assert float(new[f"b{n}"]["multiplier"]) == 1.0
    stem = (2 / 27) ** 0.5
    assert rows["stem/kernel"]["stddev"] == pytest.approx(stem, rel=1e-6)
    assert not np.any(new["head"]["kernel"])
    with pytest.raises(ValueError, match=r"fixup: 4 of 4 residual branches"):
        presets.fixup(*split(ResNet(normalized=False), IMAGES), key=KEY)


def test_fixup_says_that_a_normalization_is_too_much():
    _, report = presets.fixup(*split(ResNet(multiplier=True), IMAGES), key=KEY)
    assert [finding.code for finding in report.findings] == ["normalized"]


# -------------------------------------------------------------------- the first updates


def plain(params, x):
    """A residual network without normalization, with Fixup's multipliers."""

    def body(x, block):
        hidden = jax.nn.relu(x @ block["in"] + block["bias"])
        return x + block["scale"] * (hidden @ block["out"]), None

    x, _ = jax.lax.scan(body, x, params["blocks"])
    return x @ params["head"]


def plain_shapes(depth, width=32):
    blocks = {
        "in": shape(depth, width, width),
        "bias": shape(depth, width),
        "out": shape(depth, width, width),
        "scale": shape(depth),
    }
    return {"blocks": blocks, "head": shape(width, 4)}


def first_steps(params, steps=3, rate=0.02):
    """By how much a few steps of gradient descent change the outputs."""
    x = jax.random.normal(jax.random.key(1), (32, 32))
    wanted = jax.random.normal(jax.random.key(2), (32, 4))

    def loss(params):
        outputs = plain(params, x)
        return jnp.mean(jnp.square(outputs - wanted)), outputs

    @jax.jit
    def step(params):
        gradients, outputs = jax.grad(loss, has_aux=True)(params)
        return jax.tree.map(lambda w, g: w - rate * g, params, gradients), outputs

    new, before = step(params)
    for _ in range(steps):
        new, after = step(new)
    return float(rms(after - before))


def test_fixup_bounds_the_first_updates_at_every_depth():
    changes = []
    for depth in (4, 16, 64):
        x = jnp.ones((32, 32))
        params, _ = presets.fixup(plain, plain_shapes(depth), x, key=KEY)
        changes.append(first_steps(params))
    assert max(changes) < 3 * min(changes)
    assert max(changes) < 1


def test_he_alone_does_not():
    params = plain_shapes(64)
    keys = iter(jax.random.split(KEY, 9))
    drawn = jax.tree.map(
        lambda leaf: jax.random.normal(next(keys), leaf.shape) * (2 / 32) ** 0.5, params
    )
    drawn["blocks"]["scale"] = jnp.ones(64)
    drawn["blocks"]["bias"] *= 0
    change = first_steps(drawn)
    assert not change < 1e3


def post_norm(depth, alpha):
    def f(params, x):
        def body(x, block):
            y = alpha * x + jax.nn.relu(x @ block["in"]) @ block["out"]
            return y / rms(y, -1), None

        return jax.lax.scan(body, x, params)[0]

    return f, {"in": shape(depth, 32, 64), "out": shape(depth, 64, 32)}


def sensitivity(f, params):
    """The norm of the gradient of the outputs in one random direction."""
    x = jax.random.normal(jax.random.key(1), (64, 32))
    signs = jax.random.rademacher(jax.random.key(2), (64, 32), jnp.float32)
    gradients = jax.jit(jax.grad(lambda p: jnp.mean(f(p, x) * signs)))(params)
    norm = jnp.sqrt(sum(jnp.sum(g**2) for g in jax.tree.leaves(gradients)))
    return float(norm)


def test_deepnorm_keeps_the_sensitivity_of_deep_stacks_bounded():
    # What a step of gradient descent changes is the squared norm of the gradient. With
    # Glorot's weights it grows by the root of depth, 2 L times 1 / alpha^2.
    x = jnp.ones((64, 32))
    deep, glorot = [], []
    for depth in (8, 128):
        f, shapes = post_norm(depth, (2 * depth) ** 0.25)
        params, _ = presets.deepnorm(f, shapes, x, key=KEY)
        deep.append(sensitivity(f, params))
        larger = jax.tree.map(lambda w, n=depth: w * (8 * n) ** 0.25, params)
        glorot.append(sensitivity(f, larger))
    assert deep[1] == pytest.approx(deep[0], rel=0.05)
    assert 1.5 < glorot[1] / glorot[0] < 3


def test_deepnorm_sets_an_alpha_that_is_a_parameter():
    def f(params, x):
        for block in params:
            y = block["alpha"] * x + jax.nn.relu(x @ block["in"]) @ block["out"]
            x = y / rms(y, -1)
        return x

    block = {"alpha": shape(), "in": shape(8, 16), "out": shape(16, 8)}
    new, report = presets.deepnorm(f, [block] * 3, jnp.ones((2, 8)), key=KEY)
    assert float(new[2]["alpha"]) == pytest.approx(6**0.25)
    assert report.records()[0]["role"] == "skip_scale"


def test_subln_scales_by_the_root_of_a_logarithm():
    def f(params, x):
        for block in params:
            hidden = jax.nn.relu(x / rms(x, -1) @ block["in"])
            x = x + hidden / rms(hidden, -1) @ block["out"]
        return x

    block = {"in": shape(8, 16), "out": shape(16, 8)}
    network = anatomy(f, [block] * 4, jnp.ones((2, 8)))
    assert network.streams[0].depth == 4
    _, report = presets.subln(f, [block] * 4, jnp.ones((2, 8)), key=KEY)
    wanted = np.log(8) ** 0.5
    for row in report.records():
        assert row["factor"] == pytest.approx(wanted, rel=1e-12)
        assert row["stddev"] == pytest.approx(wanted * (2 / 24) ** 0.5, rel=1e-12)
    wanted = np.log(2 * 50) ** 0.5
    _, report = presets.subln(f, [block] * 4, jnp.ones((2, 8)), depth=50, key=KEY)
    assert report.records()[0]["factor"] == pytest.approx(wanted, rel=1e-12)


def test_fixup_on_branches_inside_of_branches():
    def f(params, x):
        for block in params:
            h = jax.nn.relu(x @ block["in"]) @ block["out"]
            inner = jax.nn.relu(h @ block["u"]) @ block["v"]
            x = x + block["scale"] * (h + block["inner"] * inner)
        return x

    weights = dict.fromkeys(("in", "out", "u", "v"), shape(8, 8))
    block = weights | {"scale": shape(), "inner": shape()}
    x = jax.random.normal(jax.random.key(1), (2, 8))
    new, report = presets.fixup(f, [block] * 2, x, key=KEY)
    roles = {row["leaf"]: row["role"] for row in report.records()}
    assert roles["0/out"] == roles["0/v"] == "feed_forward_out"
    np.testing.assert_array_equal(f(new, x), x)
    assert np.any(new[0]["u"])
