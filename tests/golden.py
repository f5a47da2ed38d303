"""Recorded draws, one set for each version of JAX: `python tests/golden.py` adds one.

Eight entries of each case, written exactly. The bits under them are exact on every
machine; the last digits of a float may depend on its vector instructions, so that they
are compared within a few units in the last place.
"""

import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
from cases import CASES

RECORD = pathlib.Path(__file__).parent / "golden.json"
DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}


def draws(case):
    """Eight entries, spread over the array, as exact decimal fractions."""
    for name, dtype in DTYPES.items():
        values = np.asarray(case.build()(jax.random.key(2026), case.shape, dtype))
        flat = values.astype(np.float64).ravel()
        picked = flat[np.linspace(0, flat.size - 1, 8).astype(int)]
        yield name, [float(value) for value in picked]


def main():
    record = json.loads(RECORD.read_text()) if RECORD.exists() else {}
    record[jax.__version__] = {case.name: dict(draws(case)) for case in CASES}
    RECORD.write_text(written(record))


def written(record):
    """JSON with one line for each case, so that a change shows as the lines it is."""
    versions = (
        f"{json.dumps(version)}: {{\n"
        + ",\n".join(f"{json.dumps(n)}: {json.dumps(d)}" for n, d in cases.items())
        + "\n}"
        for version, cases in sorted(record.items())
    )
    return "{\n" + ",\n".join(versions) + "\n}\n"


if __name__ == "__main__":
    main()
