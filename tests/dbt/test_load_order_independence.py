"""Generated histories: packages in any order, repeated, restated, moved; refreshed at once, later, in part, or by dbt."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from extract.clickhouse import refresh as refresh_module
from extract.clickhouse.client import Database, Values
from extract.clickhouse.refresh import refresh
from harness import raw_tables
from harness.dbt_project import Project
from tests.support.candle_truth import Trade, assert_true
from tests.support.packages import PACKAGES, START_MS, STEP_TABLES, STEPS, InterruptedDatabase, KilledError

pytestmark = pytest.mark.slow

HOUR_MS = 3_600_000
EXAMPLES = int(os.environ.get("DERIBIT_TAPE_DBT_EXAMPLES", "10"))


@pytest.fixture(scope="module")
def empty(dbt: Project) -> Project:
    """Models without a row."""
    dbt.empty()
    return dbt


# After a package: nothing, a refresh by the loader that names it, by one that does not, or one killed after n statements.
AFTER = st.one_of(st.sampled_from(["nothing", "refresh", "refresh all"]), st.integers(0, STEPS - 1))


def act(dbt: Project, load_id: str, after: str | int) -> None:
    if after == "refresh":
        refresh(dbt.database, [load_id])
    elif after == "refresh all":
        refresh(dbt.database)
    elif isinstance(after, int):
        database = InterruptedDatabase(dbt.database.client, dbt.database.settings, after)
        with pytest.raises(KilledError):
            refresh(database, [load_id])


@pytest.mark.slow(minutes=3)
@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
@given(PACKAGES, st.randoms(use_true_random=False), st.lists(AFTER, min_size=4, max_size=4))
def test_models_depend_on_packages_only(
    empty: Project, packages: list[list[Trade]], order, after: list[str | int]
) -> None:
    """Whatever their order and the refreshes in between: after a last one every trade and candle is right."""
    empty.empty()
    loads = {f"{1764000000 + n}.123456": rows for n, rows in enumerate(packages)}
    for (load_id, rows), each in zip(order.sample(sorted(loads.items()), len(loads)), after, strict=False):
        raw_tables.load(empty.client, load_id, rows)
        act(empty, load_id, each)
    refresh(empty.database)
    assert_true(empty, loads)


@pytest.mark.slow(minutes=1)
def test_refresh_within_another_misses_nothing(empty: Project) -> None:
    """Two packages have trades of the same hours; one refresh begins and ends between two statements of the other."""
    empty.empty()
    loads: dict[str, list[Trade]] = {}
    for step in range(1, STEPS, 3):
        outer, inner = (f"{1764000000 + 2 * step + n}.5" for n in (1, 0))
        for package, minutes in ((outer, (0, 2)), (inner, (1, 3))):
            loads[package] = [
                trade(name, 4 * step + minute + 1, START_MS + step * HOUR_MS + minute * 60_000)
                for name in ("BTC-PERPETUAL", "BTC-28FEB25-90000-C", "BTC-28FEB25-90000-P")
                for minute in minutes
            ]
            raw_tables.load(empty.client, package, loads[package])
        database = empty.database
        interrupted = InterruptedDatabase(
            database.client, database.settings, step, partial(refresh, database, [inner])
        )
        refresh(interrupted, [outer])
        assert_true(empty, loads)


def test_refreshes_at_once_see_the_numbers_of_each_other(
    empty: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two trades of one minute have numbers far apart; the later computation has the older version, and a merge drops it."""
    empty.empty()
    loads = {f"176400000{n}.5": [trade("BTC-PERPETUAL", seq, START_MS)] for n, seq in ((1, 1), (2, 5_000))}
    for load_id, rows in loads.items():
        raw_tables.load(empty.client, load_id, rows)
    first, second = loads
    database = empty.database
    minutes = STEP_TABLES.index("ohlcv_1m_versions")

    def refresh_minutes_of_the_second() -> None:
        with pytest.raises(KilledError):
            refresh(InterruptedDatabase(database.client, database.settings, minutes + 1), [second])

    def merge_before(database: Database) -> list[list[str]]:
        empty.client.command("optimize table deribit.ohlcv_1m_versions final")
        return pending_portions(database)

    pending_portions = refresh_module._pending_portions
    monkeypatch.setattr(refresh_module, "_pending_portions", merge_before)
    interrupted = InterruptedDatabase(
        database.client, database.settings, minutes, refresh_minutes_of_the_second
    )
    refresh(interrupted, [first])
    assert_true(empty, loads)


