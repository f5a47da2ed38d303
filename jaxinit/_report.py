"""What a function has to say besides its result: rows, findings, and what to do.

A report is a value: frozen, compared by content, made of plain Python numbers and
texts, so that it can be kept, sent as JSON and read back, and compared with last
week's. Printing it is the caller's business; here it only becomes a text.
"""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import KW_ONLY, dataclass
from typing import Any, ClassVar, Literal, Self, get_args

import jax
import numpy as np

from jaxinit import _tables
from jaxinit._errors import AuditError

Severity = Literal["error", "warning", "note"]  # the gravest first
SEVERITIES: tuple[Severity, ...] = get_args(Severity)


@dataclass(frozen=True)
class Finding:
    """One thing that is, or may be, wrong.

    `leaf` is the full name of a leaf, or "" for the whole; `cause` says what was found
    and `remedy` what to do, each as one sentence. `code` is a short constant word by
    which a program can tell findings apart.
    """

    severity: Severity
    leaf: str
    cause: str
    remedy: str
    code: str = ""

    def __post_init__(self) -> None:
        _known(self.severity)
        object.__setattr__(self, "leaf", str(self.leaf))  # a Name is welcome


@dataclass(frozen=True)
class Report:
    """A table of rows, findings about them, and notes that sum them up.

    A row is a tuple in the order of `columns`, or a mapping from column to cell; cells
    become plain Python values, NumPy's and JAX's scalars included. Prints as a table in
    80 columns, where rows that differ only in numbers of their `path_columns`, as the
    layers of a network do, are folded into one; the report itself keeps every row.

    To add fields, derive a frozen dataclass and give them defaults; `error_type` is
    what its `raise_if` raises.

    >>> report = Report("shapes", columns=("leaf", "shape"),
    ...                 rows=[(f"h/{i}/w", (4, 4)) for i in range(12)])
    >>> print(report)
    shapes
    <BLANKLINE>
    leaf         shape
    ───────────────────
    h/{0..11}/w  (4, 4)
    <BLANKLINE>
    12 rows, folded into 1
    """

    path_columns: ClassVar[tuple[str, ...]] = ("leaf", "target", "source")
    error_type: ClassVar[Callable[[str], Exception]] = AuditError

    title: str
    _: KW_ONLY
    columns: tuple[str, ...] = ()
    rows: tuple[tuple[Any, ...], ...] = ()
    findings: tuple[Finding, ...] = ()
    notes: tuple[str, ...] = ()

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        # Set before @dataclass looks: a subclass would get one that lists every row.
        cls.__repr__ = Report.__repr__

    def __post_init__(self) -> None:
        rows = list(self.rows)
        columns = tuple(self.columns)
        if not columns:
            keys = (key for row in rows if isinstance(row, Mapping) for key in row)
            columns = tuple(dict.fromkeys(keys))
        rows = tuple(_row(row, columns, i) for i, row in enumerate(rows))
        object.__setattr__(self, "columns", columns)
        object.__setattr__(self, "rows", rows)
        object.__setattr__(self, "findings", tuple(self.findings))
        object.__setattr__(self, "notes", tuple(self.notes))

    @property
    def ok(self) -> bool:
        """Whether no finding is an error."""
        return not self.counts()["error"]

    def counts(self) -> dict[str, int]:
        """The number of findings of each severity."""
        found = Counter(finding.severity for finding in self.findings)
        return {severity: found[severity] for severity in SEVERITIES}

    def records(self) -> list[dict[str, Any]]:
        """The rows as dictionaries from column to cell."""
        return [dict(zip(self.columns, row, strict=True)) for row in self.rows]

    def raise_if(
        self,
        severity: Severity = "error",
        error: Callable[[str], Exception] | None = None,
    ) -> Self:
        """Raise if some finding is as grave as `severity`; else return the report.

        The error's text lists the findings in question, its `.report` is this report.
        """
        grave = SEVERITIES[: SEVERITIES.index(_known(severity)) + 1]
        found = [finding for finding in self.findings if finding.severity in grave]
        if found:
            lines = _tables.finding_lines(found, SEVERITIES)
            text = "\n".join((self.title, *lines))
            raised: Any = (error or type(self).error_type)(text)
            raised.report = self
            raise raised
        return self

    def to_dict(self) -> dict[str, Any]:
        """The report as `json.dumps(..., allow_nan=False)` takes it.

        JSON has no NaN and no infinity: such a number is written {"float": "nan"}.
        """
        fields = dataclasses.fields(self)
        values = {field.name: _encode(getattr(self, field.name)) for field in fields}
        return {"report": type(self).__name__, **values}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """The report that `to_dict` wrote, equal to the one it was called on."""
        values = dict(data)
        if (kind := values.pop("report", None)) != cls.__name__:
            raise ValueError(
                f"data holds a report of type {kind!r}, not {cls.__name__!r}: read it "
                "with the from_dict of its own type"
            )
        fields = {key: _decode(value) for key, value in values.items()}
        fields["findings"] = tuple(Finding(**found) for found in fields["findings"])
        return cls(**fields)

    def to_html(self) -> str:
        """The report as one HTML page that needs no other file."""
        return _tables.html_page(self)

    def __str__(self) -> str:
        return _tables.plain_text(self)

    def __rich_console__(self, console: Any, options: Any) -> Iterable[Any]:
        yield from _tables.parts(self, options.max_width)

    def __repr__(self) -> str:
        counted = _tables.counted(self.counts()) or "no findings"
        rows = f"{len(self.rows)} row{'s' * (len(self.rows) != 1)}"
        return f"<{type(self).__name__} {self.title!r}: {rows}, {counted}>"


