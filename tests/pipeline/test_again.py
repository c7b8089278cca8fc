"""`--again` reads covered time once more and loads only the trades that the exchange has changed."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from clickhouse_connect.driver.client import Client

from extract.errors import UsageError
from extract.pipeline.run import run
from extract.pipeline.summary import RunSummary
from extract.sandbox.instrument_names import parse
from extract.sandbox.server import SandboxExchange
from extract.sandbox.tape import Tape
from extract.source.options import RunOptions

Listed = Callable[[Tape], SandboxExchange]


def run_btc(**options: object) -> RunSummary:
    return run(RunOptions(currencies=("BTC",), **options))  # type: ignore[arg-type]


def prices(client: Client) -> dict[tuple[str, int], float]:
    """Price of the newest version of each trade."""
    sql = """
        SELECT instrument_name, trade_seq, argMax(price, _dlt_load_id) FROM deribit_raw.trades
        GROUP BY instrument_name, trade_seq
    """
    return {(name, seq): price for name, seq, price in client.query(sql).result_rows}


@pytest.mark.slow
def test_changed_trades_are_loaded_again_and_counted(listed: Listed, clickhouse_client: Client) -> None:
    """Ten corrected prices; a run without --again does not see them, and a second one with it loads nothing."""
    tape = Tape.generate(seed=9, trades=300, days=2)
    exchange = listed(tape)
    run_btc()
    old = [each for each in tape.trades if each["instrument_name"] == "BTC-PERPETUAL"][:10]
    for trade in old:
        exchange.restate("BTC-PERPETUAL", trade["trade_seq"], price=trade["price"] + 1)
    assert run_btc(since="2020-01-01").total == 0
    covered = clickhouse_client.query(
        "SELECT * EXCEPT (_dlt_load_id, _dlt_id) FROM deribit_raw.coverage ORDER BY ALL"
    ).result_rows
    summary = run_btc(since="2020-01-01", again=True)
    assert (summary.restated, summary.total) == (10, 10)
    settled_ms = exchange.now_ms - 60_000
    settled = [
        each
        for each in tape.trades
        if parse(each["instrument_name"]).currency == "BTC" and each["timestamp"] <= settled_ms
    ]
    assert summary.known == len(settled) - 10
    newest = prices(clickhouse_client)
    assert {key: newest[key] for key in newest if key[0] == "BTC-PERPETUAL" and key[1] <= 10} == {
        ("BTC-PERPETUAL", each["trade_seq"]): each["price"] + 1 for each in old
    }
    summary = run_btc(since="2020-01-01", again=True)
    assert (summary.restated, summary.total) == (0, 0)
    assert run_btc().total == 0
    assert (
        clickhouse_client.query(
            "SELECT * EXCEPT (_dlt_load_id, _dlt_id) FROM deribit_raw.coverage ORDER BY ALL"
        ).result_rows
        == covered
    )


@pytest.mark.slow
def test_again_reads_the_requested_time_only(listed: Listed) -> None:
    tape = Tape.generate(seed=9, trades=300, days=2)
    exchange = listed(tape)
    run_btc()
    old = [each for each in tape.trades if each["instrument_name"] == "BTC-PERPETUAL"]
    for trade in (old[0], old[-2]):
        exchange.restate("BTC-PERPETUAL", trade["trade_seq"], price=1.0)
    summary = run_btc(since="12h", again=True)
    assert (summary.restated, summary.total) == (1, 1)
    assert summary.absent == 0


def test_again_needs_a_start(listed: Listed) -> None:
    listed(Tape.generate(seed=9, trades=50, days=1))
    with pytest.raises(UsageError, match="--again --since"):
        run_btc(again=True)
