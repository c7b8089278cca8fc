"""What all routes share: the reader, the version of the data, and values that are computed once for each version."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import msgspec

from extract.clickhouse.finished import LOADS
from extract.clickhouse.settings import ClickHouseSettings
from extract.coverage.series import (
    SeriesRowsGap,
    SeriesStatus,
    fetch_series_status,
    find_series_gaps,
    settlement_keys,
)
from extract.deribit.streams import Stream
from extract.serve.cells import Cache, Cell, Version
from extract.serve.coverage import NOTHING_COVERED, Proof, TradeCoverage, combined
from extract.serve.errors import ApiError
from extract.serve.formats import JSON
from extract.serve.parameters import LAST_MS
from extract.serve.reader import Reader, Row
from extract.source.tables import RAW_TABLES, loaded_relation
from extract.times import END_MS, sql_time

CACHE_BYTES = 64 * 1024**2
FACTS_BYTES = 8 * 1024**2
FACTS_SIZE = 400
LOOKBACK_HOURS = (48, 40 * 24)
"""How far before the newest trade an hour is searched for, in steps, because each hour is computed from its trades."""
CLOCK_MAX_AGE_S = 5.0
HEALTH_MAX_AGE_S = 60.0


@dataclass(frozen=True)
class InstrumentFacts:
    """Stream and times of an instrument, in ms since 1970 UTC; None where there is none."""

    name: str
    stream: Stream
    underlying: str
    created_ms: int | None
    expires_ms: int | None


@dataclass(frozen=True)
class CachedAnswer:
    """Body and header fields of an answer."""

    body: bytes
    headers: Mapping[str, str]


class Service:
    """State of one server process. Every method raises ApiError only."""

    def __init__(self, reader: Reader, settings: ClickHouseSettings) -> None:
        self.reader, self.settings = reader, settings
        self.version = Version(self._read_version)
        self.coverage = Cell(self.version, self._read_coverage)
        self.progress = Cell(self.version, self._read_progress, CLOCK_MAX_AGE_S)
        self.prices = Cell(self.version, self._read_prices)
        self.series = Cell(self.version, self._read_series)
        self._newest_ms = Cell(self.version, self._read_newest)
        self._hours: Cache[int] = Cache(FACTS_BYTES)
        self._seq_ends: Cache[tuple[int, int]] = Cache(FACTS_BYTES)
        self.underlyings = Cell(self.version, lambda: self._read_names("underlyings"))
        self.indexes = Cell(self.version, lambda: self._read_names("indexes"))
        self.health = Cell(self.version, self._read_health, HEALTH_MAX_AGE_S)
        self.answers: Cache[CachedAnswer] = Cache(CACHE_BYTES)
        self._facts: Cache[InstrumentFacts | None] = Cache(FACTS_BYTES)

    async def instrument(self, name: str) -> InstrumentFacts:
        """Facts of an instrument. Raises ApiError if no trade and no listing has the name."""
        version = await self.version.current()
        facts = await self._facts.get(name, version, lambda: self._read_facts(name), lambda _: FACTS_SIZE)
        if facts is None:
            raise ApiError(
                "unknown_instrument", f"No instrument is called {name!r}; /v1/instruments lists them."
            )
        return facts

    async def require_underlying(self, currency: str) -> None:
        """Raise ApiError if no instrument has that underlying."""
        if currency not in (known := await self.underlyings.get()):
            raise ApiError("unknown_currency", _unknown("underlying", currency, known))

    async def require_index(self, index: str) -> None:
        """Raise ApiError if no delivery price of the index is loaded."""
        if index not in (known := await self.indexes.get()):
            raise ApiError("unknown_index", _unknown("index with delivery prices", index, known))

    async def seq_ends(self, name: str, since_ms: int, until_ms: int) -> tuple[int, int]:
        """The lowest and the highest trade_seq of an instrument's trades of that time; zeros without one."""
        version, key = await self.version.current(), (name, since_ms, until_ms)
        return await self._seq_ends.get(key, version, lambda: self._read_seq_ends(*key), lambda _: FACTS_SIZE)

    async def proof_of_instrument(self, facts: InstrumentFacts, since_ms: int, until_ms: int) -> Proof:
        """Proof of the trades of an instrument, which had none before it was created and after it expired."""
        coverage = await self.coverage.get()
        return coverage.of_instrument(
            facts.name, facts.stream, max(since_ms, facts.created_ms or 0), until_ms
        )

    async def proof_of_options(self, underlying: str, since_ms: int, until_ms: int) -> Proof:
        """Proof of the streams from which volatilities of an underlying are computed."""
        coverage = await self.coverage.get()
        return coverage.of_streams(_volatility_streams(coverage, underlying), since_ms, until_ms)

    async def proof_of_outcomes(self, underlying: str, since_ms: int, until_ms: int) -> Proof:
        """Proof of all trades of the options of an underlying that expired in that time."""
        parameters = {"currency": underlying, "since": sql_time(since_ms), "until": sql_time(until_ms)}
        [row] = await self.reader.rows("first_created", parameters)
        return await self.proof_of_options(underlying, row["created_ms"], until_ms)

    async def settlement_keys(self, underlying: str) -> list[str]:
        """Keys of the loaded settlements of an underlying: those in coin, and the linear ones."""
        statuses, _ = await self.series.get()
        keys = {key for series, key in statuses if series == "settlements"}
        streams = _volatility_streams(await self.coverage.get(), underlying)
        return sorted({key for stream in streams for key in settlement_keys(stream) if key in keys})

    async def newest_hour_ms(self, table: str, underlying: str) -> int:
        """The newest hour of a table, at most LOOKBACK_HOURS before the newest trade of all instruments; 0 without one."""
        version = await self.version.current()
        key = (table, underlying)
        return await self._hours.get(key, version, lambda: self._read_newest_hour(*key), lambda _: FACTS_SIZE)

    async def proof_of_series(self, series: str, keys: Sequence[str], since_ms: int, until_ms: int) -> Proof:
        """Proof of the rows of a series, see extract/coverage/series.sql for what counts as missing."""
        return combined([await self._proof_of_key(series, key, since_ms, until_ms) for key in keys])

    async def _proof_of_key(self, series: str, key: str, since_ms: int, until_ms: int) -> Proof:
        statuses, gaps = await self.series.get()
        status = statuses.get((series, key))
        if status is None:
            return NOTHING_COVERED
        first_ms, last_ms = (round(at.timestamp() * 1000) for at in (status.covered_from, status.covered_to))
        counts = {False: 0, True: 0}
        for gap in gaps:
            is_of_key = (gap.stream.series, gap.stream.key) == (series, key)
            if is_of_key and gap.last_ms >= since_ms and gap.first_ms < until_ms:
                counts[gap.known_absent] += gap.missing
        is_covered = max(since_ms, first_ms if since_ms == 0 else 0) < min(until_ms, last_ms) and (
            since_ms == 0 or since_ms >= first_ms
        )
        return Proof(is_covered and not counts[False], counts[False], counts[True], last_ms)

    async def as_of_ms(self, facts: InstrumentFacts) -> int:
        """The end of an instrument's history: its expiry, or the end of its stream's covered time."""
        spans = (await self.coverage.get()).spans.get(facts.stream)
        end_ms = spans[-1][1] if spans else 0
        return min(end_ms, facts.expires_ms or END_MS)

    async def newest_trade_ms(self, name: str) -> int:
        """Time of the newest trade of an instrument that has a current price, else 0. It may be after the covered time."""
        row = (await self.prices.get()).get(name)
        return (
            0 if row is None else round(msgspec.json.decode(row, type=_Traded).traded_at.timestamp() * 1000)
        )

    async def _read_version(self) -> str:
        [row] = await self.reader.rows("version")
        return str(row["version"])

    async def _read_coverage(self) -> TradeCoverage:
        spans, [holes] = await asyncio.gather(self.reader.rows("spans"), self.reader.rows("holes"))
        # The statement of the gaps is expensive, even if there are none.
        gaps = await self.reader.rows("gaps") if holes["instruments"] else []
        return TradeCoverage.of(spans, gaps)

    async def _read_progress(self) -> list[Row]:
        progress, counts, recent = await asyncio.gather(
            self.reader.rows("progress"),
            self.reader.rows("instrument_counts"),
            self.reader.rows("recent_loads", **loaded("finished_loads", "coverage", "trades")),
        )
        by_stream = [{(row["currency"], row["kind"]): row for row in rows} for rows in (counts, recent)]
        for row in progress:
            stream = (row["currency"], row["kind"])
            for name in ("percent", "proven_share"):
                row[name] = float(row[name])
            row["instruments"] = by_stream[0].get(stream, {"instruments": 0})["instruments"]
            row["gained"] = by_stream[1].get(stream)
        return progress

    async def _read_prices(self) -> dict[str, bytes]:
        content = await self.reader.formatted(JSON, "prices")
        lines = content.splitlines()
        return {msgspec.json.decode(line, type=_Named).instrument_name: line for line in lines}

    async def _read_series(
        self,
    ) -> tuple[dict[tuple[str, str], SeriesStatus], list[SeriesRowsGap]]:
        def read() -> tuple[list[SeriesStatus], list[SeriesRowsGap]]:
            return fetch_series_status(self.reader.database), find_series_gaps(self.reader.database)

        statuses, gaps = await self.reader.run(read)
        return {(each.stream.series, each.stream.key): each for each in statuses}, gaps

    async def _read_newest(self) -> int:
        [row] = await self.reader.rows("newest_trade")
        return int(row["newest_ms"])

    async def _read_newest_hour(self, table: str, underlying: str) -> int:
        newest_ms = await self._newest_ms.get()
        statement = "newest_hour_of_chain" if table == "option_chain_1h" else "newest_hour_of"
        for hours in LOOKBACK_HOURS:
            parameters = {"currency": underlying, "newest_ms": newest_ms, "hours": hours}
            [row] = await self.reader.rows(statement, parameters, table=table)
            if row["hour_ms"]:
                return int(row["hour_ms"])
        return 0

    async def _read_seq_ends(self, name: str, since_ms: int, until_ms: int) -> tuple[int, int]:
        parameters = {"name": name, "since": sql_time(since_ms), "until": sql_time(until_ms)}
        statement = "seq_ends" if (since_ms, until_ms) == (0, LAST_MS) else "seq_ends_of_time"
        [row] = await self.reader.rows(statement, parameters)
        return row["first_seq"] or 0, row["last_seq"] or 0

    async def _read_names(self, statement: str) -> set[str]:
        return {str(row["name"]) for row in await self.reader.rows(statement)}

    async def _read_facts(self, name: str) -> InstrumentFacts | None:
        rows = await self.reader.rows("instrument_facts", {"name": name}, **loaded("instruments"))
        if not rows:
            return None
        [row] = rows
        return InstrumentFacts(
            name,
            Stream(row["currency"], row["kind"]),
            row["underlying"],
            row["created_ms"],
            row["expires_ms"],
        )

    async def _read_health(self) -> list[dict[str, Any]]:
        from extract.health.checks import run_checks

        prefix = self.settings.env_prefix
        login = {f"{prefix}_USER": self.settings.user, f"{prefix}_PASSWORD": self.settings.password}
        env = {**os.environ, "CLICKHOUSE_MODE": self.settings.mode, **login}
        checks = await self.reader.run(lambda: run_checks(env=env))
        return [check.to_json() for check in checks]


def loaded(*names: str) -> dict[str, Any]:
    """Relations of `finished_loads` and raw tables, all of which exist where the models are built."""
    return {name: loaded_relation(name, {*RAW_TABLES, LOADS}) for name in names}


def _volatility_streams(coverage: TradeCoverage, underlying: str) -> list[Stream]:
    """Streams with options and futures of an underlying: those settled in coin, and the linear ones."""
    return [
        stream
        for stream in coverage.spans
        if stream.kind in ("option", "future") and stream.currency in (underlying, "USDC", "USDT")
    ]


class _Traded(msgspec.Struct):
    traded_at: datetime


class _Named(msgspec.Struct):
    instrument_name: str


def _unknown(what: str, name: str, known: set[str]) -> str:
    names = ", ".join(sorted(known)[:20]) or "none yet"
    return f"{name!r} is no {what}; there are {names}."
