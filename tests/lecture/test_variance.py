"""The variance chapter of the lecture, sentence by sentence, on real Flax layers.

How the variance of a product comes about, what Xavier and He make of it, forward and
backward, and what zero, equal and random starts do to the symmetry of the units.
"""

import functools
import itertools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from replicates import UNOPTIMIZED, assert_mean, half_width, replicate, second_moment
from small_networks import Perceptron, circular_conv, deep, dense, descend

from jaxinit import initializers
from jaxinit.initializers import glorot_normal, he_normal

COUNT = 64


# ------------------------------------------------------- the variance of a sum of w x


def variance_of_product(mean_w, variance_w, mean_x, variance_x):
    """Var(w x) = E[x]² Var(w) + E[w]² Var(x) + Var(w) Var(x), for independent w, x."""
    return mean_x**2 * variance_w + mean_w**2 * variance_x + variance_w * variance_x


# Two values each, of variance 4, around zero and not.
FAIR = {0.0: (-2.0, 2.0), 1.0: (-1.0, 3.0), 2.0: (0.0, 4.0)}


@pytest.mark.parametrize("mean_x", [0.0, 2.0])
@pytest.mark.parametrize("mean_w", [0.0, 1.0])
@pytest.mark.parametrize("n", [1, 2, 3, 4])
def test_the_variance_of_a_sum_of_n_products_is_n_times_that_of_one(n, mean_w, mean_x):
    """Exactly: over all weights and all inputs that two-valued draws can give."""
    every_w = np.array(list(itertools.product(FAIR[mean_w], repeat=n)), np.float32)
    every_x = np.array(list(itertools.product(FAIR[mean_x], repeat=n)), np.float32)
    layer = nn.Dense(len(every_w), use_bias=False)
    # Every unit has one of the weight vectors, every row is one of the inputs.
    y = layer.apply({"params": {"kernel": every_w.T}}, every_x)
    variance = np.var(np.asarray(y, np.float64))
    assert variance == n * variance_of_product(mean_w, 4.0, mean_x, 4.0)


MEANS = list(itertools.product([0.0, 0.7], [0.0, -1.5]))  # of w, of x
VARIANCE_W, VARIANCE_X = 0.25, 1.0


def shifted(mean):
    """A normal distribution around `mean`, as an initializer."""
    draw = initializers.normal(VARIANCE_W**0.5)
    return lambda key, shape, dtype: mean + draw(key, shape, dtype)


@functools.cache
def measured_variances(n):
    """Of one unit with n inputs, over fresh pairs of weights and inputs; every MEANS.

    Over fresh *pairs*: with E[w] not zero, the units of one layer share E[w] sum(x).
    """
    # A product of two normal draws has a kurtosis of 9, a sum of many has one of 3.
    pairs = {1: 1024, 4: 512, 16: 256}.get(n, 128)

    def measure(key):
        key_w, key_x = jax.random.split(key)
        noise = jax.random.normal(key_x, (pairs, 1, n))

        def variance(mean_w, mean_x):
            layer = dense(1, shifted(mean_w))
            x = mean_x + noise
            y = jax.vmap(lambda key, x: layer.init_with_output(key, x)[0])
            return jnp.var(y(jax.random.split(key_w, pairs), x), ddof=1)

        return jnp.stack([variance(*means) for means in MEANS])

    return replicate(measure, COUNT)


@pytest.mark.parametrize("n", [1, 4, 16, 64, 256])
def test_the_variance_of_a_unit_grows_linearly_with_its_inputs(n):
    """Also for normal draws, for all four combinations of zero and other means."""
    for values, (mean_w, mean_x) in zip(measured_variances(n).T, MEANS, strict=True):
        one = variance_of_product(mean_w, VARIANCE_W, mean_x, VARIANCE_X)
        assert_mean(values, n * one, sensitivity=0.15)


