"""The layers of Flax, how each uses its weight, and the fans of that use.

Every layer is made with no bias and with VALID or circular padding, so that no product
is lost at a border and the fans are exact.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import flax_hooks as hooks
import flax_layers as fl
import jax
import jax.numpy as jnp
from flax_layers import Draw, Shape

from jaxinit.initializers import blocked, stacked


@dataclasses.dataclass(frozen=True, eq=False)
class Case:
    """A layer of Flax, the use of its weight, and the fans that use has.

    Attributes:
      name: how tests call it.
      draw: the real layer, ``(init, key, x) -> (x -> y)``.
      inputs: the shape of x.
      asked: the shape that Flax asks of the initializer.
      fans: products summed into one output; outputs of one input, of one weight.
      use: what is said to ``variance_scaling`` and ``fans``.
      over: the combinator around it, for weights that lie side by side in one array.
      one: the shape of one of those weights; `asked` where there is just one.
      readers: how many weights read the same input (the gates of a cell, the positions
        of a patch). Each knows its own outputs only, so their gradients add up.
      depth: how many such layers stand one behind the other.
      distribution: of the weights.
      twin: the same use as another case; counted always, measured in the long run only.
    """

    name: str
    draw: Draw
    inputs: Shape
    asked: Shape
    fans: tuple[float, float]
    use: dict[str, Any] = dataclasses.field(default_factory=dict)
    over: Callable[[Any], Any] = lambda base: base
    one: Shape | None = None
    readers: int = 1
    depth: int = 1
    distribution: Any = "normal"
    twin: bool = False

    def __str__(self) -> str:
        return self.name


def rademacher(key, shape, dtype):
    """A user's own sampler: signs, of variance 1."""
    return jax.random.rademacher(key, shape, jnp.int32).astype(dtype)


def laplace(key, shape, dtype):
    """A user's own sampler: a Laplace distribution has variance 2."""
    return jax.random.laplace(key, shape, dtype) / 2**0.5


def use(**options: Any) -> dict[str, Any]:
    """What is said to the initializer."""
    return {"use": options}


ROWS = use(in_axis=1, out_axis=0)
UP = use(strides=2, transposed=True)
DOWN = use(strides=2)
# The batch of six is flattened into the rows before Flax asks.
SIX: dict[str, Any] = {
    "over": lambda base: blocked(base, blocks=6, axis=0),
    "one": (32, 16),
}
TWIN: dict[str, Any] = {"twin": True}

BATCH, GRID, IMAGES, UPSAMPLED = (32, 24), (32, 8, 6), (2, 6, 6, 8), (2, 4, 4, 16)
MORE, WIDE, TOKENS, HEADS = (4, 6, 6, 8), (2, 6, 6, 16), (4, 8, 32), (4, 8, 4, 12)
EXPERTS, SEQUENCES = (4, 16, 24), (8, 12, 8)


def feed_forward() -> list[Case]:
    batched, torch = fl.from_linen(fl.batched), lambda x, w: x @ w.T
    dense = fl.from_linen(fl.dense)
    attended = fl.from_linen(fl.attended)
    general = fl.from_linen(fl.over_two_axes)
    return [
        Case("Dense", dense, BATCH, (24, 48), (24, 48)),
        Case("Linear nnx", fl.from_nnx(fl.linear), BATCH, (24, 48), (24, 48), **TWIN),
        Case("signs", dense, BATCH, (24, 48), (24, 48), distribution=rademacher),
        Case("x @ w.T", fl.stored((48, 24), torch), BATCH, (48, 24), (24, 48), **ROWS),
        Case("Embed.attend", attended, (32, 32), (96, 32), (32, 96), **ROWS),
        Case("DenseGeneral over two axes", general, GRID, (48, 24), (48, 24)),
        Case("batch_dims", batched, (6, 16, 32), (192, 16), (32, 16), **SIX),
        Case(
            "batch_axis nnx",
            fl.from_nnx(fl.batched_nnx),
            (6, 16, 32),
            (192, 16),
            (32, 16),
            **SIX,
            **TWIN,
        ),
    ]


def convolutions() -> list[Case]:
    def of(name: str, *arguments: Any, **options: Any) -> Case:
        return Case(f"Conv {name}", *arguments, **options)

    conv, kernel = fl.conv, (3, 3, 8, 16)
    grouped, separate = conv(32, 3, 3, groups=4), conv(32, 3, 3, groups=32)
    both = conv(32, 3, 3, groups=4, strides=2)
    long = conv(16, 5)
    return [
        of("3x3", conv(16, 3, 3), IMAGES, kernel, (72, 144)),
        of("3x3 nnx", fl.conv_nnx(16, 3, 3), IMAGES, kernel, (72, 144), **TWIN),
        of("3x3 stride 2", conv(16, 3, 3, strides=2), MORE, kernel, (72, 36), **DOWN),
        of(
            "4x4 stride 2 nnx",
            fl.conv_nnx(16, 4, 4, strides=2),
            MORE,
            (4, 4, 8, 16),
            (128, 64),
            **DOWN,
        ),
        of(
            "3x3 stride (2, 1)",
            conv(16, 3, 3, strides=(2, 1)),
            MORE,
            kernel,
            (72, 72),
            **use(strides=(2, 1)),
            **TWIN,
        ),
        of("dilation 2", conv(16, 3, 3, kernel_dilation=2), IMAGES, kernel, (72, 144)),
        of("groups 4", grouped, WIDE, (3, 3, 4, 32), (36, 72), **use(groups=4)),
        of(
            "groups 4 stride 2",
            both,
            (4, 6, 6, 16),
            (3, 3, 4, 32),
            (36, 18),
            **use(groups=4, strides=2),
            **TWIN,
        ),
        of(
            "depthwise",
            separate,
            (2, 6, 6, 32),
            (3, 3, 1, 32),
            (9, 9),
            **use(groups=32),
        ),
        of("5, Laplace", long, SEQUENCES, (5, 8, 16), (40, 80), distribution=laplace),
        of(
            "3x3x3",
            conv(8, 3, 3, 3),
            (1, 4, 4, 4, 4),
            (3, 3, 3, 4, 8),
            (108, 216),
        ),
        of(
            "ensemble under vmap",
            fl.from_linen(fl.ensemble),
            (3, 1, 6, 6, 8),
            kernel,
            (72, 144),
        ),
        # Nine positions of a patch read every input, with a kernel of their own each.
        Case(
            "ConvLocal",
            fl.from_linen(fl.conv_local),
            (2, 8, 8, 4),
            (8, 8, 36, 16),
            (36, 16),
            **use(batch_axis=(0, 1)),
            readers=9,
        ),
    ]


