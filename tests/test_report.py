"""A report is a value, prints all it holds in 80 columns, and survives JSON."""

import dataclasses
import html
import io
import json
import math
import pickle
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxinit import _tables
from jaxinit._errors import AuditError, MergeError
from jaxinit._paths import Name
from jaxinit._report import Finding, Report

ERROR = Finding("error", "head/kernel", "It holds 3 NaNs.", "Read it again.", "nan")
WARNING = Finding("warning", "head/bias", "It is zero.", "Nothing, if you meant it.")
NOTE = Finding("note", "", "The model was traced once.", "Nothing to do.")
COLUMNS = ("leaf", "shape", "stddev")


def layers(count):
    """The rows of a transformer with that many layers, 8 leaves in each."""
    parts = [
        *(f"attention/{name}/kernel" for name in ("query", "key", "value", "out")),
        *("mlp/wi/kernel", "mlp/wo/kernel", "norm_in/scale", "norm_out/scale"),
    ]
    return [
        (f"encoder/layers_{i}/{part}", (768, 768), 0.02)
        for i in range(count)
        for part in parts
    ]


def lines(report):
    return str(report).split("\n")


# Values


def test_findings_count_and_decide():
    report = Report("audit", findings=[NOTE, WARNING, NOTE])
    assert report.counts() == {"error": 0, "warning": 1, "note": 2}
    assert report.ok
    assert not Report("audit", findings=[NOTE, ERROR]).ok


def test_a_finding_takes_a_name_and_knows_the_severities():
    leaf = Name("batch_stats", "norm/mean")
    assert Finding("note", leaf, "c", "r").leaf == "batch_stats:norm/mean"
    message = "severity must be one of 'error', 'warning', 'note', got 'fatal'"
    with pytest.raises(ValueError, match=message):
        Finding("fatal", "a", "c", "r")
    with pytest.raises(ValueError, match=message):
        Report("audit").raise_if("fatal")


def test_rows_are_tuples_or_mappings():
    report = Report(
        "r", columns=["leaf", "size"], rows=[["a", 1], {"size": 2, "leaf": "b"}, {}]
    )
    assert report.rows == (("a", 1), ("b", 2), (None, None))
    assert report.records()[1] == {"leaf": "b", "size": 2}
    free = Report("r", rows=[{"leaf": "a"}, {"leaf": "b", "size": 2}])
    assert free.columns == ("leaf", "size")
    assert free.rows == (("a", None), ("b", 2))


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (("a", 1, 2), "rows[1] has 3 cells for the columns ('leaf', 'size')"),
        ({"lead": "a"}, "rows[1] has no column for ['lead']: ('leaf', 'size')"),
    ],
)
def test_a_row_that_does_not_fit_is_an_error(row, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        Report("r", columns=("leaf", "size"), rows=[("a", 1), row])


@pytest.mark.parametrize(
    ("cell", "expected"),
    [
        (np.float32(0.5), 0.5),
        (np.bool_(True), True),
        (jnp.bfloat16(1.5), 1.5),
        (jnp.int32(3), 3),
        (np.int64(3), 3),
        (jnp.arange(2), (0, 1)),
        ([1, (np.float64(2.0), None)], (1, (2.0, None))),
        (np.dtype("float32"), "float32"),
        (np.str_("text"), "text"),
        (Name("cache", "a"), "cache:a"),
        (1j, "1j"),
        (jax.sharding.PartitionSpec("x"), str(jax.sharding.PartitionSpec("x"))),
    ],
)
def test_cells_become_plain_python_values(cell, expected):
    ((found,),) = Report("r", columns=("x",), rows=[(cell,)]).rows
    assert found == expected
    assert type(found) is type(expected)


def test_a_prng_key_in_a_cell_is_text():
    ((found,),) = Report("r", columns=("x",), rows=[(jax.random.key(0),)]).rows
    assert type(found) is str


def test_reports_compare_by_value():
    def build(stddev):
        row = ("a", (2, np.int32(3)), stddev)
        return Report("r", columns=COLUMNS, rows=[row], findings=[ERROR], notes=["n"])

    assert build(math.nan) == build(np.float32("nan"))
    assert hash(build(math.nan)) == hash(build(np.float32("nan")))
    assert build(1.0) != build(2.0)
    assert pickle.loads(pickle.dumps(build(1.0))) == build(1.0)
    with pytest.raises(dataclasses.FrozenInstanceError):
        build(1.0).title = "other"


@dataclasses.dataclass(frozen=True)
class TimedReport(Report):
    seconds: float = 0.0
    shapes: tuple = ()
    path_columns = ("module",)
    error_type = MergeError


def test_a_subclass_adds_fields_and_keeps_the_rest():
    report = TimedReport("timed", seconds=math.inf, shapes=((2, 3),), findings=[ERROR])
    assert repr(report) == "<TimedReport 'timed': 0 rows, 1 error>"
    assert report == TimedReport(
        "timed", seconds=math.inf, shapes=((2, 3),), findings=[ERROR]
    )
    assert report != Report("timed", findings=[ERROR])
    data = json.loads(json.dumps(report.to_dict(), allow_nan=False))
    assert data["seconds"] == {"float": "inf"}
    assert TimedReport.from_dict(data) == report
    with pytest.raises(MergeError):
        report.raise_if()
    folded = TimedReport("t", columns=("module",), rows=[("h/0",), ("h/1",)])
    assert "h/{0,1}" in str(folded)
    assert "h/0" in str(Report("t", columns=("module",), rows=folded.rows))


# JSON

cells = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3).map(tuple),
    max_leaves=4,
)
findings = st.builds(
    Finding,
    st.sampled_from(["error", "warning", "note"]),
    *[st.text(max_size=8)] * 4,
)
reports = st.builds(
    Report,
    st.text(max_size=8),
    columns=st.just(COLUMNS),
    rows=st.lists(st.tuples(cells, cells, cells), max_size=4),
    findings=st.lists(findings, max_size=3),
    notes=st.lists(st.text(max_size=8), max_size=2),
)


