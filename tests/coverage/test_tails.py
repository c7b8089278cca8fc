"""The last trade of expired instruments is fetched, so that missing tails are detected."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from extract.coverage.gaps import find_gaps
from extract.coverage.repair import repair_gaps
from extract.coverage.tails import fetch_last_trades, instruments_without_last_trade
from extract.deribit.client import DeribitClient, Host
from extract.deribit.jsonrpc import ExchangeRefusedError
from extract.errors import OutsideError
from tests.support.hostile_exchange import HostileExchange
from tests.support.loaded_user import User
from tests.support.raw_tables import EPOCH, START, Raw, at

DAY = 1_440
NOW = (datetime.now(UTC) - START) // timedelta(minutes=1)
"""In minutes."""


def expired_names(user: User) -> set[str]:
    listed = user.client.query(
        "select instrument_name from deribit_raw.instruments where expiration_timestamp <= {now:DateTime64(3)}",
        parameters={"now": user.exchange.now_ms / 1000},
    )
    return {name for (name,) in listed.result_rows}


def test_only_an_unknown_instrument_has_no_last_trade(user: User, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another refusal, such as of a changed parameter, ends the command instead of hiding every tail."""
    result = DeribitClient.result

    def refuse(client: DeribitClient, host: Host, method: str, *arguments: Any) -> Any:
        if method == "get_last_trades_by_instrument":
            raise ExchangeRefusedError("Invalid params (count)", code=-32602, status=400, param="count")
        return result(client, host, method, *arguments)

    monkeypatch.setattr(DeribitClient, "result", refuse)
    with pytest.raises(OutsideError, match="Invalid params"):
        fetch_last_trades()
    assert len(instruments_without_last_trade(user.database)) == len(expired_names(user)) > 0


@pytest.mark.slow
def test_lost_tails_are_detected_and_repaired(user: User) -> None:
    """One instrument lacks its last trades, another all of them; each expired one is requested once or twice."""
    keys = user.keys()
    last = dict(keys)
    expired = expired_names(user)
    short, gone = sorted((name for name in expired if last.get(name, 0) > 3), key=lambda name: -last[name])[
        :2
    ]
    lost = [key for key in keys if key[0] == gone or (key[0] == short and key[1] > last[short] - 2)]
    user.lose(lost)
    assert find_gaps(user.database) == []

    done = user.tape("gaps", "--tails", "--json")
    assert done.code == 1
    gaps = {gap["instrument_name"]: gap for gap in json.loads(done.out)}
    assert set(gaps) == {short, gone}
    assert (gaps[gone]["first_missing_seq"], gaps[gone]["where"]) == (1, "tail")
    assert (gaps[short]["last_missing_seq"], gaps[short]["missing"]) == (last[short], 2)
    requested = [r.params["instrument_name"] for r in user.exchange.requests if "instrument_name" in r.params]
    assert sorted(requested) == sorted(expired)
    assert f"Requested the last trade of {len(expired)} expired instruments." in done.err

    user.client.command(
        "alter table deribit_raw.instrument_tails update found_at = found_at - interval 1 day where true",
        settings={"mutations_sync": 1},
    )
    assert fetch_last_trades().requested == len(expired), "each once more, a day later"
    user.exchange.requests.clear()
    assert fetch_last_trades().requested == 0
    assert user.requested_methods() == set()
    assert repair_gaps().fetched == len(lost)
    assert user.requested_seqs(ends_only=True) <= set(lost)
    assert user.keys() == keys
    assert find_gaps(user.database) == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("trades", "reason"),
    [
        ([{"trade_seq": 10**15}], "trade_seq 1000000000000000 as the last one"),
        ([{"trade_seq": -3}], "trade_seq -3 as the last one"),
        ([{"trade_seq": "7"}], "no trade has it"),
        ([{}], "no trade has it"),
        ([{"trade_seq": 1}], "is loaded"),
        ([], "is loaded"),
        ([{"trade_seq": 99, "instrument_name": "BTC-PERPETUAL"}], "sent one of BTC-PERPETUAL"),
    ],
    ids=["above all", "negative", "text", "none", "before a loaded one", "no trade at all", "another's"],
)
def test_impossible_last_trade_is_set_aside(
    user: User, monkeypatch: pytest.MonkeyPatch, trades: list[dict[str, Any]], reason: str
) -> None:
    """One instrument's answer contradicts itself or what is loaded: nothing of it is stored, all others are."""
    user.client.command("truncate table if exists deribit_raw.instrument_tails")
    last = dict(user.keys())
    name = max(expired_names(user) & last.keys(), key=lambda each: last[each])
    body = json.dumps({"result": {"trades": [{"instrument_name": name} | each for each in trades]}}).encode()

    def answer(method: str, params: dict[str, str]) -> tuple[dict[str, str], list[bytes]] | None:
        is_broken = method == "get_last_trades_by_instrument" and params["instrument_name"] == name
        return ({"Content-Length": str(len(body))}, [body]) if is_broken else None

    hostile = HostileExchange(user.exchange, answer)
    with monkeypatch.context() as env:
        env.setenv("SOURCES__DERIBIT__API_URL", hostile.url)
        env.setenv("SOURCES__DERIBIT__HISTORY_URL", hostile.history_url)
        done = user.tape("gaps", "--tails", "--json")
    hostile.close()
    assert (done.code, json.loads(done.out)) == (4, [])
    assert done.err.splitlines()[-1].startswith(f"{name} was set aside: The ")
    assert reason in done.err
    without = {each.name for each in instruments_without_last_trade(user.database)}
    assert without == {name}


