"""Absent trades are provisional: they are requested again after an hour, a day and a week."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import httpx
import pytest

from extract.clickhouse.settings import clickhouse_settings
from extract.coverage.gaps import find_gaps
from extract.coverage.repair import repair_gaps
from extract.deribit.config import DeribitConfig
from extract.pipeline.recheck import recheck_absent
from extract.pipeline.run import run
from extract.pipeline.session import open_session, run_lock
from extract.sandbox.tape import Tape
from extract.source.absent import absent_parameters, query_absent
from extract.source.options import RunOptions
from tests.support.contradictory_exchange import client_of
from tests.support.loaded_user import Key, User
from tests.support.raw_tables import EPOCH, NAME, Raw

HOUR, DAY, WEEK = timedelta(hours=1), timedelta(days=1), timedelta(weeks=1)
LITTLE = timedelta(minutes=1)


@pytest.fixture
def holed(raw: Raw) -> Raw:
    """Trades 1 to 9 are missing before trade 10."""
    for table in ("absent_trades", "recovered_trades"):
        raw.make(table)
    raw.covered(EPOCH, 10)
    raw.trades({10: 1})
    return raw


def request(raw: Raw, first: int, last: int, *ages: timedelta, table: str = "absent_trades") -> None:
    """Record that a range was requested so long ago, each time without success."""
    for age in ages:
        raw.insert(
            table,
            instrument_name=NAME,
            first_seq=first,
            last_seq=last,
            found_at=datetime.now(UTC) - age,
        )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("ages", "provisional", "due"),
    [
        ([LITTLE], True, False),
        ([HOUR + LITTLE], True, True),
        ([HOUR + LITTLE, timedelta(minutes=30)], True, True),
        ([2 * HOUR, LITTLE], False, False),
        ([DAY + LITTLE, DAY - LITTLE - HOUR], False, True),
        ([DAY + HOUR, LITTLE], False, False),
        ([WEEK + LITTLE, WEEK - 2 * HOUR, WEEK - DAY - HOUR], False, True),
        ([WEEK + DAY, HOUR], False, False),
        ([100 * WEEK], True, True),
        ([100 * WEEK, LITTLE], False, False),
    ],
    ids=str,
)
def test_absence_is_certain_after_an_hour_and_checked_after_a_day_and_a_week(
    holed: Raw, ages: list[timedelta], provisional: bool, due: bool
) -> None:
    request(holed, 1, 9, *ages)
    [gap] = holed.all_gaps()
    assert (gap.range.first, gap.range.last, gap.known_absent) == (1, 9, True)
    assert (gap.provisional, gap.due) == (provisional, due)


def test_each_part_of_a_range_has_times_of_its_requests(holed: Raw) -> None:
    """A part that was requested again is certain, whatever ranges the requests had."""
    request(holed, 1, 7, 2 * HOUR)
    request(holed, 3, 4, LITTLE)
    request(holed, 6, 9, LITTLE)
    assert [
        (gap.range.first, gap.range.last, gap.known_absent, gap.provisional) for gap in holed.all_gaps()
    ] == [
        (1, 2, True, True),
        (3, 4, True, False),
        (5, 5, True, True),
        (6, 7, True, False),
        (8, 9, True, True),
    ]


def test_recovered_trades_are_absent_no_longer(holed: Raw) -> None:
    """One that is lost again is missing, and not known to be absent, until the exchange lacks it once more."""
    request(holed, 1, 9, 2 * DAY, DAY + HOUR)
    request(holed, 4, 6, DAY, table="recovered_trades")
    request(holed, 6, 6, LITTLE)
    assert [(gap.range.first, gap.range.last, gap.known_absent) for gap in holed.all_gaps()] == [
        (1, 3, True),
        (4, 5, False),
        (6, 6, True),
        (7, 9, True),
    ]


def test_order_of_due_ranges_changes_with_time(holed: Raw) -> None:
    """Instruments whose requests always fail would otherwise be requested again by every run, and no others."""
    ago = datetime.now(UTC) - 3 * HOUR
    for name in "ABCDEF":
        holed.insert("absent_trades", instrument_name=name, first_seq=1, last_seq=1, found_at=ago)
    request(holed, 6, 6, LITTLE)

    def due(minute: int, most: int = 2) -> list[str]:
        parameters = absent_parameters((), (), round(time.time() * 1000) + minute * 60_000)
        ranges = query_absent(holed.database, "due_ranges", parameters | {"most": most})
        return [each.instrument_name for _, each in ranges]

    assert sorted(due(0, most=10)) == [*"ABCDEF"]
    assert due(0, most=2) == due(0, most=10)[:2]
    assert {name for minute in range(30) for name in due(minute)} == {*"ABCDEF"}


@pytest.fixture
def hidden(new_user: Callable[[Tape], User]) -> tuple[User, list[Key], list[dict]]:
    """A user who has loaded everything except trades that the exchange hid, which are recorded as absent."""
    user = new_user(Tape.generate(seed=3, trades=400, days=1))
    last: dict[str, int] = {}
    for trade in user.exchange.records():
        last[trade["instrument_name"]] = max(trade["trade_seq"], last.get(trade["instrument_name"], 0))
    name = max(last, key=lambda each: last[each])
    keys = [(name, 2), (name, 5), (name, 6)]
    records = [r for r in user.exchange.records() if (r["instrument_name"], r["trade_seq"]) in keys]
    user.exchange.forget(name, [seq for _, seq in keys])
    user.load()
    return user, keys, records


def age(user: User, by: str) -> None:
    """Let time pass: the requests for absent trades were made that much earlier."""
    for table in ("absent_trades", "recovered_trades"):
        if user.client.command(f"exists table deribit_raw.{table}"):
            user.client.command(
                f"alter table deribit_raw.{table} update found_at = found_at - interval {by} where 1 "
                "settings mutations_sync = 1"
            )


@pytest.mark.slow
def test_trades_that_the_exchange_fills_in_are_loaded(hidden: tuple[User, list[Key], list[dict]]) -> None:
    """By a repair after an hour, by a run after a day; each is requested when it is due and not before."""
    user, keys, records = hidden
    assert sum(map(len, find_gaps(user.database))) == len(keys)
    done = user.tape("gaps")
    assert (done.code, "Nothing is missing" in done.out) == (2, False)
    assert "an hour after the first request" in done.out
    user.exchange.requests.clear()
    assert repair_gaps().wanted == 0
    assert user.requested_seqs() == set()

    age(user, "61 minute")
    assert "`tape repair`" in user.tape("gaps").out
    user.exchange.add([record for record in records if record["trade_seq"] == 2])
    report = repair_gaps()
    assert (report.rechecked, report.fetched, report.absent, report.remaining) == (3, 1, 2, [])
    assert user.tape("gaps").code == 0
    user.exchange.requests.clear()
    assert run(RunOptions()).recovered == 0
    assert user.requested_seqs() == set()

    age(user, "1 day")
    user.exchange.add([record for record in records if record["trade_seq"] != 2])
    assert run(RunOptions()).recovered == 2
    assert find_gaps(user.database) == []
    every = sorted((trade["instrument_name"], trade["trade_seq"]) for trade in user.exchange.records())
    assert user.keys() == every

    age(user, "8 day")
    user.exchange.requests.clear()
    run(RunOptions())
    assert user.requested_seqs() == set()


def test_absent_trades_that_were_loaded_meanwhile_are_not_requested(
    hidden: tuple[User, list[Key], list[dict]],
) -> None:
    """They are recorded as recovered, so that the next run does not look for them."""
    user, _, _ = hidden
    keys = user.keys()
    name, seq = keys[-1]
    user.client.command(
        "insert into deribit_raw.absent_trades select * replace ("
        f"'{name}' as instrument_name, {seq} as first_seq, {seq} as last_seq) from deribit_raw.absent_trades limit 1"
    )
    age(user, "61 minute")
    user.exchange.requests.clear()
    repair_gaps()
    assert (name, seq) not in user.requested_seqs()
    assert user.keys() == keys
    assert query_absent(user.database, "due_ranges", absent_parameters((), ()) | {"most": 9}) == []


def test_absent_trades_are_requested_after_new_trades(hidden: tuple[User, list[Key], list[dict]]) -> None:
    """Requests for them that fail must not delay what is new."""
    user, _, _ = hidden
    age(user, "61 minute")
    user.exchange.requests.clear()
    run(RunOptions())
    is_by_number = ["start_seq" in each.params for each in user.exchange.requests if "trades" in each.path]
    assert set(is_by_number) == {False, True}
    assert is_by_number == sorted(is_by_number)


def test_unanswered_requests_for_absent_trades_end_after_three_instruments(
    hidden: tuple[User, list[Key], list[dict]],
) -> None:
    """All that were not fetched are reported, and stay due."""
    user, _, _ = hidden
    names = [f"BTC-{number}" for number in range(6)]
    for name in names:
        user.client.command(
            f"insert into deribit_raw.absent_trades select * replace ('{name}' as instrument_name, 1 as first_seq, "
            "1 as last_seq) from deribit_raw.absent_trades limit 1"
        )
    age(user, "61 minute")
    requested = set()

    def answer(method: str, params: dict[str, str]) -> dict | httpx.Response:
        if method == "get_time":
            return {"result": 0}
        requested.add(params["instrument_name"])
        return httpx.Response(503)

    config = DeribitConfig(requests_in_flight=1)
    with (
        client_of(answer, api_url=user.exchange.url, history_url=user.exchange.url) as client,
        run_lock(),
        open_session(clickhouse_settings()) as session,
    ):
        report = recheck_absent(session, client, config)
    assert len(requested) == 3
    assert {*names} < report.set_aside.keys() == {each.range.instrument_name for each in report.unrepaired}
