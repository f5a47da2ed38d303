"""Progress on standard error: bars in a terminal, a line a stage elsewhere."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Generator


@contextlib.contextmanager
def bars() -> Generator[Callable[[str, int], Callable[[], None]], None, None]:
    """Yield a function that begins a stage; it returns what to call after a step."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    console = Console(stderr=True)
    if not console.is_terminal:
        yield _begun
        return
    columns = (
        TextColumn("{task.description:<28}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f}%"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console) as progress:

        def begin(name: str, total: int) -> Callable[[], None]:
            task = progress.add_task(name, total=total)
            return lambda: progress.advance(task)

        yield begin


def _begun(name: str, total: int) -> Callable[[], None]:
    sys.stderr.write(f"{name} ...\n")
    sys.stderr.flush()
    return lambda: None
