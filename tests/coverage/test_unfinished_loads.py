"""Nothing that reads the raw tables counts a load package that is not finished."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from extract.clickhouse.client import shared_database
from extract.clickhouse.disk import loaded_disk_use
from extract.clickhouse.finished import describe_unfinished, unfinished_loads
from extract.clickhouse.settings import ClickHouseSettings, clickhouse_settings
from extract.coverage.gaps import find_gaps
from extract.coverage.repair import repair_gaps
from extract.coverage.status import fetch_status
from extract.coverage.tails import instruments_without_last_trade
from extract.errors import CannotTellError
from extract.estimate.plan import make_plan
from extract.sandbox.tape import Tape
from extract.source.options import RunOptions
from tests.support.commands import tape_here
from tests.support.loaded_user import User
from tests.support.raw_tables import EPOCH, NAME, Raw, at

HALF = "2"
"""A load package that is not finished."""


@pytest.fixture
def half_loaded(clean_clickhouse: ClickHouseSettings, clickhouse_env: ClickHouseSettings) -> Raw:
    """The first run was killed after it had loaded the covered time, and before the trades."""
    raw = Raw(shared_database(clickhouse_env), is_finished=False)
    raw.covered(EPOCH, 10)
    return raw


@pytest.mark.parametrize("words", [["gaps"], ["gaps", "--json"], ["status"]], ids=" ".join)
def test_nothing_is_loaded_if_the_only_package_is_unfinished(half_loaded: Raw, words: list[str]) -> None:
    """Cannot tell: one sentence, which mentions the package."""
    done = tape_here(*words)
    assert (done.code, done.out) == (2, "")
    assert done.err.startswith("Nothing is loaded yet")
    assert "1 load package is not finished" in done.err
    assert done.err.count("\n") == 1


def test_health_cannot_tell_if_the_only_package_is_unfinished(half_loaded: Raw) -> None:
    checks = {each["check"]: each for each in json.loads(tape_here("health", "--json").out)}
    for name in ("raw", "gaps"):
        assert checks[name]["state"] == "unknown"
        assert "1 load package is not finished" in checks[name]["text"]


def test_push_has_nothing_if_the_only_package_is_unfinished(
    half_loaded: Raw, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = clickhouse_settings()
    for name, value in {"HOST": settings.host, "PORT": settings.port, "USER": settings.user}.items():
        monkeypatch.setenv(f"CLICKHOUSE_CLOUD_{name}", str(value))
    monkeypatch.setenv("CLICKHOUSE_CLOUD_PASSWORD", settings.password)
    assert tape_here("push", "--verify").code in (2, 3)


def test_missing_list_of_packages_means_that_nothing_is_loaded(half_loaded: Raw) -> None:
    """The first run was killed before it created the table."""
    half_loaded.client.command("drop table deribit_raw._dlt_loads sync")
    with pytest.raises(CannotTellError, match=r"Nothing is loaded yet.*1 load package is not finished"):
        find_gaps(half_loaded.database)


def test_package_listed_with_another_status_is_unfinished(half_loaded: Raw) -> None:
    half_loaded.finish("1", status=1)
    with pytest.raises(CannotTellError, match="Nothing is loaded yet"):
        fetch_status(half_loaded.database)


@pytest.fixture
def loaded_in_part(raw: Raw) -> Raw:
    """One finished package with four gaps, one of them a tail, and an instrument whose last trade is unknown."""
    for table in ("absent_trades", "rejected_trades", "instruments", "instrument_tails"):
        raw.make(table)
    raw.covered(EPOCH, 10)
    raw.trades({1: 1, 4: 4, 6: 5, 8: 6})
    raw.insert("instrument_tails", instrument_name=NAME, last_seq=9)
    raw.insert("instruments", instrument_name="expired", creation_timestamp=at(0), expiration_timestamp=at(9))
    raw.trades({1: 2}, name="expired")
    return raw


def add_unfinished_rows(raw: Raw) -> None:
    """Rows of each kind that would change each answer."""
    raw.covered(EPOCH, 20, load_id=HALF)
    raw.covered(EPOCH, 20, load_id=HALF, currency="ETH")
    raw.trades({2: 2, 3: 3, 9: 7, 12: 15}, load_id=HALF)
    raw.trades({5: 5}, name="other", load_id=HALF)
    raw.insert("absent_trades", instrument_name=NAME, first_seq=5, last_seq=5, _dlt_load_id=HALF)
    text = json.dumps({"instrument_name": NAME, "trade_seq": 7})
    raw.insert("rejected_trades", reason="price", raw=text, _dlt_load_id=HALF)
    raw.insert("instrument_tails", instrument_name="expired", last_seq=3, _dlt_load_id=HALF)
    raw.insert(
        "instruments",
        instrument_name="new",
        creation_timestamp=at(0),
        expiration_timestamp=at(9),
        _dlt_load_id=HALF,
    )


def answers(raw: Raw) -> list[Any]:
    statuses = [
        (each.to_json() | {"lag_seconds": 0}, each.absent, each.spans) for each in fetch_status(raw.database)
    ]
    return [find_gaps(raw.database), statuses, instruments_without_last_trade(raw.database)]


@pytest.mark.slow
@pytest.mark.parametrize("status", [None, 1])
def test_unfinished_package_changes_no_answer(loaded_in_part: Raw, status: int | None) -> None:
    """Trades, covered time, absent and rejected trades, tails and instruments; once it is finished all of them do."""
    raw = loaded_in_part
    before = answers(raw)
    assert raw.gaps() == [(2, 3, "inner"), (5, 5, "inner"), (7, 7, "inner"), (9, 9, "tail")]
    assert unfinished_loads(raw.database) == []
    add_unfinished_rows(raw)
    if status:
        raw.finish(HALF, status=status)
    assert answers(raw) == before
    assert unfinished_loads(raw.database) == [HALF]
    raw.finish(HALF)
    assert unfinished_loads(raw.database) == []
    after = answers(raw)
    assert all(one != other for one, other in zip(before, after, strict=True))


@pytest.mark.slow
def test_commands_report_an_unfinished_package(
    clickhouse_env: ClickHouseSettings, loaded_in_part: Raw
) -> None:
    """One sentence on standard error; the JSON of gaps stays a list."""
    raw = loaded_in_part
    assert tape_here("gaps", "--json").err == ""
    before = tape_here("gaps", "--json").out
    add_unfinished_rows(raw)
    sentence = f"{describe_unfinished([HALF])}\n"
    gaps = tape_here("gaps", "--json")
    assert (gaps.code, gaps.out, gaps.err) == (1, before, sentence)
    assert tape_here("gaps").err == tape_here("status").err == tape_here("status", "--json").err == sentence
    checks = {each["check"]: each for each in json.loads(tape_here("health", "--json").out)}
    assert checks["gaps"]["text"].endswith(sentence.strip())


def test_package_that_a_run_registered_is_unfinished_before_it_has_rows(raw: Raw) -> None:
    raw.client.command("create database deribit_runs")
    raw.client.command(
        "create table deribit_runs.begun_loads (load_id String) engine = MergeTree order by tuple()"
    )
    raw.client.command("insert into deribit_runs.begun_loads values ('1'), ('3')")
    assert unfinished_loads(raw.database) == ["3"]


@pytest.fixture(scope="module")
def killed(new_user: Callable[[Tape], User]) -> User:
    """A user whose second run was killed: all its rows are loaded, but its package is not listed."""
    user = new_user(Tape.generate(seed=5, trades=600, days=2))
    user.load(until="2026-01-15T12:00Z")
    user.first_keys = user.keys()
    user.load()
    user.client.command(
        "delete from deribit_raw._dlt_loads where load_id = (select max(load_id) from deribit_raw._dlt_loads)"
    )
    return user


def test_killed_run_is_planned_again(killed: User) -> None:
    """The working directory has the state of the killed run, which says that its time is covered."""
    lost = len(killed.keys()) - len(killed.first_keys)
    assert lost > 50
    assert make_plan(RunOptions()).trades == pytest.approx(lost, rel=0.5)


def test_disk_use_counts_loaded_trades(killed: User) -> None:
    every_row = killed.client.command("select count() from deribit_raw.trades")
    use = loaded_disk_use(clickhouse_settings())
    assert use.rows == len(killed.first_keys) < every_row
    killed.client.command("create table deribit_raw.away as deribit_raw._dlt_loads")
    killed.client.command("exchange tables deribit_raw.away and deribit_raw._dlt_loads")
    try:
        assert loaded_disk_use(clickhouse_settings()) == (0, 0)
    finally:
        killed.client.command("exchange tables deribit_raw.away and deribit_raw._dlt_loads")
        killed.client.command("drop table deribit_raw.away")


def test_repair_fetches_what_only_an_unfinished_package_has(killed: User) -> None:
    """A trade in the unfinished package does not hide a gap."""
    name, seq = killed.first_keys[len(killed.first_keys) // 2]
    copy = "insert into deribit_raw.trades select * replace ('9999999999.5' as _dlt_load_id) from deribit_raw.trades"
    where = f"where instrument_name = '{name}' and trade_seq = {seq}"
    killed.client.command(f"{copy} {where}")
    killed.client.command(f"delete from deribit_raw.trades {where} and _dlt_load_id != '9999999999.5'")
    assert (name, seq, seq) in [
        (gap.range.instrument_name, gap.range.first, gap.range.last) for gap in find_gaps(killed.database)
    ]
    assert repair_gaps().fetched == 1
    assert find_gaps(killed.database) == []
