"""`tape push` copies each row of local to cloud once and reports each difference."""

from __future__ import annotations

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import pytest

from extract.clickhouse.client import open_database
from extract.clickhouse.settings import clickhouse_settings
from extract.errors import RetriableError
from extract.listener import Listener
from extract.push.database import QUERY_ID_PREFIX, RETRIES
from extract.push.push import push
from extract.retry import Retrier
from extract.sandbox.server import SandboxExchange
from extract.sandbox.tape import Tape
from harness.bulk_trades import multiply
from tests.push.conftest import Both
from tests.support.retention_tables import create_records_of_drops

Listed = Callable[[Tape], SandboxExchange]
PUSHED = ("trades", "instruments", "coverage", "rejected_trades", "_dlt_loads", "_dlt_pipeline_state")
SUMS = (
    "select count(), uniqExact(instrument_name, trade_seq), sum(toDecimal128(price, 12)), sum(trade_seq) "
    "from deribit_raw.trades"
)
SYNC = {"mutations_sync": 2}
DDL = "select name, create_table_query from system.tables where database = 'deribit_raw' and name != 'pushes' order by 1"


@pytest.fixture
def loaded(both: Both, listed: Listed) -> Both:
    """3,000 trades of three months on local, in several load packages, and nothing on cloud."""
    listed(Tape.generate(seed=1, trades=3000, days=70))
    both.run("local")
    return both


def parts(both: Both, *words: str) -> dict[str, dict]:
    """The partitions that `tape push` reports as different."""
    report = json.loads(both.tape("push", "--json", *words).out)
    return {each.pop("partition"): each for each in report["partitions"] if not each["equal"]}


def test_push_copies_everything_once_and_records_the_proof(loaded: Both) -> None:
    """Tables are created as a run creates them; a second push copies nothing; each month is recorded."""
    assert loaded.tape("push", "--verify").output.endswith(
        "cloud has no deribit_raw.trades yet, so it is not equal; run: tape push\n"
    )
    done = loaded.tape("push")
    assert done.code == 0, done.output
    assert "local and cloud are equal: 3,000 trades in 3 months, " in done.out
    assert loaded.same(*PUSHED)
    definitions = [side.query(DDL).result_rows for side in (loaded.local, loaded.cloud)]
    assert definitions[0] == definitions[1]
    months = (
        "select toString(toYYYYMM(timestamp)) as m, count() from deribit_raw.trades group by m order by m"
    )
    proofs = "select replaceOne(partition_month, '-', ''), trades from deribit_raw.pushes where target = 'cloud' order by 1"
    assert loaded.local.query(proofs).result_rows == loaded.local.query(months).result_rows
    assert json.loads(loaded.tape("push", "--json").out)["pushed"] == 0
    assert loaded.tape("push", "--verify").code == 0
    assert loaded.same(*PUSHED)


@pytest.mark.heavy
@pytest.mark.slow
def test_push_of_a_million_trades(loaded: Both) -> None:
    """Large packages and small ones; months that lack most are copied first."""
    multiply(loaded.local, 1_000_000)
    done = loaded.tape("push")
    assert done.code == 0, done.output
    assert "local and cloud are equal: 1,000,000 trades in 14 months, " in done.out
    assert loaded.cloud.query(SUMS).result_rows == loaded.local.query(SUMS).result_rows
    order = "select trades from deribit_raw.pushes order by proven_at"
    trades = [row[0] for row in loaded.local.query(order).result_rows]
    assert trades == sorted(trades, reverse=True)
    _require_differences_reported(loaded)


@pytest.mark.slow
def test_differences_are_reported_and_missing_rows_copied(loaded: Both) -> None:
    loaded.tape("push")
    _require_differences_reported(loaded)


