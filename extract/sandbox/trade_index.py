"""What the exchange has: every trade rendered once, and shelves of them in the order of their ids."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from typing import Any

import msgspec

from extract.sandbox.generator import COMBO_KINDS
from extract.sandbox.instrument_names import parse
from extract.sandbox.tape import Record, Tape, derive_instruments, id_parts


@dataclass(slots=True)
class Row:
    """One trade: what it is found by, and the JSON that is sent for it."""

    stamp_ms: int
    prefix: str
    number: int
    seq: int
    kind: str
    record: Record
    body: bytes


class TradeIndex:
    """Rows in database order, found by time with few steps although time is not sorted in that order."""

    def __init__(self, rows: list[Row]) -> None:
        self.rows = rows
        self.bodies = [row.body for row in rows]
        self.seqs = [row.seq for row in rows]
        self.stamps = [row.stamp_ms for row in rows]
        self.latest = list(accumulate(self.stamps, max))
        self.earliest = list(accumulate(reversed(self.stamps), min))[::-1]

    def __len__(self) -> int:
        return len(self.rows)

    def pick(
        self, start_ms: int, end_ms: int, low: int, high: int, count: int, newest: bool
    ) -> tuple[list[int], bool]:
        """Positions in [low, high) with start_ms <= time <= end_ms, ascending, and whether there are more.

        The first `count` of them, or the last where `newest`. Only rows near the edges are looked at singly.
        """
        low = max(low, bisect_left(self.latest, start_ms))
        high = min(high, bisect_right(self.earliest, end_ms))
        inner_low = min(max(bisect_left(self.earliest, start_ms), low), max(high, low))
        inner_high = max(min(bisect_right(self.latest, end_ms), high), inner_low)
        spans = [(low, inner_low, False), (inner_low, inner_high, True), (inner_high, high, False)]
        found: list[int] = []
        for begin, end, clean in reversed(spans) if newest else spans:
            need = count + 1 - len(found)
            span = range(end - 1, begin - 1, -1) if newest else range(begin, end)
            if clean:
                found.extend(span[:need])
                continue
            for position in span:
                if start_ms <= self.stamps[position] <= end_ms:
                    found.append(position)
                    if len(found) > count:
                        break
        more = len(found) > count
        del found[count:]
        if newest:
            found.reverse()
        return found, more

    def at_id(self, trade_id: str, *, after: bool) -> int | None:
        """Position of an id (or just after it) in database order; None if no id here has its prefix."""
        prefix, number = id_parts(trade_id)
        if prefix not in self.by_prefix:
            return None
        numbers, positions = self.by_prefix[prefix]
        place = (bisect_right if after else bisect_left)(numbers, number)
        return positions[place] if place < len(positions) else positions[-1] + 1

    @cached_property
    def by_prefix(self) -> dict[str, tuple[list[int], list[int]]]:
        """The numbers of the ids under each prefix, ascending, and where they stand."""
        found: dict[str, tuple[list[int], list[int]]] = {}
        for position, row in enumerate(self.rows):
            numbers, positions = found.setdefault(row.prefix, ([], []))
            numbers.append(row.number)
            positions.append(position)
        return found


class ExchangeData:
    """A tape as the exchange holds it: may be added to, restated, forgotten from; the tape itself stays."""

    def __init__(self, tape: Tape) -> None:
        self._shelves: dict[tuple[str, str], TradeIndex] = {}
        self._rows: dict[str, dict[int, Row]] = defaultdict(dict)
        self.instruments: dict[str, Record] = {}
        self._listed: dict[str, list[str]] = {}
        for entry in tape.instruments:
            self._list(entry)
        self.put(tape.trades)

    @property
    def currencies(self) -> list[str]:
        return sorted(self._listed)

    def names(self, currency: str) -> list[str]:
        return list(self.instruments) if currency == "any" else self._listed.get(currency, [])

    def put(self, records: Iterable[Record]) -> None:
        """Add trades, or replace those with the same instrument and seq."""
        records = list(records)
        for entry in derive_instruments(
            each for each in records if each["instrument_name"] not in self.instruments
        ):
            self._list(entry)
        for record, body in zip(records, map(msgspec.json.encode, records), strict=True):
            name = record["instrument_name"]
            prefix, number = id_parts(record["trade_id"])
            kind = self.instruments[name]["kind"]
            row = Row(record["timestamp"], prefix, number, record["trade_seq"], kind, dict(record), body)
            self._rows[name][row.seq] = row
        self._shelves.clear()

    def restate(self, name: str, seq: int, changes: dict[str, Any]) -> Record:
        record = self._rows[name][seq].record | changes
        self.put([record])
        return record

    def forget(self, name: str, seqs: Iterable[int]) -> None:
        for seq in seqs:
            del self._rows[name][seq]
        self._shelves.clear()

    def records(self) -> list[Record]:
        return [row.record for rows in self._rows.values() for row in rows.values()]

    def last_stamp_ms(self) -> int:
        return max((row.stamp_ms for rows in self._rows.values() for row in rows.values()), default=0)

    def instrument(self, name: str) -> TradeIndex:
        """One instrument's trades, by seq."""
        key = ("instrument", name)
        if key not in self._shelves:
            rows = self._rows.get(name, {})
            self._shelves[key] = TradeIndex([rows[seq] for seq in sorted(rows)])
        return self._shelves[key]

    def currency(self, currency: str, kind: str = "any") -> TradeIndex:
        """One currency's trades of a kind, by id."""
        key = (currency, kind)
        if key not in self._shelves:
            if kind == "any":
                self._shelves[key] = TradeIndex(self._in_database_order(currency))
            else:
                kinds = COMBO_KINDS if kind == "combo" else (kind,)
                everything = self.currency(currency).rows
                self._shelves[key] = TradeIndex([row for row in everything if row.kind in kinds])
        return self._shelves[key]

    def _in_database_order(self, currency: str) -> list[Row]:
        """By id under one prefix; several prefixes are merged by the time when their trades had arrived."""
        by_prefix: dict[str, list[Row]] = defaultdict(list)
        for name in self.names(currency):
            for row in self._rows.get(name, {}).values():
                by_prefix[row.prefix].append(row)
        arrivals = []
        for prefix, rows in by_prefix.items():
            rows.sort(key=lambda row: row.number)
            for arrived_ms, row in zip(accumulate((row.stamp_ms for row in rows), max), rows, strict=True):
                arrivals.append((arrived_ms, prefix, row.number, row.seq, row))
        arrivals.sort(key=lambda each: each[:4])
        return [each[4] for each in arrivals]

    def _list(self, entry: Record) -> None:
        name = entry["instrument_name"]
        self.instruments[name] = entry
        self._listed.setdefault(parse(name).currency, []).append(name)


def expired(entry: Record, now_ms: int) -> bool:
    return entry.get("expiration_timestamp", now_ms + 1) <= now_ms
