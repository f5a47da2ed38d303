"""Gains and the edge of chaos, against scipy in float64 and against closed forms."""

import functools
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen, nnx
from jax.sharding import PartitionSpec
from scipy import integrate, optimize, special

from jaxinit._quadrature import normal_means
from jaxinit.initializers import _activations
from jaxinit.initializers._gains import EdgeOfChaos, edge_of_chaos, gain

SHIFT = 0.1234567
TRACED = (
    "closes over a traced value, but its gain is a number that is needed while "
    "tracing: compute it outside the transformation"
)


@pytest.fixture
def forgetful():
    """Nothing remembered from other tests."""
    _activations._remembered.cache_clear()


# ----------------------------------------------- the same functions, in numpy and scipy

SELU_SCALE, SELU_ALPHA = 1.0507009873554805, 1.6732632423543772


def density(x):
    return np.exp(-x * x / 2) / math.sqrt(2 * math.pi)


def gelu_tanh(x):
    return x * special.expit(2 * math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))


def gelu_tanh_slope(x):
    inner = 2 * math.sqrt(2 / math.pi) * (1 + 3 * 0.044715 * x * x)
    gate = special.expit(2 * math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))
    return gate + x * gate * (1 - gate) * inner


def mish_slope(x):
    squash = np.tanh(np.logaddexp(0, x))
    return squash + x * (1 - squash**2) * special.expit(x)


# name: (activation, f, f', kinks, forward gain to the digits of the published tables)
CASES = {
    "relu": (
        jax.nn.relu,
        lambda x: max(x, 0.0),
        lambda x: float(x > 0),
        [0],
        1.41421,
    ),
    "leaky_relu": (
        jax.nn.leaky_relu,
        lambda x: max(x, 0.01 * x),
        lambda x: 1.0 if x > 0 else 0.01,
        [0],
        1.41414,
    ),
    "leaky_relu_0.2": (
        functools.partial(jax.nn.leaky_relu, negative_slope=0.2),
        lambda x: max(x, 0.2 * x),
        lambda x: 1.0 if x > 0 else 0.2,
        [0],
        1.38675,
    ),
    "elu": (
        jax.nn.elu,
        lambda x: x if x > 0 else np.expm1(x),
        lambda x: 1.0 if x > 0 else np.exp(x),
        [0],
        1.24520,
    ),
    "selu": (
        jax.nn.selu,
        lambda x: SELU_SCALE * (x if x > 0 else SELU_ALPHA * np.expm1(x)),
        lambda x: SELU_SCALE * (1.0 if x > 0 else SELU_ALPHA * np.exp(x)),
        [0],
        1.00000,
    ),
    "gelu": (
        functools.partial(jax.nn.gelu, approximate=False),
        lambda x: x * special.ndtr(x),
        lambda x: special.ndtr(x) + x * density(x),
        [],
        1.53353,
    ),
    "gelu_tanh": (jax.nn.gelu, gelu_tanh, gelu_tanh_slope, [], 1.53358),
    "silu": (
        jax.nn.silu,
        lambda x: x * special.expit(x),
        lambda x: special.expit(x) * (1 + x * special.expit(-x)),
        [],
        1.67653,
    ),
    "mish": (
        jax.nn.mish,
        lambda x: x * np.tanh(np.logaddexp(0, x)),
        mish_slope,
        [],
        1.48685,
    ),
    "tanh": (jnp.tanh, np.tanh, lambda x: 1 - np.tanh(x) ** 2, [], 1.59254),
    "sigmoid": (
        jax.nn.sigmoid,
        special.expit,
        lambda x: special.expit(x) * special.expit(-x),
        [],
        1.84623,
    ),
    "softplus": (
        jax.nn.softplus,
        lambda x: np.logaddexp(0, x),
        special.expit,
        [],
        1.04187,
    ),
    "softsign": (
        jax.nn.soft_sign,
        lambda x: x / (1 + abs(x)),
        lambda x: (1 + abs(x)) ** -2,
        [0],
        2.33753,
    ),
    "hard_swish": (
        jax.nn.hard_swish,
        lambda x: x * min(max(x + 3, 0), 6) / 6,
        lambda x: 0.0 if x < -3 else 1.0 if x > 3 else x / 3 + 0.5,
        [-3, 3],
        1.73666,
    ),
    "squareplus": (
        jax.nn.squareplus,
        lambda x: (x + np.sqrt(x * x + 4)) / 2,
        lambda x: (1 + x / np.sqrt(x * x + 4)) / 2,
        [],
        0.81650,
    ),
    "squared_relu": (
        lambda x: jnp.square(jax.nn.relu(x)),
        lambda x: max(x, 0.0) ** 2,
        lambda x: 2 * max(x, 0.0),
        [0],
        0.81650,
    ),
    "sin": (jnp.sin, np.sin, np.cos, [], 1.52087),
    "erf": (
        jax.scipy.special.erf,
        special.erf,
        lambda x: 2 / math.sqrt(math.pi) * np.exp(-x * x),
        [],
        1.46717,
    ),
    "shifted_relu": (
        lambda x: jax.nn.relu(x - SHIFT),
        lambda x: max(x - SHIFT, 0.0),
        lambda x: float(x > SHIFT),
        [SHIFT],
        1.56390,
    ),
}
BACKWARD = {"gelu": 1.4811, "silu": 1.6233, "tanh": 1.4674, "elu": 1.2234}
BACKWARD |= {"selu": 0.9660, "relu": 1.4142}


