"""A network with a fault, audited whole or by two processes that each hold a half."""

import json
import sys

import jax
import jax.numpy as jnp
import numpy as np

FAULTS = {
    "none": lambda params: params,
    "copied": lambda params: (
        params | {"b": np.concatenate([params["b"][:, :16]] * 2, axis=1)}
    ),
    "equal": lambda params: params | {"b": np.full_like(params["b"], 0.1)},
    "zero": lambda params: params | {"b": np.zeros_like(params["b"])},
    "NaN": lambda params: params | {"b": np.where(np.eye(32) > 0, np.nan, params["b"])},
    "bias": lambda params: params | {"shift": np.full_like(params["shift"], -10)},
    "NaN bias": lambda params: params | {"shift": params["shift"] * np.nan},
    "large": lambda params: params | {"stack": 10 * params["stack"]},
}


def network(params, x):
    x = jnp.tanh(jnp.tanh(x @ params["a"]) @ params["b"] + params["shift"][None])
    x, _ = jax.lax.scan(lambda x, w: (jnp.tanh(x @ w), None), x, params["stack"])
    return x @ params["head"] * params["gate"][None]


def made():
    """Parameters and a batch, the same in each process."""
    draw = np.random.default_rng(0).normal
    params = {
        "a": draw(size=(16, 32)) / 4,
        "b": draw(size=(32, 32)) / 32**0.5,
        "shift": np.zeros(32),
        "stack": draw(size=(3, 32, 32)) / 32**0.5,
        "head": draw(size=(32, 8)) / 32**0.5,
        "gate": np.full(8, 0.01),
    }
    params = {name: array.astype(np.float32) for name, array in params.items()}
    return params, draw(size=(16, 16)).astype(np.float32)


def audits(auditor_of, place):
    """What is found with each fault; `place` puts an array where it shall lie."""
    params, x = made()
    auditor, found = None, {}
    for name, fault in FAULTS.items():
        placed = {leaf: place(array) for leaf, array in fault(params).items()}
        auditor = auditor or auditor_of(network, placed, place(x))
        report = auditor(jax.tree.leaves(placed))
        found[name] = {
            "rows": report.records(),
            "findings": [list(map(str, vars(one).values())) for one in report.findings],
        }
    return found


def auditor_of(f, params, *args):
    from jaxinit._signal._audit import Auditor
    from jaxinit._signal._program import trace_signal

    return Auditor(trace_signal(f, params, *args))


def main(port, process):
    """Print what this process is told."""
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", 2)
    jax.distributed.initialize(f"127.0.0.1:{port}", num_processes=2, process_id=process)
    axes = (jax.sharding.AxisType.Auto,)
    mesh = jax.make_mesh((4,), ("all",), axis_types=axes)

    def place(array):
        spec = [None] * (array.ndim - 1) + ["all"]
        sharding = jax.NamedSharding(mesh, jax.sharding.PartitionSpec(*spec))
        return jax.make_array_from_callback(array.shape, sharding, array.__getitem__)

    print(json.dumps(audits(auditor_of, place)))


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
