"""Errors of dlt as errors of the project."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from dlt.pipeline.exceptions import PipelineStepFailed

from extract.errors import OutsideError, TapeError


@contextmanager
def unwrap_dlt_errors() -> Iterator[None]:
    """Re-raise the project's errors that dlt wrapped, and raise dlt's errors as OutsideError of one sentence."""
    try:
        yield
    except TapeError:
        raise
    except Exception as error:
        causes = list(_causes(error))
        for cause in causes:
            if isinstance(cause, TapeError):
                raise cause from error
        step = error.step if isinstance(error, PipelineStepFailed) else "load"
        raise OutsideError(f"The {step} step failed: {_one_line(causes)}") from error


def _causes(error: BaseException) -> Iterator[BaseException]:
    """`error` and what caused it, outermost first, through the attributes in which dlt stores the error of a load job."""
    seen: set[int] = set()
    cause: BaseException | None = error
    while cause is not None and id(cause) not in seen:
        seen.add(id(cause))
        yield cause
        stored = (
            getattr(cause, name, None) for name in ("client_exception", "job_exception", "dbapi_exception")
        )
        inner = next((each for each in stored if isinstance(each, BaseException)), None)
        cause = inner or cause.__cause__ or cause.__context__


def _one_line(causes: Sequence[BaseException]) -> str:
    """The message of the innermost exception that has one; of a traceback, which dlt puts into messages, the last line."""
    text = next((str(cause) for cause in reversed(causes) if str(cause)), type(causes[0]).__name__)
    if "Traceback (most recent call last)" in text:
        text = text.strip().splitlines()[-1]
    return " ".join(text.split())