def mean(function, kinks=()):
    breaks = sorted({-6.0, 0.0, 6.0, *kinks})
    weighted = lambda z: function(z) * density(z)  # noqa: E731
    return integrate.quad(
        weighted, -13, 13, points=breaks, epsabs=0, epsrel=1e-12, limit=400
    )[0]


@functools.cache
def reference(name, direction):
    _, function, slope, kinks, _ = CASES[name]
    chosen = function if direction == "forward" else slope
    return mean(lambda z: chosen(z) ** 2, kinks) ** -0.5


# ------------------------------------------------------------------------------- gains


@pytest.mark.parametrize("direction", ["forward", "backward"])
@pytest.mark.parametrize("name", CASES)
def test_gain_is_that_of_scipy(name, direction):
    # Rounding of float32 is 6e-8 of each value, and averages out over the nodes; a
    # kink or jump adds the tolerance, 1.2e-7 of the mean, of which a gain has half.
    result = gain(CASES[name][0], direction=direction)
    assert type(result) is float
    assert result == pytest.approx(reference(name, direction), rel=3e-7)


@pytest.mark.parametrize("direction", ["forward", "backward"])
@pytest.mark.parametrize("name", CASES)
def test_gain_has_eleven_digits_in_64_bit_mode(name, direction, x64):
    result = gain(CASES[name][0], direction=direction)
    assert result == pytest.approx(reference(name, direction), rel=5e-12)


@pytest.mark.parametrize("name", CASES)
def test_gain_reproduces_the_published_table(name):
    activation, *_, published = CASES[name]
    assert gain(activation) == pytest.approx(published, abs=5.1e-6)
    if name in BACKWARD:
        backward = gain(activation, direction="backward")
        assert backward == pytest.approx(BACKWARD[name], abs=5.1e-5)


def test_centred_sigmoid():
    # E[(sigmoid - 1/2)^2] = E[sigmoid^2] - 1/4, since the mean is 1/2.
    expected = (gain(jax.nn.sigmoid) ** -2 - 0.25) ** -0.5
    result = gain(lambda x: jax.nn.sigmoid(x) - 0.5)
    assert result == pytest.approx(expected, rel=1e-6)
    assert round(result, 2) == 4.8


def test_linear_unit_has_gain_one():
    for direction in ("forward", "backward"):
        assert gain(lambda x: x, direction=direction) == pytest.approx(1.0, abs=1e-7)


