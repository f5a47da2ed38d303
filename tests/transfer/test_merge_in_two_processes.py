"""Two processes, one mesh: each merges its own shards, and together they hold all."""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
from pair_of_processes import said_by_two

from jaxinit import initializers
from jaxinit._keys import fold_name

PROGRAM = pathlib.Path(__file__).with_name("merge_in_two_processes.py")


def test_each_process_merges_its_own_shards(tmp_path):
    values = np.arange(32, dtype="float32").reshape(8, 4)
    arrays = {"plain": values, "turned": values.T, "doubled": values}
    np.savez(tmp_path / "w.npz", **arrays)
    said = said_by_two(PROGRAM, tmp_path / "w.npz")
    draw = jax.jit(lambda key: initializers.normal()(key, (8, 4), jnp.float32))
    expected = {
        "plain": values,
        "turned": values,
        "doubled": 2 * values,
        "drawn": draw(fold_name(jax.random.key(0), "drawn")),
    }
    for name, array in expected.items():
        held = {int(k): v for found in said for k, v in found["held"][name].items()}
        assert sorted(held) == [0, 2, 4, 6]
        found = np.concatenate([held[start] for start in (0, 2, 4, 6)])
        np.testing.assert_array_equal(found.astype(np.float32), array)
    # Of the leaf that goes through a function all is read, of the others a half.
    assert [found["read"] for found in said] == [2 * values.nbytes] * 2
    assert set(said[0]["fates"].values()) == {"copied", "adapted", "drawn"}
