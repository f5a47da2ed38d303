"""Wrong use: exit code 2, a message that says what to do, an empty standard output."""

import pathlib

import pytest
from command import jaxinit

import jaxinit as library
from jaxinit.cli._blame import told

MODELS = [
    ("net.py", "'net.py' is not MODULE:FACTORY; write net.py:Net; it has Net, Forgets"),
    ("net", "'net' is not MODULE:FACTORY; write net.py:build"),
    ("nets:Net", "there is no module 'nets'; did you mean net?"),
    ("nt.py:Net", "there is no file nt.py; did you mean net.py?"),
    ("net.py:Nett", "net.py has no 'Nett'; did you mean Net"),
    ("net.py:number", "net.py:number is 3, and neither a model nor a function"),
    (
        "net.py:jnp.zeros",
        "net.py:jnp.zeros is called without arguments, or with rngs= alone,",
    ),
    ("net.py:dict", "net.py has no 'dict'"),
    ("net.py:NETWORK", "net.py has no 'NETWORK'"),
    ("builtins:dict", "builtins:dict returned dict, and not a linen module or an nnx"),
    ("syntax.py:f", "SyntaxError: invalid syntax\n  syntax.py, line 2\n    x = = 1"),
    (
        "needs:f",
        "No module named 'nowhere'\n  needs.py, line 1, in <module>\n    import",
    ),
    ("stops:f", "stops ended with exit code 4 while imported"),
    ("leaves:f", "the model's own code ended with exit code 5"),
    (
        "net.py:fails",
        "ZeroDivisionError: no width left\n  net.py, line 60, in fails\n"
        '    raise ZeroDivisionError("no width left")',
    ),
]


@pytest.mark.parametrize(("label", "message"), MODELS)
def test_a_wrong_model(label, message, folder):
    (folder / "syntax.py").write_text("y = 1\nx = = 1\n")
    (folder / "needs.py").write_text("import nowhere\n")
    (folder / "stops.py").write_text("raise SystemExit(4)\n")
    (folder / "leaves.py").write_text("def f(): raise SystemExit(5)\n")
    line = next(
        i
        for i, text in enumerate((folder / "net.py").read_text().splitlines(), 1)
        if "raise ZeroDivisionError" in text
    )
    check(("audit", label, "--input", "4,8"), message.replace("60", str(line)))


