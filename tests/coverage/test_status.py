"""`tape status`: figures that match the tape, in the documented shape."""

from __future__ import annotations

import json
from collections import Counter
from datetime import UTC, datetime

import pytest

from extract.coverage.repair import repair_gaps
from extract.coverage.status import StreamStatus, fetch_status
from extract.deribit.streams import EPOCH_MS, Stream
from extract.errors import CannotTellError
from tests.support.loaded_user import User
from tests.support.raw_tables import EPOCH, NAME, Raw, at

KEYS = [
    *("currency", "kind", "trades", "instruments", "covered_from", "covered_to", "missing"),
    *("proven_share", "lag_seconds", "last_load_at"),
]


def test_status_matches_the_tape(user: User) -> None:
    """Trades and instruments by stream, covered time from the first trade to the newest settled minute."""
    began = datetime.now(UTC)
    done = user.tape("status", "--json")
    assert done.code == 0
    streams = json.loads(done.out)
    assert all(list(each) == KEYS for each in streams)
    trades, names = Counter(), {}
    kind_of = dict(user.client.query("select instrument_name, kind from deribit_raw.instruments").result_rows)
    sql = "select distinct instrument_name, currency from deribit_raw.trades"
    currency_of = dict(user.client.query(sql).result_rows)
    for trade in user.exchange.records():
        name = trade["instrument_name"]
        stream = (currency_of[name], kind_of[name])
        trades[stream] += 1
        names.setdefault(stream, set()).add(name)
    by_stream = {(each["currency"], each["kind"]): each for each in streams}
    assert {stream: each["trades"] for stream, each in by_stream.items() if each["trades"]} == trades
    assert all(each["instruments"] == len(names.get(stream, ())) for stream, each in by_stream.items())
    assert all((each["missing"], each["proven_share"]) == (0, 1.0) for each in streams)
    for each in streams:
        start, end, loaded_at = (
            datetime.fromisoformat(each[key]) for key in ("covered_from", "covered_to", "last_load_at")
        )
        assert start.timestamp() * 1000 == EPOCH_MS
        assert end.timestamp() * 1000 == user.exchange.now_ms - 60_000
        assert loaded_at < began
        assert each["lag_seconds"] == pytest.approx((began - end).total_seconds(), abs=60)


def test_missing_trades_lower_the_proven_share(user: User) -> None:
    """A repair raises it again."""
    lost = user.inner_keys()[:30]
    user.lose(lost)
    statuses = fetch_status(user.database)
    assert sum(each.missing for each in statuses) == len(lost)
    for each in statuses:
        assert each.proven_share == pytest.approx(1 - each.missing / max(1, each.trades + each.missing))
    assert "30" in user.tape("status").out
    repair_gaps()
    assert {each.proven_share for each in fetch_status(user.database)} == {1.0}


def test_absent_trades_are_proven_and_earlier_trades_are_not_expected(raw: Raw) -> None:
    raw.make("absent_trades")
    raw.make("instruments")
    raw.insert("instruments", instrument_name="new", kind="future", creation_timestamp=at(1))
    raw.covered(0, 5)
    raw.covered(7, 10)
    raw.trades({101: 1, 104: 2})
    raw.trades({5: 3}, name="new")
    raw.insert("absent_trades", instrument_name="new", first_seq=1, last_seq=3)
    [stream] = fetch_status(raw.database)
    assert (stream.trades, stream.instruments, stream.missing, stream.absent) == (3, 2, 3, 3)
    assert stream.proven_share == pytest.approx(6 / 9)
    assert stream.spans == [(at(0), at(5)), (at(7), at(10))]
    assert stream.last_load_at == at(12)


def test_missing_tails_are_counted(raw: Raw) -> None:
    """They count even if no seq before the last loaded one is missing; a known absent tail is not missing."""
    for table in ("instrument_tails", "absent_trades"):
        raw.make(table)
    raw.covered(EPOCH, 10)
    raw.trades({1: 1, 2: 2})
    raw.insert("instrument_tails", instrument_name=NAME, last_seq=6)
    raw.insert("absent_trades", instrument_name=NAME, first_seq=6, last_seq=6)
    [stream] = fetch_status(raw.database)
    assert (stream.trades, stream.missing, stream.absent) == (2, 3, 1)
    assert stream.proven_share == pytest.approx(1 / 2)


def test_rejected_last_trade_is_missing(raw: Raw) -> None:
    """As `tape gaps` lists it, although no seq before the last loaded one is missing."""
    raw.make("rejected_trades")
    raw.covered(EPOCH, 10)
    raw.trades({1: 1, 2: 2})
    record = json.dumps({"instrument_name": NAME, "trade_seq": 3})
    raw.insert("rejected_trades", reason="price is missing", raw=record)
    [stream] = fetch_status(raw.database)
    assert (stream.trades, stream.missing) == (2, len(raw.gaps())) == (2, 1)


def test_lag_counts_from_the_end_of_the_newest_span() -> None:
    """In seconds; a clock that is behind the exchange makes it 0, not negative."""
    spans = [(at(0), at(5)), (at(7), at(10))]
    assert StreamStatus(Stream("BTC", "future"), spans, now=at(12)).lag_seconds == 120
    assert StreamStatus(Stream("BTC", "future"), spans, now=at(9)).lag_seconds == 0


def test_stream_without_trades_is_fully_proven(raw: Raw) -> None:
    raw.covered(EPOCH, 10)
    [stream] = fetch_status(raw.database)
    assert (stream.trades, stream.missing, stream.proven_share, stream.last_load_at) == (0, 0, 1.0, at(12))


def test_status_before_the_first_run_cannot_be_determined(raw: Raw) -> None:
    with pytest.raises(CannotTellError, match="dlt pipeline run"):
        fetch_status(raw.database)