def test_package_that_was_deleted_hides_no_pending_one(empty: Project) -> None:
    """As many packages are listed as are consumed."""
    empty.empty()
    raw_tables.load(empty.client, "1764000001.5", [trade("BTC-PERPETUAL", 1, START_MS)])
    refresh(empty.database)
    for rows in ("trades where _dlt_load_id", "_dlt_loads where load_id"):
        empty.client.command(f"delete from deribit_raw.{rows} = '1764000001.5'")
    raw_tables.load(empty.client, "1764000002.5", [trade("BTC-PERPETUAL", 2, START_MS)])
    assert refresh(empty.database) == 1
    assert seqs_at(empty, "true") == [1, 2]


def trade(name: str, seq: int, at_ms: int) -> Trade:
    """A trade of an inverse future or option, whose price depends on its number."""
    is_option = name.endswith(("-C", "-P"))
    return {
        "instrument_name": name,
        "trade_seq": seq,
        "trade_id": str(seq),
        "timestamp": at_ms,
        "price": 0.05 + seq / 10_000 if is_option else 90_000.0 + seq,
        "amount": 10.0,
        "direction": "buy",
        "iv": 50.0 + seq if is_option else None,
        "liquidation": None,
        "block_trade_id": None,
        "block_rfq_id": None,
        "combo_id": None,
        "index_price": 90_000.0,
        "kind": "option" if is_option else "future",
        "currency": "BTC",
    }


@dataclass(frozen=True)
class WatchedDatabase(Database):
    """A database that counts trades, as a reader sees them, after each statement."""

    counts: list[tuple[Any, ...]] = field(default_factory=list)

    def command(self, sql: str, parameters: Values = None, settings: Values = None) -> None:
        super().command(sql, parameters, settings)
        rows = self.rows(
            "select count(), uniqExact(instrument_name, trade_seq), sum(amount) from deribit.trades"
        )
        self.counts.extend(rows)


def test_moved_trade_is_counted_once_at_any_moment(empty: Project) -> None:
    """Trades of January are restated in March, and later in January again: after no statement twice or missing."""
    empty.empty()
    records = [trade("BTC-PERPETUAL", seq, START_MS + seq) for seq in range(1, 301)]
    loads = {}
    for n, days in enumerate((0, 40, 0), 1):
        loads[f"176400000{n}.5"] = [
            record | {"timestamp": record["timestamp"] + days * 86_400_000} for record in records
        ]
        raw_tables.load(empty.client, f"176400000{n}.5", loads[f"176400000{n}.5"])
        database = WatchedDatabase(empty.database.client, empty.database.settings)
        refresh(database, [f"176400000{n}.5"])
        assert len(database.counts) == STEPS
        assert set(database.counts) <= {(300, 300, 3_000.0)} | ({(0, 0, 0.0)} if n == 1 else set())
    assert_true(empty, loads)


@pytest.mark.parametrize("delay_ms", [5, 300_000])
def test_moved_trade_is_not_read_at_its_old_time(empty: Project, delay_ms: int) -> None:
    """A trade is restated later in the same month. Until its versions are merged, ClickHouse leaves out the part with the
    newer one when a query asks for the old time, and the old version must not reappear.
    """
    empty.empty()
    empty.client.command("system stop merges deribit.trade_versions")
    at_ms = START_MS - HOUR_MS
    first, second, third = (trade("BTC-PERPETUAL", seq, at_ms) for seq in (1, 2, 3))
    loads = {
        "1764000001.5": [first, second],
        "1764000002.5": [first | {"timestamp": at_ms + delay_ms, "price": 7.0}],
        "1764000003.5": [third],
    }
    for load_id, rows in loads.items():
        raw_tables.load(empty.client, load_id, rows)
        refresh(empty.database, [load_id])
    assert seqs_at(empty, f"timestamp < fromUnixTimestamp64Milli({at_ms + delay_ms})") == [2, 3]
    assert seqs_at(empty, f"timestamp >= fromUnixTimestamp64Milli({at_ms + delay_ms})") == [1]
    assert_true(empty, loads)
    assert unsettled_moves(empty) > 0
    empty.client.command("system start merges deribit.trade_versions")
    empty.client.command("optimize table deribit.trade_versions final")
    raw_tables.load(empty.client, "1764000004.5", [])
    refresh(empty.database, ["1764000004.5"])
    assert unsettled_moves(empty) == 0
    assert seqs_at(empty, f"timestamp < fromUnixTimestamp64Milli({at_ms + delay_ms})") == [2, 3]

    # The first package once more: the old version is there again, in a part of its own.
    empty.client.command("system stop merges deribit.trade_versions")
    empty.client.command("delete from deribit.consumed_loads where load_id = '1764000001.5'")
    refresh(empty.database)
    assert seqs_at(empty, f"timestamp < fromUnixTimestamp64Milli({at_ms + delay_ms})") == [2, 3]
    empty.client.command("system start merges deribit.trade_versions")


