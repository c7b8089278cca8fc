"""`tape repair` fetches exactly the missing trades, and records those that the exchange does not have."""

from __future__ import annotations

import json
import time
from collections.abc import Callable

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from extract.coverage.gaps import Gap, find_gaps
from extract.coverage.repair import repair_gaps
from extract.deribit.client import DeribitClient
from extract.errors import FinalError, UsageError
from extract.pipeline.session import run_lock
from extract.sandbox.server import SandboxExchange
from extract.sandbox.tape import Tape
from tests.support.hostile_exchange import HostileExchange
from tests.support.loaded_user import Key, User


def seqs(gaps: list[Gap]) -> set[Key]:
    return {
        (gap.range.instrument_name, seq) for gap in gaps for seq in range(gap.range.first, gap.range.last + 1)
    }


@pytest.mark.parametrize("command", [("repair", "--again"), ("gaps", "--tails")])
def test_nothing_is_requested_with_a_wrong_clock(
    user: User, monkeypatch: pytest.MonkeyPatch, command: tuple[str, ...]
) -> None:
    """Absence, and the number of a last trade, would be settled without the time in between."""
    user.lose(user.inner_keys()[:3])
    with monkeypatch.context() as patch:
        patch.setattr(DeribitClient, "is_sandbox", False)  # whose clock may differ
        done = user.tape(*command)
    assert done.code == FinalError.exit_code
    assert "The exchange's clock shows" in done.err
    assert user.requested_methods() <= {"get_time"}
    assert repair_gaps().fetched == 3


ODD_MS = 3_700_000_000_000
"""2087."""


def last_seqs(keys: list[Key]) -> dict[str, int]:
    return dict(sorted(keys))