def requested_names(raw: Raw) -> list[str]:
    return [each.name for each in instruments_without_last_trade(raw.database)]


def option(raw: Raw, name: str, created: datetime | None, expired: datetime | None) -> None:
    raw.insert(
        "instruments",
        instrument_name=name,
        kind="future",
        creation_timestamp=created,
        expiration_timestamp=expired,
    )


def test_only_tails_in_covered_time_are_requested(raw: Raw) -> None:
    """Each instrument that expired in a span, and was created or traded in it, is requested once."""
    raw.make("instruments")
    raw.make("instrument_tails")
    raw.covered(0, 10)
    option(raw, "within", at(1), at(9))
    option(raw, "of unknown age", None, at(9))
    option(raw, "older, never seen", at(-5), at(9))
    option(raw, "older, seen", at(-5), at(9))
    option(raw, "older, seen before only", at(-5), at(9))
    option(raw, "still alive", at(1), at(11))
    option(raw, "gone before", at(-5), at(-1))
    option(raw, "everlasting", at(1), None)
    option(raw, "settled", at(1), at(9))
    raw.trades({1: 2}, name="older, seen")
    raw.trades({1: -2}, name="older, seen before only")
    for minute in (10, 10 + DAY):
        raw.insert("instrument_tails", instrument_name="settled", last_seq=1, found_at=at(minute))
    assert requested_names(raw) == ["older, seen", "within"]


@pytest.mark.parametrize(
    ("answers", "is_requested"),
    [
        ([], True),
        ([(0, 0)], True),
        ([(0, 0), (0, DAY - 1)], True),
        ([(0, 0), (0, DAY)], False),
        ([(0, 0), (0, 5), (0, 9_000)], False),
        ([(3, 0)], True),
        ([(3, 0), (3, DAY)], False),
        ([(0, 0), (3, DAY)], True),
        ([(3, 0), (5, DAY)], True),
        ([(3, 0), (5, DAY), (5, 2 * DAY)], False),
        ([(5, 0), (3, DAY)], True),
        ([(3, NOW)], False),
        ([(3, NOW - DAY)], True),
    ],
)
def test_answer_is_settled_once_given_twice_a_day_apart(
    raw: Raw, answers: list[tuple[int, float]], is_requested: bool
) -> None:
    """`answers`: last_seq, and the minute. A host that lacked trades once does not hide them; none is requested all day."""
    raw.make("instruments")
    raw.make("instrument_tails")
    raw.covered(0, 10)
    option(raw, "quiet", at(1), at(9))
    for last_seq, minute in answers:
        raw.insert("instrument_tails", instrument_name="quiet", last_seq=last_seq, found_at=at(minute))
    assert requested_names(raw) == (["quiet"] if is_requested else [])


def test_all_expired_instruments_are_requested_if_covered_since_the_first_trade(raw: Raw) -> None:
    raw.make("instruments")
    raw.covered(EPOCH, 10)
    option(raw, "of unknown age", None, at(9))
    option(raw, "long gone", EPOCH + timedelta(days=9), EPOCH + timedelta(days=10))
    assert requested_names(raw) == ["long gone", "of unknown age"]


def test_nothing_is_requested_before_instruments_are_listed(raw: Raw) -> None:
    raw.covered(EPOCH, 10)
    assert requested_names(raw) == []