def test_versions_in_one_part_are_a_settled_move(empty: Project) -> None:
    """Nothing would merge them, but one of them is never read without the other."""
    empty.empty()
    first = trade("BTC-PERPETUAL", 1, START_MS - HOUR_MS)
    raw_tables.load(empty.client, "1764000001.5", [first])
    raw_tables.load(empty.client, "1764000002.5", [first | {"timestamp": first["timestamp"] + 300_000}])
    refresh(empty.database)
    assert unsettled_moves(empty) > 0
    raw_tables.load(empty.client, "1764000003.5", [])
    refresh(empty.database)
    assert unsettled_moves(empty) == 0
    assert seqs_at(empty, f"timestamp < fromUnixTimestamp64Milli({START_MS - HOUR_MS + 300_000})") == []


@pytest.mark.parametrize("lost", ["ohlcv_1h_versions drop partition 202501", "loaded_seqs delete where true"])
def test_first_trade_is_found_whatever_is_known_of_its_month(empty: Project, lost: str) -> None:
    """An end month without hourly candles, as after a drop by retention, and one that `loaded_seqs` does not have."""
    empty.empty()
    day_ms = 86_400_000
    january, february, march = (START_MS + days * day_ms for days in (-20, 10, 40))
    times = [january, february, march]
    raw_tables.load(
        empty.client, "1764000001.5", [trade("BTC-PERPETUAL", n, at) for n, at in enumerate(times, 1)]
    )
    refresh(empty.database)
    empty.client.command(f"alter table deribit.{lost} settings mutations_sync = 2")
    raw_tables.load(empty.client, "1764000002.5", [trade("BTC-PERPETUAL", 4, march + 60_000)])
    refresh(empty.database)
    (ends,) = empty.rows(
        "select toUnixTimestamp64Milli(first_at) as first_ms, toUnixTimestamp64Milli(last_at) as last_ms"
        " from deribit.instrument_ends final"
    )
    assert ends == {
        "first_ms": february if lost.startswith("ohlcv") else january,
        "last_ms": march + 60_000,
    }


def test_first_and_last_trade_cost_the_same_after_a_long_history(empty: Project) -> None:
    """Hours in the months between the first and the last one are not read for the ends of the instruments."""
    empty.empty()
    day_ms = 86_400_000
    names = [f"BTC-25DEC26-{strike}000-C" for strike in range(1, 101)]

    def load(package: int, days: list[int]) -> None:
        rows = [trade(name, day + 1, START_MS + day * day_ms) for name in names for day in days]
        raw_tables.load(empty.client, f"{1764000000 + package}.5", rows)
        refresh(empty.database)

    load(1, [0, 700])
    load(2, [701])
    short = rows_read_for_ends(empty)
    between = list(range(35, 665, 15))
    load(3, between)
    load(4, [702])
    # They would be read three times or more. The rest of the difference is parts that are not merged yet.
    assert rows_read_for_ends(empty) - short < 2 * len(names) * len(between)


def rows_read_for_ends(dbt: Project) -> int:
    """Rows that the last refresh read for first and last trades."""
    dbt.client.command("system flush logs")
    (row,) = dbt.rows(
        "select read_rows as n from system.query_log where type = 'QueryFinish'"
        " and query ilike 'insert into deribit.instrument_ends%' order by event_time_microseconds desc limit 1"
    )
    return int(row["n"])


def seqs_at(dbt: Project, where: str) -> list[int]:
    return [
        row["trade_seq"] for row in dbt.rows(f"select trade_seq from deribit.trades where {where} order by 1")
    ]


def unsettled_moves(dbt: Project) -> int:
    return int(dbt.rows("select count() as n from deribit.moved_trades final where not is_settled")[0]["n"])


def test_refresh_without_models_does_nothing(fresh_dbt: Project) -> None:
    """Loading works before the first `dbt build`."""
    raw_tables.load(fresh_dbt.client, "1764000001.5", [])
    assert refresh(fresh_dbt.database, ["1764000001.5"]) == 0
    fresh_dbt.client.command("drop database deribit sync")
    assert refresh(fresh_dbt.database) == 0
    fresh_dbt.client.command("create database deribit")
