"""Trades of the sandbox exchange, encoded once and indexed by time, id and trade_seq."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from typing import Any

import msgspec
import numpy as np

from extract.sandbox.generator import COMBO_KINDS
from extract.sandbox.instrument_names import parse
from extract.sandbox.tape import Record, Tape, derive_instruments, id_parts


@dataclass(slots=True)
class Row:
    """One trade: its keys, its record, and its JSON."""

    stamp_ms: int
    prefix: str
    number: int
    seq: int
    kind: str
    record: Record
    body: bytes


class TradeIndex:
    """Rows in the exchange's order, in which timestamps are not sorted."""

    def __init__(self, rows: list[Row]) -> None:
        self.rows = rows
        self.bodies = [row.body for row in rows]
        self.seqs = [row.seq for row in rows]
        self.stamps = np.array([row.stamp_ms for row in rows], dtype=np.int64)

    def __len__(self) -> int:
        return len(self.rows)

    def pick(
        self, start_ms: int, end_ms: int, low: int, high: int, count: int, newest: bool
    ) -> tuple[list[int], bool]:
        """Positions in [low, high) with start_ms <= time <= end_ms, ascending, and whether there are more.

        The first `count` of them, or the last ones if `newest`.
        """
        stamps = self.stamps[low:high]
        inside = (low + np.flatnonzero((start_ms <= stamps) & (stamps <= end_ms))).tolist()
        return inside[-count:] if newest else inside[:count], len(inside) > count

    def at_id(self, trade_id: str, *, after: bool) -> int | None:
        """Position of an id, or the one after it; None if no id has its prefix."""
        prefix, number = id_parts(trade_id)
        if prefix not in self.by_prefix:
            return None
        numbers, positions = self.by_prefix[prefix]
        place = (bisect_right if after else bisect_left)(numbers, number)
        return positions[place] if place < len(positions) else positions[-1] + 1

    @cached_property
    def by_prefix(self) -> dict[str, tuple[list[int], list[int]]]:
        """By id prefix, the numbers of its ids, ascending, and their positions."""
        index: dict[str, tuple[list[int], list[int]]] = {}
        for position, row in enumerate(self.rows):
            numbers, positions = index.setdefault(row.prefix, ([], []))
            numbers.append(row.number)
            positions.append(position)
        return index


class ExchangeData:
    """Mutable copy of a tape: trades can be added, restated and deleted, which raises `version`."""

    def __init__(self, tape: Tape) -> None:
        self.version = 0
        self._indexes: dict[tuple[str, str], TradeIndex] = {}
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
        """Add trades, or replace those with the same instrument and trade_seq."""
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
        self._has_changed()

    def restate(self, name: str, seq: int, changes: dict[str, Any]) -> Record:
        record = self._rows[name][seq].record | changes
        self.put([record])
        return record

    def forget(self, name: str, seqs: Iterable[int]) -> None:
        for seq in seqs:
            del self._rows[name][seq]
        self._has_changed()

    def _has_changed(self) -> None:
        self._indexes.clear()
        self.version += 1

    def records(self) -> list[Record]:
        return [row.record for rows in self._rows.values() for row in rows.values()]

    def instrument(self, name: str) -> TradeIndex:
        """Trades of one instrument, by trade_seq."""
        key = ("instrument", name)
        if key not in self._indexes:
            rows = self._rows.get(name, {})
            self._indexes[key] = TradeIndex([rows[seq] for seq in sorted(rows)])
        return self._indexes[key]

    def currency(self, currency: str, kind: str = "any") -> TradeIndex:
        """Trades of one currency and kind, in the exchange's order."""
        key = (currency, kind)
        if key not in self._indexes:
            if kind == "any":
                self._indexes[key] = TradeIndex(self._in_exchange_order(currency))
            else:
                kinds = COMBO_KINDS if kind == "combo" else (kind,)
                everything = self.currency(currency).rows
                self._indexes[key] = TradeIndex([row for row in everything if row.kind in kinds])
        return self._indexes[key]

    def _in_exchange_order(self, currency: str) -> list[Row]:
        """Sorted by id within a prefix; prefixes are merged by arrival time."""
        by_prefix: dict[str, list[Row]] = defaultdict(list)
        for name in self.names(currency):
            for row in self._rows.get(name, {}).values():
                by_prefix[row.prefix].append(row)
        arrivals = []
        for prefix, rows in by_prefix.items():
            rows.sort(key=lambda row: row.number)
            for arrived_ms, row in zip(accumulate((row.stamp_ms for row in rows), max), rows, strict=True):
                arrivals.append((arrived_ms, prefix, row.number, row.seq, row))
        return [row for *_, row in sorted(arrivals, key=lambda each: each[:4])]

    def _list(self, entry: Record) -> None:
        name = entry["instrument_name"]
        self.instruments[name] = entry
        self._listed.setdefault(parse(name).currency, []).append(name)


def has_expired(entry: Record, now_ms: int) -> bool:
    return bool(entry.get("expiration_timestamp", now_ms + 1) <= now_ms)
