"""Runs the blocks of README.md and docs/, page by page, top to bottom.

The python blocks of one page share their names, as a reader would type them. Of a sh
block the lines that call jaxinit are run, in the folder of the page, and exit with 0 or
with what `# exit code 1` says at their end. A block with the name of a file behind its
language, ```json rules.json, is written to it. A block that must not run is called
neither python nor sh.
"""

import pathlib
import re
import shlex
import shutil
import sys

import matplotlib
import matplotlib.pyplot as plt
import pytest
from typer.testing import CliRunner

from jaxinit.cli import app

ROOT = pathlib.Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("**/*.md"))]
BLOCK = re.compile(r"^```(\w+)(?: (\S+))?\n(.*?)^```$", re.DOTALL | re.MULTILINE)
# They train with optax, whose Adam needs the promotion rules that JAX has by default.
RELAXED = {
    "docs/index.md",
    "docs/how-to/mup.md",
    "docs/finetune.md",
    "docs/presets.md",
    "docs/how-to/freeze.md",
    "docs/lecture/he.md",
    "docs/lecture/transfer.md",
    "docs/lecture/typical-setup.md",
}
# Where a page draws what it shows; see `docs` in the Makefile.
PICTURES = ROOT / "docs" / "_build" / "pictures"
STYLE = ROOT / "docs" / "lecture" / "pictures.mplstyle"
FENCED = re.compile(r"^```.*?^```$", re.DOTALL | re.MULTILINE)
LINK = re.compile(r"\]\(([^)#]+?)(?:#[^)]*)?\)")


def name_of(page):
    return str(page.relative_to(ROOT))


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """Each page has a folder of its own, and leaves nothing imported behind."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        file = getattr(sys.modules[name], "__file__", None) or ""
        if file.startswith(str(tmp_path)):
            del sys.modules[name]


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_the_blocks_run(page, request, monkeypatch):
    if name_of(page) in RELAXED:
        request.getfixturevalue("relaxed_promotion")
    run_page(page, monkeypatch, page.read_text())


def run_page(page, monkeypatch, text):
    """Beside copies of the page's files; pages that draw, where the pictures go."""
    if page.parent.name == "lecture":
        PICTURES.mkdir(parents=True, exist_ok=True)
        monkeypatch.chdir(PICTURES)
    for file in page.parent.glob("*.pth"):
        shutil.copy(file, ".")
    monkeypatch.syspath_prepend(ROOT / "examples")
    matplotlib.use("Agg")
    with plt.style.context(STYLE):
        run_blocks(text, name_of(page))
    plt.close("all")


def run_blocks(text, name):
    namespace = {}
    for block in BLOCK.finditer(text):
        language, file, body = block.groups()
        if file:
            pathlib.Path(file).write_text(body)
        elif language == "python":
            # Blank lines in front keep the line numbers of a traceback those of the
            # page.
            lines_before = text.count("\n", 0, block.start(3))
            source = "\n" * lines_before + body
            exec(compile(source, name, "exec"), namespace)
        elif language == "sh":
            run_commands(body)


def run_commands(body):
    for line in body.replace("\\\n", " ").splitlines():
        program, *arguments = shlex.split(line, comments=True) or [""]
        if program == "jaxinit":
            told = re.search(r"# exit code (\d)", line)
            done = CliRunner().invoke(app, arguments)
            wanted = int(told.group(1)) if told else 0
            assert done.exit_code == wanted, (
                f"{line}\n{done.output}\n{done.exception!r}"
            )
            assert max(map(len, done.stdout.splitlines()), default=0) <= 80, line


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_the_links_lead_somewhere(page):
    text = page.read_text()
    for target in LINK.findall(FENCED.sub("", text)):
        drawn = target.rpartition("_build/pictures/")[2]
        if f'savefig("{drawn}")' in text:
            continue  # the page draws it when it runs
        if "://" not in target:
            assert (page.parent / target).exists(), f"{name_of(page)} links to {target}"


@pytest.mark.parametrize(
    "block",
    [
        "python\nassert False",
        "sh\njaxinit inspect nowhere.npz",
        "sh\njaxinit initializers \\\n    he_normal  # exit code 1",
        "python net.py\nraise OSError\n```\n\n```python\nimport net",
    ],
)
def test_a_block_that_fails_is_noticed(block, monkeypatch):
    monkeypatch.syspath_prepend(".")
    with pytest.raises((AssertionError, OSError)):
        run_blocks(f"text\n\n```{block}\n```\n", "page")
