"""`jaxinit audit`: is this start any good?"""

from __future__ import annotations

import enum
import pathlib
from typing import Annotated, Any

import typer

from jaxinit.cli import _options as options
from jaxinit.cli import _reports
from jaxinit.cli._outcome import Outcome


class Gravity(enum.StrEnum):
    """From which severity on a finding makes the exit code 1."""

    ERROR = "error"
    WARNING = "warning"
    NOTE = "note"


def audit(
    model: options.Model,
    inputs: options.Inputs = None,
    call: options.Call = None,
    checkpoint: Annotated[
        pathlib.Path | None,
        typer.Option(
            "--checkpoint",
            metavar="FILE",
            help="Take the parameters from here; every leaf has to fit.",
        ),
    ] = None,
    rules: options.Rules = None,
    only: options.Only = None,
    fail_on: Annotated[
        Gravity, typer.Option("--fail-on", help="What makes the exit code 1.")
    ] = Gravity.WARNING,
    html: Annotated[
        pathlib.Path | None,
        typer.Option("--html", metavar="FILE", help="Write the report as a page, too."),
    ] = None,
    seed: options.Seed = 0,
    as_json: options.Json = False,
    traceback: options.Traceback = False,
) -> Outcome:
    """Say whether the parameters of a model are a sound start.

    Measures signal and gradient at every weight, and names what is wrong. Give a batch
    of 16 or more: dead units and cosines of few examples are mostly chance. Exit code 1
    means findings (warnings or errors, unless --fail-on says otherwise); each names its
    cause and the remedy as a line of code.

    \b
    Examples:
      jaxinit audit net.py:build --input 16,224,224,3
      jaxinit audit package.gpt:GPT --input 16,128:int32:50257 --call train=false
      jaxinit audit net.py:build --input 16,224,224,3 \\
          --checkpoint merged.safetensors --html audit.html
    """
    import jaxinit
    from jaxinit.cli import _files, _inputs, _model

    _files.check_free(html, force=True)
    listed = _files.rules_of(rules)
    given = _inputs.parsed(inputs)
    loaded = _model.load(model, given, _inputs.options(call), seed)
    variables = _variables(loaded, checkpoint, listed)
    report = jaxinit.audit(*loaded.as_function(variables), only=only)
    said = _inputs.hints(given)
    if html is not None:
        _files.write_text(html, report.to_html())
        said = (*said, f"the page is in {html}")
    severities = tuple(Gravity)
    grave = severities[: severities.index(fail_on) + 1]
    return _reports.outcome(report, grave=grave, said=said)


def _variables(loaded: Any, checkpoint: pathlib.Path | None, rules: list[Any]) -> Any:
    """What the audit is about: the model's own parameters, or those of a file."""
    import jax

    import jaxinit
    from jaxinit import transfer

    if checkpoint is None:
        if loaded.kind == "nnx" and loaded.made:
            return loaded.init()
        return jaxinit.materialize(loaded.init)()
    source = transfer.open_checkpoint(checkpoint)
    key = jax.random.key(loaded.seed)
    return transfer.merge(loaded.target(), source, rules, key=key)[0]
