"""Fans and axes of layers whose stored shape tells neither: exact, case by case."""

import jax
import jax.numpy as jnp
import pytest
from flax import linen as nn
from flax import nnx
from network_zoo import linen, of_nnx, shape, tokens

import jaxinit

pytestmark = pytest.mark.usefixtures("relaxed_promotion")


def einsum(equation, weight, given):
    module = nn.Einsum(weight, equation, use_bias=False)
    return lambda: linen(module, shape(*given))


class Ensemble(nn.Module):
    """Five members, each with an input of its own."""

    @nn.compact
    def __call__(self, x):
        members = nn.vmap(
            nn.Conv, variable_axes={"params": 0}, split_rngs={"params": True}
        )
        return members(16, (3, 3), name="members")(x)


class Scanned(nn.Module):
    layer: object

    @nn.compact
    def __call__(self, x):
        scan = nn.scan(
            lambda module, x, _: (module.layer(x), None),
            variable_axes={"params": 0},
            split_rngs={"params": True},
            length=6,
        )
        return scan(self, x, None)[0]


def scanned_nnx(rngs):
    @nnx.split_rngs(splits=6)
    @nnx.vmap(in_axes=0, out_axes=0)
    def layers(rngs):
        return nnx.Linear(64, 64, rngs=rngs)

    class Stack(nnx.Module):
        def __init__(self):
            self.layers = layers(rngs)

        def __call__(self, x):
            @nnx.scan(in_axes=(nnx.Carry, 0), out_axes=nnx.Carry)
            def forward(x, layer):
                return layer(x)

            return forward(x, self.layers)

    return Stack()


IMAGE = shape(1, 8, 8, 32)
ROWS = shape(2, 5, 512)
MHA = nn.MultiHeadDotProductAttention(8, qkv_features=512)


