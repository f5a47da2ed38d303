"""``python -m jaxinit``, and the ``jaxinit`` command."""

import sys


def run() -> None:
    """The command line, or the line to type where its extra is missing."""
    try:
        from jaxinit.cli import app
    except ModuleNotFoundError as missing:
        if (missing.name or "").split(".")[0] not in ("typer", "rich", "pylatexenc"):
            raise
        sys.exit(f"the command line needs {missing.name}: pip install 'jaxinit[cli]'")
    app()


if __name__ == "__main__":
    run()
