"""An audit fits where a training step does: of what is large it keeps sums.

What XLA plans for a program beside its inputs, temporaries and results, is compared
with what it plans for the gradient of the same loss with respect to all parameters.
"""

import importlib
import pathlib
import sys

import jax
import jax.numpy as jnp
import pytest
from flax import linen as nn

import jaxinit
from jaxinit._signal._audit import Auditor
from jaxinit._signal._direction import DEFAULT_SEED, probe_loss
from jaxinit._signal._program import trace_signal

BENCHMARKS = pathlib.Path(__file__).parents[2] / "benchmarks"
MOST = 1.5


def planned(lowered):
    memory = lowered.compile().memory_analysis()
    return memory.temp_size_in_bytes + memory.output_size_in_bytes


def ratio(module, shape, auditor=Auditor):
    x = jax.ShapeDtypeStruct(shape, jnp.float32)
    variables = jax.eval_shape(module.init, jax.random.key(0), x)
    f, params, *args = jaxinit.from_linen(module, variables, x)
    seed = jnp.uint32(DEFAULT_SEED)

    def loss(params, args):
        return probe_loss(jax.tree.leaves(f(params, *args)), seed)

    signal = trace_signal(f, params, *args)
    ours = planned(auditor(signal).meter.lower(list(signal.leaves)))
    return ours / planned(jax.jit(jax.grad(loss)).lower(params, args))


class Small(nn.Module):
    """Where activations take most of the memory, as they do in large batches."""

    @nn.compact
    def __call__(self, x):
        for _ in range(4):
            x = nn.relu(nn.Conv(16, (3, 3))(x))
        return nn.Dense(10)(x.mean((1, 2)))


def test_an_audit_needs_little_more_memory_than_a_gradient():
    assert ratio(Small(), (32, 16, 16, 8)) < MOST


class Keeping(Auditor):
    """One that returns what it saw, as taps of the size of activations would."""

    def __init__(self, signal):
        super().__init__(signal)
        run = self.meter._run

        def keeping(inputs, seed, scale):
            slopes = jax.grad(lambda leaves: run(leaves, seed, scale)[0])(inputs)
            return run(inputs, seed, scale), slopes, [2 * s for s in slopes]

        self.meter._run = keeping


def test_keeping_gradients_would_be_noticed(relaxed_promotion):
    class Dense(nn.Module):
        @nn.compact
        def __call__(self, x):
            return nn.Dense(256)(nn.relu(nn.Dense(256)(x)))

    assert ratio(Dense(), (4, 256)) < MOST < ratio(Dense(), (4, 256), Keeping)


@pytest.mark.long
@pytest.mark.parametrize("name", ["ResNet", "ViT"])
def test_so_it_does_for_the_networks_people_train(name, relaxed_promotion):
    sys.path.insert(0, str(BENCHMARKS))
    try:
        networks = importlib.import_module("networks_linen")
    finally:
        sys.path.remove(str(BENCHMARKS))
    shape = {"ResNet": (8, 64, 64, 3), "ViT": (4, 64, 64, 3)}[name]
    assert ratio(getattr(networks, name)(), shape) < MOST
