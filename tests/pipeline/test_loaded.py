"""The state has the size of its covered spans: what else a run has to know is queried in the tables."""

from __future__ import annotations

import json
import zlib
from base64 import b64decode
from collections.abc import Callable

import pytest
from clickhouse_connect.driver.client import Client

from extract.clickhouse.client import shared_database
from extract.clickhouse.settings import ClickHouseSettings
from extract.deribit.streams import Stream
from extract.pipeline.loaded import LoadedSeqs, LoadedTables
from extract.pipeline.run import run
from extract.sandbox.server import SandboxExchange
from extract.sandbox.tape import Tape
from extract.source.options import RunOptions
from extract.sweep.state import Span
from tests.support.histories import BEGIN_MS, trade
from tests.support.raw_tables import LOAD, LOADS, NAME, Raw, at
from tests.support.small_windows import keys_in

HOUR_MS = 3_600_000
FUTURES = Stream("BTC", "future")


def run_btc() -> int:
    return run(RunOptions(currencies=("BTC",))).total


def test_run_does_not_read_the_list_of_all_packages_for_each_question(
    small_windows: None,
    start_exchange: Callable[..., SandboxExchange],
    clickhouse_client: Client,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The index of `_dlt_loads` has the newest ones in its last part. dlt's restore of the state joins the whole list."""
    packages, name = 100_000, "BTC-27DEC30-100000-C"
    exchange = start_exchange(Tape.of([trade(name, 1, 1, BEGIN_MS)]), clock=BEGIN_MS + HOUR_MS)
    monkeypatch.setenv("SOURCES__DERIBIT__API_URL", exchange.url)
    monkeypatch.setenv("SOURCES__DERIBIT__HISTORY_URL", exchange.history_url)
    assert run_btc() == 1
    clickhouse_client.command(
        "insert into deribit_raw._dlt_loads (load_id, schema_name, status, inserted_at) "
        f"select concat(toString(1600000000 + number), '.5'), 'deribit', 0, now64(6) from numbers({packages})"
    )
    exchange.add([trade(name, 2, 2, BEGIN_MS + 2 * HOUR_MS)])
    exchange.now_ms += 2 * HOUR_MS
    since = clickhouse_client.command("select toString(now64(6))")
    assert run_btc() == 1
    clickhouse_client.command("system flush logs")
    rows_read = clickhouse_client.query(
        "select read_rows, query from system.query_log where type = 'QueryFinish' and has(tables, 'deribit_raw._dlt_loads') "
        f"and event_time_microseconds > '{since}' and query_kind = 'Select' and read_rows >= {packages}"
    ).result_rows
    assert [query for _, query in rows_read if "_dlt_pipeline_state` AS s JOIN" not in query] == []


@pytest.mark.slow
def test_new_instrument_adds_one_row_and_the_state_stays_small(
    small_windows: None,
    start_exchange: Callable[..., SandboxExchange],
    clickhouse_client: Client,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """500 live instruments with trades; the row of none differs after it was read back from the table."""
    names = [f"BTC-27DEC30-{strike}-{side}" for strike in range(1_000, 251_000, 1_000) for side in "CP"]
    records = [trade(name, 1, n, BEGIN_MS + n) for n, name in enumerate(names)]
    exchange = start_exchange(Tape.of(records), clock=BEGIN_MS + HOUR_MS)
    monkeypatch.setenv("SOURCES__DERIBIT__API_URL", exchange.url)
    monkeypatch.setenv("SOURCES__DERIBIT__HISTORY_URL", exchange.history_url)
    assert run_btc() == 500
    instruments = "select count() from deribit_raw.instruments"
    before = clickhouse_client.command(instruments)
    exchange.add(
        [
            trade("BTC-27DEC30-999000-C", 1, 900, BEGIN_MS + HOUR_MS),
            trade(names[7], 2, 901, BEGIN_MS + HOUR_MS),
        ]
    )
    exchange.now_ms += HOUR_MS
    assert run_btc() == 2
    assert clickhouse_client.command(instruments) == before + 1
    text = clickhouse_client.command(
        "select state from deribit_raw._dlt_pipeline_state order by _dlt_load_id desc limit 1"
    )
    assert len(zlib.decompress(b64decode(text))) < 3_000


@pytest.mark.slow
def test_hole_at_the_edge_of_covered_time_is_repaired(
    small_windows: None,
    start_exchange: Callable[..., SandboxExchange],
    clickhouse_client: Client,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The pages by time never show trade 3; the last loaded trade, 2, is known from the table alone."""
    records = [trade("BTC-PERPETUAL", seq, seq, BEGIN_MS + seq * HOUR_MS) for seq in range(1, 6)]
    hidden = records.pop(2)
    exchange = start_exchange(Tape.of(records), clock=BEGIN_MS + 2 * HOUR_MS + 600_000)
    monkeypatch.setenv("SOURCES__DERIBIT__API_URL", exchange.url)
    monkeypatch.setenv("SOURCES__DERIBIT__HISTORY_URL", exchange.history_url)
    assert run_btc() == 2
    exchange.now_ms = BEGIN_MS + 3 * HOUR_MS + 600_000
    run_btc()
    exchange.add([hidden])  # late: its time is covered
    exchange.now_ms = BEGIN_MS + 6 * HOUR_MS
    run_btc()
    assert keys_in(clickhouse_client) == [("BTC-PERPETUAL", seq) for seq in range(1, 6)]


def minute_ms(minute: float) -> int:
    return int(at(minute).timestamp() * 1000)


def test_last_and_first_seq_of_a_span_are_those_of_finished_packages(
    clean_clickhouse: ClickHouseSettings,
) -> None:
    """Of trades and rejected records in the span; of an instrument whose trades retention dropped, the last of those."""
    tables = ("trades", "coverage", "rejected_trades", "dropped_trades")
    raw = Raw(shared_database(clean_clickhouse), tables)
    finished, unfinished = "1735999999.5", "1736000000.5"  # after the last of the trades
    raw.finish(finished)
    raw.trades({4: 1, 5: 2, 9: 90}, load_id=finished)
    raw.trades({2: 3000}, name="late", load_id=finished)
    raw.trades({6: 3}, load_id=unfinished)
    raw.trades({7: 2}, name="rejected", load_id=finished)
    text = {"instrument_name": "rejected", "trade_seq": 8, "timestamp": minute_ms(3)}
    raw.insert("rejected_trades", raw=json.dumps(text), reason="odd")
    raw.insert("dropped_trades", instrument_name="dropped", first_seq=1, last_seq=3)
    seqs = LoadedSeqs(LoadedTables(raw.database, {*tables, LOADS}), FUTURES)
    span = Span(minute_ms(0), minute_ms(10))
    names = {NAME, "late", "rejected", "dropped", "unknown"}
    assert seqs.last_seqs(span, names) == {NAME: 5, "rejected": 8, "dropped": 3}
    assert seqs.first_seqs(span) == {NAME: 4, "rejected": 7, "dropped": 1}
    long = Span(minute_ms(0), minute_ms(3001))
    assert seqs.last_seqs(long, names) == {NAME: 9, "late": 2, "rejected": 8, "dropped": 3}
    assert seqs.last_seqs(span, []) == {}


def test_package_of_this_time_is_never_skipped(clean_clickhouse: ClickHouseSettings) -> None:
    """A load id is a time; the exchange's clock may be ahead of this machine's, or a sandbox may be in the future."""
    raw = Raw(shared_database(clean_clickhouse))
    raw.finish("1735689600.5")  # minute 0
    raw.trades({1: 5}, load_id="1735689600.5")
    tables = LoadedTables(raw.database, {"trades", "coverage", LOADS})
    span = Span(minute_ms(4), minute_ms(6))
    for now_s in (minute_ms(0) / 1000, minute_ms(7) / 1000, 4e9):
        seqs = LoadedSeqs(tables, FUTURES, clock=lambda now_s=now_s: now_s)
        assert seqs.last_seqs(span, [NAME]) == {NAME: 1}


def test_indexes_are_those_of_all_loaded_options_and_futures(clean_clickhouse: ClickHouseSettings) -> None:
    """Also of instruments that the exchange lists no more."""
    raw = Raw(shared_database(clean_clickhouse), ("instruments",))
    raw.finish(LOAD)
    for number, (currency, kind, index) in enumerate(
        [
            ("BTC", "option", "old_usdc"),
            ("BTC", "future", "btc_usd"),
            ("BTC", "option", "btc_usd"),
            ("BTC", "spot", "btc_usdt"),
            ("BTC", "option", None),
            ("ETH", "option", "eth_usd"),
        ]
    ):
        raw.insert(
            "instruments", instrument_name=f"N{number}", currency=currency, kind=kind, price_index=index
        )
    tables = LoadedTables(raw.database, {"instruments", LOADS})
    assert tables.indexes("BTC") == ["btc_usd", "old_usdc"]
