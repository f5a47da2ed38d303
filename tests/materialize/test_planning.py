"""What planning costs grows as the number of leaves does, and not faster."""

import sys
import threading
import time
from concurrent.futures import Future

import jax
import jax.numpy as jnp
import pytest

from jaxinit import materialize
from jaxinit._materialize import _ahead, _fill, _kernels, _leaves
from jaxinit._materialize._steps import Chain

KEY = jax.random.key(0)


def leaves_in_chunks(count):
    return lambda key: [
        jax.random.normal(jax.random.fold_in(key, i), (4, 8)) for i in range(count)
    ]


def leaves_by_programs(count):
    """Too short an axis for chunks, so that each is a program."""
    return lambda key: [
        jax.random.normal(jax.random.fold_in(key, i), (2, 2)) for i in range(count)
    ]


def leaves_that_share_work(count):
    def init(key):
        shared = jnp.cumsum(jax.random.normal(key, (8,)))
        return [shared * i for i in range(1, count + 1)]

    return init


def calls(init):
    """How many functions, of Python and built in, planning calls."""
    number = 0

    def count(frame, event, arg):
        nonlocal number
        number += event in ("call", "c_call")

    _, makings, _, _ = materialize(init)._plan((KEY,), {})
    sys.setprofile(count)
    try:
        made = list(makings)
    finally:
        sys.setprofile(None)
    assert made
    return number


@pytest.mark.parametrize(
    "leaves", [leaves_in_chunks, leaves_by_programs, leaves_that_share_work]
)
def test_planning_is_linear_in_leaves(leaves):
    calls(leaves(2))  # what is looked up once
    few, many = calls(leaves(60)), calls(leaves(240))
    # Four times as many: 4 for a linear cost, 16 for a quadratic one.
    assert many / few < 5


def layers(key):
    """Fifty layers of a weight and a bias, and a table, last, drawn otherwise."""
    weights = [
        jax.random.normal(jax.random.fold_in(key, i), (16, 16)) for i in range(50)
    ]
    table = jax.random.uniform(jax.random.fold_in(key, 50), (16, 20))
    return {"a": weights, "biases": [jnp.zeros(16)] * 50, "table": table}


def test_every_kernel_is_known_before_most_leaves_are_planned():
    """So that all compile beside planning, however deep the network."""
    _, makings, _, _ = materialize(layers)._plan((KEY,), {})
    made = list(makings)
    chains = [making.steps for _, making in made if isinstance(making, Chain)]
    assert len(set(chains)) == len(set(chains[:2])) == 2
    assert sorted(index for index, _ in made) == list(range(101))


class AtOnce:
    """Compiles where it is asked to."""

    def submit(self, compile_kernel):
        future = Future()
        future.set_result(compile_kernel())
        return future


def test_arrays_are_written_after_planning(monkeypatch):
    """The thread that compiles waits for Python's lock longer each time it is lent."""
    written, planned = [], []
    full = _leaves.np.full

    def watched(*args):
        written.append(len(planned))
        return full(*args)

    monkeypatch.setattr(_leaves.np, "full", watched)
    make = materialize(layers)
    flat, makings, shardings, _ = make._plan((KEY,), {})

    def noting():
        for index, making in makings:
            yield index, making
            planned.append(index)

    _leaves.make_leaves(flat.leaves, noting(), shardings, AtOnce(), lambda count: None)
    assert written == [101] * 50


def test_the_caller_compiles_what_has_not_begun(monkeypatch):
    """Where planning is over before the kernels are compiled, both cores are busy."""
    compiler, numbers = _fill.compiler, iter(range(3))
    begun, enough, by = threading.Event(), threading.Event(), {}

    def watched(*args):
        compiling, number = compiler(*args), next(numbers)
        assert number == 0 or begun.wait(60), "nobody compiled the first"

        def compiled():
            by.setdefault(number, threading.current_thread())
            begun.set()
            if number == 0:
                assert enough.wait(60), "nobody compiled the others"
            elif len(by) == 3:
                enough.set()
            return compiling()

        return compiled

    def init(key):
        return [
            jax.random.normal(key, (16, 16)),
            jax.random.uniform(key, (16, 17)),
            jax.random.gumbel(key, (16, 18)),
        ]

    monkeypatch.setattr(_fill, "compiler", watched)
    made = materialize(init)(KEY)
    caller = threading.current_thread()
    assert by[0] is not caller
    assert by[1] is by[2] is caller
    for leaf, expected in zip(made, jax.jit(init)(KEY), strict=True):
        assert bool((leaf == expected).all())


@pytest.mark.parametrize("worth", [1, 1000, 2**40])
def test_filling_begins_while_leaves_are_planned(monkeypatch, worth):
    monkeypatch.setattr(_fill, "_WORTH_LAUNCHING", worth)
    make, filled, planned = materialize(layers), [], []
    flat, makings, shardings, _ = make._plan((KEY,), {})

    def slowly():
        for index, making in makings:
            yield index, making
            time.sleep(0.01)
            planned.append(sum(filled))

    made = _leaves.make_leaves(
        flat.leaves, slowly(), shardings, AtOnce(), filled.append
    )
    # The last leaf is planned when most were filled, unless few are not worth it.
    assert (planned[-1] > 40 * 256) == (worth < 2**40)
    assert sum(filled) == sum(leaf.size for leaf in flat.leaves)
    wanted = jax.tree.leaves(jax.jit(layers)(KEY))
    for leaf, expected in zip(made, wanted, strict=True):
        assert bool((leaf == expected).all())


def settings():
    names = "default_prng_impl", "enable_x64", "threefry_partitionable"
    return [getattr(jax.config, f"jax_{name}") for name in names]


def test_the_kernel_of_usual_weights_is_compiled_beside_the_trace():
    def init(key):
        return [jax.nn.initializers.he_normal()(key, (20, 30 + i)) for i in range(3)]

    before = _ahead._usual_kernel("cpu", *settings())
    assert before is not None
    lowered = _kernels._compiling.cache_info().misses
    materialize(init)(KEY)
    assert _kernels._compiling.cache_info().misses == lowered


def test_compiling_begins_before_the_trace(monkeypatch):
    begun = threading.Event()
    monkeypatch.setattr(_ahead, "_usual_kernel", lambda *settings: begun.set)

    def init(key):
        assert begun.wait(60)
        return jax.random.normal(key, (20, 30))

    materialize(init)(KEY)


def test_a_kernel_that_is_being_compiled_is_not_compiled_again(monkeypatch):
    """Neither by another task nor by the caller, when the trace is over before it."""
    traced, calls = threading.Event(), []

    def usual():
        calls.append(threading.current_thread())
        assert traced.wait(60)

    monkeypatch.setattr(_ahead, "_usual_kernel", lambda *settings: usual)
    compiling = _ahead.KernelCompiler()
    while not calls:
        time.sleep(0.01)
    future = compiling.submit(usual)
    assert not future.cancel()
    traced.set()
    future.result(60)
    compiling.close()
    assert len(calls) == 1


def test_nothing_compiles_ahead_where_nothing_is_filled_in_chunks():
    assert _ahead._usual_kernel("gpu", *settings()) is None
    with jax.default_prng_impl("rbg"):
        assert _ahead._usual_kernel("cpu", *settings()) is None
    with jax.threefry_partitionable(False):
        assert _ahead._usual_kernel("cpu", *settings()) is None
