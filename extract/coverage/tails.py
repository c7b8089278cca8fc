"""The last trade of expired instruments: asked of the exchange once each, and remembered in ClickHouse.

A missing tail cannot be told from trades alone: only who knows an instrument's last seq sees that it is not there.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import dlt
import msgspec
from clickhouse_connect.driver.client import Client
from dlt.extract import DltResource

from extract.cli.progress_bar import ProgressBar
from extract.clickhouse.client import shared_client
from extract.clickhouse.settings import clickhouse_settings
from extract.coverage.gaps import EVERYTHING, Scope, query_rows, require_covered
from extract.coverage.gaps_sql import COVERED, render
from extract.deribit.client import DeribitClient
from extract.deribit.config import deribit_config
from extract.deribit.jsonrpc import ExchangeRefusedError
from extract.deribit.streams import Stream
from extract.pipeline.session import open_session, run_lock
from extract.source.source import require_same_exchange

PROBES_A_PACKAGE = 5_000
"""What a kill costs at most: some minutes of asking."""

COLUMNS: dict[str, Any] = {
    "instrument_name": {"data_type": "text", "nullable": False},
    "last_seq": {"data_type": "bigint", "nullable": False},
    "currency": {"data_type": "text", "nullable": False},
    "kind": {"data_type": "text", "nullable": False},
    "found_at": {"data_type": "timestamp", "precision": 3, "nullable": False},
}
"""Columns of `deribit_raw.instrument_tails`; `last_seq` is 0 for an instrument that never traded."""

_TO_ASK = f"""
with {COVERED},

asked_instruments as (
    select instrument_name, currency, ifNull(kind, '') as kind, creation_timestamp, expiration_timestamp
    from <instruments>
    where expiration_timestamp is not null and <asked>
),

expired as (
    select
        instrument_name,
        any(currency) as currency,
        any(kind) as kind,
        assumeNotNull(max(expiration_timestamp)) as expired_at,
        min(creation_timestamp) as created_at
    from asked_instruments
    group by instrument_name
),

last_seen as (
    select instrument_name, max(timestamp) as last_at
    from <trades>
    where <asked>
    group by instrument_name
),

final as (
    select expired.instrument_name as instrument_name, expired.currency as currency, expired.kind as kind
    from expired
    asof inner join covered
        on expired.currency = covered.currency and expired.kind = covered.kind
        and expired.expired_at >= covered.covered_from
    left join last_seen on expired.instrument_name = last_seen.instrument_name
    where
        expired.expired_at <= covered.covered_to
        and (
            last_seen.last_at >= covered.covered_from
            or ifNull(expired.created_at >= covered.covered_from, 0)
            or toUnixTimestamp64Milli(covered.covered_from) <= {{epoch_ms:Int64}}
        )
        and expired.instrument_name not in (select instrument_name from <instrument_tails>)
    order by instrument_name
)

select * from final"""


@dataclass
class TailsReport:
    """`asked` instruments, `unknown` of which the history host does not know."""

    asked: int = 0
    unknown: int = 0


class _LastTrade(msgspec.Struct):
    trade_seq: int


class _LastTrades(msgspec.Struct):
    trades: list[_LastTrade]


def fetch_last_trades(scope: Scope = EVERYTHING, tally: ProgressBar | None = None) -> TailsReport:
    """Asks for the last trade of each expired instrument in covered time of which it is not known yet.

    Raises CannotTellError where nothing is covered, OutsideError when a part outside failed: what was asked until
    then is remembered.
    """
    settings, config = clickhouse_settings(), deribit_config()
    clickhouse = shared_client(settings)
    report = TailsReport()
    with (
        run_lock(),
        DeribitClient(config) as client,
        open_session(settings) as exclusive,
        tally or ProgressBar() as tally,
    ):
        to_ask = instruments_without_last_trade(clickhouse, scope)
        if to_ask:
            client.now_ms()  # an exchange that is not there is told at once
        tally.start(len(to_ask), "last trades")
        for first in range(0, len(to_ask), PROBES_A_PACKAGE):
            part = to_ask[first : first + PROBES_A_PACKAGE]
            exclusive.run(tails(client, part, config.requests_in_flight, report, tally))
    return report


def instruments_without_last_trade(clickhouse: Client, scope: Scope = EVERYTHING) -> list[tuple[str, Stream]]:
    """Instruments that expired in covered time, and began in it or were seen in it, and were not asked for yet."""
    tables = require_covered(clickhouse, scope)
    rows = query_rows(clickhouse, render(_TO_ASK, tables), scope)
    return [(name, Stream(currency, kind)) for name, currency, kind in rows]


@dlt.source(name="deribit", max_table_nesting=0)
def tails(
    client: DeribitClient,
    instruments: Sequence[tuple[str, Stream]],
    in_flight: int,
    report: TailsReport,
    tally: ProgressBar,
) -> DltResource:
    """One row for each of `instruments`: the seq of its last trade."""

    def last_seq(instrument: tuple[str, Stream]) -> dict[str, Any] | None:
        name, stream = instrument
        params = {"instrument_name": name, "count": 1, "sorting": "desc"}
        try:
            last = client.result(client.history, "get_last_trades_by_instrument", params, _LastTrades)
        except ExchangeRefusedError as error:
            if error.param != "instrument_name":
                raise
            return None  # not known there is not the same as never traded
        return {
            "instrument_name": name,
            "last_seq": max((trade.trade_seq for trade in last.trades), default=0),
            **stream._asdict(),
            "found_at": datetime.now(UTC),
        }

    @dlt.resource(name="instrument_tails", write_disposition="append", columns=COLUMNS)
    def resource() -> Iterator[Any]:
        require_same_exchange(dlt.current.source_state(), client.exchange)
        with ThreadPoolExecutor(in_flight, thread_name_prefix="deribit") as pool:
            try:
                for row in pool.map(last_seq, instruments):
                    report.asked += 1
                    report.unknown += row is None
                    tally.add(1)
                    if row:
                        yield row
            except BaseException:
                client.cancel()
                pool.shutdown(wait=False, cancel_futures=True)
                raise

    return resource()
