"""Four things that go wrong before step 1, measured here and now. Takes seconds.

Run it with `python examples/first_look.py`.
"""

import time

import jax
import jax.numpy as jnp
from flax import linen as nn
from rich.progress import Progress

from jaxinit import initializers, materialize


def relu_network(init, *, width=1024, depth=20):
    """Standard deviation after `depth` ReLU layers with bfloat16 weights."""

    def layer(hidden, key):
        weight = init(key, (width, width), jnp.bfloat16).astype(jnp.float32)
        return jax.nn.relu(hidden @ weight), None

    first, *_ = keys = jax.random.split(jax.random.key(0), depth + 1)
    inputs = jax.random.normal(first, (64, width))
    return float(jax.lax.scan(layer, inputs, keys[1:])[0].std())


def projection(init):
    """Standard deviation of queries (8 heads of 64) from an input of 1."""
    queries = nn.Einsum((512, 8, 64), "BTD,DNH->BTNH", kernel_init=init)
    inputs = jax.random.normal(jax.random.key(1), (4, 16, 512))
    return float(queries.init_with_output(jax.random.key(2), inputs)[0].std())


def traces(build):
    """How often jit traces one model that is built three times."""
    count = 0

    def apply(model, inputs):
        nonlocal count
        count += 1
        return inputs

    apply = jax.jit(apply, static_argnums=0)
    for _ in range(3):
        apply(nn.Dense(4, kernel_init=build()), jnp.ones(3))
    return count


class Transformer(nn.Module):
    @nn.compact
    def __call__(self, x):
        for _ in range(8):
            x = x + nn.MultiHeadDotProductAttention(4)(nn.LayerNorm()(x))
            x = x + nn.Dense(256)(nn.gelu(nn.Dense(1024)(nn.LayerNorm()(x))))
        return x


def first_parameters():
    """Seconds to the parameters of a transformer, by jit and by materialize."""
    init, inputs = Transformer().init, jnp.ones((1, 16, 256))
    key, seconds = jax.random.key(3), []
    with Progress(transient=True) as bar:
        task = bar.add_task("drawing")

        def progress(done, total):
            bar.update(task, completed=done, total=total)

        ways = jax.jit(init), materialize(init, progress=progress)
        made = []
        for way in ways:
            start = time.perf_counter()
            made.append(jax.block_until_ready(way(key, inputs)))
            seconds.append(time.perf_counter() - start)
    assert jax.tree.all(jax.tree.map(lambda a, b: bool((a == b).all()), *made))
    return seconds


def main():
    jit_seconds, our_seconds = first_parameters()
    theirs = jax.nn.initializers
    equation = "btd,dnh->btnh"
    rows = [
        ("", "should be", "jax", "jaxinit"),
        (
            "20 ReLU layers of bfloat16 weights: output std",
            "0.8",
            f"{relu_network(theirs.he_normal()):.3f}",
            f"{relu_network(initializers.he_normal()):.3f}",
        ),
        (
            "query projection by Einsum: output std",
            "1.0",
            f"{projection(theirs.lecun_normal()):.3f}",
            f"{projection(initializers.lecun_normal(equation=equation)):.3f}",
        ),
        (
            "a model built three times: traces",
            "1",
            f"{traces(theirs.he_normal)}",
            f"{traces(initializers.he_normal)}",
        ),
        (
            "first parameters of 8 layers, the same bits: s",
            "",
            f"{jit_seconds:.1f}",
            f"{our_seconds:.1f}",
        ),
    ]
    for what, wanted, of_jax, ours in rows:
        print(f"{what:<47}{wanted:>10}{of_jax:>10}{ours:>10}")


if __name__ == "__main__":
    main()
