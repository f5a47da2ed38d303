"""The command line as a test calls it, and a model for it to work on."""

import json
import os
import subprocess
import sys
from types import SimpleNamespace

from typer.testing import CliRunner

from jaxinit.cli import app

NETWORKS = '''
import jax
import jax.numpy as jnp
from flax import linen as nn
from flax import nnx


class Net(nn.Module):
    classes: int = 3

    @nn.compact
    def __call__(self, x, train=False):
        x = nn.relu(nn.Dense(16, name="body")(x))
        x = nn.BatchNorm(use_running_average=not train, name="norm")(x)
        x = nn.Dropout(0.1, deterministic=not train)(x)
        return nn.Dense(self.classes, name="head")(x)


class Forgets(nn.Module):
    """Forgets the fan: ten times too large."""

    @nn.compact
    def __call__(self, x):
        for _ in range(3):
            wide = jax.nn.initializers.normal(1.0)
            x = jnp.tanh(nn.Dense(64, kernel_init=wide)(x))
        return nn.Dense(3)(x)


class Idle(nn.Module):
    @nn.compact
    def __call__(self, x):
        self.param("idle", nn.initializers.ones, (3,))
        return nn.Dense(3, kernel_init=nn.initializers.zeros)(x)


class Model(nnx.Module):
    def __init__(self, *, rngs):
        self.body = nnx.Linear(8, 16, rngs=rngs)
        self.norm = nnx.BatchNorm(16, rngs=rngs)
        self.drop = nnx.Dropout(0.1, rngs=rngs)
        self.head = nnx.Linear(16, 3, rngs=rngs)

    def __call__(self, x):
        return self.head(self.drop(self.norm(nnx.relu(self.body(x)))))


class Tokens(nn.Module):
    @nn.compact
    def __call__(self, tokens):
        return nn.Dense(5)(nn.Embed(7, 16)(tokens))


class Undefined(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(2, kernel_init=lambda *_: jnp.full((8, 2), jnp.nan))(x)


def model():
    return Model(rngs=nnx.Rngs(1))


def fails():
    raise ZeroDivisionError("no width left")


def prints():
    print("a word of the module's own")
    return Net()


def looks_at_numbers():
    assert float(jnp.ones(())) == 1.0
    return Net()


made = Net(classes=5)
number = 3
'''


def jaxinit(*arguments):
    """Exit code, standard output and standard error of one call, in this process."""
    done = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return SimpleNamespace(code=done.exit_code, out=done.stdout, err=done.stderr)


def answered(*arguments, code=0):
    """The JSON on standard output of a call with --json, alone there."""
    done = jaxinit(*arguments, "--json")
    assert done.code == code, done.err
    return json.loads(done.out)


def in_a_process(command, folder, **environment):
    """A shell command with `jaxinit` in it, as a terminal without a screen runs it."""
    jaxinit = f'"{sys.executable}" -m jaxinit'
    return subprocess.run(
        ["bash", "-c", command.replace("jaxinit", jaxinit, 1)],
        cwd=folder,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
