"""`jaxinit materialize`: the first parameters of a model, as a file or a table."""

from __future__ import annotations

import contextlib
import pathlib
import sys
import time
from collections.abc import Callable, Generator
from typing import Annotated, Any

import typer

from jaxinit._tables import amount
from jaxinit.cli import _options as options
from jaxinit.cli._leaves import measured, nonfinite, readable
from jaxinit.cli._outcome import Failure, Outcome, console, counted


def materialize(
    model: options.Model,
    inputs: options.Inputs = None,
    call: options.Call = None,
    out: Annotated[
        pathlib.Path | None,
        typer.Option("--out", metavar="FILE", help="The safetensors file to write."),
    ] = None,
    explain: Annotated[
        bool, typer.Option("--explain", help="Say how each leaf is made.")
    ] = False,
    only: options.Only = None,
    force: options.Force = False,
    seed: options.Seed = 0,
    as_json: options.Json = False,
    traceback: options.Traceback = False,
) -> Outcome:
    """Make the first parameters of a model.

    Those that jax.jit(model.init) would give, bit for bit, sooner. Shows each leaf with
    the root mean square of its numbers. A leaf with NaN or infinity is a finding, exit
    code 1. With --only the other leaves are not made.

    \b
    Examples:
      jaxinit materialize net.py:build --input 1,224,224,3
      jaxinit materialize net.py:build --input 1,224,224,3 --out start.safetensors
      jaxinit materialize net.py:build --input 1,224,224,3 --explain
    """
    import jax

    import jaxinit
    from jaxinit import transfer
    from jaxinit.cli import _files, _inputs, _model

    _files.check_free(out, force=force)
    if explain and out is not None:
        raise Failure("--explain makes no parameters to write; leave --out away")
    given = _inputs.parsed(inputs)
    loaded = _model.load(model, given, _inputs.options(call), seed)
    if loaded.kind == "nnx" and loaded.made:
        raise Failure(
            f"{model} is a model that is made already; name the function that makes it"
        )
    with _progress() as progress:
        making = jaxinit.materialize(loaded.init, only=only, progress=progress)
        if explain:
            report = making.explain()
            return Outcome(report, report.to_dict())
        start = time.perf_counter()
        tree = jax.block_until_ready(making())
        seconds = time.perf_counter() - start
    source = _made(tree)
    said = ()
    if out is not None:
        transfer.save(out, source, provenance={"materialized": model, "seed": seed})
        said = (f"the parameters are in {out}",)
    return _outcome(source, seconds, said)


def _made(tree: Any) -> Any:
    """The leaves that were made; of the others the tree holds shapes."""
    import jax

    from jaxinit.transfer._source import Source, as_source

    source = as_source(tree, argument="model")
    made = {
        name: leaf
        for name, leaf in source.items()
        if not isinstance(getattr(leaf, "value", None), jax.ShapeDtypeStruct)
    }
    return Source(
        made,
        format=source.format,
        origins=source.origins,
        random_state=source.random_state,
    )


def _outcome(source: Any, seconds: float, said: tuple[str, ...]) -> Outcome:
    from jaxinit._report import Report

    rows, findings = [], []
    for leaf in source.values():
        rms, bad = measured(leaf)
        rows.append((leaf.name, leaf.shape, leaf.dtype.name, leaf.nbytes, rms))
        if bad:
            findings.append(nonfinite(leaf, bad))
    size = sum(leaf.size for leaf in source.values())
    report = Report(
        f"materialize: {counted(len(source), 'leaf')}, {amount(size, '')} numbers, "
        f"{amount(source.nbytes)} in {seconds:.2f} s",
        columns=("leaf", "shape", "dtype", "bytes", "rms"),
        rows=tuple(rows),
        findings=tuple(findings),
    )
    return Outcome(readable(report), report.to_dict(), bool(findings), said)


@contextlib.contextmanager
def _progress() -> Generator[Callable[[int, int], None]]:
    """A bar on standard error, where that is a terminal."""
    from rich.progress import Progress

    drawing = console(sys.stderr)
    quiet = not drawing.is_terminal
    with Progress(console=drawing, transient=True, disable=quiet) as bar:
        task = bar.add_task("making the parameters", total=None)

        def progress(done: int, total: int) -> None:
            bar.update(task, completed=done, total=total)

        yield progress
