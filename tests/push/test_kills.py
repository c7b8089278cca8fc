"""A push that is killed at any moment leaves cloud usable, and the next one completes it."""

from __future__ import annotations

import random
import signal
from collections.abc import Callable, Iterator

import pytest
from clickhouse_connect.driver.client import Client

from extract.sandbox.server import SandboxExchange
from extract.sandbox.tape import Tape
from harness.bulk_trades import multiply
from tests.push.conftest import Both
from tests.support.small_windows import Runner

# Rows by load package, to detect packages on cloud that are listed as finished but incomplete.
ROWS = "select _dlt_load_id, count() from deribit_raw.{} group by 1 order by 1"
TRADES = 600_000
KILLS = 10


@pytest.fixture
def pusher(both: Both) -> Iterator[Callable[[], Runner]]:
    made: list[Runner] = []

    def make() -> Runner:
        made.append(Runner("push"))
        return made[-1]

    yield make
    for each in made:
        each.close()


@pytest.mark.slow
def test_push_completes_after_kills_at_random_moments(
    both: Both,
    listed: Callable[[Tape], SandboxExchange],
    pusher: Callable[[], Runner],
) -> None:
    """After each kill the packages that cloud lists as finished are complete; in the end each row is there once."""
    listed(Tape.generate(seed=2, trades=3000, days=70))
    both.run("local")
    multiply(both.local, TRADES)
    whole = {
        t: dict(both.local.query(ROWS.format(t)).result_rows) for t in ("trades", "coverage", "instruments")
    }
    runner, rng = pusher(), random.Random(5)
    killed = 0
    while killed < KILLS and runner.run(rng.uniform(0.05, 0.5 + killed / 20)) == -signal.SIGKILL:
        killed += 1
        _require_listed_packages_complete(both.cloud, whole)
    assert runner.run() == 0
    assert killed >= KILLS * 2 // 3, "the push was over before it was killed often enough"
    for side in (both.local, both.cloud):
        assert side.query(
            "select count(), uniqExact(instrument_name, trade_seq) from deribit_raw.trades"
        ).result_rows == [(TRADES, TRADES)]
    assert both.same("coverage", "instruments", "_dlt_loads", "_dlt_pipeline_state")
    assert both.tape("push", "--verify").code == 0


def _require_listed_packages_complete(cloud: Client, whole: dict[str, dict[str, int]]) -> None:
    tables = {
        name
        for (name,) in cloud.query(
            "select name from system.tables where database = 'deribit_raw'"
        ).result_rows
    }
    if "_dlt_loads" not in tables:
        return
    listed = [load for (load,) in cloud.query("select load_id from deribit_raw._dlt_loads").result_rows]
    assert len(listed) == len(set(listed))
    for table, rows in whole.items():
        there = dict(cloud.query(ROWS.format(table)).result_rows) if table in tables else {}
        assert {load: there.get(load, 0) for load in listed} == {load: rows.get(load, 0) for load in listed}
    if "_dlt_pipeline_state" in tables:
        loads = sorted({load for rows in whole.values() for load in rows})
        states = [
            load
            for (load,) in cloud.query("select _dlt_load_id from deribit_raw._dlt_pipeline_state").result_rows
        ]
        assert {load for load in loads if states and load <= max(states)} <= set(listed)