@settings(max_examples=60, deadline=None)
@given(reports)
def test_a_report_survives_json(report):
    text = json.dumps(report.to_dict(), allow_nan=False)
    again = Report.from_dict(json.loads(text))
    assert again == report
    assert hash(again) == hash(report)


def test_a_subclass_report_is_not_read_as_another():
    data = TimedReport("timed").to_dict()
    with pytest.raises(
        ValueError, match="a report of type 'TimedReport', not 'Report'"
    ):
        Report.from_dict(data)


# Raising


def test_raise_if_lists_what_is_as_grave_and_carries_the_report():
    report = Report("audit of a model", findings=[NOTE, WARNING, ERROR])
    with pytest.raises(AuditError) as raised:
        report.raise_if()
    assert str(raised.value) == (
        "audit of a model\n  error: head/kernel: It holds 3 NaNs. Read it again."
    )
    assert raised.value.report is report
    with pytest.raises(MergeError) as raised:
        report.raise_if("note", MergeError)
    assert str(raised.value).split("\n")[1:] == [
        "  error: head/kernel: It holds 3 NaNs. Read it again.",
        "  warning: head/bias: It is zero. Nothing, if you meant it.",
        "  note: The model was traced once. Nothing to do.",
    ]


def test_raise_if_returns_a_report_that_is_good_enough():
    report = Report("audit", findings=[NOTE, WARNING])
    assert report.raise_if("error") is report
    with pytest.raises(AuditError):
        report.raise_if("warning")
    assert Report("audit", findings=[NOTE]).raise_if("warning").ok
    assert Report("audit").raise_if("note").ok


def test_the_text_of_an_error_folds_and_cuts_what_is_too_long():
    same = [Finding("error", f"h/{i}/w", "It is zero.", "Draw it.") for i in range(12)]
    with pytest.raises(AuditError) as raised:
        Report("audit", findings=same).raise_if()
    assert str(raised.value) == "audit\n  error: h/{0..11}/w: It is zero. Draw it."
    many = [Finding("error", f"{'x' * (i + 1)}", "c.", "r.") for i in range(23)]
    with pytest.raises(AuditError) as raised:
        Report("audit", findings=many).raise_if()
    assert len(str(raised.value).split("\n")) == 22
    assert str(raised.value).endswith("\n  and 3 more, all of them in .report")
    assert len(raised.value.report.findings) == 23


# Printing