def steps_and_kinks(place):
    """Three functions with a jump, a kink and a bend at one place, and their means."""
    upper, at = special.ndtr(-place), density(place)

    functions = [
        lambda z: (z[None] > place) * 1.0,
        lambda z: np.maximum(z[None] - place, 0.0),
        lambda z: np.maximum(z[None] - place, 0.0) ** 2,
    ]
    exact = [upper, at - place * upper, (1 + place**2) * upper - place * at]
    return functions, exact


@pytest.mark.parametrize(("tolerance", "noise"), [(1.2e-7, 2.4e-7), (1e-12, 4e-16)])
def test_jumps_and_kinks_are_found_wherever_they_lie(tolerance, noise):
    # Beside the edges of panels, beside 0, and anywhere. The last panel around a jump
    # holds up to the tolerance in the error estimate, of which the true error is at
    # most 2.5 times more (half a gap between nodes against the last coefficients).
    rng = np.random.default_rng(0)
    places = np.concatenate(
        [
            rng.uniform(-2, 2, 60),
            13 / 32 + rng.normal(0, 1e-3, 20),
            13 / 64 + rng.normal(0, 1e-3, 20),
            10.0 ** -np.arange(1, 10),
            [0.0, 13 / 32, SHIFT],
            [0.6296333156608419],  # where the last coefficient of a kink is zero
        ]
    )
    for place in places:
        functions, exact = steps_and_kinks(place)
        for function, expected in zip(functions, exact, strict=True):
            means = normal_means(function, tolerance=tolerance, noise=noise)
            np.testing.assert_allclose(means, [expected], rtol=5 * tolerance)


@pytest.mark.parametrize("width", [1e-2, 1e-3, 1e-4])
def test_functions_that_are_narrow_near_zero_are_found(width):
    # As f'(sqrt(q) z) is for large q, and off zero where f has its slope elsewhere.
    bump = lambda z: np.maximum(1 - np.abs(z / width - 20), 0)  # noqa: E731
    expected = integrate.quad(
        lambda z: bump(z) * density(z), 19 * width, 21 * width, points=[20 * width]
    )[0]
    means = normal_means(lambda z: bump(z)[None], tolerance=1e-9, noise=1e-15)
    assert means[0] == pytest.approx(expected, rel=1e-8)


def test_a_fixed_rule_would_miss_the_jump():
    nodes, weights = np.polynomial.hermite_e.hermegauss(64)
    functions, exact = steps_and_kinks(SHIFT)
    means = functions[0](nodes) @ weights / math.sqrt(2 * math.pi)
    assert abs(means[0] / exact[0] - 1) > 1e-3


def test_a_mean_at_the_ends_of_the_range_is_refused():
    grows = lambda z: np.exp(z[None] ** 2 / 2)  # noqa: E731
    with pytest.raises(ValueError, match=re.escape("mean lies beyond |z| = 13")):
        normal_means(grows, tolerance=1e-7, noise=1e-7)
    steep = normal_means(lambda z: np.exp(4 * z[None]), tolerance=1e-9, noise=1e-9)
    assert steep[0] == pytest.approx(math.exp(8), rel=1e-9)


@pytest.mark.parametrize("direction", ["forward", "backward"])
def test_outputs_of_16_bits_give_what_they_hold(direction):
    rounded = gain(lambda x: jax.nn.silu(x.astype(jnp.bfloat16)), direction=direction)
    assert rounded == pytest.approx(reference("silu", direction), rel=2**-9)


def test_quantized_activation_has_the_variance_of_its_rounding():
    # E[round(x)^2] = 1 + step^2 / 12, up to exp(-2 pi^2 / step^2).
    result = gain(lambda x: jnp.round(x * 4) / 4)
    assert result == pytest.approx((1 + 1 / (12 * 16)) ** -0.5, rel=1e-6)


def test_backward_gain_of_a_surrogate_gradient():
    @jax.custom_vjp
    def straight_through(x):
        return jnp.sign(x)

    straight_through.defvjp(
        lambda x: (jnp.sign(x), x),
        lambda x, cotangent: (jnp.where(jnp.abs(x) < 1, cotangent, 0.0),),
    )
    inside = special.ndtr(1) - special.ndtr(-1)
    result = gain(straight_through, direction="backward")
    assert result == pytest.approx(inside**-0.5, rel=1e-6)