def test_with_zero_means_only_the_product_of_the_variances_is_left():
    assert variance_of_product(0.0, VARIANCE_W, 0.0, VARIANCE_X) == 0.25
    values = measured_variances(16)
    assert_mean(values[:, MEANS.index((0.0, 0.0))], 16 * VARIANCE_W * VARIANCE_X)
    with pytest.raises(AssertionError, match="measured"):
        assert_mean(values[:, MEANS.index((0.7, -1.5))], 16 * VARIANCE_W * VARIANCE_X)


def test_the_units_of_one_layer_share_what_the_mean_weight_makes_of_the_input():
    """For one input, their variance is Var(w) sum(x²), without E[w]² Var(x)."""

    def measure(key):
        x = jax.random.normal(jax.random.fold_in(key, 0), (1, 16)) - 1.5
        y, _ = dense(512, shifted(0.7)).init_with_output(key, x)
        return jnp.var(y, ddof=1) / jnp.sum(jnp.square(x))

    assert_mean(replicate(measure, COUNT), VARIANCE_W)


# ------------------------------------------------------------------------------ Xavier

IN, OUT = 32, 96


@functools.cache
def gains(init, n_in=IN, n_out=OUT):
    """What a Dense layer does to the second moments of signal and gradient."""

    def measure(key):
        key, key_x, key_g = jax.random.split(key, 3)
        x = jax.random.normal(key_x, (32, n_in))
        layer = dense(n_out, init)
        params = layer.init(key, x)
        y, pull_back = jax.vjp(lambda x: jnp.asarray(layer.apply(params, x)), x)
        (gradient,) = pull_back(jax.random.normal(key_g, y.shape))
        kernel = second_moment(params["params"]["kernel"])
        return second_moment(y), second_moment(gradient), kernel

    return replicate(measure, COUNT)


def scaling(mode):
    return initializers.variance_scaling(1.0, mode, "truncated_normal")


@pytest.mark.parametrize(
    ("init", "forward", "backward"),
    [
        (scaling("fan_in"), 1.0, OUT / IN),
        (scaling("fan_out"), IN / OUT, 1.0),
        (glorot_normal(), 2 * IN / (IN + OUT), 2 * OUT / (IN + OUT)),
        (initializers.glorot_uniform(), 2 * IN / (IN + OUT), 2 * OUT / (IN + OUT)),
    ],
    ids=["1 / fan_in", "1 / fan_out", "Xavier normal", "Xavier uniform"],
)
def test_one_over_fan_in_keeps_the_signal_one_over_fan_out_the_gradient(
    init, forward, backward
):
    """Xavier is the compromise: neither is kept, and neither more than doubles."""
    signal, gradient, _ = gains(init)
    assert_mean(signal, forward)
    assert_mean(gradient, backward)


@pytest.mark.parametrize(("n_in", "n_out"), [(32, 96), (96, 32), (48, 48)])
def test_xavier_shares_the_loss_between_signal_and_gradient(n_in, n_out):
    """The two gains add up to 2, so their product is at most 1."""
    signal, gradient, _ = gains(glorot_normal(), n_in, n_out)
    assert_mean(signal + gradient, 2.0)
    fan_in, fan_out = initializers.fans((n_in, n_out))
    product = 4 * fan_in * fan_out / (fan_in + fan_out) ** 2
    assert product <= 1.0
    assert (product == 1.0) == (n_in == n_out)
    # Relative bounds add, to first order, when means are multiplied.
    width = half_width(signal) / signal.mean() + half_width(gradient) / gradient.mean()
    assert abs(signal.mean() * gradient.mean() / product - 1) < width < 0.15


def test_xavier_averages_the_fans_and_not_the_variances():
    """2 / (fan_in + fan_out) is not the mean of 1 / fan_in and 1 / fan_out."""
    mean_of_variances = (1 / IN + 1 / OUT) / 2
    of_mean_fan = 2 / (IN + OUT)
    assert of_mean_fan == 1 / 64
    assert mean_of_variances > 1.3 * of_mean_fan
    _, _, kernel = gains(glorot_normal())
    assert_mean(kernel, of_mean_fan)
    with pytest.raises(AssertionError, match="measured"):
        assert_mean(kernel, mean_of_variances)


