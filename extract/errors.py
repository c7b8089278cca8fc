"""The errors that the project raises, by what to do about them.

TapeError                 root: a message of one sentence, and the exit code of the process
├── UsageError            a mistake of the user: the message names the mistake and its correction (exit 3)
├── OutsideError          an external part failed: the exchange, the database, the disk (exit 4)
│   ├── RetriableError    a retry may succeed; raised after the last retry
│   └── FinalError        a retry would fail the same way
├── ProofError            data contradicts a proof: two values that should be equal differ (exit 1)
└── CannotTellError       the loaded data is not sufficient for an answer (exit 2)
"""

from __future__ import annotations

from collections.abc import Iterator


def printable(text: str) -> str:
    r"""`text` with control characters, line breaks and bidirectional controls escaped: ESC becomes `\x1b`."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)


class TapeError(Exception):
    """Root of all errors. `str()` of it is one sentence without secrets; details are attributes.

    Control characters are escaped, because a message may quote the exchange or the database, and dlt, dbt and loggers
    print it as well.
    """

    exit_code = 4

    def __init__(self, message: str) -> None:
        super().__init__(printable(message))


class UsageError(TapeError):
    """A mistake of the user."""

    exit_code = 3


class OutsideError(TapeError):
    """An external part failed."""


class RetriableError(OutsideError):
    """A retry may succeed; `retry_after_s` is the minimum wait in seconds, if the other side specified one."""

    def __init__(self, message: str, *, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class FinalError(OutsideError):
    """A retry would fail the same way."""


class ProofError(TapeError):
    """Data contradicts a proof."""

    exit_code = 1


class CannotTellError(TapeError):
    """Neither yes nor no can be proven; the message names the command to run first."""

    exit_code = 2


def exception_chain(error: BaseException) -> Iterator[BaseException]:
    """`error` and all exceptions that caused it, outermost first, including its arguments and urllib3's `reason`."""
    seen: set[int] = set()
    queue: list[BaseException | None] = [error]
    while queue:
        current = queue.pop(0)
        if not isinstance(current, BaseException) or id(current) in seen:
            continue
        seen.add(id(current))
        yield current
        queue += [current.__cause__, current.__context__, getattr(current, "reason", None), *current.args]