# ------------------------------------------------------------- under any transformation


def under_jit(function):
    return jax.jit(function)(1.0)


def under_vmap(function):
    return jax.vmap(function)(jnp.ones(3))[1]


def under_grad(function):
    return jax.grad(function)(1.0)


def under_scan(function):
    return jax.lax.scan(lambda carry, x: (carry, function(x)), 0.0, jnp.ones(2))[1][1]


def under_shard_map(function, outer=lambda function: function):
    mesh = jax.make_mesh((8,), ("data",))
    parts = PartitionSpec("data")
    values = jax.device_put(jnp.ones(8), jax.NamedSharding(mesh, parts))
    mapped = jax.shard_map(function, mesh=mesh, in_specs=parts, out_specs=parts)
    return np.asarray(outer(mapped)(values))[3]


def under_jit_of_shard_map(function):
    return under_shard_map(function, jax.jit)


@pytest.mark.usefixtures("forgetful")
@pytest.mark.parametrize(
    "under",
    [
        under_jit,
        under_vmap,
        under_grad,
        under_scan,
        under_shard_map,
        under_jit_of_shard_map,
    ],
)
def test_gain_is_the_same_number_while_tracing(under):
    found = []

    def scaled(x):
        found.append(gain(jax.nn.silu, direction="backward"))
        found.append(edge_of_chaos(jnp.tanh, bias_variance=0.1).weight_variance)
        return x * found[0]

    result = under(scaled)
    _activations._remembered.cache_clear()
    outside = gain(jax.nn.silu, direction="backward")
    assert found[0] == outside
    assert found[1] == edge_of_chaos(jnp.tanh, bias_variance=0.1).weight_variance
    assert float(result) == np.float32(outside)


def test_gain_is_evaluated_for_shapes_alone(forgetful):
    shape = jax.eval_shape(lambda x: x * gain(jax.nn.silu), jnp.ones(3))
    assert shape.shape == (3,)


@pytest.mark.parametrize(
    "setting",
    [
        lambda: jax.default_device(jax.devices()[3]),
        lambda: jax.transfer_guard("disallow_explicit"),
        lambda: jax.disable_jit(),
        lambda: jax.checking_leaks(),
        lambda: jax.debug_nans(True),
        lambda: jax.set_mesh(jax.make_mesh((8,), ("data",))),
    ],
    ids=["device", "transfer_guard", "disable_jit", "leaks", "nans", "mesh"],
)
def test_gain_is_the_same_number_in_any_setting(setting):
    activation = CASES["shifted_relu"][0]
    expected = gain(activation)
    _activations._remembered.cache_clear()
    with setting():
        assert gain(activation) == expected


def test_activations_of_flax_and_arrays_in_closures():
    assert gain(linen.silu) == gain(nnx.silu) == gain(jax.nn.silu)
    slope = jax.device_put(jnp.float32(0.2), jax.devices()[5])
    leaky = gain(lambda x: jnp.where(x > 0, x, slope * x))
    assert leaky == pytest.approx(reference("leaky_relu_0.2", "forward"), rel=1e-6)


# -------------------------------------------------------------------------- remembering


@pytest.mark.usefixtures("forgetful")
def test_functions_and_equal_partials_are_remembered():
    calls = []

    def leaky(x, slope):
        calls.append(1)
        return jnp.where(x > 0, x, slope * x)

    first = gain(functools.partial(leaky, slope=0.2))
    traced = len(calls)
    assert gain(functools.partial(leaky, slope=0.2)) == first
    assert len(calls) == traced
    assert gain(functools.partial(leaky, slope=0.5)) < first
    assert len(calls) > traced
    assert gain(functools.partial(leaky, slope=np.array(0.2, np.float32))) == (
        pytest.approx(first, rel=1e-6)  # an argument without a hash
    )