def _known(severity: Any) -> Any:
    if severity not in SEVERITIES:
        known = ", ".join(map(repr, SEVERITIES))
        raise ValueError(f"severity must be one of {known}, got {severity!r}")
    return severity


def _row(row: Any, columns: tuple[str, ...], position: int) -> tuple[Any, ...]:
    if isinstance(row, Mapping):
        if unknown := [key for key in row if key not in columns]:
            raise ValueError(f"rows[{position}] has no column for {unknown}: {columns}")
        row = [row.get(column) for column in columns]
    if len(row) != len(columns):
        raise ValueError(
            f"rows[{position}] has {len(row)} cells for the columns {columns}"
        )
    return tuple(map(plain, row))


def plain(value: Any) -> Any:
    """A cell as None, bool, int, float, str, or a tuple of these."""
    if isinstance(value, (np.generic, np.ndarray, jax.Array)):
        opaque = jax.dtypes.issubdtype(value.dtype, jax.dtypes.extended)
        value = str(value) if opaque else value.tolist()
    if isinstance(value, float):
        # All NaNs become one object, which equals itself as the part of a tuple.
        return math.nan if math.isnan(value) else float(value)
    if isinstance(value, (tuple, list)):
        return tuple(map(plain, value))
    if value is None or isinstance(value, (bool, int)):
        return value
    return str(value)


def _encode(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = dataclasses.fields(value)
        return {field.name: _encode(getattr(value, field.name)) for field in fields}
    if isinstance(value, Mapping):
        return {str(key): _encode(inner) for key, inner in value.items()}
    if isinstance(value, (tuple, list)):
        return [_encode(inner) for inner in value]
    value = plain(value)
    if isinstance(value, tuple):  # of an array
        return _encode(value)
    if isinstance(value, float) and not math.isfinite(value):
        return {"float": str(value)}
    return value


def _decode(value: Any) -> Any:
    if isinstance(value, Mapping):
        if set(value) == {"float"}:
            return plain(float(value["float"]))
        return {key: _decode(inner) for key, inner in value.items()}
    return tuple(map(_decode, value)) if isinstance(value, list) else value
