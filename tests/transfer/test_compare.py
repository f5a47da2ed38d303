"""compare exposes, and places, the mistakes that pass every name and shape check."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax import nnx

from jaxinit import transfer as tr
from jaxinit._errors import AuditError
from jaxinit.transfer._comparison._errors import error_of, relation

X = np.asarray(np.random.default_rng(0).normal(size=(2, 8, 8, 3)), np.float32)


class Linen(nn.Module):
    epsilon: float = 1e-3
    padding: object = "SAME"

    @nn.compact
    def __call__(self, x):
        for i in range(2):
            groups = {"feature_group_count": 6} if i else {}
            options = {"strides": 2, "padding": self.padding, **groups}
            x = nn.Conv(6, (3, 3), **options, name=f"conv_{i}")(x)
            norm = {"use_running_average": True, "epsilon": self.epsilon}
            x = nn.relu(nn.BatchNorm(**norm, name=f"norm_{i}")(x))
        return nn.Dense(6, name="head")(x.mean((1, 2)))


class Nnx(nnx.Module):
    def __init__(self, rngs, epsilon=1e-3, padding="SAME"):
        options = {"strides": 2, "padding": padding, "rngs": rngs}
        norm = {"use_running_average": True, "epsilon": epsilon, "rngs": rngs}
        self.conv_0 = nnx.Conv(3, 6, (3, 3), **options)
        self.norm_0 = nnx.BatchNorm(6, **norm)
        self.conv_1 = nnx.Conv(6, 6, (3, 3), feature_group_count=6, **options)
        self.norm_1 = nnx.BatchNorm(6, **norm)
        self.head = nnx.Linear(6, 6, rngs=rngs)

    def __call__(self, x):
        x = nnx.relu(self.norm_0(self.conv_0(x)))
        x = nnx.relu(self.norm_1(self.conv_1(x)))
        return self.head(x.mean((1, 2)))


def numbers():
    """Variables in which no leaf has its default, statistics least of all."""
    rng = np.random.default_rng(1)
    shapes = jax.eval_shape(Linen().init, jax.random.key(0), X)
    return jax.tree.map(
        lambda leaf: rng.uniform(0.2, 0.6, leaf.shape).astype(np.float32), shapes
    )


VARIABLES = numbers()


def changed(collection, path, change):
    variables = jax.tree.map(lambda leaf: leaf, VARIABLES)
    module, leaf = path.split("/")
    variables[collection][module][leaf] = change(variables[collection][module][leaf])
    return variables


def reset(name, value):
    return changed(
        "batch_stats", f"norm_0/{name}", lambda leaf: np.full_like(leaf, value)
    )


other = np.random.default_rng(2)
MISTAKES = {
    "epsilon": (VARIABLES, {"epsilon": 1e-5}, "norm_0", "0.001 in f and 1e-05 in g"),
    "padding": (
        VARIABLES,
        {"padding": 1},
        "conv_0",
        "padding is ((0, 1), (0, 1)) in f",
    ),
    "flipped": (
        changed("params", "conv_1/kernel", lambda k: np.swapaxes(k, 0, 1)),
        {},
        "conv_1",
        "that of f with the axes 0 and 1 exchanged",
    ),
    "mirrored": (
        changed("params", "conv_1/kernel", lambda k: k[::-1, ::-1]),
        {},
        "conv_1",
        "that of f backwards along the axes 0, 1",
    ),
    "not loaded": (
        changed("params", "conv_1/kernel", lambda k: other.normal(size=k.shape)),
        {},
        "conv_1",
        "differs (by up to",
    ),
    "mean forgotten": (reset("mean", 0), {}, "norm_0", "all 0 in g"),
    "variance forgotten": (reset("var", 1), {}, "norm_0", "all 1 in g"),
    "transposed": (
        changed("params", "head/kernel", lambda k: k.T),
        {},
        "head",
        "that of f with the axes 0 and 1 exchanged",
    ),
}


def in_nnx(variables, **options):
    model = nnx.eval_shape(lambda: Nnx(nnx.Rngs(0), **options))
    nnx.update(model, tr.merge(nnx.state(model), variables)[0])
    return model


KINDS = {
    "linen": lambda variables, **options: Linen(**options).bind(variables),
    "closure": lambda variables, **options: (
        lambda x: Linen(**options).apply(variables, x)
    ),
    "nnx": in_nnx,
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_exposed_and_placed(mistake, kind, relaxed_promotion):
    variables, options, place, cause = MISTAKES[mistake]
    variables = jax.tree.map(lambda leaf: leaf.astype(np.float32), variables)
    wrong = KINDS[kind](variables, **options)
    report = tr.compare(KINDS[kind](VARIABLES), wrong, X)
    assert not report.ok
    assert report.relative > 1e-4
    first = report.first_divergence
    # Without a scope or a parameter of its own, nnx's sum with epsilon has no place.
    assert first.place.rpartition("/")[2] == place or (mistake, kind) == (
        "epsilon",
        "nnx",
    )
    assert cause in first.cause
    assert "test_compare.py" in first.where
    assert cause in str(report.findings[0].remedy)


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_function_agrees_with_itself(kind, relaxed_promotion):
    report = tr.compare(KINDS[kind](VARIABLES), KINDS[kind](VARIABLES), X)
    assert report.ok
    assert report.maximum == report.relative == 0
    assert report.first_divergence is None


def test_linen_and_nnx_agree_and_a_mistake_between_them_is_placed(relaxed_promotion):
    old, new = KINDS["linen"](VARIABLES), in_nnx(VARIABLES)
    assert tr.compare(old, new, X).ok
    variables, _, place, _ = MISTAKES["flipped"]
    report = tr.compare(old, in_nnx(variables), X)
    assert report.first_divergence.place.rpartition("/")[2] == place
    assert "conv_1/kernel" in report.first_divergence.cause


def test_the_report_follows_the_error_from_module_to_module(relaxed_promotion):
    variables, _, _, _ = MISTAKES["flipped"]
    report = tr.compare(KINDS["linen"](VARIABLES), KINDS["linen"](variables), X)
    relative = {row["place"]: row["relative"] for row in report.records()}
    assert list(relative)[:4] == [
        f"Linen/{n}_{i}" for i in (0, 1) for n in ("conv", "norm")
    ]
    assert relative["Linen/conv_0"] == relative["Linen/norm_0"] == 0
    assert relative["Linen/conv_1"] > 1e-3
    with pytest.raises(AuditError, match="conv_general_dilated of Linen/conv_1"):
        report.raise_if()


# Plain functions


def test_the_difference_is_found_behind_one_that_is_none():
    def plain(x):
        return jnp.sin(x * 2.0) + 1.0

    def otherwise(x):  # the same product in other words, then a real difference
        return jnp.sin(x + x) + 1.5

    report = tr.compare(plain, otherwise, jnp.arange(4.0))
    first = report.first_divergence
    assert (first.operation, first.cause) == ("add", "operand 1 is 1 in f and 1.5 in g")
    assert report.maximum == 0.5


def test_a_pair_that_was_matched_by_mistake_is_not_the_first_divergence():
    def plain(x):
        return jnp.tanh(jnp.exp(x)) * 2.0

    def otherwise(x):  # exp and tanh are the same; another tanh stands before them
        aside = jnp.exp(jnp.tanh(x))
        return jnp.tanh(jnp.exp(x)) * 3.0 + 0.0 * aside

    first = tr.compare(plain, otherwise, jnp.arange(4.0) / 4).first_divergence
    assert (first.operation, first.cause) == ("mul", "operand 1 is 2 in f and 3 in g")


@pytest.mark.parametrize("moved", [False, True])
def test_a_difference_within_rounding_is_found_where_it_is_magnified(moved):
    variance = jnp.array([1e4, 1e-4])

    def norm(epsilon):
        def f(x):
            total = variance + epsilon  # 1e-3 is 1e-7 of the largest
            return x * jax.lax.rsqrt(total[None] if moved else total)

        return f

    x = jnp.ones((1, 2)) if moved else jnp.ones(2)
    first = tr.compare(norm(1e-3), norm(1e-5), x).first_divergence
    assert first.operation == "rsqrt"
    assert first.cause.startswith("it magnifies an earlier add (")
    assert "test_compare.py" in first.cause
    assert first.cause.endswith("operand 1 is 0.001 in f and 1e-05 in g")


def test_the_magnified_difference_is_placed_in_nnx(relaxed_promotion):
    class Model(nnx.Module):
        def __init__(self, epsilon):
            options = {"use_running_average": True, "epsilon": epsilon}
            self.norm = nnx.BatchNorm(2, **options, rngs=nnx.Rngs(0))
            self.norm.var[...] = jnp.array([1e4, 1e-4])

        def __call__(self, x):
            return self.norm(x)

    first = tr.compare(Model(1e-3), Model(1e-5), jnp.ones((1, 2))).first_divergence
    assert (first.place, first.operation) == ("norm", "rsqrt")
    assert first.cause.endswith("operand 1 is 0.001 in f and 1e-05 in g")


def test_loops_and_calls_are_run_whole():
    def scanned(step):
        def f(x):
            carry, _ = jax.lax.scan(lambda c, _: (c * step, None), x, length=3)
            return jax.jit(jnp.cos)(carry)

        return f

    report = tr.compare(scanned(2.0), scanned(3.0), jnp.ones(2))
    assert report.first_divergence.operation == "scan"
    assert tr.compare(scanned(2.0), scanned(2.0), jnp.ones(2)).ok


def test_what_is_not_jax_is_compared_by_its_outputs():
    def foreign(x):
        return np.sin(np.asarray(x))

    report = tr.compare(foreign, jnp.sin, jnp.arange(4.0))
    assert report.ok
    assert "no intermediates are seen" in report.notes[0]
    report = tr.compare(np.zeros(4, np.float32), jnp.sin, jnp.arange(4.0))
    assert report.relative == float("inf")
    assert report.first_divergence is None


def test_an_error_of_the_function_itself_is_raised():
    def broken(x):
        raise KeyError("kernel")

    with pytest.raises(KeyError, match="kernel"):
        tr.compare(broken, jnp.sin, jnp.ones(1))


def test_outputs_that_cannot_be_compared_are_said_to_be():
    report = tr.compare(lambda x: x[:2], lambda x: x, jnp.ones(3))
    assert report.findings[0].cause == "f returns the shape (2,), g (3,)."
    report = tr.compare(lambda x: [x], lambda x: (x,), jnp.ones(3))
    assert "f returns PyTreeDef([*]), g PyTreeDef((*,))" in report.findings[0].cause


def test_rounding_is_no_error_and_the_tolerance_is_the_callers():
    def off(x):
        return x * (1 + 1e-4)

    assert not tr.compare(lambda x: x, off, jnp.ones(2)).ok
    assert tr.compare(lambda x: x, off, jnp.ones(2), rtol=1e-3).ok
    with pytest.raises(ValueError, match="rtol must be 0 or more, got -1"):
        tr.compare(off, off, jnp.ones(2), rtol=-1)


# How far apart


def test_errors_are_those_of_numpy_in_double_precision():
    one, two = np.array([1.0, -4.0], "f"), np.array([1.5, -4.0], "f")
    assert error_of(one, two) == (0.5, 0.125)
    assert error_of(np.zeros(2), one) == (4.0, np.inf)
    nan = np.array([np.nan, 1.0])
    assert error_of(nan, nan) == (0, 0)
    assert error_of(one, nan)[0] == np.inf
    assert error_of(np.array([np.inf]), np.array([np.inf])) == (0, 0)
    assert error_of(np.zeros(0), np.zeros(0)) == (0, 0)


def test_an_array_is_known_turned_around():
    array = np.arange(6.0).reshape(2, 3)
    assert relation(array[:, :2], array[:, :2].T).endswith("axes 0 and 1 exchanged")
    assert relation(array, array[:, ::-1]).endswith("backwards along the axes 1")
    assert relation(array, np.ones((2, 3))) == "all 1 in g"
    assert relation(np.ones((2, 3)), array) == "all 1 in f"
    assert relation(array, array + 1) == ""