@pytest.mark.usefixtures("forgetful")
def test_precision_is_part_of_what_is_remembered():
    single = gain(jax.nn.mish)
    with jax.enable_x64(True):
        double = gain(jax.nn.mish)
    assert single != double
    assert gain(jax.nn.mish) == single


def decorated(method):
    @functools.wraps(method)
    def call(self, x):
        return method(self, x)

    return call


class Leaky:
    def __init__(self, slope):
        self.slope = slope

    @decorated
    def __call__(self, x):
        return jnp.where(x > 0, x, self.slope * x)


@pytest.mark.parametrize("of", [lambda leaky: leaky, lambda leaky: leaky.__call__])
def test_what_can_change_is_computed_each_time(of):
    leaky = Leaky(0.2)
    assert gain(of(leaky)) == pytest.approx(1.3867505, rel=1e-6)
    leaky.slope = 1.0
    assert gain(of(leaky)) == pytest.approx(1.0, rel=1e-6)

    def traced(slope):
        leaky.slope = slope
        return gain(of(leaky))

    with pytest.raises(ValueError, match=TRACED):
        jax.jit(traced)(0.5)


def test_callables_without_a_hash():
    class Unhashable(Leaky):
        __hash__ = None

    assert gain(Unhashable(0.2)) == gain(Leaky(0.2))


# ----------------------------------------------------------------------- errors of gain


def not_elementwise(x):
    return x - x.mean()


def by_place(x):
    return x * jnp.arange(x.size).astype(x.dtype)


def grows(x):
    return jnp.exp(x * x / 3)


def scatters(x):
    return jnp.sin(1e7 * x)


def two(x):
    return x, x


def zero(x):
    return 0 * x


def backward(activation):
    return gain(activation, direction="backward")


GAIN_ERRORS = [
    (
        lambda: gain("gelu"),
        TypeError,
        "activation must be a function, got the name 'gelu'; pass the function itself, "
        "jax.nn.gelu",
    ),
    (lambda: gain("LeakyReLU"), TypeError, "pass the function itself, jax.nn.leaky_re"),
    (lambda: gain("sin"), TypeError, "pass the function itself, jnp.sin"),
    (lambda: gain("foo"), TypeError, "the function itself, such as jax.nn.gelu"),
    (
        lambda: gain(None),
        TypeError,
        "activation must be a function of one array, such as jax.nn.relu, got None",
    ),
    (
        lambda: gain(nnx.PReLU),
        TypeError,
        "activation must be a function, got the class PReLU; pass a function of one",
    ),
    (
        lambda: gain(linen.PReLU()),
        TypeError,
        "got the module PReLU, which needs its parameters; pass lambda x: "
        "module.apply(variables, x)",
    ),
    (
        lambda: gain(jnp.tanh, direction="back"),
        ValueError,
        "direction must be one of ('forward', 'backward'), got 'back'",
    ),
    (
        lambda: gain(jax.nn.glu),
        ValueError,
        "activation glu turns shape (2048,) into (1024,): it is not elementwise",
    ),
    (lambda: gain(jax.nn.softmax), ValueError, "activation softmax is not elementwise"),
    (
        lambda: gain(not_elementwise),
        ValueError,
        "activation not_elementwise is not elementwise: its value at a number depends "
        "on the rest of the array, so it has no gain. Give a function that is applied "
        "to each number by itself",
    ),
    (lambda: gain(by_place), ValueError, "activation by_place is not elementwise"),
    (
        lambda: gain(jnp.log),
        ValueError,
        "activation log is -inf at 0; it must be finite at every number",
    ),
    (
        lambda: backward(lambda x: jnp.sqrt(jnp.abs(x))),
        ValueError,
        "the derivative of activation <lambda> is ",
    ),
    (
        lambda: gain(grows),
        ValueError,
        "activation grows has no mean square that can be computed: it grows so fast "
        "that its mean lies beyond |z| = 13",
    ),
    (
        lambda: gain(scatters),
        ValueError,
        "activation scatters has no mean square that can be computed: it jumps, "
        "oscillates or scatters too fast to be integrated",
    ),
    (
        lambda: gain(zero),
        ValueError,
        "activation zero is zero everywhere: no gain gives back what it takes away",
    ),
    (
        lambda: backward(jnp.sign),
        ValueError,
        "the derivative of activation sign is zero almost everywhere: no gradient "
        "passes through it, and no gain can change that; if it is trained with a "
        "surrogate gradient, give it that one by jax.custom_vjp",
    ),
    (lambda: backward(lambda x: x > 0.3), ValueError, "is zero almost everywhere"),
    (
        lambda: gain(two),
        TypeError,
        "activation two returns a tuple; it must return one array",
    ),
    (
        lambda: gain(lambda x: jax.lax.complex(x, x)),
        TypeError,
        "activation <lambda> returns complex64; it must be real",
    ),
    (
        lambda: gain(np.tanh),
        TypeError,
        "activation tanh cannot be evaluated on an array of shape (2048,) and dtype "
        "float32 (TracerArrayConversionError: ",
    ),
    (
        lambda: gain(lambda x: x if x > 0 else 0 * x),
        TypeError,
        "; it must be a function of one array, made of jax operations",
    ),
    (
        lambda: backward(
            lambda x: jax.lax.while_loop(lambda y: y.max() > 1, lambda y: y / 2, x)
        ),
        TypeError,
        "activation <lambda> cannot be differentiated on an array",
    ),
    (
        lambda: jax.jit(lambda slope: gain(lambda x: jnp.maximum(x, slope * x)))(0.1),
        ValueError,
        f"activation <lambda> {TRACED}, from a concrete value",
    ),
    (
        lambda: jax.grad(lambda slope: backward(lambda x: slope * x))(0.1),
        ValueError,
        TRACED,
    ),
    (
        lambda: jax.jit(
            lambda slope: gain(
                functools.partial(jax.nn.leaky_relu, negative_slope=slope)
            )
        )(0.1),
        ValueError,
        f"activation leaky_relu {TRACED}",
    ),
]


