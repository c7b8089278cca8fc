"""The dlt source `deribit` and its resources, and the sources of repairs, of last trades and of empty tables."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, closing, contextmanager
from copy import deepcopy
from datetime import UTC, date, datetime
from itertools import islice
from typing import Any

import dlt
from dlt.destinations.adapters import clickhouse_adapter
from dlt.extract import DltResource

from extract.deribit.arrow import with_stream_columns
from extract.deribit.client import DeribitClient
from extract.deribit.config import DeribitConfig, deribit_config, parse_names
from extract.deribit.schema import RejectedTrade
from extract.deribit.streams import Stream
from extract.errors import UsageError
from extract.source.feed import Row, Window, WindowFeed
from extract.source.options import RunOptions, resolve_streams, resolve_times
from extract.source.recorded import Recorded
from extract.source.series import (
    NO_SERIES,
    SeriesFeed,
    coverage_row,
    gap_rows,
    has_news,
    rejected_rows,
    resolve_series,
)
from extract.source.tables import (
    ABSENT_TRADES,
    COVERAGE,
    INSTRUMENT_TAILS,
    INSTRUMENTS,
    RAW_TABLES,
    RECOVERED_TRADES,
    REJECTED_RECORDS,
    REJECTED_TRADES,
    SERIES_COVERAGE,
    SERIES_GAPS,
    SERIES_TABLES,
    TRADES,
    TableDefinition,
)
from extract.source.trade_file import FILE_SCHEMA, TradeFile
from extract.sweep.ledger import SeqRange
from extract.sweep.recovered import RecoveredTrades
from extract.sweep.repair import RepairResult
from extract.sweep.window import Absent, SweepRequest, WindowReport, unproven_records

ROWS_PER_BATCH = 5_000
"""Rows in memory at once as Python objects; a currency may have 100,000 expired instruments."""

SERIES_KEYS = "series_keys"
"""State of the source: perpetuals and indexes by currency, listed once a day."""

Part = tuple[TableDefinition, Any]
"""A table, and rows of it, or a file of trades."""


@dlt.source(name="deribit", section="deribit", max_table_nesting=0)
def deribit(
    currencies: str | list[str] | None = dlt.config.value,
    kinds: str | list[str] | None = dlt.config.value,
    start: str | date | None = dlt.config.value,
    end: str | date | None = dlt.config.value,
    page_size: int | None = dlt.config.value,
    window_trades: int | None = dlt.config.value,
    series: str | list[str] | None = dlt.config.value,
    client: DeribitClient | None = None,
    window: Window | None = None,
) -> tuple[DltResource, ...]:
    """Load public trades of Deribit: one window per `pipeline.run`, from where the pipeline's state ends.

    The state holds, by stream, the covered spans of time. It is committed with the load package that has the trades, so
    a run loads only what is new, also after an earlier one was interrupted.

    Args:
        currencies: Currencies to load, for example `["BTC", "ETH"]` or `BTC, ETH`; default: all that the exchange has.
        kinds: Kinds of instruments to load, for example `["option", "future"]`; default: all.
        start: Start of the requested time, UTC: `2025-01-31`, `2025-01-31T08:00Z`, `7d`, a date or a datetime; default:
            where the state ends, and 2016 without a state. Time that is covered already is not requested again.
        end: End of the requested time; default: now.
        page_size: Trades per request, at most 10,000.
        window_trades: Trades after which the window, and with it the load package, ends.
        series: Series besides trades to load, for example `["funding_rates"]`, or `none`; default: all except
            `book_summaries`, of which the exchange has no history. Each is requested when it can have something new.
        client: A client of the exchange; default: one configured by `[sources.deribit]`.
        window: A window prepared by a `WindowFeed`, which replaces all other arguments.

    Returns:
        The resources `trades`, `rejected_trades` (records that cannot be typed), `absent_trades` (trade numbers that the
        exchange does not have), `coverage` (spans of time whose trades are loaded) and `instruments` (new and changed
        ones). Where `trades` is not selected, no time becomes covered. Besides, of each currency: `delivery_prices`,
        `settlements`, `volatility_index`, `funding_rates` and `book_summaries`, from the beginning of their history,
        with `series_coverage` (what is loaded of each), `series_gaps` (rows that the exchange did not send) and
        `rejected_records` (records that cannot be typed).
    """

    @dlt.resource(name="windows", selected=False)
    def windows() -> Iterator[Part]:
        with ExitStack() as stack:
            if window:
                yield from _window_parts(window)
                return
            config = deribit_config(page_size=page_size, window_trades=window_trades)
            exchange = client or stack.enter_context(DeribitClient(config))
            options = RunOptions(
                _time_text(start),
                _time_text(end),
                parse_names("currencies", currencies),
                parse_names("kinds", kinds),
                since_name="start",
                until_name="end",
            )
            feed = _open_feed(exchange, config, options)
            following = stack.enter_context(closing(feed.windows()))
            yield from _window_parts(first := next(following))
            if first.result and first.result.is_final:
                next(following, None)  # raises the error if every stream was set aside

    @dlt.resource(name="keys_of_series", selected=False)
    def keys_of_series() -> Iterator[Part]:
        with ExitStack() as stack:
            config = deribit_config(series=series)
            if list(config.series or ()) == [NO_SERIES]:
                return
            exchange = client or stack.enter_context(DeribitClient(config))
            options = RunOptions(
                None, None, parse_names("currencies", currencies), parse_names("kinds", kinds)
            )
            yield from _series_parts(_open_series(exchange, config, options))

    of_windows = _resources(windows(), TRADES, REJECTED_TRADES, ABSENT_TRADES, COVERAGE, INSTRUMENTS)
    return of_windows if window else of_windows + _resources(keys_of_series(), *_TABLES_OF_SERIES)


def _time_text(time: str | date | None) -> str | None:
    """`time` as `parse_time_ms` reads it; a datetime is a date."""
    return time.isoformat() if isinstance(time, date) else None if time is None else str(time)


_TABLES_OF_SERIES = (*SERIES_TABLES.values(), SERIES_COVERAGE, SERIES_GAPS, REJECTED_RECORDS)


@dlt.source(name="deribit", max_table_nesting=0)
def series_of(feed: SeriesFeed) -> tuple[DltResource, ...]:
    """The series besides trades that `feed` returns, with their state."""

    @dlt.resource(name="keys_of_series", selected=False)
    def keys_of_series() -> Iterator[Part]:
        yield from _series_parts(feed)

    return _resources(keys_of_series(), *_TABLES_OF_SERIES)


def _open_series(client: DeribitClient, config: DeribitConfig, options: RunOptions) -> SeriesFeed:
    """A feed of the series that follow the state of the running pipeline, without those that are not selected."""
    stored = dict(dlt.current.resource_state(TRADES.name))
    universe = resolve_streams(client, config, options, stored, with_expired=False)
    names, currencies, resolutions = resolve_series(config, universe.streams)
    selected = dlt.current.source().selected_resources
    return SeriesFeed(
        client,
        currencies,
        [name for name in names if name in selected],
        resolutions,
        client.now_ms(),
        states={name: deepcopy(dlt.current.resource_state(name)) for name in names},
        listings=deepcopy(dlt.current.source_state().get(SERIES_KEYS, {})),
    )


def _series_parts(feed: SeriesFeed) -> Iterator[Part]:
    """Rows of every series that is due; the state of each key changes with its rows.

    A load package has at most one row of `series_coverage` of a key, as of its last batch.
    """
    if not feed.names:
        return
    require_same_exchange(dlt.current.source_state(), feed.client.exchange)
    reports: dict[tuple[str, str], tuple[Row, list[Row]]] = {}
    for series, key, batch in feed.batches():
        state = dlt.current.resource_state(series)
        for rows in batch.table.to_batches(ROWS_PER_BATCH):
            yield SERIES_TABLES[series], rows.to_pylist()
        yield REJECTED_RECORDS, rejected_rows(series, key, batch)
        is_reported = (series, key) in reports or has_news(batch, state.get(key))
        if is_reported and not batch.is_failed:
            report = coverage_row(series, key, batch, feed.now_ms)
            if earlier := reports.get((series, key)):
                disagreements = (earlier[0]["disagreement"], report["disagreement"])
                report["disagreement"] = " ".join(filter(None, disagreements)) or None
            reports[series, key] = report, gap_rows(series, key, batch)
        state[key] = batch.state.to_builtins()
    for report, gaps in reports.values():
        yield SERIES_COVERAGE, [report]
        yield SERIES_GAPS, gaps
    dlt.current.source_state()[SERIES_KEYS] = deepcopy(feed.listings)


def _open_feed(client: DeribitClient, config: DeribitConfig, options: RunOptions) -> WindowFeed:
    """A feed of the windows that follow the state of the running pipeline."""
    now_ms = client.now_ms()
    since_ms, until_ms = resolve_times(options, now_ms)
    stored = dict(dlt.current.resource_state(TRADES.name))
    known = deepcopy(dlt.current.resource_state(INSTRUMENTS.name).get("known", {}))
    return WindowFeed(
        client,
        resolve_streams(client, config, options, stored, known=known, now_ms=now_ms),
        SweepRequest(
            since_ms, until_ms, in_flight=config.requests_in_flight, max_trades=config.window_trades
        ),
        now_ms,
        stored=stored,
        known=known,
        recorded=_stored_recorded(),
    )


def _stored_recorded() -> Recorded:
    """Read without `resource_state`, which would add an empty state and with it a load package."""
    resources = dlt.current.source_state().get("resources", {})
    return Recorded.from_json(resources.get(REJECTED_TRADES.name, {}))


def _window_parts(window: Window) -> Iterator[Part]:
    """Rows of a window; the state changes with them."""
    require_same_exchange(dlt.current.source_state(), window.exchange)
    selected = dlt.current.source().selected_resources
    if TRADES.name in selected:
        yield from _trade_parts(window)
        if REJECTED_TRADES.name in selected and window.recorded != _stored_recorded():
            dlt.current.resource_state(REJECTED_TRADES.name).update(window.recorded.to_json())
    if INSTRUMENTS.name in selected:
        while batch := list(islice(window.rows, ROWS_PER_BATCH)):
            yield INSTRUMENTS, batch
        yield REJECTED_TRADES, _rejected_rows(window.listing.rejected)
        dlt.current.resource_state(INSTRUMENTS.name)["known"] = deepcopy(window.known)


def _trade_parts(window: Window) -> Iterator[Part]:
    state = dlt.current.resource_state(TRADES.name)
    is_first = not state
    with _trade_file() as file:
        report = window.write(file).report
        window.before_load(file.load_id)
        changed = window.changed_states()
        covered = [
            _coverage_row(name, *span)
            for name, new in changed.items()
            for span in new["covered"]
            if span not in state.get(name, {}).get("covered", [])
        ]
        state.update(changed)
        window.states.update(changed)
        yield from _report_parts(file, report, creates_tables=is_first)
        if is_first:
            yield COVERAGE, dlt.mark.materialize_table_schema()
            yield INSTRUMENTS, dlt.mark.materialize_table_schema()
        yield COVERAGE, covered


@contextmanager
def _trade_file() -> Iterator[TradeFile]:
    """A file for the load package that is being extracted; deleted unless it became the part that dlt imports."""
    file = TradeFile(dlt.current.pipeline().working_dir, dlt.current.load_package_state()["load_id"])
    try:
        yield file
    except BaseException:
        file.delete()
        raise
    if not file.is_part:
        file.delete()


def _report_parts(file: TradeFile, report: WindowReport, *, creates_tables: bool = False) -> Iterator[Part]:
    """Trades, rejected and absent ones; with `creates_tables` also of tables without rows."""
    if file.rows or creates_tables:
        file.is_part = True
        yield TRADES, file
    for table, rows in (
        (REJECTED_TRADES, _rejected_rows(report.rejected + unproven_records(report))),
        (ABSENT_TRADES, _absent_rows(report)),
    ):
        if creates_tables:
            yield table, dlt.mark.materialize_table_schema()
        yield table, rows


def _resources(parts: DltResource, *tables: TableDefinition) -> tuple[DltResource, ...]:
    """One resource for each table, with the parts that are of the table."""
    return tuple(with_keys(table, parts | _rows_of(table)) for table in tables)


def _rows_of(table: TableDefinition) -> DltResource:
    def rows(part: Part) -> Iterator[Any]:
        of_table, content = part
        if of_table is table and isinstance(content, TradeFile):
            yield dlt.mark.with_file_import(content.path, "parquet", content.rows, FILE_SCHEMA.empty_table())
            content.delete()
        elif of_table is table:
            yield content

    hints = {} if table is TRADES else table.hints
    return dlt.transformer(rows, name=table.name, write_disposition="append", columns=hints)()


def with_keys(table: TableDefinition, resource: DltResource) -> DltResource:
    """`resource` with the sort key, partition key and codecs of `table`."""
    return clickhouse_adapter(
        resource, sort=list(table.sort), partition=table.partition, codecs=dict(table.codecs)
    )


def require_same_exchange(state: Row, exchange: str) -> None:
    """Keep trades of the sandbox, the testnet and the live exchange apart. Raises UsageError."""
    loaded = state.setdefault("exchange", exchange)
    if loaded != exchange:
        raise UsageError(
            f"This database holds trades of {loaded}, and trades of {exchange} must not be mixed with them: to request "
            f"{loaded}, set SOURCES__DERIBIT__API_URL and SOURCES__DERIBIT__HISTORY_URL; to load {exchange}, drop the old "
            "trades with `tape reset`, or select another database with CLICKHOUSE_LOCAL_PORT and TAPE_DIR."
        )


def _rejected_rows(rejected: Iterable[tuple[Stream, RejectedTrade]]) -> list[Row]:
    """Rows of `rejected_trades`, each record once."""
    unique = {(stream, each.raw): each.reason for stream, each in rejected}
    return [{**stream._asdict(), "reason": reason, "raw": raw} for (stream, raw), reason in unique.items()]


def _absent_rows(report: WindowReport) -> list[Row]:
    """Rows of `absent_trades`, one for each range."""
    return _range_rows((absent.stream, absent.range) for absent in report.absent)


def _range_rows(ranges: Iterable[tuple[Stream, SeqRange]]) -> list[Row]:
    """Rows of `absent_trades` or `recovered_trades`."""
    return [
        {
            "instrument_name": each.instrument_name,
            "first_seq": each.first,
            "last_seq": each.last,
            **stream._asdict(),
            "found_at": datetime.now(UTC),
        }
        for stream, each in ranges
    ]


def _coverage_row(name: str, start_ms: int, end_ms: int) -> Row:
    currency, kind = name.split(" ", 1)
    return {
        "currency": currency,
        "kind": kind,
        "covered_from": datetime.fromtimestamp(start_ms / 1000, UTC),
        "covered_to": datetime.fromtimestamp(end_ms / 1000, UTC),
    }


@dlt.source(name="deribit", max_table_nesting=0)
def repaired_trades(
    exchange: str,
    results: Iterable[tuple[Stream, RepairResult]],
    report: WindowReport,
    recovered: RecoveredTrades | None = None,
) -> tuple[DltResource, ...]:
    """Missing trades that were fetched by number, absent ranges and rejected records of `results`; fills `report`.

    `recovered` lists trades that were absent before. A run's state does not change. Raises UsageError where the
    database holds trades of another exchange than `exchange`.
    """
    recovered = recovered or RecoveredTrades()

    @dlt.resource(name="repairs", selected=False)
    def repairs() -> Iterator[Part]:
        require_same_exchange(dlt.current.source_state(), exchange)
        with _trade_file() as file:
            for stream, result in results:
                report.trades += result.table.num_rows
                report.absent += [Absent(stream, missing) for missing in result.absent]
                report.rejected += [(stream, rejected) for rejected in result.rejected]
                recovered.add(stream, result)
                if result.table.num_rows:
                    file.write(with_stream_columns(result.table, stream.currency, stream.kind))
            file.close()
            yield from _report_parts(file, report)
            yield RECOVERED_TRADES, _range_rows(recovered.ranges)

    return _resources(repairs(), TRADES, REJECTED_TRADES, ABSENT_TRADES, RECOVERED_TRADES)


@dlt.source(name="deribit", max_table_nesting=0)
def instrument_tails(exchange: str, rows: Iterable[Row]) -> DltResource:
    """`rows` of `instrument_tails`. Raises UsageError where the database holds trades of another exchange."""

    @dlt.resource(name=INSTRUMENT_TAILS.name, write_disposition="append", columns=INSTRUMENT_TAILS.hints)
    def resource() -> Iterator[Any]:
        require_same_exchange(dlt.current.source_state(), exchange)
        yield from rows

    return resource()


@dlt.source(name="deribit", max_table_nesting=0)
def empty_tables() -> tuple[DltResource, ...]:
    """Every table that a run creates, without rows and state, for a database into which nothing has been loaded."""
    trades = dlt.resource([FILE_SCHEMA.empty_table()], name=TRADES.name, write_disposition="append")
    others = (
        dlt.resource(
            [dlt.mark.materialize_table_schema()],
            name=table.name,
            write_disposition="append",
            columns=table.hints,
        )
        for table in RAW_TABLES.values()
        if not table.is_optional and table is not TRADES
    )
    return tuple(with_keys(RAW_TABLES[resource.name], resource) for resource in (trades, *others))