def _require_differences_reported(both: Both) -> None:
    """One row changed, one deleted, one added on cloud, in three months; the printed statements repair them."""
    months = both.cloud.query(
        "select toYYYYMM(timestamp) as m, any((instrument_name, trade_seq, _dlt_load_id)) from deribit_raw.trades "
        "group by m order by m desc limit 3"
    ).result_rows
    (changed, row), (dropped, lost), (added, copied) = months
    where = "where instrument_name = {0:String} and trade_seq = {1:Int64} and _dlt_load_id = {2:String}"
    _mutate(both, f"alter table deribit_raw.trades update price = price + 1 {where}", row)
    _mutate(both, f"alter table deribit_raw.trades delete {where}", lost)
    _mutate(
        both,
        "insert into deribit_raw.trades select * replace (trade_seq + 77000000 as trade_seq) "
        f"from (select * from deribit_raw.trades {where})",
        copied,
    )
    label = {month: f"{month // 100}-{month % 100:02}" for month, _ in months}
    wanted = {label[changed]: "changed", label[dropped]: "lacking", label[added]: "added"}
    assert both.tape("push", "--verify").code == 1
    report = parts(both, "--verify")
    counts = ("lacking", "changed", "added", "restated", "own")
    assert {month: {n: each[n] for n in counts if each[n]} for month, each in report.items()} == {
        month: {kind: 1} for month, kind in wanted.items()
    }
    proofs = both.local.command("select count() from deribit_raw.pushes")

    done = both.tape("push")
    assert done.code == 1
    assert "1 trade pushed" in done.out
    assert f"local and cloud are not equal: {label[added]}, {label[changed]}." in done.out or (
        f"local and cloud are not equal: {label[changed]}, {label[added]}." in done.out
    )
    assert "Rows changed or added on cloud stay, because push never deletes." in done.out
    assert parts(both).keys() == {label[changed], label[added]}
    last = both.local.query(
        f"select partition_month, count() from deribit_raw.pushes where partition_month in {tuple(wanted)} group by 1"
    )
    assert dict(last.result_rows)[label[dropped]] > dict(last.result_rows)[label[changed]], (
        "only proven months are recorded"
    )
    assert both.local.command("select count() from deribit_raw.pushes") > proofs

    statements = [line.strip() for line in done.out.splitlines() if line.startswith("  delete from ")]
    assert len(statements) == 2
    for statement in statements:
        both.cloud.command(statement)
    healed = both.tape("push")
    assert healed.code == 0, healed.output
    assert both.cloud.query(SUMS).result_rows == both.local.query(SUMS).result_rows


def _mutate(both: Both, sql: str, row: tuple) -> None:
    name, seq, load_id = row
    for at, value in enumerate((f"'{name}'", str(seq), f"'{load_id}'")):
        sql = sql.replace(f"{{{at}:{('String', 'Int64', 'String')[at]}}}", value)
    both.cloud.command(sql, settings=SYNC)


@pytest.mark.slow
def test_rows_deleted_after_a_push_are_copied_again(loaded: Both) -> None:
    """A month, rows of other tables and of the list of packages, although the server knows the tokens of their inserts."""
    loaded.tape("push")
    for statement in (
        "alter table deribit_raw.trades delete where toYYYYMM(timestamp) = 202601",
        "alter table deribit_raw.trades delete where toYYYYMM(timestamp) = 202601",
        "alter table deribit_raw.coverage delete where currency = 'BTC'",
        "alter table deribit_raw._dlt_loads delete where load_id = (select max(load_id) from deribit_raw._dlt_loads)",
    ):
        loaded.cloud.command(statement, settings=SYNC)
        assert loaded.tape("push", "--verify").code == 1
        done = loaded.tape("push")
        assert done.code == 0, done.output
        assert loaded.same(*PUSHED)


def test_rows_of_unfinished_packages_are_not_pushed(loaded: Both) -> None:
    """Rows of an unfinished package on local are ignored; those on cloud are reported as added."""
    columns = "* replace ('9999999999.5' as _dlt_load_id)"
    loaded.local.command(f"insert into deribit_raw.trades select {columns} from deribit_raw.trades limit 5")
    done = loaded.tape("push")
    assert done.code == 0, done.output
    assert len(loaded.keys(loaded.cloud)) == 3000
    loaded.cloud.command(f"insert into deribit_raw.trades select {columns} from deribit_raw.trades limit 5")
    assert sum(each["added"] for each in parts(loaded, "--verify").values()) == 5


@pytest.mark.slow
def test_large_package_is_copied_in_atomic_chunks(loaded: Both) -> None:
    """Each chunk is one block of one partition; a chunk that has arrived is not sent again."""
    multiply(loaded.local, 68_000, package_rows=65_000, months=1)
    push(chunk_rows=10_000)
    assert loaded.same("trades")
    inserted = (
        "select rows from system.parts where database = 'deribit_raw' and table = 'trades' and level = 0"
    )
    pieces = [rows for (rows,) in loaded.cloud.query(inserted).result_rows]
    assert sum(pieces) == 68_000, "each row once, and each insert one part of one month"
    assert 8_000 < max(pieces) < 12_000
    loaded.cloud.command("system flush logs query_log")
    named = f"select count() from system.query_log where startsWith(query_id, '{QUERY_ID_PREFIX}')"
    assert loaded.cloud.command(named) > 0, "by which the next push sees inserts that are still running"
    bucket = "_dlt_load_id < '16' and cityHash64(tuple(instrument_name, trade_seq)) % 7 = 3"
    before = loaded.cloud.command(f"select count() from deribit_raw.trades where {bucket}")
    loaded.cloud.command(f"alter table deribit_raw.trades delete where {bucket}", settings=SYNC)
    assert push(chunk_rows=10_000).pushed == before
    assert loaded.same("trades")


