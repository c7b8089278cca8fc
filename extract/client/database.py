"""Answers from ClickHouse, local or cloud."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from extract.clickhouse.client import Database
from extract.clickhouse.errors import UndefinedRelationError
from extract.clickhouse.statements import render
from extract.client.coverage import NOTHING_COVERED, Coverage, combine
from extract.client.question import FOREVER_MS, HOUR_MS, STATEMENTS, Question, Subject
from extract.client.result import Answer
from extract.coverage.gaps import Gap, Scope, find_gaps
from extract.coverage.series import (
    SeriesRowsGap,
    SeriesStatus,
    fetch_series_status,
    find_series_gaps,
    settlement_keys,
)
from extract.coverage.status import StreamStatus, fetch_status
from extract.deribit.streams import Stream
from extract.errors import CannotTellError, UsageError
from extract.source.tables import RAW_TABLES

ARROW_SETTINGS = {
    "output_format_arrow_string_as_string": 1,
    "output_format_arrow_low_cardinality_as_dictionary": 0,
    "output_format_arrow_compression_method": "none",
}
GAP_SCHEMA = pa.schema(
    {
        "instrument_name": pa.string(),
        "first_missing_seq": pa.int64(),
        "last_missing_seq": pa.int64(),
        "missing": pa.int64(),
        "where": pa.string(),
        "known_absent": pa.bool_(),
        "currency": pa.string(),
        "kind": pa.string(),
    }
)
STREAM_SCHEMA = pa.schema(
    {
        "currency": pa.string(),
        "kind": pa.string(),
        "trades": pa.int64(),
        "instruments": pa.int64(),
        "covered_from": pa.timestamp("ms", "UTC"),
        "covered_to": pa.timestamp("ms", "UTC"),
        "missing": pa.int64(),
        "absent": pa.int64(),
        "proven_share": pa.float64(),
        "lag_seconds": pa.int64(),
        "last_load_at": pa.timestamp("ms", "UTC"),
    }
)
OF_INSTRUMENTS = ("instruments", "series")
"""Kinds of subjects whose names are instruments; other names are underlying coins."""
MOST_NAMED = 20
NOT_BUILT = "The models are not built yet; run: dlt pipeline run, and then: dbt build --target local"
TIMES = ("covered_from", "covered_to", "last_load_at")


class ClickHouseBackend:
    """Reads the models of one database."""

    sends_coverage = False

    def __init__(self, database: Database) -> None:
        self._database = database

    def close(self) -> None:
        self._database.close()

    def read(self, question: Question) -> Answer:
        """Rows as ClickHouse writes them to Arrow. Raises CannotTellError where the models are not built.

        Raises UsageError for a name of the subject that neither a trade nor a listing has.
        """
        table = self._read_table(question.sql, dict(question.parameters))
        if question.wider and not table.num_rows:
            table = self._read_table(question.sql, {**question.parameters, **question.wider})
        subject = question.subject
        if subject.kind in OF_INSTRUMENTS:
            self._require_instruments(
                set(subject.names) - set(pc.unique(table["instrument_name"]).to_pylist())
            )
        elif subject.names and not table.num_rows:
            self._require_underlying(subject.names[0])
        return Answer(
            table.sort_by([(name, "ascending") for name in question.order]) if question.order else table, None
        )

    def _read_table(self, sql: str, parameters: dict[str, Any]) -> pa.Table:
        try:
            pieces = self._database.stream(sql, "ArrowStream", parameters, ARROW_SETTINGS)
            with pa.ipc.open_stream(b"".join(pieces)) as stream:
                return stream.read_all()
        except UndefinedRelationError as error:
            raise CannotTellError(NOT_BUILT) from error

    def prove(self, question: Question) -> Coverage:
        subject = question.subject
        if subject.kind in OF_INSTRUMENTS:
            self._require_instruments(set(subject.names))
        elif subject.names:
            self._require_underlying(subject.names[0])
        if subject.kind == "series":
            keys = subject.names if subject.series != "settlements" else self._settlement_keys(subject)
            return combine([self._series_coverage(subject, key) for key in keys])
        streams = self._streams(subject)
        if not streams:
            return NOTHING_COVERED
        subject = self._with_start(question)
        scope = Scope(tuple({each.currency for each in streams}), tuple({each.kind for each in streams}))
        try:
            statuses = {each.stream: each for each in fetch_status(self._database)}
            gaps = [gap for gap in find_gaps(self._database, scope) if gap.stream in streams]
        except CannotTellError:
            return NOTHING_COVERED
        if subject.kind == "instruments":
            gaps = [gap for gap in gaps if gap.range.instrument_name in subject.names]
        if any(stream not in statuses for stream in streams):
            return NOTHING_COVERED
        return self._coverage([statuses[stream] for stream in streams], gaps, subject)

    def read_coverage(self) -> Answer:
        rows = [{**status.to_json(), "absent": status.absent} for status in fetch_status(self._database)]
        return Answer(stream_table(rows), None)

    def read_gaps(self, currency: str, kind: str, instrument: str) -> Answer:
        if instrument:
            self._require_instruments({instrument})
        scope = Scope.of((currency,) if currency else (), (kind,) if kind else ())
        rows = [
            {**gap.to_json(), "currency": gap.stream.currency, "kind": gap.stream.kind}
            for gap in find_gaps(self._database, scope)
            if not instrument or gap.range.instrument_name == instrument
        ]
        return Answer(pa.Table.from_pylist(rows, GAP_SCHEMA), None)

    def _streams(self, subject: Subject) -> set[Stream]:
        if subject.kind in OF_INSTRUMENTS:
            return {stream for _, stream in self._streams_of_instruments(subject.names)}
        statement = STATEMENTS["streams" if subject.kind == "everything" else "options_of_currency"]
        return {Stream(*row) for row in self._database.rows(statement, {"currency": "".join(subject.names)})}

    def _streams_of_instruments(self, names: Iterable[str]) -> list[tuple[str, Stream]]:
        """The known ones of some instruments, each with its stream."""
        sql = render(STATEMENTS["streams_of_instruments"], lambda table: RAW_TABLES[table].loaded_relation)
        rows = self._rows(sql, {"instruments": sorted(names)})
        return [(name, Stream(currency, kind)) for name, currency, kind in rows]

    def _require_instruments(self, names: set[str]) -> None:
        """Raise UsageError for a name that neither a trade nor a listing has."""
        known = {name for name, _ in self._streams_of_instruments(names)} if names else set()
        for name in sorted(names - known):
            raise UsageError(
                f"No instrument is called {name!r}; tape.instruments(currency, kind) lists them."
            )

    def _require_underlying(self, currency: str) -> None:
        """Raise UsageError if no traded instrument has that underlying."""
        known = [name for (name,) in self._rows(STATEMENTS["underlyings"], {})]
        if known and currency not in known:
            raise UsageError(f"{currency!r} is no underlying; there are {', '.join(known[:MOST_NAMED])}.")

    def _rows(self, sql: str, parameters: dict[str, Any]) -> Sequence[tuple[Any, ...]]:
        try:
            return self._database.rows(sql, parameters)
        except UndefinedRelationError as error:
            raise CannotTellError(NOT_BUILT) from error

    def _settlement_keys(self, subject: Subject) -> list[str]:
        return sorted({key for stream in self._streams(subject) for key in settlement_keys(stream)})

    def _with_start(self, question: Question) -> Subject:
        """The subject from the moment on that its rows depend on: nothing is traded before it was created."""
        subject = question.subject
        if subject.kind == "hour":
            hours = self.read(question).table["bucket_at"]
            if not len(hours):
                return subject
            hour_ms = int(pc.max(hours).as_py()) * 1000
            return replace(subject, since_ms=hour_ms, until_ms=hour_ms + HOUR_MS)
        parameters: dict[str, Any] = {
            "instruments": list(subject.names),
            "currency": "".join(subject.names),
            "since_ms": subject.since_ms,
            "until_ms": subject.until_ms,
        }
        if subject.kind == "outcomes":
            return replace(
                subject, since_ms=self._database.value(STATEMENTS["created_of_outcomes"], parameters)
            )
        if subject.kind == "instruments":
            created_ms = self._database.value(STATEMENTS["created_of_instruments"], parameters)
            return replace(subject, since_ms=max(subject.since_ms, created_ms))
        return subject

    def _coverage(self, statuses: list[StreamStatus], gaps: Iterable[Gap], subject: Subject) -> Coverage:
        as_of = min(status.spans[-1][1] for status in statuses).astimezone(UTC)
        end_ms = min(subject.until_ms, _ms(as_of))
        counts = {False: 0, True: 0}
        for gap, after_ms, before_ms in self._timed(list(gaps)):
            if before_ms >= subject.since_ms and after_ms < end_ms:
                counts[gap.known_absent] += len(gap)
        since_ms = None if subject.kind == "everything" else subject.since_ms
        is_covered = all(_covers(status, since_ms, end_ms) for status in statuses)
        return Coverage(is_covered and not counts[False], counts[False], counts[True], as_of)

    def _timed(self, gaps: list[Gap]) -> Iterable[tuple[Gap, int, int]]:
        """Gaps with the times of their neighbours; before the first trade and after the last one, time is open."""
        keys = [
            (gap.range.instrument_name, seq)
            for gap in gaps
            for seq in (gap.range.first - 1, gap.range.last + 1)
        ]
        parameters = {"instruments": sorted({name for name, _ in keys}), "keys": keys}
        rows = self._database.rows(STATEMENTS["neighbours"], parameters) if keys else []
        at_ms = {(name, seq): ms for name, seq, ms in rows}
        for gap in gaps:
            name = gap.range.instrument_name
            yield (
                gap,
                at_ms.get((name, gap.range.first - 1), 0),
                at_ms.get((name, gap.range.last + 1), FOREVER_MS),
            )

    def _series_coverage(self, subject: Subject, key: str) -> Coverage:
        """Coverage of one key of a series."""

        def matches(each: SeriesStatus | SeriesRowsGap) -> bool:
            return (each.stream.series, each.stream.key) == (subject.series, key)

        statuses = [each for each in fetch_series_status(self._database) if matches(each)]
        if not statuses:
            return NOTHING_COVERED
        gaps = [
            gap
            for gap in find_series_gaps(self._database)
            if matches(gap) and gap.last_ms >= subject.since_ms and gap.first_ms < subject.until_ms
        ]
        missing, absent = (
            sum(gap.missing for gap in gaps if gap.known_absent is known) for known in (False, True)
        )
        as_of = min(status.covered_to for status in statuses)
        starts_ms = max(_ms(status.covered_from) for status in statuses)
        is_covered = subject.since_ms < _ms(as_of) and (not subject.since_ms or starts_ms <= subject.since_ms)
        return Coverage(is_covered and not missing, missing, absent, as_of.astimezone(UTC))


def stream_table(rows: Iterable[dict[str, Any]]) -> pa.Table:
    """Arrow table of the streams of `tape status --json`."""
    timed = [
        {**row, **{name: row[name] and datetime.fromisoformat(row[name]) for name in TIMES}} for row in rows
    ]
    return pa.Table.from_pylist(timed, STREAM_SCHEMA)


def _covers(status: StreamStatus, since_ms: int | None, end_ms: int) -> bool:
    """Whether one span of a stream has the whole time; without a start, the first span has to have it."""
    spans = [(_ms(start), _ms(end)) for start, end in status.spans]
    if since_ms is None:
        return spans[0][0] < end_ms <= spans[0][1]
    return since_ms < end_ms and any(start <= since_ms and end_ms <= end for start, end in spans)


def _ms(at: datetime) -> int:
    return round(at.replace(tzinfo=at.tzinfo or UTC).timestamp() * 1000)