NET = ("audit", "net.py:Net")
OPTIONS = [
    (NET, "net.py:Net is a linen module, whose parameters depend on its inputs"),
    ((*NET, "--input", "8x8"), "'8x8' is not SHAPE[:DTYPE[:HIGH]]; write --input 8,22"),
    ((*NET, "--input", "8,-1"), "'8,-1' is not SHAPE[:DTYPE[:HIGH]]"),
    ((*NET, "--input", "8:a:b:c"), "'8:a:b:c' is not SHAPE[:DTYPE[:HIGH]]"),
    ((*NET, "--input", "8,8:flot32"), "there is no dtype 'flot32'; did you mean float"),
    ((*NET, "--input", "8,8:zzz"), "there is no dtype 'zzz'; it is one of float32, "),
    ((*NET, "--input", "8:float64"), "JAX holds float64 as float32 unless 64-bit"),
    ((*NET, "--input", "8:float32:9"), "HIGH is the bound of whole numbers"),
    ((*NET, "--input", "8:int32:0"), "HIGH is the bound of whole numbers"),
    ((*NET, "--input", "8:int8:999"), "998 does not fit int8"),
    ((*NET, "--call", "train"), "--call 'train' is not NAME=VALUE"),
    ((*NET, "--call", "train=True"), "'True' is not JSON; write true"),
    ((*NET, "--call", "mode=fast"), "'fast' is not JSON; a text is written \"fast\""),
    ((*NET, "--input", "4,8", "--call", "trian=true"), "trian"),
    ((*NET, "--input", "4,8", "--only", "heat/.*"), "did you mean 'head/.*'"),
    ((*NET, "--input", "4,8", "--html", "no/a.html"), "there is no directory no to wr"),
    ((*NET, "--input", "4,8", "--checkpoint", "none.pth"), "none.pth: does not exist"),
    ((*NET, "--fail-on", "never"), "'never'"),
    (("inspect", "none.pth"), "none.pth: does not exist"),
    (("inspect", "net.py"), "net.py: is of no format that is known here"),
    (("inspect", "net.py", "--format", "torsch"), "format must be one of"),
    (("diff", "net.py", "net.py"), "net.py: is of no format that is known here"),
    (("diff", "a", "b", "--rtol", "-1"), "Invalid value for '--rtol'"),
    (("plan", "none.pth", "net.py:Net"), "none.pth: does not exist"),
    (
        ("plan", "x", "net.py:Net", "--rules", "none.json"),
        "--rules: none.json: No such",
    ),
    (("plan", "x", "net.py:Net", "--rules", "net.py"), "net.py: rules are not JSON: l"),
    (
        ("plan", "x", "net.py:Net", "--policy", "missing"),
        "is not KIND=CHOICE; write mis",
    ),
    (("plan", "x", "net.py:Net", "--policy", "mising=allow"), "did you mean missing?"),
    (
        ("plan", "x", "net.py:Net", "--policy", "missing=maybe"),
        "missing must be one of",
    ),
    (
        ("plan", "x", "net.py:Net", "--out", "net.py"),
        "net.py is there already; say --f",
    ),
    (
        ("merge", "x", "net.py:Net", "--out", "net.py"),
        "net.py is there already; say --",
    ),
    (("merge", "x", "net.py:Net", "--out", "."), ". is a directory; name a file"),
    (
        ("merge", "x", "net.py:Net", "--out", "o", "--plan", "net.py"),
        "text is not a plan",
    ),
    (
        ("merge", "x", "net.py:Net", "--out", "o", "--plan", "p", "--rules", "r"),
        "--plan brings its own rules and policy; leave those out",
    ),
    (("materialize", "net.py:Net"), "say their shapes, --input 8,224,224,3"),
    (
        ("materialize", "net.py:Net", "--out", "net.py"),
        "net.py is there already; say --",
    ),
    (
        ("materialize", "net.py:Net", "--out", "o", "--explain"),
        "--explain makes no parameters to write; leave --out away",
    ),
    (("initializers", "he_norml"), "no initializer 'he_norml'; did you mean he_normal"),
]


@pytest.mark.parametrize(("arguments", "message"), OPTIONS)
def test_wrong_options(arguments, message):
    check(arguments, message)


def check(arguments, message):
    done = jaxinit(*arguments)
    assert done.code == 2
    assert message in done.err
    assert done.out == ""
    assert "Traceback" not in done.err


@pytest.mark.parametrize("arguments", [NET, ("inspect", "net.py"), ("inspect",)])
def test_wrong_use_leaves_standard_output_empty_for_programs_too(arguments):
    done = jaxinit(*arguments, "--json")
    assert (done.code, done.out) == (2, "")
    assert done.err


def test_the_traceback_is_shown_when_asked_for():
    hinted = jaxinit("audit", "net.py:fails", "--input", "4,8")
    assert "--traceback shows all of it" in hinted.err
    done = jaxinit("audit", "net.py:fails", "--input", "4,8", "--traceback")
    assert done.code == 2
    assert "Traceback (most recent call last)" in done.err
    assert "--traceback shows" not in done.err


def test_an_error_inside_the_call_shows_the_line_of_the_model(folder):
    text = (folder / "net.py").read_text()
    (folder / "net.py").write_text(text.replace("x = nn.relu(nn", "x = nn.rellu(nn"))
    done = jaxinit("audit", "net.py:Net", "--input", "4,8")
    assert done.code == 2
    assert "AttributeError" in done.err
    assert "net.py, line 13, in __call__" in done.err


def test_a_long_message_is_cut_and_says_so(folder):
    (folder / "long.py").write_text("def f(): raise ValueError('line\\n' * 99)\n")
    done = jaxinit("audit", "long.py:f")
    assert done.err.count("line\n") < 20
    assert "more lines)" in done.err


def test_a_neighbour_whose_name_begins_like_the_package_is_not_ours():
    file = pathlib.Path(library.__file__).parent.with_name("jaxinit_nets.py")
    names = {}
    exec(compile("def f():\n    raise ValueError('narrow')", file, "exec"), names)
    with pytest.raises(ValueError, match="narrow") as caught:
        names["f"]()
    assert "jaxinit_nets.py, line 2, in f" in told(caught.value)
