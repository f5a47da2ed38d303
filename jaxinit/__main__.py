"""``python -m jaxinit``, and the ``jaxinit`` command."""

import importlib.util
import sys


def run() -> None:
    """The command line, or the line to type where its extra is missing."""
    for library in ("typer", "pylatexenc"):
        if importlib.util.find_spec(library) is None:
            sys.exit(f"the command line needs {library}: pip install 'jaxinit[cli]'")
    from jaxinit.cli import app

    app(prog_name="jaxinit")


if __name__ == "__main__":
    run()
