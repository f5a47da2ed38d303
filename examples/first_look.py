"""Three things that go wrong before step 1, measured here and now. Takes seconds.

Run it with `make demo`, or `python examples/first_look.py`.
"""

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxinit import initializers


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


def main():
    theirs = jax.nn.initializers
    equation = "btd,dnh->btnh"
    rows = [
        ("", "should be", "jax.nn", "jaxinit"),
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
    ]
    for what, wanted, jax_nn, jaxinit in rows:
        print(f"{what:<47}{wanted:>10}{jax_nn:>10}{jaxinit:>10}")


if __name__ == "__main__":
    main()
