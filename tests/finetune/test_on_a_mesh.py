"""Every transformation inside a jitted step on a mesh: values, shardings, one trace."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from jaxinit import finetune as ft

LABELS = {"body": "slow", "head": "fast"}
PARAMS = {
    "body": np.arange(32, dtype=np.float32).reshape(16, 2) / 8,
    "head": np.arange(16, dtype=np.float32) / 4,
}
TX = optax.sgd(0.5, momentum=0.5)
OPTIMIZERS = {
    "freeze": ft.freeze(TX, "body"),
    "learning_rates": ft.learning_rates(TX, {"slow": 0.25, "fast": 1}, LABELS),
    "layerwise_decay": ft.layerwise_decay(
        TX, 0.5, layer_of={"body": ft.Stacked(0), "head": 16}.get
    ),
    "gradual_unfreeze": ft.gradual_unfreeze(TX, {"slow": 1, "fast": 0}, LABELS),
    "ema": ft.ema(TX, 0.5),
}


@pytest.mark.parametrize("kind", ["Auto", "Explicit"])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_sharded_step_gives_the_values_of_one_device(name, kind):
    optimizer, traces = OPTIMIZERS[name], 0

    @jax.jit
    def step(params, state):
        nonlocal traces
        traces += 1
        updates, state = optimizer.update(params, state, params)
        return optax.apply_updates(params, updates), state

    def three_steps(params):
        state = jax.jit(optimizer.init)(params)
        for _ in range(3):
            params, state = step(params, state)
        return params, state

    wanted = three_steps(jax.tree.map(jnp.asarray, PARAMS))
    assert traces == 1
    axis = getattr(jax.sharding.AxisType, kind)
    mesh = jax.make_mesh((8,), ("data",), axis_types=(axis,))
    with jax.set_mesh(mesh):
        rows = NamedSharding(mesh, PartitionSpec("data"))
        found = three_steps(jax.device_put(PARAMS, rows))
    assert traces == 2
    for leaf in jax.tree.leaves(found[0]):
        assert leaf.sharding.is_equivalent_to(rows, leaf.ndim)
    # Elementwise arithmetic: the same bits, whoever computes them.
    for one, other in zip(*map(jax.tree.leaves, (found, wanted)), strict=True):
        np.testing.assert_array_equal(one, other)
