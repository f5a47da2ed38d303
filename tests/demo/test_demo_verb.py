"""The verb: what it writes where, its exit codes, and its complaints."""

import importlib.util
import json

import demo_cases
import pytest
from typer.testing import CliRunner

from jaxinit.cli import app
from jaxinit.demo import _builtin, _run


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    """A folder of one's own, and a run that is there at once."""
    monkeypatch.chdir(tmp_path)
    demo_cases.without_pictures(monkeypatch)
    monkeypatch.setattr(_builtin, "textures", demo_cases.task)

    def run(task, *, seed, count, quick, progress):
        tick = progress("a stage", 2)
        tick()
        return demo_cases.found(given=task)

    monkeypatch.setattr(_run, "run", run)
    return tmp_path


def demo(*arguments):
    return CliRunner().invoke(app, ["demo", *arguments])


def test_the_page_is_written_and_its_path_and_a_summary_printed(here):
    done = demo()
    assert done.exit_code == 0
    assert (here / "report.html").read_text().startswith("<!doctype html>")
    assert "report.html" in done.stdout
    assert "0.980 ± 0.010" in done.stdout
    assert "a stage" in done.stderr  # progress is not the result
    assert "a stage" not in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 80


def test_json_stands_alone_on_standard_output(here):
    done = demo("--json", "--out", "new/page.html")
    data = json.loads(done.stdout)
    assert data["page"] == "new/page.html"
    assert (here / "new" / "page.html").exists()
    assert data["sound"] is True


def test_a_folder_that_exists_gets_a_page(here):
    (here / "there").mkdir()
    assert demo("--out", "there").exit_code == 0
    assert (here / "there" / "report.html").exists()


@pytest.mark.parametrize(
    ("out", "said"),
    [
        ("file/page.html", "--out file/page.html cannot be written: "),
        ("there", "there/report.html is a directory; name a file"),
    ],
)
def test_a_page_that_cannot_be_written_is_said_before_the_run(
    here, monkeypatch, out, said
):
    (here / "file").write_text("precious")
    (here / "there" / "report.html").mkdir(parents=True)
    begun = []
    monkeypatch.setattr(_run, "run", lambda *args, **options: begun.append(args))
    done = demo("--out", out)
    assert done.exit_code == 2
    assert said in done.stderr
    assert not begun


def test_what_is_not_exact_is_exit_code_1(monkeypatch):
    wrong = demo_cases.found(relative=1e-2)
    monkeypatch.setattr(_run, "run", lambda *args, **options: wrong)
    assert demo().exit_code == 1


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--task", "folder"), "--task folder and a PATH go together"),
        (("somewhere",), "--task folder and a PATH go together"),
        (("--task", "folder", "nowhere"), "nowhere is no folder"),
        (("--out", "page.pdf"), "should be a file.html"),
        (("--seeds", "2"), "'--seeds'"),
        (("--seed", "-1"), "'--seed'"),
        (("--task", "digits"), "digits"),
    ],
)
def test_wrong_use_is_exit_code_2_and_a_sentence(arguments, said):
    done = demo(*arguments)
    assert done.exit_code == 2
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert not done.stdout


def test_a_missing_extra_is_the_line_to_type(monkeypatch):
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util,
        "find_spec",
        lambda name, *rest: None if name == "skimage" else found(name, *rest),
    )
    done = demo()
    assert done.exit_code == 2
    assert "the demo needs skimage: pip install 'jaxinit[demo]'" in done.stderr