def test_the_printed_report():
    report = Report(
        "three leaves",
        columns=("leaf", "shape", "size", "trained"),
        rows=[("a", (3,), 12, True), ("b/kernel", (3, 4), None, False)],
        findings=[NOTE, WARNING, ERROR],
        notes=["12 parameters"],
    )
    assert str(report) == (
        "three leaves\n"
        "\n"
        "leaf      shape   size  trained\n"
        "───────────────────────────────\n"
        "a         (3,)      12  yes\n"
        "b/kernel  (3, 4)        no\n"
        "\n"
        "12 parameters\n"
        "\n"
        "1 error, 1 warning, 1 note\n"
        "\n"
        "error   head/kernel: It holds 3 NaNs.\n"
        "        Read it again.\n"
        "warning head/bias: It is zero.\n"
        "        Nothing, if you meant it.\n"
        "note    The model was traced once.\n"
        "        Nothing to do."
    )


def test_layers_fold_where_every_other_cell_is_equal():
    rows = layers(12)
    text = str(Report("r", columns=COLUMNS, rows=rows))
    assert text.count("layers_{0..11}") == 8
    assert text.endswith("96 rows, folded into 8")
    rows[8 * 5] = (*rows[8 * 5][:2], 0.3)  # the query kernel of layer 5
    text = str(Report("r", columns=COLUMNS, rows=rows))
    assert (
        "encoder/layers_{0..4,6..11}/attention/query/kernel  (768, 768)    0.02" in text
    )
    assert (
        "encoder/layers_5/attention/query/kernel             (768, 768)     0.3" in text
    )
    assert text.endswith("96 rows, folded into 9")


def test_cells_that_differ_where_it_is_not_shown_fold():
    rows = [("h/0", 0.12341), ("h/1", 0.12343), ("h/2", 0.1236)]
    text = str(Report("r", columns=("leaf", "stddev"), rows=rows))
    assert "h/{0,1}  0.1234" in text
    assert "h/2      0.1236" in text


def test_a_target_folds_with_its_source():
    rows = [(f"h_{i}/w", f"layer.{i + 1}.weight", "copied") for i in range(12)]
    text = str(Report("r", columns=("target", "source", "fate"), rows=rows))
    assert "h_{0..11}/w  layer.{1..12}.weight  copied" in text


def test_a_table_without_paths_does_not_fold():
    rows = [("step_0", 1), ("step_1", 1)]
    assert "step_1" in str(Report("r", columns=("step", "n"), rows=rows))


def test_findings_that_say_the_same_fold():
    same = [Finding("warning", f"h/{i}/w", "It is zero.", "Draw it.") for i in range(3)]
    other = Finding("warning", "h/3/w", "It is one.", "Draw it.")
    text = str(Report("r", findings=[*same, other]))
    assert "warning h/{0..2}/w: It is zero.\n        Draw it.\n" in text
    assert "warning h/3/w: It is one." in text
    assert "4 warnings" in text


LONG = (
    "encoder/transformer_block_of_the_model/layers_{}/some_very_long_sub_module/kernel"
)
TABLES = {
    "no rows": ((), COLUMNS),
    "three": (layers(1)[:3], COLUMNS),
    "40, folded": (layers(5), COLUMNS),
    "500, unfolded": (
        [(*row[:2], i / 500) for i, row in enumerate(layers(63)[:500])],
        COLUMNS,
    ),
    "long paths": ([(LONG.format(i), (i,), i) for i in range(20)], COLUMNS),
    "two long paths": (
        [(LONG.format(i), LONG.format(-i).replace("/", "."), i) for i in range(20)],
        ("target", "source", "n"),
    ),
    "long words": ([("a" * 200, "b" * 200, "c d " * 60)], COLUMNS),
    "wide letters": ([("層" * 60 + "/0", "形" * 50, 1)], COLUMNS),
    "15 columns": (
        [(f"a/b_{i}", *[i * 1.2345] * 14) for i in range(3)],
        ("leaf", *(f"column_{i}" for i in range(14))),
    ),
}


@pytest.mark.parametrize("table", TABLES)
def test_no_line_is_longer_than_80_columns(table):
    from rich.cells import cell_len

    rows, columns = TABLES[table]
    long = Finding("error", LONG * 2, "A long cause. " * 20, "A long remedy. " * 20)
    report = Report("title " * 30, columns=columns, rows=rows, findings=[long, NOTE])
    assert max(map(cell_len, lines(report))) <= 80
    assert all(line == line.rstrip() for line in lines(report))


def test_a_table_that_is_too_wide_spares_paths_and_numbers():
    columns = ("leaf", "shape", "size", "dtype", "stddev", "program", "fallback")
    texts = ("a text of just twenty", "a reason that takes forty letters to say")
    rows = [
        (path, shape, 589824, "float32", i / 3, *texts)
        for i, (path, shape, _) in enumerate(layers(3))
    ]
    text = str(Report("r", columns=columns, rows=rows))
    for i in range(3):
        assert f"…/layers_{i}/mlp/wi/kernel  (" in text
        assert f"…/layers_{i}/mlp/wo/kernel  (" in text
    assert text.count("589824  float32") == 24


