"""`tape status`: figures that are true of the tape, in the shape that is promised."""

from __future__ import annotations

import json
from collections import Counter
from datetime import UTC, datetime

import pytest

from extract.coverage.repair import repair_gaps
from extract.coverage.status import fetch_status
from extract.deribit.streams import EPOCH_MS
from extract.errors import CannotTellError
from tests.support.loaded_user import User
from tests.support.raw_tables import EPOCH, Raw, at

KEYS = [
    *("currency", "kind", "trades", "instruments", "covered_from", "covered_to", "missing"),
    *("proven_share", "lag_seconds", "last_load_at"),
]


def test_status_is_true_of_the_tape(user: User) -> None:
    """Trades and instruments by stream, covered time from the beginning to the newest settled minute."""
    began = datetime.now(UTC)
    told = user.tape("status", "--json")
    assert told.code == 0
    streams = json.loads(told.out)
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
    found = {(each["currency"], each["kind"]): each for each in streams}
    assert {stream: each["trades"] for stream, each in found.items() if each["trades"]} == trades
    assert all(each["instruments"] == len(names.get(stream, ())) for stream, each in found.items())
    assert all((each["missing"], each["proven_share"]) == (0, 1.0) for each in streams)
    for each in streams:
        start, end, loaded_at = (
            datetime.fromisoformat(each[key]) for key in ("covered_from", "covered_to", "last_load_at")
        )
        assert start.timestamp() * 1000 == EPOCH_MS
        assert end.timestamp() * 1000 == user.exchange.now_ms - 60_000
        assert loaded_at < began
        assert each["lag_seconds"] == pytest.approx((began - end).total_seconds(), abs=60)


def test_what_is_missing_lowers_the_share(user: User) -> None:
    """And a repair raises it again."""
    lost = user.inner_keys()[:30]
    user.lose(lost)
    found = fetch_status(user.database)
    assert sum(each.missing for each in found) == len(lost)
    for each in found:
        assert each.proven_share == pytest.approx(1 - each.missing / max(1, each.trades + each.missing))
    assert "30" in user.tape("status").out
    repair_gaps()
    assert {each.proven_share for each in fetch_status(user.database)} == {1.0}


def test_what_the_exchange_has_not_is_proven_and_what_is_before_was_not_asked_for(raw: Raw) -> None:
    raw.make("absent_trades")
    raw.make("instruments")
    raw.make("_dlt_loads")
    raw.insert("_dlt_loads", load_id="1", status=0, inserted_at=at(12))
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


def test_a_stream_without_trades_is_whole(raw: Raw) -> None:
    raw.make("_dlt_loads")
    raw.covered(EPOCH, 10)
    [stream] = fetch_status(raw.database)
    assert (stream.trades, stream.missing, stream.proven_share, stream.last_load_at) == (0, 0, 1.0, None)


def test_before_the_first_run_nobody_can_tell(raw: Raw) -> None:
    with pytest.raises(CannotTellError, match="dlt pipeline run"):
        fetch_status(raw.database)
