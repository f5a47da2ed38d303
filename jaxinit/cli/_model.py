"""A model from MODULE:FACTORY, as the three things that the verbs need of it."""

from __future__ import annotations

import difflib
import functools
import importlib
import importlib.util
import inspect
import os
import pathlib
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from jaxinit.cli._inputs import Input, drawn
from jaxinit.cli._options import definitions
from jaxinit.cli._outcome import Failure

Kind = Literal["linen", "nnx"]


@dataclass(frozen=True)
class Model:
    """A linen module or an nnx model: `build` makes it, unless it is `made` already.

    `inputs`, `options` and `seed` are those of the command line.
    """

    label: str
    kind: Kind
    build: Callable[[], Any]
    made: bool
    inputs: tuple[Input, ...]
    options: dict[str, Any]
    seed: int

    def init(self) -> Any:
        """All variables, or the state: to be traced, or to be called."""
        import jax

        if self.kind == "nnx":
            from flax import nnx

            return nnx.state(self.build())
        if not self.inputs and self.needs_inputs():
            raise Failure(
                f"{self.label} is a linen module, whose parameters depend on its "
                "inputs: say their shapes, --input 8,224,224,3"
            )
        inputs = drawn(self.inputs, self.seed)
        return self.build().init(jax.random.key(self.seed), *inputs, **self.options)

    def needs_inputs(self) -> bool:
        """Whether the call has arguments that must be given."""
        parameters = inspect.signature(self.build().__call__).parameters.values()
        kinds = (
            inspect.Parameter.POSITIONAL_ONLY,
            inspect.Parameter.POSITIONAL_OR_KEYWORD,
        )
        return any(
            p.kind in kinds and p.default is p.empty and p.name not in self.options
            for p in parameters
        )

    def target(self) -> Any:
        """What a merge fills: a function that makes a model, or the state of one."""
        return self.init() if self.kind == "nnx" and self.made else self.init

    def as_function(self, variables: Any) -> tuple[Any, ...]:
        """The model with these variables as a function, its parameters and data."""
        import jax

        import jaxinit

        inputs = drawn(self.inputs, self.seed)
        if self.kind == "nnx":
            from flax import nnx

            model = self.build() if self.made else nnx.eval_shape(self.build)
            nnx.update(model, variables)
            return jaxinit.from_nnx(model, *inputs, **self.options)
        # linen takes the keys of dropout and the like from "params" where it has none.
        rngs = {"params": jax.random.fold_in(jax.random.key(self.seed), 1)}
        return jaxinit.from_linen(
            self.build(), variables, *inputs, rngs=rngs, **self.options
        )


def load(
    label: str, inputs: Sequence[Input], options: dict[str, Any], seed: int
) -> Model:
    """The model that MODULE:FACTORY names; a factory is traced to see what it makes."""
    found = _found(label)
    given = {"inputs": tuple(inputs), "options": options, "seed": seed}
    if kind := _kind(found):
        return Model(label, kind, lambda: found, True, **given)
    if not callable(found):
        raise Failure(
            f"{label} is {found!r:.60}, and neither a model nor a function that "
            "returns one"
        )
    build = functools.partial(_call, found, seed)
    _check_call(label, found)
    example, traced = _example(build)
    kind = _kind(example)
    if kind is None:
        raise Failure(
            f"{label} returned {type(example).__name__}, and not a linen module or an "
            "nnx model"
        )
    if traced and kind == "nnx":
        return Model(label, kind, build, False, **given)
    made = build() if traced else example
    return Model(label, kind, lambda: made, True, **given)


def _call(factory: Callable[..., Any], seed: int) -> Any:
    """The model; a factory with a parameter `rngs` is given nnx.Rngs of the seed."""
    if "rngs" not in _parameters(factory):
        return factory()
    from flax import nnx

    return factory(rngs=nnx.Rngs(seed))