@pytest.mark.slow
@settings(max_examples=4, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_random_holes_are_repaired_without_other_requests(loaded: User, data: st.DataObject) -> None:
    """Random ranges of random instruments, heads included, tails excluded.

    The gaps are the deleted trades; requests by number start and end within them; afterwards every trade is loaded
    once, and a second repair sends no request.
    """
    keys = loaded.keys()
    last = last_seqs(keys)
    holes = data.draw(
        st.lists(
            st.sampled_from(sorted(last)).flatmap(
                lambda name: st.tuples(
                    st.just(name), st.integers(1, last[name]), st.integers(0, min(60, last[name]))
                )
            ),
            max_size=12,
        )
    )
    lost = {
        (name, seq) for name, first, width in holes for seq in range(first, first + width) if seq < last[name]
    }
    loaded.lose(lost)
    loaded.exchange.requests.clear()
    try:
        assert seqs(find_gaps(loaded.database)) == lost
        assert loaded.requested_methods() == set()
    finally:
        report = repair_gaps()
    assert loaded.requested_seqs(ends_only=True) <= lost <= loaded.requested_seqs()
    assert (report.wanted, report.fetched, report.remaining) == (len(lost), len(lost), [])
    assert loaded.keys() == keys
    loaded.exchange.requests.clear()
    assert repair_gaps().wanted == 0
    assert loaded.requested_methods() == set()


def test_large_repair_is_loaded_in_several_packages(user: User, monkeypatch: pytest.MonkeyPatch) -> None:
    """A package ends once it holds `window_trades`, so that a killed repair loses at most one."""
    monkeypatch.setenv("SOURCES__DERIBIT__WINDOW_TRADES", "40")
    monkeypatch.setenv("SOURCES__DERIBIT__PAGE_SIZE", "20")
    keys = user.keys()
    name, last = max(last_seqs(keys).items(), key=lambda each: each[1])
    lost = {(name, seq) for seq in range(1, min(last, 151))}
    user.lose(lost)
    report = repair_gaps()
    assert report.packages >= 3
    assert user.requested_seqs(ends_only=True) <= lost <= user.requested_seqs()
    assert user.keys() == keys


def test_repaired_rows_equal_those_of_a_run(user: User) -> None:
    """Every column is equal, and the table's definition does not change."""

    def rows() -> list[tuple]:
        sql = "select * except (_dlt_load_id) from deribit_raw.trades order by instrument_name, trade_seq"
        return [tuple(row) for row in user.client.query(sql).result_rows]

    def definition() -> str:
        return user.client.command("show create table deribit_raw.trades")

    before, defined = rows(), definition()
    user.lose(user.inner_keys()[10:400:3])
    repair_gaps()
    assert rows() == before
    assert definition() == defined


def test_repair_does_not_change_where_the_next_run_resumes(user: User) -> None:
    """The next run fetches the newest minute only, and loads nothing twice."""
    keys = user.keys()
    user.lose(user.inner_keys()[5:9])
    repair_gaps()
    user.exchange.requests.clear()
    user.load()
    assert user.keys() == keys
    newest_ms = user.exchange.now_ms - 61_000
    starts = [
        int(r.params["start_timestamp"]) for r in user.exchange.requests if "start_timestamp" in r.params
    ]
    assert starts
    assert min(starts) >= newest_ms


def test_repair_during_another_run_is_refused(user: User) -> None:
    with run_lock(), pytest.raises(UsageError, match="Another run is in progress"):
        repair_gaps()


def test_repair_from_another_exchange_is_refused(user: User, monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise trades that a sandbox lacks would be recorded as absent from the live exchange."""
    keys = user.keys()
    monkeypatch.setattr("extract.deribit.client._exchange_name", lambda url: "history.deribit.com")
    monkeypatch.setattr(user.exchange, "now_ms", round(time.time() * 1000))
    user.lose(user.inner_keys()[5:7])
    with pytest.raises(UsageError, match="must not be mixed"):
        repair_gaps()
    monkeypatch.undo()
    repair_gaps()
    assert user.keys() == keys


@pytest.fixture
def own(new_user: Callable[[Tape], User]) -> User:
    """A user with a small tape, for one test."""
    return new_user(Tape.generate(seed=3, trades=400, days=1))


@pytest.mark.slow
def test_absent_trades_are_requested_once(own: User) -> None:
    """They are listed as known absent and no longer count as missing; `retry_absent` requests them again."""
    own.load()
    keys = own.keys()
    name = max(last_seqs(keys).items(), key=lambda each: each[1])[0]
    lost = {(name, seq) for seq in (1, 2, 5, 6, 7)}
    kept = [r for r in own.exchange.records() if (r["instrument_name"], r["trade_seq"]) in lost]
    own.lose(lost)
    own.exchange.forget(name, [1, 5, 6])

    report = repair_gaps()
    assert (report.fetched, report.absent, report.remaining) == (2, 3, [])
    gaps = find_gaps(own.database)
    assert [(g.range.first, g.range.last, g.where, g.known_absent) for g in gaps] == [
        (1, 1, "head", True),
        (5, 6, "inner", True),
    ]
    own.exchange.requests.clear()
    assert repair_gaps().wanted == 0
    assert own.requested_methods() == set()

    own.exchange.add(kept)
    report = repair_gaps(retry_absent=True)
    assert (report.fetched, report.absent) == (3, 0)
    assert {1, 5, 6} <= {seq for _, seq in own.requested_seqs()} <= set(range(1, 7))
    assert find_gaps(own.database) == []
    assert own.keys() == keys


def test_rejected_trades_are_requested_again_only_on_demand(user: User) -> None:
    """Without `--again` they stay missing, with the reason, and repair exits with 1 without a request."""
    keys = user.keys()
    name, seq = user.inner_keys()[3]
    [(currency, kind)] = user.client.query(
        f"select any(currency), any(kind) from deribit_raw.trades where instrument_name = '{name}'"
    ).result_rows
    user.lose([(name, seq)])
    load_id = user.client.command("select any(load_id) from deribit_raw._dlt_loads where status = 0")
    user.client.insert(
        "deribit_raw.rejected_trades",
        [[currency, kind, "price", json.dumps({"instrument_name": name, "trade_seq": seq}), load_id, "1"]],
        column_names=["currency", "kind", "reason", "raw", "_dlt_load_id", "_dlt_id"],
    )
    done = user.tape("repair")
    assert done.code == 1
    assert "unreadable: deribit_raw.rejected_trades" in done.out
    assert "tape repair --again" in done.out
    assert user.requested_methods() == set()
    assert user.tape("repair", "--again").code == 0
    assert user.keys() == keys


@pytest.mark.slow
def test_instrument_that_cannot_be_repaired_is_set_aside(user: User, monkeypatch: pytest.MonkeyPatch) -> None:
    """The exchange answers for one instrument with trades of another: all others are fetched, and the command tells."""
    keys = user.keys()
    last = last_seqs(keys)
    broken, whole = sorted(last, key=lambda name: -last[name])[:2]
    lost = [(broken, 2), (whole, 2), (whole, 3)]
    record = next(r for r in user.exchange.records() if r["instrument_name"] == whole)
    body = json.dumps({"result": {"trades": [record], "has_more": False}}).encode()

    def answer(method: str, params: dict[str, str]) -> tuple[dict[str, str], list[bytes]] | None:
        is_broken = method == "get_last_trades_by_instrument" and params["instrument_name"] == broken
        return ({"Content-Length": str(len(body))}, [body]) if is_broken else None

    user.lose(lost)
    hostile = HostileExchange(user.exchange, answer)
    with monkeypatch.context() as env:
        env.setenv("SOURCES__DERIBIT__API_URL", hostile.url)
        env.setenv("SOURCES__DERIBIT__HISTORY_URL", hostile.history_url)
        done = user.tape("repair")
    hostile.close()
    assert done.code == 4
    assert done.err.splitlines()[-1].startswith(f"{broken} was set aside: Trades of {broken} were requested")
    assert seqs(find_gaps(user.database)) == {(broken, 2)}
    assert repair_gaps().fetched == 1
    assert user.keys() == keys


def test_last_trade_with_an_odd_time_hides_no_trade_before_it(
    own: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Answers by time lack two trades before it, and no later trade shows that; by number, the exchange has all three."""
    lasts = last_seqs([(each["instrument_name"], each["trade_seq"]) for each in own.exchange.records()])
    name, end = next((name, seq) for name, seq in lasts.items() if seq > 5)
    hidden = [(name, end - 2), (name, end - 1)]

    def answer(method: str, params: dict[str, str]) -> tuple[dict[str, str], list[bytes]] | None:
        if not method.startswith("get_last_trades"):
            return None
        page = httpx.get(f"{own.exchange.history_url}/public/{method}", params=params).json()
        trades = page["result"]["trades"]
        for each in trades:
            if (each["instrument_name"], each["trade_seq"]) == (name, end):
                each["timestamp"] = ODD_MS
        if "start_seq" not in params:
            trades[:] = [
                each for each in trades if (each["instrument_name"], each["trade_seq"]) not in hidden
            ]
        body = json.dumps(page).encode()
        return {"Content-Length": str(len(body))}, [body]

    hostile = HostileExchange(own.exchange, answer)
    monkeypatch.setenv("SOURCES__DERIBIT__API_URL", hostile.url)
    monkeypatch.setenv("SOURCES__DERIBIT__HISTORY_URL", hostile.history_url)
    own.load()
    assert own.tape("repair", "--again").code == 1
    assert {(name, end)} <= set(own.keys())
    assert seqs(find_gaps(own.database)) == set(hidden)
    assert own.tape("repair").code == 0
    assert set(hidden) < set(own.keys())
    assert own.tape("gaps").code == 0
    hostile.close()


@pytest.mark.slow
def test_failed_requests_are_retried(
    own: User, start_exchange: Callable[..., SandboxExchange], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A failed response never counts as proof of absence."""
    own.load()
    keys = own.keys()
    lost = own.inner_keys()[3:200:5]
    own.lose(lost)
    faulty = start_exchange(Tape.of(own.exchange.records()), faults="rate=0.3,kinds=reset+cut+500,seed=1")
    monkeypatch.setenv("SOURCES__DERIBIT__API_URL", faulty.url)
    monkeypatch.setenv("SOURCES__DERIBIT__HISTORY_URL", faulty.history_url)
    report = repair_gaps()
    assert (report.fetched, report.absent, report.remaining) == (len(lost), 0, [])
    assert own.keys() == keys
