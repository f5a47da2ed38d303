"""The documentation: guides and a lecture in Markdown, the reference from docstrings.

`make docs` builds it into docs/_build/html; every warning is an error.
"""

import importlib
import pathlib
import pkgutil
import re

import jaxinit

HERE = pathlib.Path(__file__).parent

project = "jaxinit"
author = "The jaxinit authors"
copyright = author
release = version = jaxinit.__version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.mathjax",
    "sphinx.ext.napoleon",
]
exclude_patterns = ["_build"]

# Markdown. `$` is mathematics, and a heading can be linked to as #its-words.
myst_enable_extensions = ["amsmath", "dollarmath"]
myst_heading_anchors = 3

# Docstrings. A name between single backticks is code: no docstring has to say more.
default_role = "code"
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True
# References to our own names must resolve; those of other libraries are not linked.
# So are the types of arguments that one gets from other functions and never imports.
nitpick_ignore_regex = [
    (r"py:.*", r"(?!jaxinit\b).*"),
    (r"py:class", r"jaxinit\.(\w+\.)*_.*"),
]
napoleon_custom_sections = [("Call arguments", "params_style")]

html_theme = "furo"
html_title = f"jaxinit {release}"
html_static_path = ["_static"]
html_css_files = ["jaxinit.css"]
pygments_style = "friendly"
pygments_dark_style = "monokai"

# Programs with a page of their own, and no functions to document.
PROGRAMS = {"cli", "demo"}
# What functions return.
RESULTS = re.compile(r".*Report|Initializer|Plan|Source|Leaf|Mean|Spec")


def public_modules():
    """Modules without an underscore in their path; each gets a page by existing."""
    found = [jaxinit.__name__]
    for module in pkgutil.walk_packages(jaxinit.__path__, "jaxinit."):
        parts = module.name.split(".")[1:]
        if not any(part.startswith("_") or part in PROGRAMS for part in parts):
            found.append(module.name)
    return found


def write_reference(app):
    """A page of the reference for each public module, into docs/api/modules."""
    folder = HERE / "api" / "modules"
    folder.mkdir(exist_ok=True)
    pages = {f"{name}.md": page_of(name) for name in public_modules()}
    for old in folder.glob("*.md"):
        if old.name not in pages:
            old.unlink()
    for name, text in pages.items():
        file = folder / name
        if not file.exists() or file.read_text() != text:
            file.write_text(text)


def page_of(name):
    importlib.import_module(name)
    return (
        f"# {name}\n\n```{{eval-rst}}\n"
        f".. automodule:: {name}\n   :members:\n   :imported-members:\n```\n"
    )


def without_constructor(app, what, name, thing, options, signature, returns):
    """Nobody builds a report: how it is built is not for the reference."""
    if what == "class" and RESULTS.fullmatch(name.rpartition(".")[2]):
        return "", returns
    return None


def skip_nameless_fields(app, what, name, thing, skip, options):
    """Of named tuples, whose class says what their fields are."""
    text = getattr(thing, "__doc__", None) or ""
    return True if text.startswith("Alias for field number") else None


def setup(app):
    app.connect("builder-inited", write_reference)
    app.connect("autodoc-process-signature", without_constructor)
    app.connect("autodoc-skip-member", skip_nameless_fields)
