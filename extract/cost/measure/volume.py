"""One day of trades by currency and kind: counted, and weighed on the wire and at rest. No state, no table is left."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta

import pyarrow as pa

from extract.cli.progress_bar import ProgressBar
from extract.clickhouse.settings import clickhouse_settings
from extract.cost.measure.storage_probe import StorageProbe, storage_probe
from extract.cost.plan.plan import remember
from extract.deribit.client import DeribitClient
from extract.deribit.config import deribit_config
from extract.deribit.schema import PAGE_SCHEMA
from extract.deribit.streams import Stream
from extract.errors import UsageError
from extract.pipeline.options import RunOptions, resolve_streams
from extract.sweep.fetch_slice import sweep_slice
from extract.sweep.ledger import SeqLedger
from extract.sweep.slices import Slice
from extract.times import parse_day

DAY_MS = 86_400_000
SETTLED_MS = 15 * 60_000
"""The history host is some seconds behind the live one; a day counts as over by this much later."""


@dataclass(frozen=True)
class StreamVolume:
    """`missing`: trade_seq that lie between two of the day and did not come. Bytes of JSON, and at rest in raw."""

    stream: Stream
    trades: int
    instruments: int
    missing: int
    requests: int
    wire_bytes: int
    rest_bytes: int


@dataclass(frozen=True)
class Volume:
    day: date
    exchange: str
    streams: list[StreamVolume]

    def total(self, name: str) -> int:
        """Of one of StreamVolume's figures."""
        return sum(getattr(each, name) for each in self.streams)


def measure_volume(
    day: str | None,
    currencies: Sequence[str] = (),
    kinds: Sequence[str] = (),
    tally: ProgressBar | None = None,
) -> Volume:
    """Sweeps `day` (UTC; None = the last whole one), and keeps what it came to for the plans that follow.

    Raises UsageError for a day that is not over, OutsideError where the exchange or the database fails.
    """
    config = deribit_config()
    with (
        storage_probe(clickhouse_settings()) as weights,
        DeribitClient(config) as client,
        tally or ProgressBar() as tally,
    ):
        found_day = _day(day, client.now_ms())
        streams = resolve_streams(client, config, RunOptions(currencies=currencies, kinds=kinds))
        tally.start(len(streams) * 24, "hours of trading")
        found = Volume(
            found_day,
            client.exchange,
            [_measure(client, weights, tally, each, found_day) for each in streams],
        )
    remember(
        "volume",
        {
            "day": str(found.day),
            "exchange": found.exchange,
            **{name: found.total(name) for name in ("trades", "wire_bytes", "rest_bytes", "requests")},
        },
    )
    return found


def _day(text: str | None, now_ms: int) -> date:
    """By the exchange's clock."""
    last = datetime.fromtimestamp((now_ms - SETTLED_MS) / 1000, UTC).date() - timedelta(1)
    day = parse_day(text, "--day") if text else last
    if day > last:
        raise UsageError(f"--day {day} is not over yet; the last whole day is {last}.")
    return day


def _measure(
    client: DeribitClient, weights: StorageProbe, tally: ProgressBar, stream: Stream, day: date
) -> StreamVolume:
    requests, size = client.stats.requests, client.stats.bytes
    trades = _sweep(
        client, tally, stream, round(datetime(day.year, day.month, day.day, tzinfo=UTC).timestamp()) * 1000
    )
    ledger = SeqLedger()
    ledger.add(trades)
    seqs = ledger.by_instrument().values()
    return StreamVolume(
        stream,
        trades.num_rows,
        len(seqs),
        sum(int(each.max() - each.min()) + 1 - len(each) for each in seqs),
        client.stats.requests - requests,
        client.stats.bytes - size,
        weights.bytes_on_disk(trades, stream),
    )


def _sweep(client: DeribitClient, tally: ProgressBar, stream: Stream, start_ms: int) -> pa.Table:
    """All trades of the day; a slice that turned out too dense ends early, and the next begins there."""
    end_ms = start_ms + DAY_MS - 1
    tables = [PAGE_SCHEMA.empty_table()]
    from_ms, hours = start_ms, 0
    while from_ms <= end_ms:
        part = sweep_slice(client, client.history, stream, Slice(from_ms, end_ms))
        tables.append(part.table)
        from_ms = part.end_ms + 1
        done = (from_ms - start_ms) * 24 // DAY_MS
        tally.add(done - hours)
        hours = done
    return pa.concat_tables(tables)
