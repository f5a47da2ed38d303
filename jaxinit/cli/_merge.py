"""`jaxinit merge`: a checkpoint into a model, as a file."""

from __future__ import annotations

import pathlib
from typing import Annotated, Any

import typer

from jaxinit.cli import _options as options
from jaxinit.cli import _reports
from jaxinit.cli._files import opened
from jaxinit.cli._outcome import Failure, Outcome


def merge(
    file: options.File,
    model: options.Model,
    out: Annotated[
        pathlib.Path,
        typer.Option("--out", metavar="FILE", help="The safetensors file to write."),
    ],
    inputs: options.Inputs = None,
    call: options.Call = None,
    rules: options.Rules = None,
    plan: Annotated[
        pathlib.Path | None,
        typer.Option(
            "--plan", metavar="FILE", help="What `jaxinit plan --out` wrote, to apply."
        ),
    ] = None,
    policy: options.Policy = None,
    force: options.Force = False,
    format: options.Format = None,
    separator: options.Separator = None,
    seed: options.Seed = 0,
    as_json: options.Json = False,
    traceback: options.Traceback = False,
) -> Outcome:
    """Fill a model from a checkpoint, and write it as a file.

    Leaves that the checkpoint does not fill are made by the model, or drawn by rule,
    from --seed. The file is written whole or not at all, and says where its numbers
    come from. Exit code 1 means that something does not fit, and nothing is written.

    \b
    Examples:
      jaxinit merge model.pth net.py:build --input 1,224,224,3 \\
          --rules rules.json --out merged.safetensors
      jaxinit merge model.pth net.py:build --input 1,224,224,3 \\
          --plan plan.json --out merged.safetensors --force
    """
    import jax

    from jaxinit import transfer
    from jaxinit.cli import _files, _inputs, _model

    _files.check_free(out, force=force)
    if plan is not None and (rules is not None or policy):
        raise Failure("--plan brings its own rules and policy; leave those out")
    chosen = _files.policy_of(policy)
    ways: Any = _files.rules_of(rules)
    if plan is not None:
        ways = _read_plan(plan)
    source = opened(file, format, separator)
    given = _inputs.parsed(inputs)
    loaded = _model.load(model, given, _inputs.options(call), seed)
    key = jax.random.key(seed)
    merged, report = transfer.merge(
        loaded.target(), source, ways, policy=chosen, key=key
    )
    transfer.save(out, merged, provenance=report)
    return _reports.outcome(report, said=(f"the parameters are in {out}",))


def _read_plan(path: pathlib.Path) -> Any:
    from jaxinit import transfer
    from jaxinit.cli._files import read_text

    text = read_text(path, "--plan")
    try:
        return transfer.Plan.from_json(text)
    except ValueError as error:
        raise Failure(f"--plan: {path}: {error}") from None