# path: (stored shape, fan_in, fan_out, in_axis, out_axis, batch_axis)
CASES = {
    "Dense": (
        lambda: linen(nn.Dense(64), shape(2, 32)),
        {"kernel": ((32, 64), 32, 64, (0,), (1,), ())},
    ),
    "Conv": (
        lambda: linen(nn.Conv(16, (3, 3)), IMAGE),
        {"kernel": ((3, 3, 32, 16), 288, 144, (2,), (3,), ())},
    ),
    "attention": (
        lambda: linen(MHA, ROWS),
        {
            "query/kernel": ((512, 8, 64), 512, 512, (0,), (1, 2), ()),
            "key/kernel": ((512, 8, 64), 512, 512, (0,), (1, 2), ()),
            "value/kernel": ((512, 8, 64), 512, 512, (0,), (1, 2), ()),
            "out/kernel": ((8, 64, 512), 512, 512, (0, 1), (2,), ()),
        },
    ),
    "attention of nnx": (
        lambda: of_nnx(
            lambda rngs: nnx.MultiHeadAttention(8, 512, decode=False, rngs=rngs), ROWS
        ),
        {
            "query/kernel": ((512, 8, 64), 512, 512, (0,), (1, 2), ()),
            "out/kernel": ((8, 64, 512), 512, 512, (0, 1), (2,), ()),
        },
    ),
    "DenseGeneral with batch_dims": (
        lambda: linen(nn.DenseGeneral(16, batch_dims=(0,)), shape(6, 3, 32)),
        {"kernel": ((6, 32, 16), 32, 16, (1,), (2,), (0,))},
    ),
    "LinearGeneral with batch_axis": (
        lambda: of_nnx(
            lambda rngs: nnx.LinearGeneral(32, 16, batch_axis={0: 6}, rngs=rngs),
            shape(6, 3, 32),
        ),
        {"kernel": ((6, 32, 16), 32, 16, (1,), (2,), (0,))},
    ),
    "BTD,NDH->BTNH": (
        einsum("BTD,NDH->BTNH", (8, 512, 64), (2, 5, 512)),
        {"kernel": ((8, 512, 64), 512, 512, (1,), (0, 2), ())},
    ),
    "BSD,CKDH->CBSKH": (
        einsum("BSD,CKDH->CBSKH", (2, 4, 512, 64), (2, 5, 512)),
        {"kernel": ((2, 4, 512, 64), 512, 512, (2,), (0, 1, 3), ())},
    ),
    "BTD,DNH->BTNH": (
        einsum("BTD,DNH->BTNH", (512, 8, 64), (2, 5, 512)),
        {"kernel": ((512, 8, 64), 512, 512, (0,), (1, 2), ())},
    ),
    "ebd,edf->ebf": (
        einsum("ebd,edf->ebf", (8, 64, 256), (8, 3, 64)),
        {"kernel": ((8, 64, 256), 64, 256, (1,), (2,), (0,))},
    ),
    "BTNH,NHD->BTD": (
        einsum("BTNH,NHD->BTD", (8, 64, 512), (2, 5, 8, 64)),
        {"kernel": ((8, 64, 512), 512, 512, (0, 1), (2,), ())},
    ),
    "Conv, depthwise": (
        lambda: linen(nn.Conv(32, (3, 3), feature_group_count=32), IMAGE),
        {"kernel": ((3, 3, 1, 32), 9, 9, (2,), (3,), ())},
    ),
    "Conv, 4 groups": (
        lambda: linen(nn.Conv(64, (3, 3), feature_group_count=4), IMAGE),
        {"kernel": ((3, 3, 8, 64), 72, 144, (2,), (3,), ())},
    ),
    "Conv, stride 2": (
        lambda: linen(nn.Conv(64, (3, 3), strides=2), IMAGE),
        {"kernel": ((3, 3, 32, 64), 288, 144, (2,), (3,), ())},
    ),
    "ConvTranspose": (
        lambda: linen(nn.ConvTranspose(16, (4, 4), strides=(2, 2)), IMAGE),
        {"kernel": ((4, 4, 32, 16), 128, 256, (2,), (3,), ())},
    ),
    "ConvTranspose(transpose_kernel=True)": (
        lambda: linen(
            nn.ConvTranspose(16, (4, 4), strides=(2, 2), transpose_kernel=True), IMAGE
        ),
        {"kernel": ((4, 4, 16, 32), 128, 256, (3,), (2,), ())},
    ),
    "ConvLocal": (
        lambda: linen(nn.ConvLocal(16, (3, 3)), shape(1, 8, 8, 4)),
        {"kernel": ((8, 8, 36, 16), 36, 16, (2,), (3,), (0, 1))},
    ),
    "scan of Dense": (
        lambda: linen(Scanned(nn.Dense(64)), shape(2, 64)),
        {"layer/kernel": ((6, 64, 64), 64, 64, (1,), (2,), (0,))},
    ),
    "scan of Linear": (
        lambda: of_nnx(scanned_nnx, shape(2, 64)),
        {"layers/kernel": ((6, 64, 64), 64, 64, (1,), (2,), (0,))},
    ),
    "scan of attention": (
        lambda: linen(Scanned(nn.MultiHeadDotProductAttention(4)), shape(2, 5, 64)),
        {
            "layer/query/kernel": ((6, 64, 4, 16), 64, 64, (1,), (2, 3), (0,)),
            "layer/out/kernel": ((6, 4, 16, 64), 64, 64, (1, 2), (3,), (0,)),
        },
    ),
    "vmap of Conv": (
        lambda: linen(Ensemble(), shape(5, 1, 8, 8, 32)),
        {"members/kernel": ((5, 3, 3, 32, 16), 288, 144, (3,), (4,), (0,))},
    ),
    "OptimizedLSTMCell": (
        lambda: linen(nn.RNN(nn.OptimizedLSTMCell(48)), shape(2, 5, 48)),
        {
            "cell/hi/kernel": ((48, 48), 48, 192, (0,), (1,), ()),
            "cell/ig/kernel": ((48, 48), 48, 192, (0,), (1,), ()),
        },
    ),
    "OptimizedLSTMCell of nnx": (
        lambda: of_nnx(
            lambda rngs: nnx.RNN(nnx.OptimizedLSTMCell(8, 16, rngs=rngs)),
            shape(2, 5, 8),
        ),
        {
            "cell/dense_i/kernel": ((8, 64), 8, 64, (0,), (1,), ()),
            "cell/dense_h/kernel": ((16, 64), 16, 64, (0,), (1,), ()),
        },
    ),
    "GRUCell of nnx": (
        lambda: of_nnx(
            lambda rngs: nnx.RNN(nnx.GRUCell(8, 16, rngs=rngs)), shape(2, 5, 8)
        ),
        {"cell/dense_h/kernel": ((16, 48), 16, 48, (0,), (1,), ())},
    ),
    "torch's layout": (
        lambda: (lambda w, x: x @ w["w"].T, {"w": shape(96, 64)}, shape(2, 64)),
        {"w": ((96, 64), 64, 96, (1,), (0,), ())},
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_fans_and_axes_follow_from_the_use(name):
    make, expected = CASES[name]
    f, params, *args = make()
    uses = jaxinit.trace_uses(f, params, *args)
    named = {path: leaf for path, leaf in stored(params)}
    for path, (size, fan_in, fan_out, into, out, batch) in expected.items():
        (use,) = uses[path]
        assert named[path].shape == size
        assert (use.fan_in, use.fan_out) == (fan_in, fan_out)
        assert (use.in_axis, use.out_axis, use.batch_axis) == (into, out, batch)
        assert use.kind == ("conv" if "spatial" in roles(use, size) else "dot")


def stored(params):
    from jaxinit._paths import named_leaves

    return [(name.full, leaf) for name, leaf in named_leaves(params).items()]


def roles(use, size):
    named = {*use.in_axis, *use.out_axis, *use.batch_axis}
    return {"spatial"} if len(named) < len(size) else set()


def test_a_table_has_a_fan_in_of_1_looked_up_and_of_its_width_as_a_head():
    class Tied(nn.Module):
        @nn.compact
        def __call__(self, x):
            table = nn.Embed(1000, 64, name="embed")
            return table.attend(table(x))

    lookup, head = jaxinit.trace_uses(*linen(Tied(), tokens(2, 7)))["embed/embedding"]
    assert (lookup.kind, lookup.fan_in, lookup.fan_out) == ("gather", 1, 64)
    assert (lookup.in_axis, lookup.out_axis) == ((0,), (1,))
    assert (head.kind, head.fan_in, head.fan_out) == ("dot", 64, 1000)
    assert (head.in_axis, head.out_axis) == ((1,), (0,))
    assert lookup.tied
    assert head.tied


def test_the_fans_are_those_that_initializers_tells_for_the_same_use():
    options = {
        "Conv, 4 groups": {"groups": 4},
        "Conv, stride 2": {"strides": 2},
        "ConvTranspose": {"strides": 2, "transposed": True},
        "BTD,NDH->BTNH": {"equation": "btd,ndh->btnh"},
    }
    for name, said in options.items():
        make, expected = CASES[name]
        (use,) = jaxinit.trace_uses(*make())["kernel"]
        fans = jaxinit.initializers.fans(expected["kernel"][0], **said)
        assert (use.fan_in, use.fan_out) == fans


@pytest.mark.parametrize(
    ("options", "taps_in", "taps_out"),
    [
        # Of 3 taps, the two outputs at the ends of 8 miss one each: 22 pairs.
        ({"padding": [(1, 1)]}, 5 * 22 / 8, 7 * 22 / 8),
        ({"padding": [(0, 0)]}, 5 * 18 / 6, 7 * 18 / 8),
        ({"padding": [(1, 1)], "window_strides": (2,)}, 5 * 11 / 4, 7 * 11 / 8),
        ({"padding": [(2, 2)], "rhs_dilation": (2,)}, 5 * 20 / 8, 7 * 20 / 8),
        # Of the 15 places of the dilated input, 8 hold a number; 17 outputs, 24 pairs.
        ({"padding": [(2, 2)], "lhs_dilation": (2,)}, 5 * 24 / 17, 7 * 24 / 8),
    ],
)
def test_products_with_padding_are_not_counted(options, taps_in, taps_out):
    options = {"window_strides": (1,), **options}

    def f(kernel, x):
        return jax.lax.conv_general_dilated(
            x, kernel, dimension_numbers=("NWC", "WIO", "NWC"), **options
        )

    (use,) = jaxinit.trace_uses(f, shape(3, 5, 7), shape(1, 8, 5))[""]
    assert (use.taps_in, use.taps_out) == pytest.approx((taps_in, taps_out), rel=1e-12)
    assert use.taps_in <= use.fan_in


def test_patches_and_the_product_behind_them_are_one():
    """An inner element stands in 9 patches, one at an edge in 6, in a corner in 4."""
    make, _ = CASES["ConvLocal"]
    (use,) = jaxinit.trace_uses(*make())["kernel"]
    pairs = (3 * 8 - 2) ** 2 / 64
    assert (use.taps_in, use.taps_out) == pytest.approx((4 * pairs, 16 * pairs))


def test_a_kernel_that_is_not_an_identity_makes_no_patches():
    def f(weight, x):
        kernel = jnp.full((3, 1, 15), 0.5)
        patches = jax.lax.conv_general_dilated(
            x,
            kernel,
            (1,),
            [(1, 1)],
            dimension_numbers=("NWC", "WIO", "NWC"),
            feature_group_count=5,
        )
        return patches @ weight

    (use,) = jaxinit.trace_uses(f, shape(15, 4), shape(1, 8, 5))[""]
    assert (use.taps_in, use.taps_out) == (use.fan_in, use.fan_out) == (15, 4)
