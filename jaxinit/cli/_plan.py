"""`jaxinit plan`: what a merge would do with each leaf."""

from __future__ import annotations

import pathlib
from typing import Annotated

import typer

from jaxinit.cli import _options as options
from jaxinit.cli import _reports
from jaxinit.cli._files import opened
from jaxinit.cli._outcome import Outcome


def plan(
    file: options.File,
    model: options.Model,
    inputs: options.Inputs = None,
    call: options.Call = None,
    rules: options.Rules = None,
    policy: options.Policy = None,
    out: Annotated[
        pathlib.Path | None,
        typer.Option("--out", metavar="FILE", help="Write the plan, as JSON, to here."),
    ] = None,
    force: options.Force = False,
    format: options.Format = None,
    separator: options.Separator = None,
    seed: options.Seed = 0,
    as_json: options.Json = False,
    traceback: options.Traceback = False,
) -> Outcome:
    """Say what a merge would do with every leaf.

    Looks at shapes alone. Exit code 1 means that something does not fit; each finding
    says what to do. A plan that fits is written with --out, for `merge --plan`.

    \b
    Examples:
      jaxinit plan model.pth net.py:build --input 1,224,224,3
      jaxinit plan model.pth net.py:build --input 1,224,224,3 --rules rules.json
      jaxinit plan model.pth net.py:build --rules rules.json --out plan.json

    \b
    A file of rules:
      [
        {"rename": "fc/(.*)", "replacement": "head/\\\\1"},
        {"torch_layout": ".*"},
        {"draw": "head/.*", "initializer": "lecun_normal()"}
      ]
    """
    from jaxinit import transfer
    from jaxinit.cli import _files, _inputs, _model

    _files.check_free(out, force=force)
    listed, chosen = _files.rules_of(rules), _files.policy_of(policy)
    source = opened(file, format, separator)
    given = _inputs.parsed(inputs)
    loaded = _model.load(model, given, _inputs.options(call), seed)
    made = transfer.plan(loaded.target(), source, listed, policy=chosen)
    said = ()
    if out is not None and made.ok:
        _files.write_text(out, made.to_json(indent=1) + "\n")
        said = (f"the plan is in {out}",)
    elif out is not None:
        said = (f"{out} is not written, since the plan has errors",)
    return _reports.outcome(made, said=said)
