"""Runs every python block of README.md and docs/, page by page, top to bottom.

The blocks of one page share their names, as a reader would type them. A block that must
not run is not called python.
"""

import pathlib
import re

import pytest

ROOT = pathlib.Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("**/*.md"))]
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.DOTALL | re.MULTILINE)
# They train with optax, whose Adam needs the promotion rules that JAX has by default.
RELAXED = {"docs/finetune.md", "docs/presets.md"}
LINK = re.compile(r"\]\(([^)#]+?)(?:#[^)]*)?\)")


def name_of(page):
    return str(page.relative_to(ROOT))


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_the_python_blocks_run(page, request):
    if name_of(page) in RELAXED:
        request.getfixturevalue("relaxed_promotion")
    run_blocks(page.read_text(), name_of(page))


def run_blocks(text, name):
    namespace = {}
    for block in BLOCK.finditer(text):
        # Blank lines in front keep the line numbers of a traceback those of the page.
        lines_before = text.count("\n", 0, block.start(1))
        source = "\n" * lines_before + block.group(1)
        exec(compile(source, name, "exec"), namespace)


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_the_links_lead_somewhere(page):
    for target in LINK.findall(page.read_text()):
        if "://" not in target:
            assert (page.parent / target).exists(), f"{name_of(page)} links to {target}"


def test_a_block_that_fails_is_noticed():
    with pytest.raises(AssertionError):
        run_blocks("text\n\n```python\nassert False\n```\n", "page")
