"""Shard by shard: where jit would put it, with the values of one device."""

import os
import socket
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from identical import assert_as_jit, differences
from jax.sharding import NamedSharding, PartitionSpec, SingleDeviceSharding

from jaxinit import materialize
from jaxinit._materialize import _rows

KEY = jax.random.key(3)
MESH = jax.make_mesh((4, 2), ("a", "b"), axis_types=(jax.sharding.AxisType.Auto,) * 2)
SPECS = [
    PartitionSpec("a"),
    PartitionSpec(None, "b"),
    PartitionSpec("a", "b"),
    PartitionSpec(("a", "b")),
    PartitionSpec(None, ("b", "a")),
    PartitionSpec(),
]


def init(key):
    first, second = jax.random.split(key)
    return {
        "matrix": jax.random.normal(first, (16, 24)) * 0.1,
        "cube": jax.random.truncated_normal(second, -2, 2, (8, 16, 10)),
        "stack": jax.vmap(lambda k: jax.random.uniform(k, (8, 6)))(
            jax.random.split(key, 8)
        ),
        "constant": jnp.full((8, 8), 0.5),
        "orthogonal": jax.random.orthogonal(first, 8),
    }


WANTED = jax.jit(init)(KEY)


@pytest.mark.parametrize("spec", SPECS, ids=str)
def test_every_layout_has_the_values_of_one_device(spec):
    sharding = NamedSharding(MESH, spec)
    got = materialize(init, out_shardings=sharding)(KEY)
    assert differences(got, WANTED) == []
    for leaf in jax.tree.leaves(got):
        assert leaf.sharding == sharding


def test_axes_in_the_middle_and_at_the_end():
    sharding = NamedSharding(MESH, PartitionSpec(None, "a", "b"))
    got = materialize(lambda k: init(k)["cube"], out_shardings=sharding)(KEY)
    assert differences(got, WANTED["cube"]) == []
    for shard in got.addressable_shards:
        np.testing.assert_array_equal(shard.data, WANTED["cube"][shard.index])


def test_shardings_may_be_a_prefix_of_the_tree():
    shardings = {name: None for name in WANTED}
    shardings["matrix"] = NamedSharding(MESH, PartitionSpec("a"))
    got = materialize(init, out_shardings=shardings)(KEY)
    assert differences(got, WANTED) == []
    assert got["matrix"].sharding == shardings["matrix"]
    assert isinstance(got["cube"].sharding, SingleDeviceSharding)


def test_a_shard_is_all_that_is_filled(monkeypatch):
    filled = []
    original = _rows.Rows.of.__func__

    def counting(cls, orders):
        filled.extend(order.buffer.size for order in orders)
        return original(cls, orders)

    monkeypatch.setattr(_rows.Rows, "of", classmethod(counting))
    sharding = NamedSharding(MESH, PartitionSpec("a", "b"))
    materialize(lambda k: init(k)["matrix"], out_shardings=sharding)(KEY)
    assert filled == [16 * 24 // 8] * 8


def test_boxed_leaves_stay_boxed():
    class Model(nn.Module):
        @nn.compact
        def __call__(self, x):
            names = nn.with_partitioning(nn.initializers.lecun_normal(), ("a", "b"))
            return nn.Dense(8, kernel_init=names)(x)

    got = assert_as_jit(Model().init, KEY, jnp.ones((1, 4)))
    kernel = got["params"]["Dense_0"]["kernel"]
    assert isinstance(kernel, nn.Partitioned)
    assert kernel.names == ("a", "b")


PROGRAM = """
import sys
import jax
jax.distributed.initialize(sys.argv[1], 2, int(sys.argv[2]))
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec
from jaxinit import materialize

def init(key):
    return jax.random.normal(key, (16, 24)) * 0.1

mesh = jax.make_mesh((8,), ("a",), axis_types=(jax.sharding.AxisType.Auto,))
sharding = NamedSharding(mesh, PartitionSpec("a"))
got = materialize(init, out_shardings=sharding)(jax.random.key(3))
wanted = np.asarray(jax.jit(init)(jax.random.key(3)))
assert len(got.addressable_shards) == 4 and jax.process_count() == 2
for shard in got.addressable_shards:
    np.testing.assert_array_equal(np.asarray(shard.data), wanted[shard.index])

# The second time nothing is compiled: what it takes is what it makes.
def large(key, rows):
    return jax.random.normal(key, (rows, 2**22)) * 0.1

make = materialize(large, out_shardings=sharding, static_argnums=1)
make(jax.random.key(3), 8)[:, :1].block_until_ready()
def resident(line):
    # Of this program: ru_maxrss would begin with that of the process it came from.
    for entry in open("/proc/self/status"):
        if entry.startswith(line):
            return int(entry.split()[1]) * 1024

before = resident("VmRSS")
made = make(jax.random.key(3), 24)  # 384 MB, of which 192 MB belong here
extra = resident("VmHWM") - before - made.nbytes // 2
assert extra < 0.25 * made.nbytes, f"{extra / 2**20} MB above the own shards"
everywhere = NamedSharding(mesh, PartitionSpec())
total = jax.jit(lambda x: x.sum(), out_shardings=everywhere)(got)
print("rows", [s.index[0].start for s in got.addressable_shards], float(total) != 0.0)
"""


def test_two_processes_make_their_own_halves_and_hold_no_more():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    environment = os.environ | {
        "XLA_FLAGS": "--xla_force_host_platform_device_count=4",
        "JAX_PLATFORMS": "cpu",
        "JAX_CPU_COLLECTIVES_IMPLEMENTATION": "gloo",
    }
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", PROGRAM, address, str(number)],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for number in range(2)
    ]
    outputs = [process.communicate(timeout=300) for process in processes]
    for process, (_, errors) in zip(processes, outputs, strict=True):
        assert process.returncode == 0, errors[-2000:]
    told = [output.strip().splitlines()[-1] for output, _ in outputs]
    assert told == ["rows [0, 2, 4, 6] True", "rows [8, 10, 12, 14] True"]
