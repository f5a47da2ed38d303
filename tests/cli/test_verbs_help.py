"""What holds of every verb: help, completion, how fast it answers, how it is piped."""

import io
import json
import os
import pathlib
import re
import subprocess
import sys

import pytest
from command import in_a_process, jaxinit

from jaxinit._tables import amount
from jaxinit.cli import VERBS
from jaxinit.cli._options import _factories
from jaxinit.cli._outcome import Outcome, show, write

NAMES = [function.__name__ for function in VERBS]


@pytest.mark.parametrize("name", NAMES)
def test_every_verb_has_help_with_examples_in_80_columns(name):
    done = jaxinit(name, "--help")
    assert done.code == 0
    assert "Examples:\n" in done.out
    assert f"    jaxinit {name}" in done.out
    assert max(map(len, done.out.splitlines())) <= 80
    for option in ("--json", "--traceback", "--help"):
        assert option in done.out


def test_the_verbs_are_listed_each_with_a_whole_sentence():
    out = jaxinit("--help").out
    listed = out.partition("Commands:")[2].splitlines()
    assert [line.split()[0] for line in listed if line.strip()] == NAMES
    assert all(line.endswith(".") and "..." not in line for line in listed if line)


def test_the_page_of_the_docs_lists_every_verb():
    page = pathlib.Path(__file__).parents[2] / "docs" / "command-line.md"
    listed = re.findall(r"^\| `(\w+)[^|]*` \|", page.read_text("utf-8"), re.M)
    assert set(listed) == set(NAMES)


def test_help_waits_for_no_library():
    program = (
        "import sys\n"
        "sys.argv = ['jaxinit', 'audit', '--help']\n"
        "from jaxinit.__main__ import run\n"
        "try:\n"
        "    run()\n"
        "except SystemExit as stop:\n"
        "    assert not stop.code\n"
        "heavy = {'jax', 'jaxlib', 'numpy', 'flax', 'scipy', 'rich', 'pylatexenc'}\n"
        "print(sorted(heavy & set(sys.modules)))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == "[]"


def test_the_shell_completes_verbs_and_options(folder):
    environment = {"_JAXINIT_COMPLETE": "complete_bash", "COMP_CWORD": "1"}
    done = in_a_process("jaxinit", folder, COMP_WORDS="jaxinit ins", **environment)
    assert done.stdout.split() == ["inspect"]
    environment["COMP_CWORD"] = "2"
    done = in_a_process("jaxinit", folder, COMP_WORDS="jaxinit diff --r", **environment)
    assert done.stdout.split() == ["--rtol"]


def test_the_shell_completes_factories_without_running_the_module(folder):
    (folder / "other.py").write_text(
        "raise SystemExit\ndef build(): ...\nclass B: ...\n"
    )
    assert _factories("ot") == ["other.py:"]
    assert _factories("other.py:b") == ["other.py:build"]
    assert _factories("other:") == ["other:build", "other:B"]
    assert _factories("nowhere:b") == []


@pytest.mark.parametrize("name", ["inspct", "audits"])
def test_an_unknown_verb_is_wrong_use(name):
    done = jaxinit(name)
    assert done.code == 2
    assert name in done.err
    assert not done.out


@pytest.mark.parametrize(
    "name", [n for n in NAMES if n not in ("initializers", "demo")]
)
def test_a_verb_without_its_arguments_is_wrong_use(name):
    done = jaxinit(name)
    assert done.code == 2
    assert "Missing argument" in done.err or "Missing option" in done.err
    assert not done.out


def test_a_reader_that_stops_reading_hears_no_complaint(monkeypatch):
    reading, writing = os.pipe()
    os.close(reading)
    with open(writing, "w") as stream:
        monkeypatch.setattr(sys, "stdout", stream)
        write("what nobody reads\n")
        stream.write("and what Python still holds when it ends")


def test_a_pipe_that_knows_no_unicode_gets_what_it_can_show(monkeypatch):
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding="ascii"))
    write("σ² = 2 / n\n")
    assert written.getvalue() == b"?? = 2 / n\n"


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_json_says_the_same_in_every_encoding(encoding, monkeypatch):
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding=encoding))
    show(Outcome("", {"é/kernel": "é → ²"}), as_json=True)
    text = written.getvalue().decode(encoding)
    assert json.loads(text) == {"é/kernel": "é → ²"}


def test_what_a_module_prints_is_not_taken_for_the_result():
    arguments = ("materialize", "net.py:prints", "--input", "2,8")
    done = jaxinit(*arguments, "--json")
    assert json.loads(done.out)["columns"]
    assert "a word of the module's own" in done.err


def test_an_amount_is_never_in_powers_of_ten():
    prefixes = {"": 1, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12}
    for power in range(3, 15):
        for number in (10**power + off for off in (-500, -51, -1, 0, 1, 49)):
            value, unit = amount(number).split()
            assert "e" not in value
            found = float(value) * prefixes[unit.removesuffix("B")]
            assert found == pytest.approx(number, rel=0.005)  # half of 1 in 100
