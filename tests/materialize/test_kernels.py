"""The kernels of materialize: how many there are, who compiles and who uses them."""

import concurrent.futures
import pathlib
import time

import jax
import jax.numpy as jnp
import pytest
from flax import linen as nn
from identical import assert_as_jit, differences

import jaxinit._materialize as engine
from jaxinit import materialize
from jaxinit._materialize import _kernels

KEY = jax.random.key(0)
initializers = nn.initializers


def test_compiled_kernels_do_not_grow_with_depth():
    def network(depth):
        def init(key):
            keys = jax.random.split(key, depth)
            draw = nn.initializers.lecun_normal()
            return [draw(one, (8 + i, 16)) for i, one in enumerate(keys)]

        return init

    materialize(network(3))(KEY)
    before = _kernels._compiling.cache_info().misses
    assert_as_jit(network(4), KEY)
    assert _kernels._compiling.cache_info().misses == before


def test_kernels_compiled_without_optimizations_serve_nobody_else():
    def init(key):
        return [jax.random.normal(key, (64, 32)) * 0.25]

    assert_as_jit(init, KEY)
    before = _kernels._compiling.cache_info().misses
    jax.config.update("jax_disable_most_optimizations", True)
    try:
        materialize(init)(KEY)
    finally:
        jax.config.update("jax_disable_most_optimizations", False)
    assert _kernels._compiling.cache_info().misses == before + 1
    assert_as_jit(init, KEY)


def test_threads_that_need_one_kernel_at_once_all_have_it(monkeypatch):
    def init(key):
        return [jax.random.normal(key, (64, 32)) * 0.25]

    expected = jax.jit(init)(KEY)
    compiled = jax.stages.Lowered.compile

    def slowly(*args, **options):
        time.sleep(0.3)  # until every thread is here
        return compiled(*args, **options)

    monkeypatch.setattr(jax.stages.Lowered, "compile", slowly)
    _kernels._compiling.cache_clear()
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        made = list(pool.map(materialize(init), [KEY] * 4))
    assert [differences(one, expected) for one in made] == [[]] * 4


def test_the_hash_is_a_loop_of_its_own_where_xla_keeps_loops_apart(monkeypatch):
    compiled, kernels = jax.stages.Lowered.compile, []

    def kept(*args, **options):
        kernels.append(compiled(*args, **options))
        return kernels[-1]

    monkeypatch.setattr(jax.stages.Lowered, "compile", kept)
    _kernels._compiling.cache_clear()
    materialize(lambda key: [jax.random.normal(key, (64, 32))])(KEY)
    loops = 1 if jax.__version_info__ < (0, 11) else 2
    assert kernels
    for kernel in kernels:
        entry = kernel.as_text().split("ENTRY")[1]
        assert entry.count(" fusion(") == loops


@pytest.mark.parametrize(
    ("told", "options"),
    [
        ("model name: x\nflags: fpu avx2 avx512f avx512dq\n", ["512"]),
        ("model name: avx512f\nflags: fpu avx2\n", []),
        ("", []),
        (None, []),
    ],
)
def test_vectors_are_wide_where_the_processor_says_so(
    told, options, tmp_path, monkeypatch
):
    path = tmp_path / "cpuinfo"
    if told is not None:
        path.write_text(told)
    monkeypatch.setattr(_kernels, "_PROCESSOR", str(path))
    assert list(_kernels._wide_vectors.__wrapped__().values()) == options


def test_no_framework_is_named_inside_the_engine():
    for path in pathlib.Path(engine.__file__).parent.glob("_[a-z]*.py"):
        text = path.read_text().lower()
        assert not any(name in text for name in ("flax", "linen", "haiku", "equinox"))


def test_a_guard_of_transfers_is_for_the_data_of_users():
    def init(key):
        weights = initializers.lecun_normal()(key, (20, 30))
        return [weights, jnp.ones(3), initializers.orthogonal()(key, (4, 4)), key]

    with jax.transfer_guard("disallow"):
        assert_as_jit(init, KEY)