def transposed_convolutions() -> list[Case]:
    up, back = fl.conv_transpose, fl.conv_transpose_nnx
    swapped = use(**UP["use"], in_axis=-1, out_axis=-2)
    even, odd = (4, 4, 16, 8), (3, 3, 16, 8)
    return [
        Case(
            "ConvTranspose 4x4/2", up(4, 4, strides=2), UPSAMPLED, even, (64, 128), **UP
        ),
        Case("nnx", back(4, 4, strides=2), UPSAMPLED, even, (64, 128), **UP, **TWIN),
        Case(
            "ConvTranspose 3x3/2", up(3, 3, strides=2), UPSAMPLED, odd, (36, 72), **UP
        ),
        Case(
            "ConvTranspose 3x3",
            up(3, 3),
            UPSAMPLED,
            odd,
            (144, 72),
            **use(transposed=True),
        ),
        Case(
            "ConvTranspose(transpose_kernel)",
            up(4, 4, strides=2, transpose_kernel=True),
            UPSAMPLED,
            (4, 4, 8, 16),
            (64, 128),
            **swapped,
        ),
    ]


def stacks() -> list[Case]:
    side_by_side = fl.stored((4, 24, 40), fl.side_by_side)
    apart: dict[str, Any] = {"over": stacked, "one": (24, 40)}
    square = (32, 32)
    return [
        Case("Dense under scan", fl.scanned, square, square, square, depth=6),
        Case("nnx.scan", fl.scanned_nnx, square, square, square, depth=6, **TWIN),
        Case("stacked()", side_by_side, EXPERTS, (4, 24, 40), (24, 40), **apart),
        Case(
            "stack, batch_axis",
            side_by_side,
            EXPERTS,
            (4, 24, 40),
            (24, 40),
            **use(batch_axis=0),
        ),
    ]


def attention() -> list[Case]:
    """Flax flattens the heads before it asks."""
    into, out_of = (32, 48), (48, 32)
    value, out = hooks.attention_of_nnx("value"), hooks.attention_of_nnx("out")
    return [
        Case("query of attention", hooks.query_of_linen, TOKENS, into, into),
        Case("out of attention", hooks.out_of_linen, HEADS, out_of, out_of),
        Case("value of attention nnx", value, TOKENS, into, into, **TWIN),
        Case("out of attention nnx", out, HEADS, out_of, out_of, **TWIN),
    ]


def einsums() -> list[Case]:
    """Flax asks for the shape as it is stored, so that only the equation can tell."""
    rows = [
        ("BTD,NDH->BTNH", TOKENS, (4, 32, 12), (32, 48)),
        ("BTD,DNH->BTNH", TOKENS, (32, 4, 12), (32, 48)),
        ("BSD,CKDH->CBSKH", TOKENS, (2, 3, 32, 8), (32, 48)),
        ("EBD,EDF->EBF", EXPERTS, (4, 24, 40), (24, 40)),
        ("BTNH,NHD->BTD", HEADS, (4, 12, 32), (48, 32)),
    ]
    said = [(*row, use(equation=row[0])) for row in rows]
    return [
        Case(f"Einsum {equation}", fl.einsum(equation, *shape), x, shape, fans, **how)
        for equation, x, shape, fans, how in said
    ] + [
        Case(f"nnx {equation}", fl.einsum_nnx(equation, *shape), x, shape, fans, **how)
        for equation, x, shape, fans, how in [
            (*row[:-1], row[-1] | TWIN) for row in said
        ]
    ]


def cells() -> list[Case]:
    """linen asks for one gate at a time, nnx for all of them at once."""
    return [
        Case(
            f"{cell} {kernels}{' nnx' if fused else ''}",
            hooks.gates(cell, kernels, fused=fused),
            (32, width),
            (width, hooks.HIDDEN * (count if fused else 1)),
            (width, hooks.HIDDEN * (count if fused else 1)),
            readers=1 if fused else count,
            twin=kernels == "hidden" or cell == "GRUCell",
        )
        for cell, count in [("OptimizedLSTMCell", 4), ("GRUCell", 3)]
        for kernels, width in [("input", hooks.READ), ("hidden", hooks.HIDDEN)]
        for fused in (False, True)
    ]


CASES = [
    *feed_forward(),
    *convolutions(),
    *transposed_convolutions(),
    *stacks(),
    *attention(),
    *einsums(),
    *cells(),
]
