"""Python client, importable as `deribit_tape`: questions about the tape, answered by ClickHouse or by `tape serve`."""

from extract.client.connect import connect
from extract.client.coverage import Coverage
from extract.client.result import Result
from extract.client.tape import Tape
from extract.errors import CannotTellError, OutsideError, RetriableError, TapeError, UsageError

__all__ = [
    "CannotTellError",
    "Coverage",
    "OutsideError",
    "Result",
    "RetriableError",
    "Tape",
    "TapeError",
    "UsageError",
    "connect",
]
