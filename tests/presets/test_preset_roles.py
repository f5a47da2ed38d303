"""What each leaf is found to be, on models of many forms, and what is said of none."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from preset_models import (
    IMAGES,
    TOKENS_IN,
    LanguageModel,
    NnxModel,
    ResNet,
    Translator,
    split,
)

import jaxinit
from jaxinit import presets
from jaxinit._errors import RuleError
from jaxinit.presets._anatomy import anatomy

pytestmark = pytest.mark.usefixtures("relaxed_promotion")


def shape(*sizes):
    return jax.ShapeDtypeStruct(sizes, jnp.float32)


def roles(model, **options):
    network = anatomy(*model, **options)
    return {name.full: ", ".join(p.roles) for name, p in network.parts.items()}


def test_a_resnet():
    found = roles(split(ResNet(), IMAGES))
    assert found["stem/kernel"] == "stem"
    assert found["head/kernel"] == "head"
    assert found["b2/shortcut/kernel"] == "shortcut"
    assert {found[f"b{n}/first/kernel"] for n in range(4)} == {"feed_forward_in"}
    assert {found[f"b{n}/second/kernel"] for n in range(4)} == {"feed_forward_out"}
    assert {found[f"b{n}/norm2/scale"] for n in range(4)} == {"norm_scale"}
    assert {found[f"b{n}/norm2/bias"] for n in range(4)} == {"norm_bias"}


def test_an_encoder_and_a_decoder_are_two_streams():
    network = anatomy(*split(Translator(2, 3, (1.0, 1.0)), TOKENS_IN, TOKENS_IN))
    assert [s.crosses for s in network.streams] == [False, True]
    assert [s.depth for s in network.streams] == [2, 3]
    assert [s.writers for s in network.streams] == [4, 9]
    found = {name.full: part for name, part in network.parts.items()}
    key = found["decoder_1/other/key/kernel"]
    assert key.roles == ("key",)
    assert int(key.block) == 1
    assert network.branches[0].skip_way.factor == 1.0


def test_gated_feed_forward_layers_and_tied_tables():
    found = roles(split(LanguageModel(1, gated=True, tied=True), TOKENS_IN))
    assert found["blocks_0/mlp/w1/kernel"] == "feed_forward_in"
    assert found["blocks_0/mlp/w3/kernel"] == "feed_forward_up"
    assert found["table/embedding"] == "embedding, head"
    assert found["places/embedding"] == "position"


def test_an_nnx_model():
    found = roles(jaxinit.from_nnx(NnxModel(nnx.Rngs(0)), TOKENS_IN))
    assert found["blocks/1/attention/query/kernel"] == "query"
    assert found["blocks/1/attention/out/kernel"] == "attention_out"
    assert found["blocks/1/outer/kernel"] == "feed_forward_out"
    assert found["blocks/0/norm1/scale"] == "norm_scale"


def attend(x, params, heads=2):
    split_heads = [
        (x @ params[name]).reshape(*x.shape[:2], heads, -1) for name in "qkv"
    ]
    q, k, v = split_heads
    scores = jnp.einsum("bthd,bshd->bhts", q, k) / q.shape[-1] ** 0.5
    mixed = jnp.einsum("bhts,bshd->bthd", jax.nn.softmax(scores), v)
    return mixed.reshape(x.shape) @ params["o"]


ATTENTION = {name: shape(8, 8) for name in "qkvo"}
MLP = {"up": shape(8, 16), "down": shape(16, 8)}


def test_branches_side_by_side_stand_in_one_block():
    def f(layers, x):
        for layer in layers:
            hidden = jax.nn.relu(x @ layer["up"]) @ layer["down"]
            x = x + (attend(x, layer) + hidden)
        return x

    network = anatomy(f, [ATTENTION | MLP] * 3, shape(2, 5, 8))
    (stream,) = network.streams
    assert (stream.depth, stream.writers) == (3, 6)
    found = roles((f, [ATTENTION | MLP] * 3, shape(2, 5, 8)))
    assert found["2/o"] == "attention_out"
    assert found["2/down"] == "feed_forward_out"
    assert found["0/k"] == "key"
    assert found["0/up"] == "feed_forward_in"


def test_rotated_queries_and_keys_with_a_norm_of_their_own():
    angles = jnp.linspace(0.0, 1.0, 5)[None, :, None, None]

    def rotated(x):
        x = x / jnp.sqrt(jnp.mean(jnp.square(x), -1, keepdims=True) + 1e-6)
        half = jnp.split(x, 2, -1)
        turned = jnp.concatenate([-half[1], half[0]], -1)
        return x * jnp.cos(angles) + turned * jnp.sin(angles)

    def f(p, x):
        q, k, v = ((x @ p[n]).reshape(2, 5, 2, 4) for n in "qkv")
        scores = jnp.einsum("bthd,bshd->bhts", rotated(q), rotated(k))
        mixed = jnp.einsum("bhts,bshd->bthd", jax.nn.softmax(scores), v)
        return x + mixed.reshape(x.shape) @ p["o"]

    found = roles((f, ATTENTION, shape(2, 5, 8)))
    assert found == {"q": "query", "k": "key", "v": "value", "o": "attention_out"}


def test_a_scale_that_one_is_added_to_is_kept():
    def f(p, x):
        normed = x / jnp.sqrt(jnp.mean(jnp.square(x), -1, keepdims=True) + 1e-6)
        return residual(p, normed * (1 + p["scale"])[None])

    params = jax.tree.map(lambda s: jnp.zeros(s.shape), MLP | {"scale": shape(8)})
    new, report = presets.gpt2(f, params, jnp.ones((2, 8)), key=jax.random.key(0))
    rows = {row["leaf"]: row for row in report.records()}
    assert rows["scale"]["role"] == "norm_scale"
    np.testing.assert_array_equal(new["scale"], 0.0)


def test_experts_end_in_the_stream_through_their_router():
    def f(p, x):
        chosen = jax.nn.softmax(x @ p["router"])
        hidden = jax.nn.relu(jnp.einsum("td,edf->tef", x, p["up"]))
        outputs = jnp.einsum("tef,efd->ted", hidden, p["down"])
        return x + jnp.einsum("te,ted->td", chosen, outputs)

    params = {"router": shape(8, 4), "up": shape(4, 8, 16), "down": shape(4, 16, 8)}
    found = roles((f, params, X))
    assert found["down"] == "feed_forward_out"
    assert found["up"] == "feed_forward_in"


def test_a_loop_that_holds_two_blocks_a_round():
    def f(params, x):
        def body(x, layer):
            for half in (0, 1):
                x = x + jax.nn.relu(x @ layer["up"][half]) @ layer["down"][half]
            return x, None

        return jax.lax.scan(body, x, params)[0]

    stacked = {"up": shape(3, 2, 8, 16), "down": shape(3, 2, 16, 8)}
    network = anatomy(f, stacked, shape(2, 8))
    (stream,) = network.streams
    assert (stream.depth, stream.writers) == (6, 6)
    assert [b.tolist() for b in stream.blocks] == [[0, 2, 4], [1, 3, 5]]


def test_sums_that_are_no_residual_connection_are_none():
    def recurrent(p, x):
        h = jnp.zeros((x.shape[0], 8))
        for t in range(x.shape[1]):
            h = jnp.tanh(x[:, t] @ p["in"] + h @ p["own"])
        return h @ p["out"]

    params = {"in": shape(3, 8), "own": shape(8, 8), "out": shape(8, 2)}
    assert anatomy(recurrent, params, shape(2, 4, 3)).branches == ()


def test_rules_overrule_the_use():
    def f(p, x):
        return x + jax.nn.relu(x @ p["up"]) @ p["down"]

    params = jax.tree.map(lambda s: jnp.ones(s.shape), MLP)
    new, report = presets.gpt2(
        f,
        params,
        jnp.ones((2, 8)),
        roles=[("up", None), ("down", "feed_forward_in")],
        key=jax.random.key(0),
    )
    np.testing.assert_array_equal(new["up"], params["up"])
    rows = {row["leaf"]: row for row in report.records()}
    assert rows["down"]["stddev"] == 0.02
    assert rows["up"]["start"] == "kept"


# ------------------------------------------------------------------------- what is said


def chain(p, x):
    return jax.nn.relu(x @ p["up"]) @ p["down"]


def residual(p, x):
    return x + chain(p, x)


def fused(p, x):
    parts = jnp.split((x @ p["qkv"]).reshape(2, 5, 2, 12), 3, -1)
    scores = jnp.einsum("bthd,bshd->bhts", parts[0], parts[1])
    mixed = jnp.einsum("bhts,bshd->bthd", jax.nn.softmax(scores), parts[2])
    return x + mixed.reshape(x.shape) @ p["o"]


FUSED = {"qkv": shape(8, 24), "o": shape(8, 8)}
X, XS = shape(2, 8), shape(2, 5, 8)


@pytest.mark.parametrize(
    ("preset", "model", "options", "said"),
    [
        ("gpt2", (chain, MLP, X), {}, "gpt2: no product's output is added"),
        ("fixup", (residual, MLP, X), {}, "fixup: 1 of 1 .* have no multiplier, a sca"),
        ("rezero", (residual, MLP, X), {}, "those that end in 'down'; add the param"),
        ("layerscale", (residual, MLP, X), {}, "a vector of the width of the stream"),
        ("subln", (residual, MLP, X), {}, "no normalization .* 1 residual .*'down'"),
        ("deepnorm", (residual, MLP, X), {}, "alpha = 1.189 .* 'down', .* by 1; write"),
        ("deepnorm", (residual, MLP, X), {"depth": 50}, "with 50 blocks .* = 3.162"),
        ("t5", (fused, FUSED, XS), {}, "'qkv' is query, key, value at once"),
        ("gpt2", (residual, MLP, X), {"depth": 0}, "whole number from 1, got 0"),
        ("gpt2", (residual, MLP, X), {"depth": (1, 2)}, "2 numbers, and gpt2 sees 1"),
        ("gpt2", (residual, MLP, X), {"roles": [("up", "wide")]}, "'wide' for 'up' is"),
        ("gpt2", (residual, MLP, X), {"roles": [("u", "head")]}, "matches no leaf"),
        ("gpt2", (residual, MLP, X), {"key": None}, "key is needed: 'down' is a shape"),
        ("gpt2", (residual, MLP, X), {"key": 3}, "must be a PRNG key, got the number"),
    ],
)
def test_errors_say_what_is_lacking(preset, model, options, said):
    options = {"key": jax.random.key(0)} | options
    with pytest.raises(ValueError, match=said):
        getattr(presets, preset)(*model, **options)


def test_a_use_that_is_not_understood_asks_for_a_rule():
    def f(p, x):
        spectrum = jnp.fft.rfft(residual(p, x)) * jnp.fft.rfft(p["f"])[None]
        return jnp.fft.irfft(spectrum)

    params = MLP | {"f": shape(8)}
    with pytest.raises(RuleError, match=r"'f' is used .*roles=\[\('f', 'feed"):
        presets.small_init(f, params, X, key=jax.random.key(0))


def test_fused_weights_that_start_alike_are_no_question():
    new, report = presets.gpt2(fused, FUSED, XS, key=jax.random.key(0))
    assert report.records()[1]["role"] == "query, key, value"
    assert new["qkv"].shape == (8, 24)


def test_zeros_cannot_be_rescaled():
    params = jax.tree.map(lambda s: jnp.zeros(s.shape), MLP)
    with pytest.raises(ValueError, match="'down' is zero, and no factor"):
        presets.gpt2(residual, params, jnp.ones((2, 8)))
