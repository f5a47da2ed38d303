"""How a report becomes text: tables in 80 columns, findings, one HTML page.

rich draws the tables. It is imported where it is used, since a program that prints no
report should not wait for it.
"""

from __future__ import annotations

import html
import io
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from jaxinit._folding import fitted, fold_rows

if TYPE_CHECKING:
    from jaxinit._report import Report

_STYLES = {"error": "bold red", "warning": "yellow", "note": "blue"}
_NUMBERS = {int, float, type(None)}
_GAP = 2  # between two columns of a table
_NARROWEST_PATH = 24
_NARROWEST = 6  # of a text; with less room the rows stand one below the other
_WIDEST_TEXT = 20  # a longer one wraps before it takes room from the paths
_MOST_LINES = 20  # of findings in the text of an error


def plain_text(report: Report, width: int = 80) -> str:
    """The report without colours, no line longer than `width`."""
    console = _console(io.StringIO(), width, color_system=None)
    with console.capture() as captured:
        console.print(report)
    return "\n".join(line.rstrip() for line in captured.get().rstrip().splitlines())


# Doubled braces, since rich formats it. A narrow screen gets smaller letters, and what
# does not fit can be moved sideways; in the dark, dark colours become bright ones.
_STYLE = """
:root {{ color-scheme: light dark; }}
body {{ margin: 1rem; color: #000; background: #fff; }}
pre {{ font: clamp(10px, 1.4vw, 14px)/1.35 monospace; overflow-x: auto; margin: 0; }}
@media (prefers-color-scheme: dark) {{
  body {{ background: #14161a; }}
  pre {{ filter: invert(0.92) hue-rotate(180deg); }}
}}
"""


def html_page(report: Report, width: int = 120) -> str:
    """The report as a page of its own, styles included."""
    console = _console(io.StringIO(), width, color_system="truecolor", record=True)
    console.print(report)
    title = html.escape(report.title).replace("{", "{{").replace("}", "}}")
    return console.export_html(
        inline_styles=True,
        code_format=(
            '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
            '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
            f"<title>{title}</title>\n<style>{_STYLE}</style>\n</head>\n"
            "<body>\n<pre>{code}</pre>\n</body>\n</html>\n"
        ),
    )


def parts(report: Report, width: int) -> Iterable[Any]:
    """What is printed of a report, from its title to its findings."""
    from rich.text import Text

    yield Text(printable(report.title), style="bold")
    if report.columns:
        yield Text()
        table, lines = _table(report, width)
        yield table
        if lines < len(report.rows):
            yield Text()
            yield Text(f"{len(report.rows)} rows, folded into {lines}", style="dim")
    if report.notes:
        yield Text()
        yield from (Text(printable(note)) for note in report.notes)
    if report.findings:
        yield Text()
        yield Text(counted(report.counts()), style="bold")
        yield Text()
        yield _finding_table(report)


def counted(counts: Mapping[str, int]) -> str:
    """ "2 errors, 1 note", or nothing."""
    found = [(number, severity) for severity, number in counts.items() if number]
    return ", ".join(f"{n} {severity}{'s' * (n > 1)}" for n, severity in found)


def finding_lines(findings: Iterable[Any], severities: Sequence[str]) -> list[str]:
    """The findings for the text of an error, a line each, the gravest first."""
    folded = _folded_findings(findings, severities)
    lines = [
        printable(f"  {finding.severity}: {where}{finding.cause} {finding.remedy}")
        for finding, where in folded[:_MOST_LINES]
    ]
    if len(folded) > _MOST_LINES:
        more = len(folded) - _MOST_LINES
        lines.append(f"  and {more} more, all of them in .report")
    return lines