@pytest.mark.parametrize("table", ["500, unfolded", "long paths", "two long paths"])
def test_every_row_can_still_be_told_apart(table):
    rows, columns = TABLES[table]
    body = str(Report("r", columns=columns, rows=rows)).split("─\n", 1)[1]
    if "folded" not in table:
        found = re.findall(r"layers_-?(\d+)/", body)
        assert found == [str(i) for i in range(20)]
    else:
        assert len(set(body.split("\n"))) == len(rows)


def test_no_text_is_lost_where_it_must_wrap():
    words = [f"word{i}" for i in range(60)]
    report = Report("r", columns=("leaf", "why"), rows=[("a/b", " ".join(words))])
    assert re.findall(r"word\d+", str(report)) == words
    assert (
        Report("r", columns=("leaf",), rows=[("a" * 200,)]).__str__().count("a") == 201
    )


def test_names_are_printed_as_text_and_control_nothing():
    finding = Finding("error", "a\x1b[2J", "c [red]x[/red] :smile:", "r\x00")
    report = Report(
        "t\x07",
        columns=("leaf", "x\n"),
        rows=[("a\r\nb", "\x1b[31m")],
        findings=[finding],
    )
    text = str(report)
    assert all(character.isprintable() or character == "\n" for character in text)
    for shown in (
        r"a\x1b[2J: c [red]x[/red] :smile:",
        r"a\r\nb",
        r"\x1b[31m",
        r"t\x07",
    ):
        assert shown in text


def test_a_report_prints_alike_on_every_terminal(monkeypatch):
    report = Report("r", columns=COLUMNS, rows=layers(2), findings=[ERROR])
    expected = str(report)
    for name, value in {"FORCE_COLOR": "1", "COLUMNS": "40", "TERM": "dumb"}.items():
        monkeypatch.setenv(name, value)
        assert str(report) == expected


def test_rich_prints_a_report_as_wide_as_its_console():
    from rich.console import Console

    report = Report("r", columns=COLUMNS, rows=layers(2))
    console = Console(width=50, record=True, file=io.StringIO())
    console.print(report)
    assert "…" in console.export_text()
    assert "…" not in str(report)


# Pages


def test_the_page_holds_everything_and_needs_nothing():
    report = Report(
        "layers {0} & <b>",
        columns=COLUMNS,
        rows=layers(12),
        findings=[ERROR, Finding("note", "", "x < y & {z}", "r")],
        notes=["a note"],
    )
    page = report.to_html()
    assert page.startswith("<!DOCTYPE html>")
    assert "<title>layers {0} &amp; &lt;b&gt;</title>" in page
    assert not re.search(r"https?:|<script|<link|<img|url\(|@import", page)
    assert "<b>" not in page
    text = html.unescape(re.sub(r"<[^>]*>", "", page))
    for shown in (
        "encoder/layers_{0..11}/mlp/wi/kernel",
        "x < y & {z}",
        "a note",
        "NaNs",
    ):
        assert shown in text
    assert page == report.to_html()


def test_a_page_fits_narrow_screens_and_dark_ones():
    page = Report("t", columns=("a",), rows=[("b",)]).to_html()
    assert (
        '<meta name="viewport" content="width=device-width, initial-scale=1">' in page
    )
    assert "prefers-color-scheme: dark" in page
    assert "overflow-x: auto" in page
    assert "{{" not in page
    assert not any(link in page for link in ("http", "src=", "href=", "@import"))


def test_rows_stand_one_below_the_other_where_columns_would_cut_numbers():
    columns = ("leaf", "shape", "gain", "out", "grad", "note")
    rows = [("blocks/kernel", "(3, 3, 64, 128)", 1.234, 0.5678, 12345.0, "")]
    wide, narrow = (
        _tables.plain_text(Report("r", columns=columns, rows=rows), width)
        for width in (80, 30)
    )
    assert "blocks/kernel  (3, 3, 64, 128)  1.234  0.5678" in wide
    assert narrow.splitlines()[2:] == [
        "blocks/kernel",
        "  shape (3, 3, 64, 128)",
        "  gain 1.234  out 0.5678",
        "  grad 1.234e+04",
    ]
