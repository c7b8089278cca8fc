"""`tape verify` on loaded trades and their candles, against the charts of the sandbox."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from extract.deribit.chart import Bar
from extract.paths import ROOT
from extract.sandbox.candles import candles
from extract.sandbox.faults import Faults
from extract.sandbox.tape import Tape
from extract.times import iso
from extract.verify.explain import fetch_pages
from tests.support.loaded_user import User

NAME = "BTC-PERPETUAL"
STEPS = {"1m": 60_000, "1h": 3_600_000, "1d": 86_400_000}
CANDLES = """
create view deribit.ohlcv_{level} as
select
    instrument_name,
    toDateTime(intDiv(toUnixTimestamp(timestamp), {step_s}) * {step_s}, 'UTC') as bucket_at,
    'future' as kind,
    {columns}
from deribit.trades
group by instrument_name, bucket_at"""
PRICES = """
    argMinIf(price, (timestamp, trade_seq), {condition}) as {prefix}open,
    maxIf(price, {condition}) as {prefix}high,
    minIf(price, {condition}) as {prefix}low,
    argMaxIf(price, (timestamp, trade_seq), {condition}) as {prefix}close,
    sumIf(trades.volume, {condition}) as {prefix}volume,
    sumIf(trades.notional, {condition}) as {prefix}notional,
    countIf({condition}) as {prefix}trade_count"""
TRADES = """
create table deribit.trades engine = MergeTree order by (instrument_name, trade_seq) as
select
    instrument_name, trade_seq, timestamp, price, amount,
    toDecimal128(amount / price, 12) as volume, toDecimal128(amount, 12) as notional,
    block_trade_id is not null as is_block, block_rfq_id, combo_id is not null as is_combo_leg