def _parameters(factory: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    # The signature of an nnx class is that of its metaclass.
    called: Any = factory.__init__ if isinstance(factory, type) else factory
    try:
        found = dict(inspect.signature(called).parameters)
    except (TypeError, ValueError):  # of a builtin
        return {}
    if isinstance(factory, type):
        found.pop(next(iter(found), ""), None)  # self
    return found


def _check_call(label: str, factory: Callable[..., Any]) -> None:
    several = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    for name, parameter in _parameters(factory).items():
        needed = parameter.default is parameter.empty and parameter.kind not in several
        if needed and name != "rngs":
            raise Failure(
                f"{label} is called without arguments, or with rngs= alone, and needs "
                f"{name!r}; write a function that gives it"
            )


def _example(build: Callable[[], Any]) -> tuple[Any, bool]:
    """A model, and whether its numbers are tracers, so that it shows its kind alone."""
    import jax

    built: list[Any] = []

    def traced() -> tuple[()]:
        built.append(build())
        return ()

    try:
        jax.eval_shape(traced)
    except Exception:
        # It looks at numbers while it builds; or it fails, and then says so here.
        return build(), False
    return built[-1], True


def _kind(item: Any) -> Kind | None:
    from jaxinit._containers import loaded

    kinds: dict[Kind, Any] = {
        "linen": loaded("flax.linen", "Module"),
        "nnx": loaded("flax.nnx", "Module"),
    }
    for kind, base in kinds.items():
        if base is not None and isinstance(item, base):
            return kind
    return None


def _found(label: str) -> Any:
    place, colon, path = label.rpartition(":")
    if not (colon and place and path):
        file = pathlib.Path(label)
        names = [name for name in definitions(file)][:4] if file.suffix == ".py" else []
        example = f"{label}:{names[0]}" if names else "net.py:build"
        rest = f"; it has {', '.join(names)}" if names else ""
        raise Failure(f"{label!r} is not MODULE:FACTORY; write {example}{rest}")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        item = _script(place) if place.endswith(".py") else _module(place)
    except SystemExit as stop:
        raise Failure(
            f"{place} ended with exit code {stop.code} while imported"
        ) from stop
    for name in path.split("."):
        if not hasattr(item, name):
            known = [name for name in dir(item) if not name.startswith("_")]
            close = difflib.get_close_matches(name, known)
            hint = f"; did you mean {' or '.join(close)}?" if close else ""
            raise Failure(f"{place} has no {name!r}{hint}")
        item = getattr(item, name)
    return item


def _script(place: str) -> Any:
    """A file, imported as Python runs a script: its folder is importable too."""
    file = pathlib.Path(place)
    if not file.is_file():
        near = difflib.get_close_matches(file.name, _scripts(file.parent), n=1)
        hint = f"; did you mean {' or '.join(near)}?" if near else ""
        raise Failure(f"there is no file {place}{hint}")
    name = file.stem if file.stem not in sys.modules else f"_{file.stem}_"
    spec = importlib.util.spec_from_file_location(name, file.resolve())
    assert spec is not None, "the suffix is .py"
    assert spec.loader is not None, "and the file is there"
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses and pickles look there
    sys.path.insert(0, str(file.resolve().parent))
    spec.loader.exec_module(module)
    return module


def _module(place: str) -> Any:
    try:
        return importlib.import_module(place)
    except ModuleNotFoundError as missing:
        if missing.name is None or not f"{place}.".startswith(f"{missing.name}."):
            raise  # the module is there, and something that it imports is not
        known = [pathlib.Path(name).stem for name in _scripts(pathlib.Path())]
        close = difflib.get_close_matches(place, known, n=1)
        hint = f"; did you mean {' or '.join(close)}?" if close else ""
        raise Failure(
            f"there is no module {missing.name!r}{hint} (the current directory is "
            "searched first; a file is written as path/to/net.py)"
        ) from None


def _scripts(folder: pathlib.Path) -> list[str]:
    return [file.name for file in folder.glob("*.py")]