@pytest.mark.parametrize(
    ("call", "kind", "message"),
    GAIN_ERRORS,
    ids=[case[2][-40:] for case in GAIN_ERRORS],
)
def test_gain_says_what_is_wrong(call, kind, message):
    with pytest.raises(kind, match=re.escape(message)):
        call()


# ----------------------------------------------------------------------- edge of chaos


def solved_by_scipy(name, bias_variance, guess=(2.0, 1.0)):
    """Both equations at once, by another method than ours."""
    _, function, slope, _, _ = CASES[name]

    def residuals(unknowns):
        weight_variance, q = unknowns
        root = math.sqrt(q)
        chi = weight_variance * mean(lambda z: slope(root * z) ** 2)
        after = weight_variance * mean(lambda z: function(root * z) ** 2)
        return [chi - 1, after + bias_variance - q]

    solution = optimize.root(residuals, guess, tol=1e-12)
    assert solution.success
    return solution.x


@pytest.mark.parametrize(
    ("bias_variance", "published"), [(0.05, 1.761), (0.1, 1.986), (0.3, 2.505)]
)
def test_edge_of_chaos_of_tanh_is_that_of_scipy(bias_variance, published):
    expected = solved_by_scipy("tanh", bias_variance)
    result = edge_of_chaos(jnp.tanh, bias_variance=bias_variance)
    assert isinstance(result, EdgeOfChaos)
    assert result.weight_variance == pytest.approx(expected[0], rel=1e-6)
    assert result.fixed_point == pytest.approx(expected[1], rel=1e-5)
    assert round(result.weight_variance, 3) == published
    assert all(type(number) is float for number in result)


@pytest.mark.parametrize("bias_variance", [0.01, 2.0, 1e4])
def test_edge_of_chaos_of_sin_in_closed_form(bias_variance):
    # E[sin^2] = (1 - e^(-2q)) / 2, E[cos^2] = (1 + e^(-2q)) / 2: q - tanh(q) = bias.
    result = edge_of_chaos(jnp.sin, bias_variance=bias_variance)
    q = result.fixed_point
    assert q - math.tanh(q) == pytest.approx(bias_variance, rel=1e-4)
    assert result.weight_variance == pytest.approx(2 / (1 + math.exp(-2 * q)), rel=1e-6)


