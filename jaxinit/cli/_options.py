"""The options that several verbs share, each said once."""

from __future__ import annotations

import ast
import pathlib
from typing import Annotated

import typer

Json = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]
Traceback = Annotated[
    bool, typer.Option("--traceback", help="Show the whole traceback of an error.")
]
File = Annotated[
    pathlib.Path,
    typer.Argument(
        metavar="FILE",
        help="A checkpoint: safetensors, torch, msgpack, npz, or an Orbax directory.",
    ),
]
Only = Annotated[
    list[str] | None,
    typer.Option(
        "--only",
        metavar="PATTERN",
        help="Leaves whose whole path this regular expression matches. Repeatable.",
    ),
]


def _factories(incomplete: str) -> list[str]:
    """Completions of MODULE:FACTORY: scripts here, and the names that one defines."""
    path, colon, begun = incomplete.rpartition(":")
    if not colon:
        return [f"{path}:" for path in map(str, pathlib.Path().glob(f"{begun}*.py"))]
    file = pathlib.Path(
        path if path.endswith(".py") else f"{path.replace('.', '/')}.py"
    )
    return [f"{path}:{name}" for name in definitions(file) if name.startswith(begun)]


def definitions(file: pathlib.Path) -> list[str]:
    """The public functions and classes of a script, which is not run."""
    try:
        body = ast.parse(file.read_bytes()).body
    except (OSError, SyntaxError, ValueError):
        return []
    kinds = (ast.FunctionDef, ast.ClassDef)
    names = [node.name for node in body if isinstance(node, kinds)]
    return [name for name in names if not name.startswith("_")]


Model = Annotated[
    str,
    typer.Argument(
        metavar="MODULE:FACTORY",
        help=(
            "A module, or a .py file, and in it a linen module, an nnx model, or what "
            "returns one when called without arguments (or with rngs=)."
        ),
        autocompletion=_factories,
    ),
]
Inputs = Annotated[
    list[str] | None,
    typer.Option(
        "--input",
        metavar="SHAPE[:DTYPE[:HIGH]]",
        help=(
            "An input of the model, as 8,224,224,3 or 8,128:int32:50257. Normal "
            "numbers; whole ones lie below HIGH (2, and 256 for uint8). Repeatable."
        ),
    ),
]
Call = Annotated[
    list[str] | None,
    typer.Option(
        "--call",
        metavar="NAME=VALUE",
        help="An option of the model's call, with a JSON value: train=false. "
        "Repeatable.",
    ),
]
Seed = Annotated[
    int, typer.Option("--seed", help="Of parameters, inputs and what is drawn.")
]
Rules = Annotated[
    pathlib.Path | None,
    typer.Option("--rules", metavar="FILE", help="A JSON list of transfer rules."),
]
Policy = Annotated[
    list[str] | None,
    typer.Option(
        "--policy",
        metavar="KIND=CHOICE",
        help=(
            "What to do about a misfit: missing, unexpected, shape, dtype, nonfinite "
            "or params_without_stats, each error, warn or allow. Repeatable."
        ),
    ),
]
Force = Annotated[
    bool, typer.Option("--force", help="Write over a file that is there already.")
]
Format = Annotated[
    str | None,
    typer.Option(
        "--format",
        metavar="NAME",
        help="safetensors, torch, msgpack, npz, orbax or index; else seen by content.",
    ),
]
Separator = Annotated[
    str | None,
    typer.Option(
        "--separator",
        metavar="TEXT",
        help="What joins the keys of names in the file, where it is unusual.",
    ),
]
