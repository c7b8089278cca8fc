"""The main promise: every trade of the exchange is in ClickHouse exactly once and complete, and candles agree with it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import pytest
from clickhouse_connect.driver.client import Client

from extract.clickhouse.client import open_client
from extract.clickhouse.settings import ClickHouseSettings
from extract.paths import ROOT
from extract.sandbox.server import SandboxExchange
from extract.sandbox.tape import Tape
from tests.support.commands import Done, UserShell
from tests.support.recorded import RECORDED_TAPE, needs_recordings
from tests.support.truth import candles

OPTIONAL = [
    *("tick_direction", "index_price", "mark_price", "iv", "contracts", "liquidation"),
    *("block_trade_id", "block_trade_leg_count", "block_rfq_id", "combo_id", "combo_trade_id"),
]


@dataclass
class Run:
    """One complete run, and its tape, exchange and plan."""

    tape: Tape
    exchange: SandboxExchange
    shell: UserShell
    client: Client
    first: Done
    plan: dict[str, Any]
    """Result of `tape cost plan` before anything was extracted."""
    requests: int
    """Requests of the first run, counted by the exchange."""

    def ask(self, sql: str) -> list[tuple[Any, ...]]:
        return list(self.client.query(sql).result_rows)


@pytest.fixture(
    scope="module",
    params=[
        "generated",
        pytest.param("recorded in 2019", marks=[pytest.mark.slow(minutes=0.5), needs_recordings]),
    ],
)
def run(
    request: pytest.FixtureRequest,
    small_tape: Tape,
    clickhouse: ClickHouseSettings,
    drop_databases: Callable[[], None],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Run]:
    """`dlt pipeline run` and `dbt build --target local` on an empty database, as a user runs them."""
    from tests.support.commands import environment

    tape = small_tape
    if request.param != "generated":
        tape = Tape.load(RECORDED_TAPE)
    drop_databases()
    with SandboxExchange(tape) as exchange:
        shell = UserShell(environment(clickhouse, tmp_path_factory.mktemp("user"))).at(exchange)
        plan = json.loads(shell.ok("tape", "cost", "plan", "--json").out)
        exchange.requests.clear()
        first = shell.ok("dlt", "pipeline", "run")
        requests = len(exchange.requests)
        shell.ok("dbt", "build", "--target", "local", cwd=ROOT / "dbt_project")
        client = open_client(clickhouse)
        yield Run(tape, exchange, shell, client, first, plan, requests)
        client.close()


def ms(at: datetime) -> int:
    return round(at.timestamp() * 1000)


def test_every_trade_is_loaded_exactly_once(run: Run) -> None:
    """One row of deribit.trades for each trade of the tape, and no other."""
    wanted = sorted((t["instrument_name"], t["trade_seq"]) for t in run.tape.trades)
    assert sorted(run.ask("select instrument_name, trade_seq from deribit.trades")) == wanted


def test_fields_equal_those_of_the_exchange(run: Run) -> None:
    """Each field of each trade, absent ones as null."""
    names = ["trade_id", "timestamp", "price", "amount", "direction", *OPTIONAL, "legs", "extra"]
    rows = run.ask(f"select instrument_name, trade_seq, {', '.join(names)} from deribit.trades")
    stored = {row[:2]: dict(zip(names, row[2:], strict=True)) for row in rows}
    for trade in run.tape.trades:
        row = stored[trade["instrument_name"], trade["trade_seq"]]
        assert ms(row.pop("timestamp")) == trade["timestamp"]
        legs = row.pop("legs")
        assert (json.loads(legs) if legs else None) == trade.get("legs")
        assert row.pop("extra") is None
        assert row == {name: trade.get(name) for name in row}


def test_one_minute_candles_equal_those_computed_from_the_tape(run: Run) -> None:
    """Every bucket and figure, decimals to the last digit."""
    columns = "open, high, low, close, volume, notional, buy_volume, sell_volume, trade_count"
    rows = run.ask(f"select instrument_name, bucket_at, {columns} from deribit.ohlcv_1m")
    stored = {(name, ms(bucket_at)): tuple(figures) for name, bucket_at, *figures in rows}
    wanted = {key: tuple(vars(candle).values()) for key, candle in candles(run.tape.trades).items()}
    assert len(stored) == len(rows)
    assert stored == wanted


def test_raw_table_holds_each_trade_once(run: Run) -> None:
    """The models had no duplicates to remove."""
    [(rows, keys)] = run.ask("select count(), uniqExact(instrument_name, trade_seq) from deribit_raw.trades")
    assert rows == keys == len(run.tape.trades)


def test_cost_plan_is_within_a_fifth(run: Run) -> None:
    """Requests by the exchange's count, bytes on the wire, and at rest by system.parts, models included.

    A few thousand trades at rest are mostly overhead of the parts, which no plan includes. Series besides trades are
    planned for the whole history of the exchange, of which the sandbox has days.
    """
    planned = run.plan["backfill"]
    wire = float(re.search(r"([\d.,]+) MB over the wire", run.first.out)[1].replace(",", "")) * 1e6
    assert float(planned["requests"]) == pytest.approx(run.requests, rel=0.2)
    assert float(planned["wire_bytes"]) == pytest.approx(wire, rel=0.2)
    if len(run.tape.trades) < 10_000:
        return
    sizes = dict(
        run.ask(
            "select database, sum(bytes_on_disk) from system.parts "
            "where active and database in ('deribit_raw', 'deribit') group by database"
        )
    )
    raw = float(planned["rest_bytes"]["deribit_raw.trades"])
    assert raw == pytest.approx(sizes["deribit_raw"], rel=0.2)
    of_trades = sum(map(float, planned["rest_bytes"].values()))
    assert of_trades == pytest.approx(sum(sizes.values()), rel=0.2)
    assert float(planned["all_rest_bytes"]) == pytest.approx(of_trades + float(planned["series_bytes"]))


def test_second_run_fetches_only_new_trades(run: Run) -> None:
    """Nothing is loaded twice, and only the newest minute is requested."""
    before = run.ask("select count() from deribit_raw.trades")
    run.exchange.requests.clear()
    run.shell.ok("dlt", "pipeline", "deribit_trades", "run")
    assert run.ask("select count() from deribit_raw.trades") == before
    requests = [r for r in run.exchange.requests if "start_timestamp" in r.params]
    assert requests
    newest_ms = run.exchange.now_ms - 61_000
    assert all(int(r.params["start_timestamp"]) >= newest_ms for r in requests)


def test_dlt_pipeline_info_shows_the_pipeline(run: Run) -> None:
    """`dlt pipeline deribit_trades info` shows the pipeline of `run`."""
    assert "deribit_trades" in run.shell.ok("dlt", "pipeline", "deribit_trades", "info").out