@pytest.mark.slow
@pytest.mark.parametrize("side", ["local", "cloud"])
def test_months_dropped_by_retention_are_excluded(loaded: Both, side: str) -> None:
    """They are neither copied again nor reported as different, whichever side dropped them."""
    loaded.tape("push")
    client = getattr(loaded, side)
    client.command("create database deribit")
    create_records_of_drops(client)
    client.command(
        "insert into deribit.retention_drops select 'deribit_raw.trades', uuid, 202512, now64(3) from system.tables "
        "where database = 'deribit_raw' and name = 'trades'"
    )
    client.command("alter table deribit_raw.trades drop partition 202512")
    done = loaded.tape("push")
    assert done.code == 0, done.output
    assert "Not compared, because `tape retention` dropped them on one side: 2025-12." in done.out
    assert client.command("select count() from deribit_raw.trades where toYYYYMM(timestamp) = 202512") == 0


@pytest.mark.slow
@pytest.mark.parametrize("ends", [True, False])
def test_push_waits_for_the_insert_of_a_killed_push(loaded: Both, ends: bool) -> None:
    """Its rows would be missed by the comparison; a push gives up after two minutes."""
    loaded.tape("push")
    name = f"{QUERY_ID_PREFIX}of-a-killed-push"
    sql = "select sleepEachRow(1) from numbers(90) settings max_block_size = 1"
    settings = clickhouse_settings("cloud")
    now_s = [0.0]

    def sleep(seconds: float) -> None:
        now_s[0] += seconds if ends else 1000
        if ends and now_s[0] > 1:
            loaded.cloud.command(f"kill query where query_id = '{name}' sync")

    retrier = Retrier(RETRIES, clock=lambda: now_s[0], sleep=sleep)
    with (
        ThreadPoolExecutor(1) as pool,
        closing(open_database(settings, autogenerate_query_id=False)) as other,
    ):
        running = pool.submit(other.client.query, sql, settings={"query_id": name})
        try:
            while not loaded.cloud.command(f"select count() from system.processes where query_id = '{name}'"):
                assert not running.done(), running.result()
            if ends:
                assert push(retrier=retrier).is_equal
            else:
                with pytest.raises(RetriableError, match="An insert of an earlier push is still running"):
                    push(retrier=retrier)
        finally:
            loaded.cloud.command(f"kill query where query_id = '{name}' sync")
        assert running.exception() is not None
    assert now_s[0] > 1


def test_rows_of_an_unfinished_package_are_no_versions_of_trades(loaded: Both) -> None:
    """Newer rows of local that no run has finished do not differ from those of cloud's own runs; push mentions them."""
    loaded.tape("push")
    rows = "from (select * from deribit_raw.trades order by all limit 3)"
    loaded.cloud.command(
        f"insert into deribit_raw.trades select * replace ('9999999998.5' as _dlt_load_id) {rows}"
    )
    loaded.cloud.command(
        "insert into deribit_raw._dlt_loads (load_id, status, inserted_at) values ('9999999998.5', 0, now())"
    )
    loaded.local.command(
        f"insert into deribit_raw.trades select * replace ('9999999999.5' as _dlt_load_id, price + 1 as price) {rows}"
    )
    done = loaded.tape("push", "--verify")
    assert done.code == 0, done.output
    assert "Not pushed: 1 load package is not finished" in done.out


