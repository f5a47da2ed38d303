"""The command line: each verb as a user or a program meets it."""

import json
import pathlib
import subprocess
import sys

import pytest
from cases import CASES
from typer.testing import CliRunner

import jaxinit
from jaxinit import _catalogue, initializers
from jaxinit.cli import app

ROOT = pathlib.Path(__file__).parent.parent.parent


def run(*arguments):
    return CliRunner().invoke(app, list(arguments))


def test_every_initializer_is_listed_with_its_use_and_source():
    entries = _catalogue.catalogue()
    listed = {name for entry in entries for name in (entry.name, *entry.aliases)}
    others = {"Initializer", "Fans", "fans", "gain", "edge_of_chaos", "EdgeOfChaos"}
    assert listed == set(initializers.__all__) - others
    for entry in entries:
        assert entry.use
        if entry.name not in ("zeros", "ones", "zeros_init", "ones_init"):
            assert entry.source, f"{entry.name} names no source"
            assert "Example:" in entry.text, f"{entry.name} has no example"


def test_every_initializer_has_a_case():
    tested = {repr(case.build()).split("(")[0] for case in CASES}
    entries = _catalogue.catalogue()
    missing = {e.name for e in entries} - tested - {"zeros_init", "ones_init"}
    assert not missing


def test_the_list_fits_80_columns_and_a_pipe():
    done = run("initializers")
    assert done.exit_code == 0
    assert max(map(len, done.output.splitlines())) <= 80
    assert "he_normal" in done.output
    assert "\x1b" not in done.output


def test_one_initializer_is_shown_in_full_under_any_of_its_names():
    for name in ("he_normal", "kaiming_normal"):
        done = run("initializers", name)
        assert done.exit_code == 0
        assert done.output.startswith("he_normal(in_axis=-2, out_axis=-1")
        assert "Source: He et al. 2015" in done.output


def test_json_is_for_programs():
    entries = json.loads(run("initializers", "--json").output)
    assert {"name", "use", "formula", "source"} <= set(entries[0])
    assert json.loads(run("initializers", "he_normal", "--json").output)["aliases"] == [
        "kaiming_normal"
    ]


def test_a_wrong_name_gets_a_hint_and_exit_code_2():
    done = run("initializers", "he_norml")
    assert done.exit_code == 2
    assert "there is no initializer 'he_norml'; did you mean he_normal" in done.stderr
    assert "Traceback" not in done.output


def test_the_version_is_told():
    assert run("--version").output.strip() == jaxinit.__version__


def test_the_page_of_the_docs_is_made_from_the_docstrings():
    page = (ROOT / "docs" / "catalogue.md").read_text()
    assert page == run("initializers", "--markdown").output, (
        "run `jaxinit initializers --markdown > docs/catalogue.md`"
    )


@pytest.mark.parametrize("library", ["typer", "pylatexenc"])
def test_a_missing_extra_prints_the_line_to_type(library):
    program = (
        f"import sys; sys.modules[{library!r}] = None; sys.argv = ['jaxinit']\n"
        "from jaxinit.__main__ import run; run()"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True
    )
    assert done.returncode == 1
    assert done.stderr.strip() == (
        f"the command line needs {library}: pip install 'jaxinit[cli]'"
    )
