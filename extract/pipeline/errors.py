"""Errors of dlt as errors of the project."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from dlt.common.configuration.exceptions import ConfigurationValueError, ConfigValueCannotBeCoercedException
from dlt.common.normalizers.naming.exceptions import NormalizersException
from dlt.pipeline.exceptions import PipelineStepFailed

from extract.errors import OutsideError, TapeError, UsageError

_WRONG_SETTING = (ConfigurationValueError, NormalizersException)


@contextmanager
def unwrap_dlt_errors() -> Iterator[None]:
    """Re-raise the project's errors and the Ctrl-C that dlt wrapped; raise dlt's errors as OutsideError of one sentence.

    A value of a setting of dlt that it cannot use is a UsageError.
    """
    try:
        yield
    except TapeError:
        raise
    except Exception as error:
        causes = list(_causes(error))
        for cause in causes:
            if isinstance(cause, TapeError | KeyboardInterrupt):
                raise cause from error
            if isinstance(cause, _WRONG_SETTING):
                raise wrong_setting(cause) from error
        step = error.step if isinstance(error, PipelineStepFailed) else "load"
        raise OutsideError(f"The {step} step failed: {_one_line(causes)}") from error


def wrong_setting(error: Exception) -> UsageError:
    """An error about the setting of dlt whose value `error` refuses. It does not have the value, which may be a secret."""
    if not isinstance(error, ConfigValueCannotBeCoercedException):
        return UsageError(
            f"A setting of dlt, in the environment or in .dlt/, cannot be used: {_one_line([error])}"
        )
    field, hint = error.field_name, error.hint
    type_name = hint.__name__ if isinstance(hint, type) else str(hint).replace("typing.", "")
    return UsageError(
        f"dlt's setting {field}{_variables(field, error.field_value)} cannot be read as {type_name}: correct or remove it."
    )


def _variables(field: str, value: object) -> str:
    """The environment variables that set `field` of any section to `value`, in words."""
    names = [
        name
        for name, text in sorted(os.environ.items())
        if name.rpartition("__")[2] == field.upper() and text == str(value)
    ]
    return f" ({', '.join(names)} in the environment)" if names else ", in .dlt/,"


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
