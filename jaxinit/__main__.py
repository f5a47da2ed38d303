"""``python -m jaxinit``, and the ``jaxinit`` command."""

import sys


def run() -> None:
    """The command line, or the line to type where its extra is missing."""
    try:
        from jaxinit.cli import app
    except ModuleNotFoundError as missing:
        library = (missing.name or "").split(".")[0]
        if library not in ("typer", "pylatexenc"):
            raise
        sys.exit(f"the command line needs {library}: pip install 'jaxinit[cli]'")
    app()


if __name__ == "__main__":
    run()