def test_edge_of_chaos_of_functions_that_are_not_0_at_0():
    expected = solved_by_scipy("sigmoid", 0.0, guess=(100.0, 40.0))
    result = edge_of_chaos(jax.nn.sigmoid, bias_variance=0)
    assert result == pytest.approx(expected, rel=1e-5)
    # With u = 1 + 4q: E[exp(-2x^2)] = u^(-1/2), E[f'^2] = 4 q u^(-3/2), q = u / 4q.
    result = edge_of_chaos(lambda x: jnp.exp(-x * x), bias_variance=0)
    q = (1 + math.sqrt(2)) / 2
    assert result.fixed_point == pytest.approx(q, rel=1e-5)
    assert result.weight_variance == pytest.approx(
        (1 + 4 * q) ** 1.5 / (4 * q), rel=1e-5
    )


def test_without_bias_variance_the_fixed_point_of_tanh_is_zero():
    assert edge_of_chaos(jnp.tanh, bias_variance=0) == (1.0, 0.0)
    variance, fixed_point = edge_of_chaos(lambda x: jnp.sin(2 * x), bias_variance=0.0)
    assert variance == pytest.approx(0.25, rel=1e-6)
    assert fixed_point == 0.0
    variance, fixed_point = edge_of_chaos(jax.nn.selu, bias_variance=0)
    both = (SELU_SCALE**2 + (SELU_SCALE * SELU_ALPHA) ** 2) / 2
    assert variance == pytest.approx(1 / both, rel=1e-6)
    assert fixed_point == 0.0


@pytest.mark.parametrize("width", [1.0, 10.0])
def test_a_fixed_point_of_zero_need_not_attract_at_once(width):
    # Linear up to the width, so that small variances stay as they are; then flat, ...
    flat = lambda x: jnp.clip(x, -width, width)  # noqa: E731
    assert edge_of_chaos(flat, bias_variance=0) == (1.0, 0.0)


def test_a_fixed_point_of_zero_must_not_repel_later():
    # ... or steeper.
    with pytest.raises(ValueError, match=re.escape("(q* = 0), so no network stays")):
        edge_of_chaos(lambda x: 2 * x - jnp.clip(x, -1, 1), bias_variance=0)


@pytest.mark.parametrize("name", ["relu", "leaky_relu", "leaky_relu_0.2"])
def test_every_length_is_a_fixed_point_of_homogeneous_functions(name):
    activation = CASES[name][0]
    variance, fixed_point = edge_of_chaos(activation, bias_variance=0)
    assert variance == pytest.approx(gain(activation) ** 2, rel=1e-6)
    assert fixed_point == 1.0


def jump_at_20(x):
    return jnp.where(jnp.abs(x) > 20, 10.0, 0.0).astype(x.dtype)


def capped(x):
    return jnp.minimum(jnp.square(jax.nn.relu(x)), 1.0)


def test_the_smallest_stable_of_several_fixed_points():
    # The jump adds two fixed points far out: an unstable one near 98, a stable one.
    three = edge_of_chaos(lambda x: jnp.tanh(x) + jump_at_20(x), bias_variance=0.05)
    one = edge_of_chaos(jnp.tanh, bias_variance=0.05)
    assert three == pytest.approx(one, rel=1e-6)
    # Here the smallest, 0.18, is unstable as well, and alone it is an error.
    message = "(q* = 0.1824), so no network stays there; a larger bias variance"
    with pytest.raises(ValueError, match=re.escape(message)):
        edge_of_chaos(capped, bias_variance=0.05)
    far = edge_of_chaos(lambda x: capped(x) + jump_at_20(x), bias_variance=0.05)
    assert 3e4 < far.fixed_point < 4e4


def test_edge_of_chaos_in_64_bit_mode_reaches_smaller_variances(x64):
    # sin: q - tanh(q) = q^3 / 3 (1 - 2 q^2 / 5 + ...).
    q = edge_of_chaos(jnp.sin, bias_variance=1e-8).fixed_point
    assert q**3 / 3 * (1 - 0.4 * q * q) == pytest.approx(1e-8, rel=1e-6)


