"""The named errors: each is a ValueError and says what was found and what to do."""

from __future__ import annotations

from typing import Any


class PathError(ValueError):
    """The leaves of a tree cannot be told apart by their paths."""


class RuleError(ValueError):
    """A pattern or a list of rules does not say what its writer meant."""


class CheckpointError(ValueError):
    """A checkpoint file cannot be read, or should not be trusted."""


class _ReportError(ValueError):
    # The report is an attribute and not part of `args`: the message stays the whole
    # text of the error, and the default pickling (args, then attributes) carries both.
    def __init__(self, message: str, report: Any = None) -> None:
        super().__init__(message)
        self.report = report


class MergeError(_ReportError):
    """Two trees cannot be merged as asked; `.report` accounts for every leaf."""


class AuditError(_ReportError):
    """Findings that the caller does not accept; `.report` holds them and the rest."""


class DataError(ValueError):
    """Images or labels cannot be used as asked."""
