"""Recurrent layers: spectra and gates against float64, in the layers of Flax."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax import nnx

from jaxinit import groups
from jaxinit._errors import RuleError
from jaxinit.groups._eigenvectors import diagonalized
from jaxinit.testing import assert_moments, assert_orthogonal

KEY = jax.random.key(2)


def same(params):
    return [(name, name) for name in params]


# ----------------------------------------------------------------------------- LRU


def lru_params(complex_leaves):
    params = {"nu": jnp.zeros(64), "theta": jnp.zeros(64), "gamma": jnp.zeros(64)}
    if complex_leaves:
        matrices = {"B": (64, 16), "C": (16, 64)}
        params |= {name: jnp.zeros(s, jnp.complex64) for name, s in matrices.items()}
    else:
        for name, shape in {"B": (16, 64), "C": (16, 64)}.items():
            params |= {f"{name}_{part}": jnp.zeros(shape) for part in ("real", "imag")}
    return params | {"D": jnp.zeros(16)}


@pytest.mark.parametrize("complex_leaves", [True, False])
def test_a_linear_recurrent_unit_normalizes_each_of_its_states(complex_leaves):
    params = lru_params(complex_leaves)
    new, report = groups.lru(params, same(params), key=KEY, r_min=0.5, r_max=0.99)
    nu, theta = np.float64(new["nu"]), np.float64(new["theta"])
    eigenvalues = np.exp(-np.exp(nu) + 1j * np.exp(theta))
    radius = np.abs(eigenvalues)
    assert np.all((radius >= 0.5) & (radius <= 0.990001))
    # White noise of variance γ² has the stationary variance γ² / (1 - |λ|²) = 1.
    variance = np.exp(2 * np.float64(new["gamma"])) / (1 - radius**2)
    np.testing.assert_allclose(variance, 1, rtol=1e-4)
    if complex_leaves:
        b, c = np.asarray(new["B"]), np.asarray(new["C"])
    else:
        b, c = (
            np.asarray(new[f"{n}_real"]) + 1j * np.asarray(new[f"{n}_imag"])
            for n in "BC"
        )
    for matrix, variance in ((b, 1 / 32), (c, 1 / 64)):
        assert_moments(np.asarray(matrix).real, mean=0.0, variance=variance)
        assert_moments(np.asarray(matrix).imag, mean=0.0, variance=variance)
    # Near 1 the radius itself has lost the digits of its distance from 1.
    slow, _ = groups.lru(params, same(params), key=KEY, r_min=0.99999, r_max=0.999999)
    rate = np.exp(np.float64(slow["nu"]))
    wanted = np.log(-np.expm1(-2 * rate)) / 2
    np.testing.assert_allclose(slow["gamma"], wanted, rtol=1e-6)
    factors = {row["leaf"]: row["factor"] for row in report.records()}
    assert factors["C" if complex_leaves else "C_real"] == 1 / 8


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"gamma": jnp.zeros(8)}, r"gamma, has shape \(8,\), and nu has \(64,\)"),
        ({"B": jnp.zeros((64, 16))}, "give a complex leaf, or two with the roles"),
        ({"C": jnp.zeros((16, 8), jnp.complex64)}, "no axis has"),
    ],
)
def test_parts_of_a_recurrent_unit_that_do_not_fit_are_errors(change, message):
    params = lru_params(True) | change
    with pytest.raises(RuleError, match=message):
        groups.lru(params, same(params), key=KEY)


# --------------------------------------------------------------------- S5 and HiPPO


@pytest.mark.parametrize("size", [2, 16, 64])
def test_hippo_is_diagonalized_by_orthonormal_vectors(size):
    n = np.arange(size)
    p, b = np.sqrt(n + 0.5), np.sqrt(2 * n + 1)
    legs = -(np.tril(np.outer(b, b), -1) + np.diag(n + 1.0))
    spectrum, vectors = diagonalized(size)
    np.testing.assert_allclose(
        vectors.conj().T @ vectors, np.eye(size), atol=1e-12 * size
    )
    rebuilt = (vectors * spectrum) @ vectors.conj().T - np.outer(p, p)
    np.testing.assert_allclose(rebuilt, legs, atol=1e-12 * size**2)
    half = size // 2
    assert np.all(np.diff(spectrum[:half].imag) > 0) or size == 2
    order = np.argsort(-spectrum[half:].imag)
    np.testing.assert_allclose(spectrum[half:][order].conj(), spectrum[:half])
    np.testing.assert_allclose(
        vectors[:, half:][:, order].conj(), vectors[:, :half], atol=1e-9
    )


def test_an_s4_layer_holds_hippo_as_diagonal_plus_low_rank():
    names = ("Lambda", "P", "B", "C")
    params = {name: jnp.zeros((3, 8), jnp.complex64) for name in names}
    new, _ = groups.hippo(params, same(params), key=KEY)
    diagonal, low, into = (np.complex128(new[name][1]) for name in names[:3])
    # The transfer function at s: that of the real matrices, 16 by 16, in float64.
    n = np.arange(16)
    b = np.sqrt(2 * n + 1)
    legs = -(np.tril(np.outer(b, b), -1) + np.diag(n + 1.0))

    def whole(half):
        return np.concatenate([half, half.conj()])

    small = np.diag(whole(diagonal)) - np.outer(whole(low), whole(low).conj())
    for s in (0.3, 2.0 + 5j):
        found = whole(into).conj() @ np.linalg.solve(
            s * np.eye(16) - small, whole(into)
        )
        wanted = b @ np.linalg.solve(s * np.eye(16) - legs, b)
        np.testing.assert_allclose(found, wanted, rtol=1e-4)
    assert not np.array_equal(new["C"][0], new["C"][1])


def test_an_s5_layer_is_a_random_one_in_the_eigenvectors():
    shapes = {"Lambda_real": (16,), "Lambda_imag": (16,), "B": (16, 400, 2),
              "C": (300, 16, 2), "D": (400,), "log_step": (16, 1)}  # fmt: skip
    params = {name: jnp.zeros(shape) for name, shape in shapes.items()}
    new, report = groups.s5(params, same(params), key=KEY, blocks=2)
    spectrum, vectors = diagonalized(16)
    np.testing.assert_allclose(
        new["Lambda_imag"], np.tile(spectrum[:8].imag, 2), rtol=1e-6
    )
    np.testing.assert_allclose(new["Lambda_real"], -0.5, rtol=1e-6)
    b, c = (np.float64(new[n]) @ [1, 1j] for n in "BC")
    for block in (slice(0, 8), slice(8, 16)):
        # Kept and conjugate halves together give back a real matrix, and its moments.
        whole = 2 * (vectors[:, :8] @ b[block]).real
        assert_moments(whole, mean=0.0, variance=1 / 400)
        # C = C₀ V keeps half of the directions of C₀.
        assert_moments(c[:, block].real, mean=0.0, variance=1 / 32)
        assert_moments(c[:, block].imag, mean=0.0, variance=1 / 32)
    assert np.all((new["log_step"] >= np.log(0.00099)) & (new["log_step"] <= -2.302))
    factors = {row["leaf"]: row["factor"] for row in report.records()}
    assert factors["B"] == 1 / 20
    assert factors["C"] == pytest.approx(32**-0.5)


@pytest.mark.parametrize(
    ("shapes", "options", "message"),
    [
        ({"B": (4, 3, 2)}, {}, "no leaf for the role 'Lambda'"),
        ({"Lambda_real": (4,)}, {}, "no leaf for the role 'Lambda_imag'"),
        ({"Lambda": (4,)}, {}, "give a complex leaf, or two"),
        (
            {"Lambda_real": (4,), "Lambda_imag": (4,), "B": (3, 4, 2)},
            {},
            "should have the 4 eigenvalues",
        ),
        (
            {"Lambda_real": (4,), "Lambda_imag": (4,)},
            {"blocks": 3},
            "has 4 states, not 3 blocks",
        ),
        (
            {"Lambda_real": (4,), "Lambda_imag": (4,), "log_step": (3,)},
            {},
            "no step for each of the 4 states",
        ),
    ],
)
def test_state_spaces_that_do_not_fit_are_errors(shapes, options, message):
    params = {name: jnp.zeros(shape) for name, shape in shapes.items()}
    with pytest.raises(RuleError, match=message):
        groups.s5(params, same(params), key=KEY, **options)


# --------------------------------------------------------------------------- Mamba


def test_a_selective_layer_has_its_decays_and_steps():
    shapes = {"A_log": (64, 8), "D": (64,), "dt_bias": (64,), "dt_kernel": (4, 64)}
    params = {name: jnp.ones((3, *shape)) for name, shape in shapes.items()}
    new, report = groups.mamba(params, same(params), key=KEY, stacked_axis=0)
    rates = np.broadcast_to(np.log(np.arange(1, 9)), (3, 64, 8))
    np.testing.assert_allclose(new["A_log"], rates, rtol=1e-6)
    steps = np.log1p(np.exp(np.float64(new["dt_bias"])))
    assert np.all((steps >= 0.000999) & (steps <= 0.1001))
    assert len(np.unique(steps)) == 192
    assert np.abs(new["dt_kernel"]).max() <= 0.5
    assert report.records()[3]["factor"] == 0.5
    one, _ = groups.mamba(
        {"A_log": jnp.zeros(512), "dt_bias": jnp.zeros(512)},
        [("A_log", "A_log"), ("dt_bias", "dt_bias")],
        key=KEY,
    )
    # U(1, 16) has the variance 15² / 12.
    assert_moments(np.exp(np.float64(one["A_log"])), mean=8.5, variance=15**2 / 12)


def test_channels_that_differ_are_an_error():
    params = {"A_log": jnp.zeros((4, 2)), "dt_bias": jnp.zeros(3)}
    with pytest.raises(RuleError, match="they need the same channels"):
        groups.mamba(params, same(params), key=KEY)
    with pytest.raises(ValueError, match="decay_range must be two positive rates"):
        groups.mamba(params, same(params), key=KEY, decay_range=(2.0, 1.0))


# ---------------------------------------------------------------------------- LSTM

GATED = [
    ("(?P<cell>.*)/h(?P<gate>[ifgo])/kernel", "recurrent"),
    ("(?P<cell>.*)/h(?P<gate>[ifgo])/bias", "bias"),
    ("(?P<cell>.*)/i(?P<gate>[ifgo])_?/kernel", "input"),
]
FUSED = [
    ("(?P<cell>.*)/dense_h/kernel", "recurrent"),
    ("(?P<cell>.*)/dense_h/bias", "bias"),
    ("(?P<cell>.*)/dense_i/kernel", "input"),
]


def cells(kind):
    carry = jnp.ones((1, 8)), jnp.ones((1, 8))
    if kind == "linen":
        cell = nn.OptimizedLSTMCell(8)
        return {"cell": cell.init(KEY, carry, jnp.ones((1, 5)))["params"]}
    made = nnx.LSTMCell if kind == "nnx" else nnx.OptimizedLSTMCell
    return nnx.state(nnx.Dict(cell=made(5, 8, rngs=nnx.Rngs(0))))


@pytest.mark.parametrize("kind", ["linen", "nnx", "nnx fused"])
def test_every_gate_of_the_cells_of_flax_is_orthogonal_and_remembers(kind):
    state = cells(kind)
    rules = FUSED if kind == "nnx fused" else GATED
    new, report = groups.lstm_gates(state, rules, key=KEY)
    own = nnx.to_pure_dict(new["cell"]) if kind != "linen" else new["cell"]
    if kind == "nnx fused":
        kernels = np.split(np.asarray(own["dense_h"]["kernel"]), 4, -1)
        biases = np.split(np.asarray(own["dense_h"]["bias"]), 4)
        inputs = np.split(np.asarray(own["dense_i"]["kernel"]), 4, -1)
    else:
        kernels = [own[f"h{gate}"]["kernel"] for gate in "ifgo"]
        biases = [np.asarray(own[f"h{gate}"]["bias"]) for gate in "ifgo"]
        name = {"linen": "if"}.get(kind, "if_")
        inputs = [own[gate]["kernel"] for gate in ("ii", name, "ig", "io")]
    for kernel in kernels:
        assert_orthogonal(np.asarray(kernel))
    np.testing.assert_array_equal(biases, np.repeat([[0], [1], [0], [0]], 8, 1))
    # Glorot's bound, of one gate alone.
    assert np.abs(inputs).max() <= (6 / 13) ** 0.5
    assert np.abs(inputs).max() > 0.9 * (6 / 13) ** 0.5
    assert "1 group" in report.title


def test_memories_last_up_to_the_longest_dependency_in_separate_gates_too():
    new, _ = groups.lstm_gates(cells("linen"), GATED, key=KEY, max_steps=50)
    bias = {gate: np.float64(new["cell"][f"h{gate}"]["bias"]) for gate in "ifgo"}
    np.testing.assert_array_equal(bias["i"], -bias["f"])
    assert np.all((bias["f"] >= 0) & (bias["f"] <= np.log(49) + 1e-6))
    assert np.ptp(bias["f"]) > 0
    assert not np.any([bias["g"], bias["o"]])


def test_the_packed_leaves_of_torch_are_filled_along_their_first_axis():
    params = {"weight_hh": jnp.zeros((32, 8)), "weight_ih": jnp.zeros((32, 5)),
              "bias_ih": jnp.ones(32), "bias_hh": jnp.ones(32)}  # fmt: skip
    rules = [("weight_hh", "recurrent"), ("weight_ih", "input"),
             ("bias_ih", "bias"), ("bias_hh", "second_bias")]  # fmt: skip
    new, _ = groups.lstm_gates(params, rules, key=KEY, out_axis=0)
    for gate in np.split(np.asarray(new["weight_hh"]), 4, 0):
        assert_orthogonal(gate)
    assert np.abs(new["weight_ih"]).max() <= (6 / 13) ** 0.5
    total = np.asarray(new["bias_ih"] + new["bias_hh"])
    np.testing.assert_array_equal(total, np.repeat([0.0, 1, 0, 0], 8))


def test_gates_that_are_missing_or_do_not_fill_a_leaf_are_errors():
    params = cells("linen")
    rules = [("(?P<cell>.*)/h(?P<gate>[ifg])/kernel", "recurrent"), GATED[1]]
    with pytest.raises(RuleError, match=r"role 'recurrent\[o\]'.*mean 'cell/ho/kernel"):
        groups.lstm_gates(params, rules, key=KEY)
    fused = {"k": jnp.zeros((8, 30)), "b": jnp.zeros(32)}
    pairs = [("k", "recurrent"), ("b", "bias")]
    with pytest.raises(RuleError, match="is not filled by 4 gates"):
        groups.lstm_gates(fused, pairs, key=KEY)
    uneven = {"k": jnp.zeros((8, 32)), "b": jnp.zeros(28)}
    with pytest.raises(RuleError, match=r"has 8 units a gate, and 'b' has 7"):
        groups.lstm_gates(uneven, pairs, key=KEY)
    params["cell"]["hi"]["bias"] = jnp.zeros(9)
    with pytest.raises(RuleError, match="has 9 units a gate, and 'cell/hf/bias' has 8"):
        groups.lstm_gates(params, GATED, key=KEY)
    with pytest.raises(ValueError, match="out_axis must be one of the two axes"):
        groups.lstm_gates(fused, pairs, key=KEY, out_axis=2)
    with pytest.raises(ValueError, match="order must be letters"):
        groups.lstm_gates(fused, pairs, key=KEY, order="abcd")