def test_a_small_offset_acts_as_bias_variance(x64):
    # (f + c)^2 has the mean of f^2, and c^2 more, for odd f.
    offset = edge_of_chaos(lambda x: jnp.tanh(x) + 1e-3, bias_variance=0)
    equivalent = 1e-6 * offset.weight_variance
    assert offset == pytest.approx(
        edge_of_chaos(jnp.tanh, bias_variance=equivalent), rel=1e-6
    )


EDGE_ERRORS = [
    (
        lambda: edge_of_chaos(jax.nn.relu, bias_variance=0.1),
        ValueError,
        "activation relu has no edge of chaos with bias_variance=0.1: it is linear on "
        "either side of 0, so where chi = 1 every layer adds the bias variance, and "
        "nothing takes it away. Use bias_variance=0",
    ),
    (
        lambda: edge_of_chaos(jax.nn.silu, bias_variance=0),
        ValueError,
        "activation silu has no edge of chaos with bias_variance=0.0: no fixed point "
        "attracts the variances beside it (q* = 0), so no network stays there; a "
        "larger bias variance may have one that does",
    ),
    (
        lambda: edge_of_chaos(jnp.exp, bias_variance=0.3),
        ValueError,
        "no fixed point attracts the variances beside it (q* = 1.3)",
    ),
    (
        lambda: edge_of_chaos(jax.nn.softplus, bias_variance=0.1),
        ValueError,
        "activation softplus has no edge of chaos with bias_variance=0.1: where chi = "
        "1, no variance was found that the next layer keeps",
    ),
    (
        lambda: edge_of_chaos(CASES["squared_relu"][0], bias_variance=0),
        ValueError,
        "where chi = 1, no variance was found that the next layer keeps",
    ),
    (
        # Rounding makes softplus(0) - log(2) more than 0, and looks like a root there.
        lambda: edge_of_chaos(
            lambda x: jnp.log(1 + jnp.exp(x)) - math.log(2), bias_variance=0
        ),
        ValueError,
        "attracts the variances beside it (q* = 0), so no network stays there",
    ),
    (
        lambda: edge_of_chaos(jnp.tanh, bias_variance=1e-9),
        ValueError,
        "rounding errors hide the fixed point of activation tanh with "
        "bias_variance=1e-09: near q = ",
    ),
    (
        lambda: edge_of_chaos(jnp.sign, bias_variance=0.1),
        ValueError,
        "the derivative of activation sign is zero almost everywhere",
    ),
    (
        lambda: edge_of_chaos("tanh", bias_variance=0.1),
        TypeError,
        "activation must be a function, got the name 'tanh'",
    ),
    (
        lambda: edge_of_chaos(jnp.tanh, bias_variance=-0.1),
        ValueError,
        "bias_variance must be finite and not negative, got -0.1",
    ),
    (
        lambda: edge_of_chaos(jnp.tanh, bias_variance=math.inf),
        ValueError,
        "bias_variance must be finite and not negative, got inf",
    ),
    (
        lambda: edge_of_chaos(jnp.tanh, bias_variance="small"),
        TypeError,
        "bias_variance must be a real number, got 'small'",
    ),
    (
        lambda: edge_of_chaos(jnp.tanh, bias_variance=np.ones(2)),
        TypeError,
        "bias_variance must be one number, got array([1., 1.])",
    ),
    (
        lambda: jax.jit(lambda b: edge_of_chaos(jnp.tanh, bias_variance=b))(0.1),
        TypeError,
        "bias_variance must be a number that is known while tracing, got ",
    ),
]


@pytest.mark.parametrize(
    ("call", "kind", "message"),
    EDGE_ERRORS,
    ids=[case[2][-40:] for case in EDGE_ERRORS],
)
def test_edge_of_chaos_says_what_is_wrong(call, kind, message):
    with pytest.raises(kind, match=re.escape(message)):
        call()
