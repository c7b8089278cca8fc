"""Errors of dlt are reported in one sentence, without its tracebacks."""

from __future__ import annotations

from pathlib import Path

import dlt
import pytest
from dlt.destinations.exceptions import DatabaseTerminalException
from dlt.load.exceptions import LoadClientJobFailed, LoadClientJobRetry
from dlt.pipeline.exceptions import PipelineStepFailed

from extract.errors import FinalError, OutsideError, TapeError
from extract.pipeline.errors import unwrap_dlt_errors

TRACEBACK = """Traceback (most recent call last):
  File "load.py", line 1, in run
    insert()
ValueError: the file is damaged
"""


def failed(error: BaseException) -> LoadClientJobFailed:
    return LoadClientJobFailed("1.1", "trades.x.parquet", TRACEBACK, error)


def retried(error: BaseException) -> LoadClientJobRetry:
    return LoadClientJobRetry("1.1", "trades.x.parquet", 5, 5, TRACEBACK, error)


def reported(error: Exception) -> TapeError:
    with pytest.raises(TapeError) as raised, unwrap_dlt_errors():
        raise error
    return raised.value


@pytest.mark.parametrize("wrap", [failed, retried])
def test_error_of_a_load_job_is_the_one_of_the_database(wrap: type) -> None:
    """The project's own error, which dlt stores in attributes of its exceptions, comes out as it is."""
    error = FinalError("ClickHouse at http://127.0.0.1:1 answered: Code: 252.")
    assert reported(wrap(DatabaseTerminalException(error))) is error


@pytest.mark.parametrize("wrap", [failed, retried])
def test_error_of_a_load_job_has_no_traceback(wrap: type) -> None:
    error = reported(wrap(ValueError("the file is damaged")))
    assert type(error) is OutsideError
    assert str(error) == "The load step failed: the file is damaged"


def test_last_line_of_a_traceback_is_the_sentence() -> None:
    """dlt's message is all that is left of the error."""
    error = LoadClientJobFailed("1.1", "trades.x.parquet", TRACEBACK, ValueError())
    error.client_exception = None  # type: ignore[assignment]
    assert "Traceback" not in str(reported(error))


def test_failed_step_is_named(tmp_path: Path) -> None:
    pipeline = dlt.pipeline("steps", destination="filesystem", pipelines_dir=str(tmp_path))
    step = PipelineStepFailed(pipeline, "normalize", "1.1", ValueError("bad"))
    step.__cause__ = ValueError("bad\n  value")
    assert str(reported(step)) == "The normalize step failed: bad value"


def test_interrupt_of_a_step_is_an_interrupt(tmp_path: Path) -> None:
    """dlt reports Ctrl-C as a failed step; the command has to end as every interrupted one."""
    pipeline = dlt.pipeline("steps", destination="filesystem", pipelines_dir=str(tmp_path))
    with pytest.raises(KeyboardInterrupt), unwrap_dlt_errors():
        raise PipelineStepFailed(pipeline, "extract", "1.1", None) from KeyboardInterrupt()
