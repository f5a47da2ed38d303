"""Every named error is a ValueError, keeps its message, and survives pickling."""

import pickle

import pytest

from jaxinit import _errors

PLAIN = [_errors.PathError, _errors.RuleError, _errors.CheckpointError]
PLAIN += [_errors.DataError]
WITH_REPORT = [_errors.MergeError, _errors.AuditError]


@pytest.mark.parametrize("error", [*PLAIN, *WITH_REPORT])
def test_errors_are_value_errors_and_pickle(error):
    raised = error("head/kernel: the cause")
    assert isinstance(raised, ValueError)
    again = pickle.loads(pickle.dumps(raised))
    assert type(again) is error
    assert str(again) == "head/kernel: the cause"


@pytest.mark.parametrize("error", WITH_REPORT)
def test_the_report_travels_with_the_error(error):
    again = pickle.loads(pickle.dumps(error("text", report={"rows": 3})))
    assert again.report == {"rows": 3}
    assert again.args == ("text",)


@pytest.mark.parametrize("error", WITH_REPORT)
def test_an_error_without_a_report_has_none(error):
    assert error("text").report is None