def test_a_deep_net_of_alternating_widths_is_balanced_by_xavier():
    """tanh near the origin is linear; from n to 3n a layer has gain 1/2, back 3/2.

    So over each pair the signal has a gain of 3/4, and so has the gradient.
    """
    widths = [48, 16, 48, 16]

    def measure(key):
        key, key_x, key_g = jax.random.split(key, 3)
        x = 1e-3 * jax.random.normal(key_x, (32, 16))
        net = nn.Sequential(
            [
                step
                for width in widths
                for step in (dense(width, glorot_normal()), nn.tanh)
            ]
        )
        params = net.init(key, x)
        y, pull_back = jax.vjp(lambda x: jnp.asarray(net.apply(params, x)), x)
        (gradient,) = pull_back(jax.random.normal(key_g, y.shape))
        return second_moment(y) / second_moment(x), second_moment(gradient)

    signal, gradient = replicate(measure, 4 * COUNT)
    assert_mean(signal, 0.75**2, sensitivity=0.2)
    assert_mean(gradient, 0.75**2, sensitivity=0.2)


def test_one_over_n_is_a_variance_and_not_a_standard_deviation():
    """Where the lecture says standard deviation, it means variance."""
    signal, _, _ = gains(initializers.normal(IN**-0.5))
    assert_mean(signal, 1.0)
    lost, _, _ = gains(initializers.normal(1 / IN))
    with pytest.raises(AssertionError, match="measured"):
        assert_mean(lost, 1.0)
    assert_mean(lost, 1 / IN)


# ---------------------------------------------------------------------------------- He

DEPTH = 12
NETS = {
    "Dense": (functools.partial(dense, 64), (4, 64)),
    "Conv": (functools.partial(circular_conv, 16), (1, 3, 3, 16)),
}
each_net = pytest.mark.parametrize("net", NETS)


@functools.cache
def through_relu(net, init):
    """The gains of every layer of a ReLU net, forward and backward, and the output."""
    layer, shape = NETS[net]

    def measure(key):
        key, key_x, key_g = jax.random.split(key, 3)
        x = jax.random.normal(key_x, shape)
        cotangent = jax.random.normal(key_g, shape)
        return deep(layer(init), nn.relu, DEPTH, key, x, cotangent)

    return replicate(measure, COUNT)


