"""A tape whose history ends at any time, and that continues from there as the clock moves.

The history is the tape that `Tape.generate` makes, moved in time: the same prices, amounts and sequence numbers, at the
same minutes of the hour relative to its end. The trades after it come from the same generator, an hour at a time, so
that they depend on the seed and the end only, never on when they are requested.
"""

from __future__ import annotations

import time
from functools import lru_cache

from extract.sandbox.generator import Generator
from extract.sandbox.instrument_names import DAY_MS, HOUR_MS, NEVER_MS, move_dates
from extract.sandbox.tape import BURST, DEFAULT_END_MS, Record, Tape, require_span, trade_order

END_FILE = "demo_end_ms"
"""File of TAPE_DIR with the end of the history that `tape demo` has loaded."""
MINUTE_MS = 60_000
TRADES_PER_HOUR = 1_800
LISTED_AHEAD_MS = 30 * DAY_MS
"""For this long after the end of the history, new expiries are listed."""


class LiveTape:
    """`history` ends at `end_ms`, a whole minute; `until` returns the trades after it."""

    def __init__(self, end_ms: int, seed: int = 1, trades: int = 20_000, days: float = 14) -> None:
        require_span(trades, days)
        self.end_ms = end_ms // MINUTE_MS * MINUTE_MS
        self._move = _Move(self.end_ms - DEFAULT_END_MS)
        start_ms = DEFAULT_END_MS - int(days * DAY_MS)
        self._maker = Generator(
            seed, trades, start_ms, DEFAULT_END_MS, burst=BURST, listed_ahead_ms=LISTED_AHEAD_MS
        )
        self._maker.run()
        instruments = [self._move.instrument(each.listed) for each in self._maker.universe]
        self.history = Tape(self._moved_trades(), instruments)

    def until(self, now_ms: int) -> list[Record]:
        """The trades that come next, through whole hours, until `now_ms` is passed; none if it was passed before."""
        records: list[Record] = []
        while self._maker.end_ms + self._move.ms <= now_ms:
            self._maker.extend(self._maker.end_ms + HOUR_MS, TRADES_PER_HOUR)
            records += self._moved_trades()
        return records

    def _moved_trades(self) -> list[Record]:
        return [self._move.trade(each) for each in sorted(self._maker.trades, key=trade_order)]


def clock_ms() -> int:
    """The time of the machine, in ms."""
    return int(time.time() * 1000)


class _Move:
    """Move records by `ms`: trades exactly, dates of instruments by whole days, so that expiries remain at 08:00 UTC.

    An expiry moves by at least as much as the trades, a creation by at most as much: every trade remains within the
    lifetime of its instrument.
    """

    def __init__(self, ms: int) -> None:
        self.ms = ms
        self._later_days, self._earlier_days = -(-ms // DAY_MS), ms // DAY_MS
        self.name = lru_cache(maxsize=None)(lambda name: move_dates(name, self._later_days))

    def instrument(self, entry: Record) -> Record:
        moved = entry | {
            "instrument_name": self.name(entry["instrument_name"]),
            "creation_timestamp": entry["creation_timestamp"] + self._earlier_days * DAY_MS,
        }
        expiry_ms = entry.get("expiration_timestamp", NEVER_MS)
        if expiry_ms != NEVER_MS:
            moved["expiration_timestamp"] = expiry_ms + self._later_days * DAY_MS
        return moved

    def trade(self, record: Record) -> Record:
        moved = record | {
            "instrument_name": self.name(record["instrument_name"]),
            "timestamp": record["timestamp"] + self.ms,
        }
        if "combo_id" in record:
            moved["combo_id"] = self.name(record["combo_id"])
        if "legs" in record:
            moved["legs"] = [self.trade(leg) for leg in record["legs"]]
        return moved
