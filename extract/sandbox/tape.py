"""A tape: trade records in the format of the API, and their instruments."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from extract.errors import UsageError
from extract.sandbox.generator import Generator
from extract.sandbox.instrument_names import DAY_MS, HOUR_MS, parse
from extract.sandbox.listing import listing

DEFAULT_END_MS = int(datetime(2026, 1, 16, 12, tzinfo=UTC).timestamp()) * 1000
BURST = 40
"""Trades of one future in one millisecond."""
_NEEDED = ("instrument_name", "trade_seq", "trade_id", "timestamp", "price", "amount")

Record = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Tape:
    """`trades` are sorted by (timestamp, id); `instruments` are records of `get_instruments` without `is_active`."""

    trades: list[Record]
    instruments: list[Record]

    @classmethod
    def generate(
        cls,
        seed: int = 1,
        trades: int = 20_000,
        days: float = 14,
        *,
        end_ms: int = DEFAULT_END_MS,
        burst: int = BURST,
    ) -> Tape:
        """Generated trades of the `days` before `end_ms`; `burst` of them are of one future in one millisecond."""
        require_span(trades, days, burst)
        maker = Generator(seed, trades, end_ms - int(days * DAY_MS), end_ms, burst)
        maker.run()
        return cls(sorted(maker.trades, key=trade_order), [each.listed for each in maker.universe])

    @classmethod
    def load(cls, path: str | Path) -> Tape:
        """Recorded trades from a file of NDJSON, gzipped or not. Raises UsageError that names the bad line."""
        return cls.of(list(_read(Path(path))))

    @classmethod
    def of(cls, trades: Iterable[Record]) -> Tape:
        """A tape of these records, which are sorted; instruments are derived from their names."""
        ordered = sorted(trades, key=trade_order)
        return cls(ordered, derive_instruments(ordered))


def require_span(trades: int, days: float, burst: int = BURST) -> None:
    """Raise UsageError if no tape can have these figures."""
    if trades < 1 or days <= 0 or burst < 1:
        raise UsageError("A tape needs at least one trade, a span above 0 days and a burst of at least 1.")


def trade_order(trade: Record) -> tuple[int, int, str]:
    return trade["timestamp"], id_parts(trade["trade_id"])[1], trade["trade_id"]


def id_parts(trade_id: str) -> tuple[str, int]:
    """Prefix and number: ('ETH-', 15) of `ETH-15`, ('', 15) of `15`. Numbers order the ids of one prefix."""
    digits = len(trade_id) - len(trade_id.rstrip("0123456789"))
    return (trade_id[:-digits], int(trade_id[-digits:])) if digits else (trade_id, 0)


def kind_of(trade: Record) -> str:
    """Kind of a trade's instrument, by its name or else by fields that only one kind has."""
    kind = parse(trade["instrument_name"]).kind
    if kind:
        return kind
    if "legs" in trade:
        return "option_combo" if any("iv" in leg for leg in trade["legs"]) else "future_combo"
    return "option" if "iv" in trade else "future"


def derive_instruments(trades: Iterable[Record]) -> list[Record]:
    """One record per instrument name, created at 08:00 UTC before its first trade."""
    first: dict[str, Record] = {}
    for trade in trades:
        first.setdefault(trade["instrument_name"], trade)
    instruments = []
    for number, (name, trade) in enumerate(sorted(first.items())):
        created_ms = (trade["timestamp"] - 8 * HOUR_MS) // DAY_MS * DAY_MS + 8 * HOUR_MS
        instruments.append(listing(name, kind=kind_of(trade), created_ms=created_ms, number=100_000 + number))
    return instruments


def _read(path: Path) -> Iterator[Record]:
    try:
        with path.open("rb") as head:
            zipped = head.read(2) == b"\x1f\x8b"
        with gzip.open(path, "rb") if zipped else path.open("rb") as lines:
            for number, line in enumerate(lines, 1):
                if line.strip():
                    yield _record(line, path, number)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise UsageError(f"The tape {path} is truncated or damaged: {error}.") from error
    except OSError as error:
        raise UsageError(f"The tape {path} cannot be read: {error.strerror}.") from error


def _record(line: bytes, path: Path, number: int) -> Record:
    try:
        record: Record = json.loads(line)
    except ValueError as error:
        raise UsageError(
            f"Line {number} of the tape {path} is not JSON; expected one trade of the API."
        ) from error
    missing = [name for name in _NEEDED if name not in record] if isinstance(record, dict) else list(_NEEDED)
    if missing:
        raise UsageError(f"Line {number} of the tape {path} is not a trade: it lacks {', '.join(missing)}.")
    if type(record["trade_seq"]) is not int or type(record["timestamp"]) is not int:
        raise UsageError(
            f"Line {number} of the tape {path} is not a trade: trade_seq and timestamp must be integers."
        )
    return record