@each_net
def test_he_keeps_signal_and_gradient_through_twelve_relu_layers(net):
    """2 / fan_in gives back the half of the second moment that ReLU takes away.

    Given what enters it, a layer has a gain of 1 in expectation: in the first, in the
    middle and in the last third of the net.
    """
    for values in through_relu(net, he_normal())[:2]:  # (nets, layers)
        thirds = values.reshape(COUNT, 3, DEPTH // 3).mean(axis=2)
        assert_mean(thirds, 1.0, sensitivity=0.2)
        assert_mean(values.mean(axis=1), 1.0)


@each_net
def test_xavier_halves_signal_and_gradient_in_every_relu_layer(net):
    """Between equal widths 2 / (fan_in + fan_out) is 1 / fan_in, and ReLU halves."""
    for values in through_relu(net, glorot_normal())[:2]:
        assert_mean(values.mean(axis=1), 0.5)
        with pytest.raises(AssertionError, match="measured"):
            assert_mean(values.mean(axis=1), 1.0)


@each_net
def test_after_l_layers_xavier_has_two_to_the_minus_l_of_what_he_has(net):
    """The same draws: ReLU passes the factor sqrt(1/2) of every layer on unchanged."""
    he, xavier = (through_relu(net, init)[2] for init in (he_normal(), glorot_normal()))
    expected = he * 2.0 ** (-DEPTH / 2)
    # Each layer sums about a hundred products, each off by a unit in the last place.
    rounding = DEPTH * 128 * np.finfo(np.float32).eps
    error = np.linalg.norm(xavier - expected) / np.linalg.norm(expected)
    assert error < rounding < 1e-3


# --------------------------------------------------------------------- symmetry, biases

INPUTS = jax.random.normal(jax.random.key(5), (32, 8))
TARGET = jnp.sin(INPUTS[:, 0]) + INPUTS[:, 1]
each_activation = pytest.mark.parametrize("activation", [nn.relu, nn.tanh])


def start(kernel_init, activation=nn.relu, bias_init=initializers.zeros):
    return Perceptron((16, 16), kernel_init, bias_init, activation)


@each_activation
def test_equal_weights_stay_equal_whatever_is_learned(activation):
    """Every hidden unit computes the same and gets the same gradient, for ever."""
    model = start(initializers.constant(0.1), activation)
    before, after, losses = descend(model, INPUTS, TARGET, 20)
    assert losses[-1] < losses[0]
    for name in ("Dense_0", "Dense_1"):
        kernel, bias = (
            np.asarray(after[name]["kernel"]),
            np.asarray(after[name]["bias"]),
        )
        assert not np.array_equal(kernel, before[name]["kernel"])
        np.testing.assert_array_equal(kernel, np.repeat(kernel[:, :1], 16, axis=1))
        np.testing.assert_array_equal(bias, np.repeat(bias[:1], 16))


@each_activation
def test_zero_weights_in_hidden_layers_never_move(activation):
    """What is passed on is zero, what comes back is zero: only the last bias learns."""
    before, after, losses = descend(
        start(initializers.zeros, activation), INPUTS, TARGET, 20
    )
    moved = jax.tree.map(lambda old, new: bool(np.any(old != new)), before, after)
    layers = [moved[f"Dense_{index}"] for index in range(3)]
    assert layers[:2] == [{"kernel": False, "bias": False}] * 2
    assert layers[2] == {"kernel": False, "bias": True}
    # The best that a constant can do, and no better.
    assert losses[-1] >= np.var(np.asarray(TARGET, np.float64)) * (1 - 1e-6)


@each_activation
def test_random_weights_break_the_symmetry(activation):
    """No two units are equal, before and after, and the net learns more."""
    before, after, losses = descend(start(he_normal(), activation), INPUTS, TARGET, 20)
    for params, name in itertools.product((before, after), ("Dense_0", "Dense_1")):
        units = np.unique(np.asarray(params[name]["kernel"]), axis=1)
        assert units.shape[1] == 16
    equal = descend(start(initializers.constant(0.1), activation), INPUTS, TARGET, 20)
    assert losses[-1] < equal[2][-1]


def test_with_zero_biases_a_unit_is_active_for_one_half_of_every_pair():
    """A symmetric start: of x and -x, exactly one passes; a bias takes sides."""

    def active(bias):
        model = start(he_normal(), bias_init=initializers.constant(bias))
        key, both = jax.random.key(1), jnp.concatenate([INPUTS, -INPUTS])
        run = jax.jit(model.init_with_output, compiler_options=UNOPTIMIZED)
        first = np.asarray(run(key, both)[0][1][0] > 0, int)
        return first[:32] + first[32:]

    np.testing.assert_array_equal(active(0.0), 1)
    assert np.any(active(0.1) == 2)


def never_active(bias):
    """Of every hidden unit of a narrow deep ReLU net, whether no input wakes it."""
    model = Perceptron((8,) * 10, he_normal(), initializers.constant(bias))

    def measure(key):
        x = jax.random.normal(jax.random.fold_in(key, 0), (32, 8))
        _, hidden = model.init_with_output(key, x)[0]
        return jnp.stack([jnp.all(h <= 0, axis=0) for h in hidden])

    return replicate(measure, 256)  # (nets, layers, units)


def test_slightly_positive_biases_leave_fewer_units_dead_at_the_start():
    """The same weights and inputs with a bias of 0 and of 0.1."""
    without, with_bias = never_active(0.0), never_active(0.1)
    # In the first layer a bias can wake a unit and cannot put one to sleep.
    assert np.all(with_bias[:, 0] <= without[:, 0])
    # Over the whole net it is a matter of statistics: the mean of paired differences.
    fewer = (without - with_bias).mean(axis=(1, 2))
    assert fewer.mean() > half_width(fewer)
    assert without.mean() > 0.05
