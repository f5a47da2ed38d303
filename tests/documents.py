"""Runs every python block of README.md and docs/, page by page, top to bottom.

The blocks of one page share their names, as a reader would type them. A block that must
not run is not called python.
"""

import pathlib
import re

import matplotlib
import matplotlib.pyplot as plt
import pytest

ROOT = pathlib.Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("**/*.md"))]
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.DOTALL | re.MULTILINE)
# They train with optax, whose Adam needs the promotion rules that JAX has by default.
RELAXED = {
    "docs/index.md",
    "docs/how-to/mup.md",
    "docs/finetune.md",
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


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_the_python_blocks_run(page, request, monkeypatch):
    if name_of(page) in RELAXED:
        request.getfixturevalue("relaxed_promotion")
    run_page(page, monkeypatch, page.read_text())


def run_page(page, monkeypatch, text):
    """Where the page's files are, or, for pages that draw, where its pictures go."""
    PICTURES.mkdir(parents=True, exist_ok=True)
    draws = page.parent.name == "lecture"
    monkeypatch.chdir(PICTURES if draws else page.parent)
    monkeypatch.syspath_prepend(ROOT / "examples")
    matplotlib.use("Agg")
    with plt.style.context(STYLE):
        run_blocks(text, name_of(page))
    plt.close("all")


def run_blocks(text, name):
    namespace = {}
    for block in BLOCK.finditer(text):
        # Blank lines in front keep the line numbers of a traceback those of the page.
        lines_before = text.count("\n", 0, block.start(1))
        source = "\n" * lines_before + block.group(1)
        exec(compile(source, name, "exec"), namespace)


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_the_links_lead_somewhere(page):
    text = page.read_text()
    for target in LINK.findall(FENCED.sub("", text)):
        drawn = target.rpartition("_build/pictures/")[2]
        if f'savefig("{drawn}")' in text:
            continue  # the page draws it when it runs
        if "://" not in target:
            assert (page.parent / target).exists(), f"{name_of(page)} links to {target}"


def test_a_block_that_fails_is_noticed():
    with pytest.raises(AssertionError):
        run_blocks("text\n\n```python\nassert False\n```\n", "page")
