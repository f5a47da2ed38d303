"""Checkpoints that tests read, written by the libraries whose formats they are."""

import json
import pathlib

import jax.numpy as jnp
import numpy as np
import safetensors.numpy
from flax import serialization

FIXTURES = pathlib.Path(__file__).parent / "fixtures"


def arrays():
    """Two layers in five types; keys by "/" as everywhere."""
    generator = np.random.default_rng(6)
    return {
        "encoder/0/kernel": generator.normal(size=(6, 4)).astype("float32"),
        "encoder/0/bias": np.arange(4, dtype="float16"),
        "encoder/1/kernel": generator.normal(size=(2, 3, 4)).astype(jnp.bfloat16),
        "encoder/1/mask": np.array([True, False, True]),
        "step": np.array(7, "int64"),
    }


def nested(flat):
    """The tree whose leaves have these paths."""
    tree = {}
    for path, value in flat.items():
        *parents, last = path.split("/")
        node = tree
        for key in parents:
            node = node.setdefault(key, {})
        node[last] = value
    return tree


def dotted(flat):
    """The same arrays by keys as torch writes them."""
    return {path.replace("/", "."): value for path, value in flat.items()}


def write_safetensors(folder):
    """One file, keys joined by dots."""
    path = folder / "model.safetensors"
    safetensors.numpy.save_file(dotted(arrays()), path, metadata={"format": "np"})
    return path


def write_sharded(folder):
    """Two files and their index."""
    parts = np.array_split(list(dotted(arrays())), 2)
    weight_map = {}
    for number, keys in enumerate(parts, 1):
        name = f"model-{number:05}-of-00002.safetensors"
        held = {str(key): dotted(arrays())[str(key)] for key in keys}
        safetensors.numpy.save_file(held, folder / name)
        weight_map |= dict.fromkeys(held, name)
    index = {"metadata": {"total_size": 1}, "weight_map": weight_map}
    path = folder / "model.safetensors.index.json"
    path.write_text(json.dumps(index))
    return path


def write_npz(folder):
    """Members stored as they are."""
    np.savez(folder / "model.npz", **arrays())
    return folder / "model.npz"


def write_npz_compressed(folder):
    """Members compressed."""
    np.savez_compressed(folder / "model.npz", **arrays())
    return folder / "model.npz"


def write_msgpack(folder):
    """What Flax writes."""
    path = folder / "model.msgpack"
    path.write_bytes(serialization.to_bytes(nested(arrays())))
    return path


def write_orbax(folder):
    """A directory of Orbax."""
    import orbax.checkpoint as ocp

    with ocp.PyTreeCheckpointer() as checkpointer:
        checkpointer.save(folder.absolute() / "model", nested(arrays()))
    return folder / "model"


WRITERS = {
    "safetensors": write_safetensors,
    "sharded": write_sharded,
    "npz": write_npz,
    "npz_compressed": write_npz_compressed,
    "msgpack": write_msgpack,
    "orbax": write_orbax,
}
