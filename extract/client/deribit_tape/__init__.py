"""Python client of deribit-tape: trades, candles, option chains and series as data frames, with their proof.

    import deribit_tape

    tape = deribit_tape.connect()
    tape.candles("BTC-PERPETUAL", "1h", since="7d").pl()

The wheel installs this package as `deribit_tape`; its code is `extract.client`.
"""

from extract.client import (
    CannotTellError as CannotTellError,
)
from extract.client import (
    Coverage as Coverage,
)
from extract.client import (
    OutsideError as OutsideError,
)
from extract.client import (
    Result as Result,
)
from extract.client import (
    RetriableError as RetriableError,
)
from extract.client import (
    Tape as Tape,
)
from extract.client import (
    TapeError as TapeError,
)
from extract.client import (
    UsageError as UsageError,
)
from extract.client import (
    connect as connect,
)

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