@pytest.mark.slow
def test_packages_are_listed_up_to_the_first_that_cloud_lacks(loaded: Both) -> None:
    """No coverage and no state on cloud includes its trades, so that a run into cloud fetches them."""
    loaded.tape("push")
    loads = "select load_id from deribit_raw._dlt_loads order by load_id"
    first, gap, *later = [load for (load,) in loaded.local.query(loads).result_rows]
    assert later
    columns = f"* replace ('{gap}' as _dlt_load_id, trade_seq + 77000000 as trade_seq)"
    for statement in (
        "truncate table deribit_raw._dlt_loads",
        "truncate table deribit_raw._dlt_pipeline_state",
        f"insert into deribit_raw.trades select {columns} from deribit_raw.trades where _dlt_load_id = '{gap}' limit 1",
    ):
        loaded.cloud.command(statement)
    done = loaded.tape("push")
    assert done.code == 1
    assert loaded.cloud.query(loads).result_rows == [(first,)]
    states = "select _dlt_load_id from deribit_raw._dlt_pipeline_state"
    assert loaded.cloud.query(states).result_rows == [(first,)]
    assert json.loads(loaded.tape("push", "--verify", "--json").out)["packages_not_visible"] == 1 + len(later)
    loaded.cloud.command("delete from deribit_raw.trades where trade_seq > 77000000")
    assert loaded.tape("push").code == 0
    assert loaded.same(*PUSHED)


@pytest.mark.slow
def test_interrupted_push_covers_no_time_whose_trades_are_missing(
    both: Both, listed: Listed, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The month that lacks the most arrives first, although packages of earlier months are still missing."""
    listed(Tape.generate(seed=1, trades=3000, days=70))
    for until in ("2025-12-01", "2026-01-01", None):
        both.run("local", currencies=("BTC",), until=until)
    of_month = "select count() as rows from deribit_raw.trades group by toYYYYMM(timestamp) order by rows desc limit 1"

    class Interrupted(Listener):
        left = int(both.local.command(of_month))

        def advance(self, count: int) -> None:
            self.left -= count
            if self.left < 0:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        push(listener=Interrupted())
    assert both.keys(both.cloud), "something was pushed"
    monkeypatch.setenv("CLICKHOUSE_MODE", "cloud")
    assert both.tape("gaps").code == 2, "nothing is proven"
    monkeypatch.setenv("CLICKHOUSE_MODE", "local")
    assert both.tape("push").code == 0
    assert both.same(*PUSHED)


@pytest.mark.slow
def test_names_from_the_database_cannot_inject_sql(loaded: Both) -> None:
    """Other tables of the user are ignored; a column's name is quoted wherever it is in a statement."""
    loaded.tape("push")
    column = "`x\\`, 1)) from deribit_raw.trades; -- '{y:String}`"
    loaded.local.command(
        "create table deribit_raw.`trades where 1 -- ` engine = Memory as select * from deribit_raw.trades"
    )
    for side in (loaded.local, loaded.cloud):
        side.command(f"alter table deribit_raw.trades add column {column} Int64 default trade_seq")
    loaded.cloud.command(
        "alter table deribit_raw.trades delete where toYYYYMM(timestamp) = 202601", settings=SYNC
    )
    loaded.cloud.command(
        f"alter table deribit_raw.trades update {column} = 7 where rand() % 50 = 0", settings=SYNC
    )
    done = loaded.tape("push")
    assert done.code == 1, done.output
    assert not any(each["lacking"] for each in parts(loaded).values())
    assert len(loaded.keys(loaded.cloud)) == len(loaded.keys(loaded.local)) == 3000
    for name in ("`trades where 1 -- `", "trades"):
        loaded.local.command(f"drop table if exists deribit_raw.{name}")


@pytest.mark.slow
def test_push_copies_series_and_merges_their_state(
    both: Both, listed: Listed, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run into cloud afterwards loads only what is new of them. Snapshots that retention dropped here stay in cloud."""
    monkeypatch.setenv(
        "SOURCES__DERIBIT__SERIES",
        "funding_rates, delivery_prices, settlements, volatility_index, book_summaries",
    )
    exchange = listed(Tape.generate(seed=1, trades=200, days=2))
    both.run("local", currencies=("BTC",))
    assert both.tape("push").code == 0
    series = ("funding_rates", "delivery_prices", "settlements", "volatility_index", "series_coverage")
    assert both.same(*series, "book_summaries")
    snapshots = "select count() from deribit_raw.book_summaries"
    before = both.cloud.command(snapshots)
    both.local.command("alter table deribit_raw.book_summaries drop partition 202601")
    assert both.tape("push").code == 0
    assert (both.local.command(snapshots), both.cloud.command(snapshots)) == (0, before)
    exchange.now_ms += 3_600_000
    both.run("cloud", currencies=("BTC",))
    rows = "select count(), uniqExact(timestamp) from deribit_raw.funding_rates"
    expected = len(exchange.series("funding_rates", "BTC-PERPETUAL"))
    assert both.cloud.query(rows).result_rows == [(expected, expected)]
    assert both.same("delivery_prices")