from deribit_raw.trades"""
CHECKS = """
create table deribit.candle_checks (
    instrument_name String, level String, bucket_at DateTime('UTC'), last_bucket_at DateTime('UTC'), bars UInt32,
    classification String, detail String, agrees_with Nullable(String), window_at DateTime('UTC'),
    checked_at DateTime64(3, 'UTC')
) engine = MergeTree order by (instrument_name, level, window_at, bucket_at)"""


def make_models(user: User) -> None:
    """Trades and candles of inverse futures, made from the raw trades in plain SQL, and the tables of operations."""
    run = user.client.command
    run("create database deribit")
    run(TRADES)
    is_book = "not is_block and block_rfq_id is null and not is_combo_leg"
    conditions = (("", "1"), ("book_", is_book))
    columns = ",".join(PRICES.format(prefix=prefix, condition=condition) for prefix, condition in conditions)
    for level, step_ms in STEPS.items():
        run(CANDLES.format(level=level, step_s=step_ms // 1000, columns=columns))
    run(
        "create table deribit.consumed_loads engine = MergeTree order by tuple() as "
        "select toString(load_id) as load_id from deribit_raw._dlt_loads"
    )
    run(
        "create table deribit.retention_drops (table_id UUID, month UInt32) engine = MergeTree order by month"
    )
    run(CHECKS)


@pytest.fixture(scope="module")
def user(new_user: Callable[[Tape], User]) -> User:
    """A user with the futures of BTC loaded, and their candles."""
    user = new_user(Tape.generate(seed=8, trades=1500, days=2))
    user.load(currencies=("BTC",), kinds=("future",))
    make_models(user)
    return user


def verify(user: User, *words: str) -> tuple[int, dict[str, Any]]:
    done = user.tape("verify", "--json", *words)
    return done.code, json.loads(done.out)


def named(report: dict[str, Any]) -> set[tuple[str, str, str, str]]:
    """(instrument, level, bucket, classification) of what a user has to look at."""
    return {
        (each["instrument_name"], each["level"], each["bucket_at"], each["classification"])
        for each in report["differences"]
        if each["classification"] in ("missing", "unexplained", "restated")
    }


def bars_of(at_ms: int, classification: str) -> set[tuple[str, str, str, str]]:
    """The bars of each level that contain a time."""
    return {
        (NAME, level, iso(at_ms // step_ms * step_ms), classification) for level, step_ms in STEPS.items()
    }


def settled(user: User) -> list[dict[str, Any]]:
    """Trades of the perpetual whose day is over, so that all their bars are compared, by trade_seq."""
    end_ms = (user.exchange.now_ms - 60_000) // STEPS["1d"] * STEPS["1d"]
    return sorted(
        (
            each
            for each in user.exchange.records()
            if each["instrument_name"] == NAME and each["timestamp"] < end_ms
        ),
        key=lambda each: each["trade_seq"],
    )


def test_candles_agree_until_bars_and_trades_differ(user: User) -> None:
    """Nothing is unexplained first. Then one altered bar, a trade that is lost here and a late trade are named, no other.

    A sample continues where the last one ended; charts that failed are compared first, and again after a repair.
    """
    code, first = verify(user, "--sample", "5")
    assert (code, first["charts"]) == (0, 5)
    code, report = verify(user, "--sample", "10000")
    assert code == 0, report["differences"]
    assert (report["missing"], report["unexplained"], report["restated"]) == (0, 0, 0)
    assert report["equal"] > 100
    assert report["no_trades"] > report["equal"]
    assert report["agrees_with"] == "whole"
    assert report["bars_with_block_or_combo_trades"]["book"] == 0
    [[charts, requested]] = user.client.query(
        "select countIf(classification = 'compared'), uniqExact(instrument_name, level, window_at) "
        "from deribit.candle_checks"
    ).result_rows
    assert (charts, requested) == (5 + report["charts"], report["charts"])

    trades = settled(user)
    lost, altered, last = trades[len(trades) // 3], trades[len(trades) // 2], trades[-1]
    late = last | {
        "trade_seq": max(
            each["trade_seq"] for each in user.exchange.records() if each["instrument_name"] == NAME
        )
        + 1,
        "trade_id": "999999999",
        "timestamp": trades[len(trades) // 4]["timestamp"] // 60_000 * 60_000 + 30_000,
    }
    user.exchange.add([late])
    minute = altered["timestamp"] // 60_000 * 60_000
    user.exchange.alter_bar(NAME, "1", minute, close=altered["price"] * 1.01)
    user.lose([(NAME, lost["trade_seq"])])
    code, report = verify(user, "--instrument", NAME)
    assert code == 1
    expected = bars_of(late["timestamp"], "missing")
    expected |= {each for each in bars_of(lost["timestamp"], "missing") if each[1] == "1m"}
    expected |= {each for each in bars_of(minute, "unexplained") if each[1] == "1m"}
    assert named(report) == expected
    details = " ".join(each["detail"] for each in report["differences"])
    assert "1 are not in deribit.trades or deribit_raw.trades any more" in details
    assert f"not loaded: trade_seq {late['trade_seq']}" in details
    checks = {each["check"]: each for each in json.loads(user.tape("health", "--json").out)}
    assert (checks["verify"]["state"], checks["verify"]["value"]) == ("warn", len(named(report)))

    assert user.tape("repair").code == 0
    user.client.command(
        "insert into deribit.consumed_loads select toString(load_id) from deribit_raw._dlt_loads"
    )
    user.exchange.alter_bar(NAME, "1", minute)
    code, report = verify(user, "--sample", "10")
    assert named(report) == bars_of(late["timestamp"], "missing")
    text = user.tape("verify", "--instrument", NAME).out
    assert "with trades missing here, 0 unexplained." in text
    assert "The exchange's candles are of the whole tape" in text


def test_restated_trade_is_neither_missing_nor_unexplained(user: User) -> None:
    """The exchange has changed it since it was loaded."""
    trade = settled(user)[-2]
    user.exchange.restate(NAME, trade["trade_seq"], amount=trade["amount"] + 10)
    _, report = verify(user, "--instrument", NAME)
    assert bars_of(trade["timestamp"], "restated") <= named(report)
    user.exchange.restate(NAME, trade["trade_seq"], amount=trade["amount"])


def test_restated_trade_does_not_excuse_an_altered_bar(user: User) -> None:
    """The bar of a minute is not that of its trades, one of which the exchange has changed."""
    trade = settled(user)[-2]
    minute = trade["timestamp"] // STEPS["1m"] * STEPS["1m"]
    user.exchange.restate(NAME, trade["trade_seq"], amount=trade["amount"] + 10)
    user.exchange.alter_bar(NAME, "1", minute, high=trade["price"] * 1.01)
    _, report = verify(user, "--instrument", NAME)
    assert bars_of(trade["timestamp"], "unexplained") <= named(report)
    assert any("but its bar is not that of its trades" in each["detail"] for each in report["differences"])
    user.exchange.alter_bar(NAME, "1", minute)
    user.exchange.restate(NAME, trade["trade_seq"], amount=trade["amount"])


def test_trade_that_the_exchange_does_not_return_is_unexplained(user: User) -> None:
    """Neither its bars nor its trades have it, which is not a restatement."""
    trade = settled(user)[-2]
    user.exchange.forget(NAME, [trade["trade_seq"]])
    _, report = verify(user, "--instrument", NAME)
    assert bars_of(trade["timestamp"], "unexplained") <= named(report)
    details = " ".join(each["detail"] for each in report["differences"])
    assert f"the exchange does not return trade_seq {trade['trade_seq']}" in details
    user.exchange.add([trade])


@pytest.mark.slow
def test_bar_that_failed_counts_until_it_is_compared_again(user: User) -> None:
    """A comparison of a later part of its chart does not clear it. The query of the docs lists such bars."""
    [query] = re.findall(
        r"^    select instrument_name[^`]*", (ROOT / "docs" / "verify.md").read_text(), re.MULTILINE
    )
    altered = settled(user)[-2]["timestamp"] // STEPS["1h"] * STEPS["1h"]
    failed = ("1h", iso(altered))

    def unexplained(*words: str) -> bool:
        _, report = verify(user, *words)
        bars = {(each["level"], each["bucket_at"]): each for each in report["differences"]}
        return failed in bars and bars[failed]["classification"] == "unexplained"

    def count_failed() -> int:
        checks = {each["check"]: each for each in json.loads(user.tape("health", "--json").out)}
        assert checks["verify"]["value"] == len(user.client.query(query).result_rows)
        return int(checks["verify"]["value"])

    verify(user, "--instrument", NAME)
    before = count_failed()
    user.exchange.alter_bar(NAME, "60", altered, close=1.0)
    assert unexplained("--instrument", NAME)
    user.exchange.alter_bar(NAME, "60", altered)
    assert count_failed() == before + 1
    verify(user, "--instrument", NAME, "--since", iso(altered + STEPS["1h"]))
    assert count_failed() == before + 1
    verify(user, "--instrument", NAME, "--since", iso(altered))
    assert count_failed() == before


def test_block_trade_that_is_left_out_does_not_excuse_a_wrong_hour(user: User) -> None:
    """The bar of an hour is not that of its minutes, one of which leaves out its block trade."""
    trades = settled(user)
    minutes = Counter(each["timestamp"] // STEPS["1m"] for each in trades)
    block = next(each for each in trades if minutes[each["timestamp"] // STEPS["1m"]] == 1)
    set_block = (
        "alter table deribit.trades update is_block = {block:UInt8} "
        "where instrument_name = {name:String} and trade_seq = {seq:Int64} settings mutations_sync = 1"
    )
    parameters = {"name": NAME, "seq": block["trade_seq"]}
    user.client.command(set_block, parameters=parameters | {"block": 1})
    minute, hour = (block["timestamp"] // STEPS[level] * STEPS[level] for level in ("1m", "1h"))
    user.exchange.alter_bar(NAME, "1", minute, volume=0.0, cost=0.0)
    user.exchange.alter_bar(NAME, "60", hour, close=block["price"] * 1.01)
    _, report = verify(user, "--instrument", NAME)
    classified = {(each["level"], each["bucket_at"]): each for each in report["differences"]}
    assert classified["1m", iso(minute)]["classification"] == "block_or_combo"
    assert classified["1h", iso(hour)]["classification"] == "unexplained"
    assert "the exchange's bar is not that of its minutes" in classified["1h", iso(hour)]["detail"]
    user.exchange.alter_bar(NAME, "1", minute)
    user.exchange.alter_bar(NAME, "60", hour)
    user.client.command(set_block, parameters=parameters | {"block": 0})


def test_chart_that_cannot_be_read_is_set_aside(user: User) -> None:
    """Exit code 4, because nothing is proven about it; it is not recorded as compared."""
    sql = (
        "select countIf(classification = 'compared'), countIf(classification = 'set_aside') from deribit.candle_checks "
        "where instrument_name = 'BTC-25DEC26'"
    )
    [[compared, set_aside]] = user.client.query(sql).result_rows
    user.exchange.faults = Faults.parse("rate=1,kinds=503,on=get_tradingview_chart_data")
    with pytest.MonkeyPatch.context() as env:
        env.setattr("extract.verify.verify.RETRY_TOTAL_S", 0.2)
        done = user.tape("verify", "--instrument", "BTC-25DEC26")
    user.exchange.faults = Faults.parse("")
    assert done.code == 4, done.output
    assert "of BTC-25DEC26 was set aside" in done.err
    assert "0 bars of 0 charts compared" in done.out
    [recorded] = user.client.query(sql).result_rows
    assert recorded[0] == compared
    assert recorded[1] > set_aside


@pytest.mark.slow
def test_charts_that_are_set_aside_do_not_keep_others_from_being_compared(user: User) -> None:
    """With as many refused charts as a sample has, the next one has others, also if their bars had failed."""
    trade = settled(user)[-1]
    charts = "select instrument_name, level, window_at from deribit.candle_checks where classification = "
    for has_failed in (False, True):
        user.client.command("truncate table deribit.candle_checks")
        if has_failed:
            user.exchange.forget(NAME, [trade["trade_seq"]])
            verify(user, "--instrument", NAME)
        user.exchange.faults = Faults.parse("rate=1,kinds=503,on=get_tradingview_chart_data")
        with pytest.MonkeyPatch.context() as env:
            env.setattr("extract.verify.verify.RETRY_TOTAL_S", 0.2)
            assert user.tape("verify", "--sample", "3").code == 4
        user.exchange.faults = Faults.parse("")
        refused = set(user.client.query(f"{charts}'set_aside'").result_rows)
        before = user.client.query(f"{charts}'compared'").result_rows
        assert verify(user, "--sample", "3")[1]["charts"] == 3
        after = user.client.query(f"{charts}'compared'").result_rows
        assert len(refused) == 3
        assert not refused & set(Counter(after) - Counter(before))
    user.exchange.add([trade])


def test_smaller_pages_of_bars_are_read_to_the_end(user: User, monkeypatch: pytest.MonkeyPatch) -> None:
    """The exchange returns at most ten bars at once, the last ones of the requested time."""
    _, whole = verify(user, "--instrument", NAME)

    def last_candles(*args: Any, **options: Any) -> dict[str, Any]:
        chart = candles(*args, **options)
        return {name: each[-10:] if isinstance(each, list) else each for name, each in chart.items()}

    monkeypatch.setattr("extract.sandbox.endpoints.candles", last_candles)
    _, report = verify(user, "--instrument", NAME)
    assert named(report) == named(whole)
    assert report["equal"] == whole["equal"] > 100


def test_bars_that_the_exchange_lacks_are_requested_until_an_answer_has_none() -> None:
    bars = {at_ms: Bar(at_ms, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0) for at_ms in range(0, 100, 10)}
    requests = []

    def fetch(start_ms: int, end_ms: int) -> dict[int, Bar]:
        requests.append((start_ms, end_ms))
        return {at_ms: bars[at_ms] for at_ms in sorted(bars) if start_ms <= at_ms < end_ms and at_ms != 50}

    assert fetch_pages(fetch, 0, 100, 10, {0, 50, 60}).keys() == bars.keys() - {50}
    assert requests == [(0, 100), (50, 60)]


def test_candles_of_another_exchange_are_not_compared(user: User, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOURCES__DERIBIT__HISTORY_URL", "https://history.deribit.com/api/v2")
    user.exchange.requests.clear()
    done = user.tape("verify")
    assert (done.code, "must not be mixed" in done.err) == (3, True)
    assert "get_tradingview_chart_data" not in user.requested_methods()


def test_months_that_retention_dropped_are_not_compared(user: User) -> None:
    """Neither their candles, nor the reason of a difference, which would be in their trades."""
    day = iso(settled(user)[-1]["timestamp"])
    user.client.command(
        "create table deribit.ohlcv_1m_versions (bucket_at DateTime) engine = MergeTree order by bucket_at"
    )
    user.client.command(
        "insert into deribit.retention_drops select uuid, {month:UInt32} from system.tables "
        "where database = 'deribit' and name = 'ohlcv_1m_versions'",
        parameters={"month": int(day[:4] + day[5:7])},
    )
    _, report = verify(user, "--instrument", NAME)
    assert {each["level"] for each in report["differences"]} <= {"1h", "1d"}
    user.client.command("drop table deribit.ohlcv_1m_versions")
    _, report = verify(user, "--instrument", NAME)
    assert "1m" in {each["level"] for each in report["differences"]}


def test_verify_cannot_tell_without_models_or_with_stale_ones(user: User) -> None:
    """Exit code 2 and the command to run."""
    user.client.command(
        "insert into deribit_raw._dlt_loads (load_id, status, inserted_at) values ('9', 0, now64(6))"
    )
    done = user.tape("verify")
    assert (done.code, "run: dbt build" in done.err) == (2, True)
    user.client.command("drop table deribit.candle_checks")
    done = user.tape("verify")
    assert (done.code, "There are no candles" in done.err) == (2, True)
