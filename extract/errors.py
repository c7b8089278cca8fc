"""Every error that the project raises, by what to do about it.

TapeError                 the root: one sentence for people, and the process's exit code
├── UsageError            the user's mistake: say what is wrong and what to type instead (exit 3)
├── OutsideError          a part outside failed: the exchange, the database, the disk (exit 4)
│   ├── RetriableError    worth trying again; what remains after the last try is raised
│   └── FinalError        trying again would give the same answer
├── ProofError            data that contradicts a proof: two values that should agree do not (exit 1)
└── CannotTellError       what was asked cannot be answered from what is there (exit 2)
"""

from __future__ import annotations


class TapeError(Exception):
    """Root of the tree. `str()` of it is one sentence without secrets; facts are kept as attributes."""

    exit_code = 4


class UsageError(TapeError):
    """The user's mistake."""

    exit_code = 3


class OutsideError(TapeError):
    """A part outside of the project failed."""


class RetriableError(OutsideError):
    """Worth trying again; `retry_after_s` is the least time to wait, where the other side named one."""

    def __init__(self, message: str, *, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class FinalError(OutsideError):
    """Trying again would give the same answer."""


class ProofError(TapeError):
    """Data contradicts a proof."""

    exit_code = 1


class CannotTellError(TapeError):
    """What was asked can be neither confirmed nor denied; the sentence names what to run first."""

    exit_code = 2