def printable(text: str) -> str:
    """The text with what would move a terminal's cursor, or hide, written out.

    The names in a checkpoint are somebody else's text.
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def _table(report: Report, width: int) -> tuple[Any, int]:
    """The rows, folded, as a rich table, and how many lines they take."""
    from rich import box
    from rich.cells import cell_len
    from rich.table import Table
    from rich.text import Text

    columns = report.columns
    paths = [i for i, column in enumerate(columns) if column in report.path_columns]
    lines = _folded_rows(report, paths)
    whole = [list(line) for line in lines]

    def widest(i: int) -> int:
        texts = [columns[i], *(line[i] for line in lines)]
        return max(cell_len(part) for text in texts for part in text.split("\n"))

    widths = [widest(i) for i in range(len(columns))]
    wrapping = {i for i, w in enumerate(widths) if w > _WIDEST_TEXT and i not in paths}
    for i, share in _shares(widths, paths, width).items():
        if i in paths:
            texts = fitted((line[i] for line in lines), share)
            for line in lines:
                line[i] = texts[line[i]]
        widths[i] = min(share, widest(i))
    room = width - _GAP * (len(columns) - 1)
    if sum(_NARROWEST if i in wrapping else w for i, w in enumerate(widths)) > room:
        return _cards(columns, whole, paths, width), len(lines)
    fits = sum(widths) <= room

    table = Table(box=box.SIMPLE, show_edge=False, padding=(0, 1, 0, 0), pad_edge=False)
    for i, column in enumerate(columns):
        kinds = {type(row[i]) for row in report.rows}
        table.add_column(
            printable(column),
            justify="right" if kinds & {int, float} and kinds <= _NUMBERS else "left",
            overflow="fold",
            # Where not all fits, rich narrows the other columns and spares the paths.
            width=widths[i] if fits or i in paths else None,
        )
    for line in lines:
        table.add_row(*map(Text, line))
    return table, len(lines)


def _cards(
    columns: Sequence[str],
    lines: Sequence[Sequence[str]],
    paths: Sequence[int],
    width: int,
) -> Any:
    """The rows one below the other, where columns would cut numbers in two."""
    from rich.console import Group
    from rich.text import Text

    parts = []
    for line in lines:
        lead = next((i for i in paths if line[i]), paths[0] if paths else 0)
        told = [""]
        for i, cell in enumerate(line):
            pair = f"{printable(columns[i])} {cell}"
            if i == lead or not cell:
                continue
            if told[-1] and len(told[-1]) + 2 * _GAP + len(pair) > width:
                told.append("")
            told[-1] += " " * _GAP + pair
        parts.append(Text(line[lead], style="bold", overflow="fold"))
        parts += [Text(text, overflow="fold") for text in told if text]
    return Group(*parts)


def _folded_rows(report: Report, paths: Sequence[int]) -> list[list[str]]:
    """The cells as text, of one row for each fold of the path columns."""
    lines = [list(map(_cell, row)) for row in report.rows]
    if not paths:
        return lines
    others = [i for i in range(len(report.columns)) if i not in paths]
    folds = fold_rows(
        [tuple(line[i] for i in paths) for line in lines],
        [tuple(line[i] for i in others) for line in lines],
    )
    for fold in folds:
        for i, text in zip(paths, fold.texts, strict=True):
            lines[fold.members[0]][i] = text
    return [lines[fold.members[0]] for fold in folds]


def _shares(widths: Sequence[int], paths: Sequence[int], width: int) -> dict[int, int]:
    """How wide paths and long texts may be: texts give way to paths, both to the rest.

    The narrower of a kind come first: what they do not need is left for the wider.
    """
    texts = [i for i, w in enumerate(widths) if w > _WIDEST_TEXT and i not in paths]
    room = width - _GAP * (len(widths) - 1)
    room -= sum(w for i, w in enumerate(widths) if i not in (*paths, *texts))
    shares = {}
    for group, least, reserve in (
        (paths, _NARROWEST_PATH, _WIDEST_TEXT * len(texts)),
        (texts, _WIDEST_TEXT, 0),
    ):
        for done, i in enumerate(sorted(group, key=widths.__getitem__)):
            share = max((room - reserve) // (len(group) - done), least)
            shares[i] = min(widths[i], share)
            room -= shares[i]
    return shares


def _cell(value: Any) -> str:
    match value:
        case None:
            return ""
        case bool():
            return "yes" if value else "no"
        case float():
            return f"{value:.4g}"
        case tuple():
            inner = ", ".join(map(_cell, value))
            return f"({inner},)" if len(value) == 1 else f"({inner})"
    return printable(str(value))


def _finding_table(report: Report) -> Any:
    from rich.table import Table
    from rich.text import Text

    table = Table.grid(padding=(0, 1))
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for finding, where in _folded_findings(report.findings, tuple(_STYLES)):
        text = Text(where, style="bold")
        text.append(
            f"{printable(finding.cause)}\n{printable(finding.remedy)}", "not bold"
        )
        table.add_row(Text(finding.severity, style=_STYLES[finding.severity]), text)
    return table


def _folded_findings(
    findings: Iterable[Any], severities: Sequence[str]
) -> list[tuple[Any, str]]:
    """The gravest first, those that say the same of several layers as one."""
    ordered = sorted(findings, key=lambda finding: severities.index(finding.severity))
    folds = fold_rows(
        [(printable(finding.leaf),) for finding in ordered],
        [(f.severity, f.code, f.cause, f.remedy) for f in ordered],
    )
    return [
        (ordered[fold.members[0]], fold.texts[0] and f"{fold.texts[0]}: ")
        for fold in folds
    ]


def _console(file: Any, width: int, **options: Any) -> Any:
    from rich.console import Console

    return Console(
        file=file,
        width=width,
        force_jupyter=False,
        legacy_windows=False,
        highlight=False,
        **options,
    )


def amount(nbytes: float, unit: str = "B") -> str:
    """A number of bytes, or of anything, in three digits.

    >>> amount(18_612_000), amount(512), amount(4_652_008, ""), amount(999_999)
    ('18.6 MB', '512 B', '4.65 M', '1 MB')
    """
    for prefix, size in (("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if nbytes >= 0.9995 * size:  # what is 1000 in three digits has the next prefix
            return f"{nbytes / size:.3g} {prefix}{unit}"
    return f"{nbytes:g} {unit}".strip()
