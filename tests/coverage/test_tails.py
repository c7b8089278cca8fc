"""The last trade of expired instruments: asked for once, remembered, and what is missing before it found."""

from __future__ import annotations

import json
from datetime import datetime, timedelta

from extract.coverage.gaps import find_gaps
from extract.coverage.repair import repair_gaps
from extract.coverage.tails import fetch_last_trades, instruments_without_last_trade
from tests.support.loaded_user import User
from tests.support.raw_tables import EPOCH, Raw, at


def expired_names(user: User) -> set[str]:
    listed = user.client.query(
        "select instrument_name from deribit_raw.instruments where expiration_timestamp <= {now:DateTime64(3)}",
        parameters={"now": user.exchange.now_ms / 1000},
    )
    return {name for (name,) in listed.result_rows}


def test_lost_tails_are_found_asked_for_once_and_repaired(user: User) -> None:
    """One instrument that lacks its last trades, one that lacks all of them; through the command."""
    keys = user.keys()
    last = dict(keys)
    expired = expired_names(user)
    short, gone = sorted((name for name in expired if last.get(name, 0) > 3), key=lambda name: -last[name])[
        :2
    ]
    lost = [key for key in keys if key[0] == gone or (key[0] == short and key[1] > last[short] - 2)]
    user.lose(lost)
    assert find_gaps(user.database) == []

    told = user.tape("gaps", "--tails", "--json")
    assert told.code == 1
    found = {gap["instrument_name"]: gap for gap in json.loads(told.out)}
    assert set(found) == {short, gone}
    assert (found[gone]["first_missing_seq"], found[gone]["where"]) == (1, "tail")
    assert (found[short]["last_missing_seq"], found[short]["missing"]) == (last[short], 2)
    asked = [r.params["instrument_name"] for r in user.exchange.requests if "instrument_name" in r.params]
    assert sorted(asked) == sorted(expired)
    assert f"Requested the last trade of {len(expired)} expired instruments." in told.err

    user.exchange.requests.clear()
    assert fetch_last_trades().requested == 0
    assert user.requested_methods() == set()
    assert repair_gaps().fetched == len(lost)
    assert user.requested_seqs(ends_only=True) <= set(lost)
    assert user.keys() == keys
    assert find_gaps(user.database) == []


def query_rows(raw: Raw) -> list[str]:
    return [name for name, _ in instruments_without_last_trade(raw.database)]


def option(raw: Raw, name: str, created: datetime | None, expired: datetime | None) -> None:
    raw.insert(
        "instruments",
        instrument_name=name,
        kind="future",
        creation_timestamp=created,
        expiration_timestamp=expired,
    )


def test_only_instruments_whose_tail_lies_in_covered_time_are_asked_for(raw: Raw) -> None:
    """They expired in a span, and began in it or were seen in it; whoever was asked for is left alone."""
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
    option(raw, "asked for", at(1), at(9))
    raw.trades({1: 2}, name="older, seen")
    raw.trades({1: -2}, name="older, seen before only")
    raw.insert("instrument_tails", instrument_name="asked for", last_seq=0)
    assert query_rows(raw) == ["older, seen", "within"]


def test_from_the_exchange_s_beginning_on_every_expired_instrument_is_asked_for(raw: Raw) -> None:
    raw.make("instruments")
    raw.covered(EPOCH, 10)
    option(raw, "of unknown age", None, at(9))
    option(raw, "long gone", EPOCH + timedelta(days=9), EPOCH + timedelta(days=10))
    assert query_rows(raw) == ["long gone", "of unknown age"]


def test_before_any_instrument_is_known_nobody_is_asked_for(raw: Raw) -> None:
    raw.covered(EPOCH, 10)
    assert query_rows(raw) == []
