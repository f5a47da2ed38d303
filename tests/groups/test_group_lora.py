"""Adapters start where they say, and the weight makes up for them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxinit import groups
from jaxinit._errors import RuleError
from jaxinit.testing import assert_moments

KEY = jax.random.key(3)

LORA = [("w", "weight"), ("a", "A"), ("b", "B")]


def adapted(inputs=48, outputs=32, rank=6, dtype=jnp.float32):
    return {
        "w": jax.random.normal(jax.random.key(9), (inputs, outputs), dtype),
        "a": jnp.ones((inputs, rank), dtype),
        "b": jnp.ones((rank, outputs), dtype),
    }


def whole(tree, scale=1.0):
    w, a, b = (np.float64(tree[name]) for name in "wab")
    return w + scale * a @ b


@pytest.mark.parametrize("start", ["pissa", "olora"])
@pytest.mark.parametrize("alpha", [None, 24.0])
def test_weight_and_adapter_together_are_the_weight(start, alpha):
    params = adapted()
    new, report = groups.lora(
        params, LORA, start=start, alpha=alpha, rank_stabilized=alpha is not None
    )
    scale = 1.0 if alpha is None else alpha / 6**0.5
    assert report.records()[0]["factor"] == pytest.approx(scale)
    old = np.float64(params["w"])
    error = np.linalg.norm(whole(new, scale) - old) / np.linalg.norm(old)
    assert error < 1e-6
    assert np.abs(whole(new, scale) - old).max() < 1e-6 * np.abs(old).max()


@pytest.mark.parametrize("start", ["pissa", "olora"])
def test_what_rounds_in_narrow_adapters_stays_in_the_weight(start):
    params = adapted()
    narrow = {name: params[name].astype(jnp.bfloat16) for name in "ab"}
    new, _ = groups.lora(params | narrow, LORA, start=start)
    error = np.abs(whole(new) - np.float64(params["w"])).max()
    assert error < 1e-6 * np.abs(params["w"]).max()


def test_pissa_takes_the_principal_part():
    params = adapted()
    new, _ = groups.lora(params, LORA, start="pissa")
    left, sizes, right = np.linalg.svd(np.float64(params["w"]), full_matrices=False)
    principal = (left[:, :6] * sizes[:6]) @ right[:6]
    a, b = np.float64(new["a"]), np.float64(new["b"])
    np.testing.assert_allclose(a @ b, principal, atol=1e-5 * sizes[0])
    np.testing.assert_allclose(a.T @ a, np.diag(sizes[:6]), atol=1e-5 * sizes[0])
    np.testing.assert_allclose(b @ b.T, np.diag(sizes[:6]), atol=1e-5 * sizes[0])


def test_olora_takes_the_first_columns_of_a_factorization():
    params = adapted()
    new, _ = groups.lora(params, LORA, start="olora")
    q, r = np.linalg.qr(np.float64(params["w"]).T)
    a, b = np.float64(new["a"]), np.float64(new["b"])
    np.testing.assert_allclose(b @ b.T, np.eye(6), atol=1e-6)
    np.testing.assert_allclose(a @ b, (q[:, :6] @ r[:6]).T, atol=1e-5)


def test_a_normal_start_changes_nothing():
    new, report = groups.lora(adapted(), LORA, key=KEY, alpha=12)
    assert not np.any(new["b"])
    np.testing.assert_array_equal(new["w"], adapted()["w"])
    assert np.abs(new["a"]).max() <= 48**-0.5
    assert_moments(np.asarray(new["a"]), mean=0.0, variance=1 / 48 / 3)
    assert [row["factor"] for row in report.records()] == [2.0, 2.0, None]


def test_an_orthogonal_start_changes_nothing_though_both_are_nonzero():
    params = adapted(400, 300, 8)
    new, _ = groups.lora(params, LORA, key=KEY, start="orthogonal")
    a, b = np.float64(new["a"]), np.float64(new["b"])
    # 8 products of numbers below 0.1 * 5, each rounded to 2^-24 of itself.
    assert np.abs(a @ b).max() < 8 * 0.25 * 2**-22
    # G Q has the covariance 1/100 Qᵀ Q, of the rank 4: its mean square is half of that.
    assert np.mean(a**2) == pytest.approx(0.005, rel=6 * (2 / 1600) ** 0.5)
    assert np.linalg.matrix_rank(a, tol=1e-3) == np.linalg.matrix_rank(b, tol=1e-3) == 4


def test_the_adapters_of_nnx_start_without_changing_the_model():
    model = nnx.LoRALinear(12, 10, lora_rank=4, rngs=nnx.Rngs(0))
    x = jax.random.normal(KEY, (5, 12))
    before, fresh = model(x), jax.tree.map(jnp.copy, nnx.state(model))
    rules = [("kernel", "weight"), ("lora/lora_a", "A"), ("lora/lora_b", "B")]
    for start in ("normal", "pissa", "olora", "orthogonal"):
        state, _ = groups.lora(fresh, rules, key=KEY, start=start)
        assert isinstance(state, nnx.State)
        nnx.update(model, state)
        np.testing.assert_allclose(model(x), before, atol=2e-5)


def test_stacked_and_many_axed_weights_are_factored():
    w = jax.random.normal(KEY, (3, 12, 2, 5))
    params = {"w": w, "a": jnp.zeros((3, 12, 4)), "b": jnp.zeros((3, 4, 10))}
    new, _ = groups.lora(params, LORA, start="pissa", stacked_axis=0)
    product = np.einsum("lir,lro->lio", np.float64(new["a"]), np.float64(new["b"]))
    total = np.float64(new["w"]) + product.reshape(w.shape)
    np.testing.assert_allclose(total, w, atol=1e-6 * float(abs(w).max()))


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        ({"rank": 5}, {"start": "orthogonal"}, "has the odd rank 5"),
        ({"rank": 40}, {"start": "pissa"}, "has rank 40, and the weight has none"),
        ({"rank": 0}, {"alpha": 8.0}, "an adapter of rank 0 has no start"),
    ],
)
def test_adapters_that_do_not_fit_are_errors(change, options, message):
    with pytest.raises(RuleError, match=message):
        groups.lora(adapted(**change), LORA, key=KEY, **options)


def test_what_a_start_needs_is_asked_for():
    with pytest.raises(RuleError, match="no leaf for the role 'weight'"):
        groups.lora(adapted(), LORA[1:], start="pissa")
    wrong = adapted() | {"b": jnp.ones((5, 32))}
    with pytest.raises(RuleError, match=r"give A \(inputs, rank\) and B"):
        groups.lora(wrong, LORA, key=KEY)
    with pytest.raises(RuleError, match="which are not the 48 inputs of A"):
        groups.lora(adapted() | {"w": jnp.ones((32, 48))}, LORA, key=KEY)
    with pytest.raises(ValueError, match="start must be one of 'normal'"):
        groups.lora(adapted(), LORA, key=KEY, start="pizza")
    with pytest.raises(ValueError, match="key is needed to draw adapters"):
        groups.lora(adapted(), LORA)
    with pytest.raises(ValueError, match="rank_stabilized needs alpha"):
        groups.lora(adapted(), LORA, key=KEY, rank_stabilized=True)
