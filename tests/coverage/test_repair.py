"""`tape repair` brings exactly what is missing, once, and says what the exchange has not."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from extract.coverage.gaps import Gap, find_gaps
from extract.coverage.repair import repair_gaps
from extract.errors import UsageError
from extract.pipeline.session import run_lock
from extract.sandbox.server import SandboxExchange
from extract.sandbox.tape import Tape
from tests.support.loaded_user import Key, User


def seqs(gaps: list[Gap]) -> set[Key]:
    return {
        (gap.range.instrument_name, seq) for gap in gaps for seq in range(gap.range.first, gap.range.last + 1)
    }


def last_seqs(keys: list[Key]) -> dict[str, int]:
    return dict(sorted(keys))


@settings(max_examples=4, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_holes_are_found_and_filled_and_nothing_else_is_asked_for(
    loaded: User, data: st.DataObject
) -> None:
    """Random ranges of random instruments, heads and whole middles among them, tails excepted.

    What is missing is what was deleted; what is asked for by number begins and ends with it; afterwards every trade
    is there once; a second repair asks nothing.
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


def test_a_repair_of_any_size_is_loaded_in_packages(user: User, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each ends when its budget of trades is spent, so that a kill costs no more than one."""
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


def test_what_was_repaired_is_as_a_run_would_have_loaded_it(user: User) -> None:
    """Every field, and the table's definition stays as it was."""

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


def test_a_repair_does_not_move_what_the_next_run_goes_on_from(user: User) -> None:
    """After it, a run fetches the newest minute as ever, and loads nothing twice."""
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


def test_two_at_once_are_refused(user: User) -> None:
    with run_lock(), pytest.raises(UsageError, match="Another run is at work"):
        repair_gaps()


def test_trades_of_another_exchange_never_fill_a_gap(user: User, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a sandbox has not would otherwise be remembered as absent from the real one."""
    keys = user.keys()
    monkeypatch.setattr("extract.deribit.client._exchange_name", lambda url: "history.deribit.com")
    user.lose(user.inner_keys()[5:7])
    with pytest.raises(UsageError, match="must not be mixed"):
        repair_gaps()
    monkeypatch.undo()
    repair_gaps()
    assert user.keys() == keys


@pytest.fixture
def own(new_user: Callable[[Tape], User]) -> User:
    """A user of the test's own with a small tape."""
    return new_user(Tape.generate(seed=3, trades=400, days=1))


def test_what_the_exchange_has_not_is_asked_for_once(own: User) -> None:
    """It stays on the list as known absent and no longer counts; `retry_absent` asks once more and finds it."""
    own.load()
    keys = own.keys()
    name = max(last_seqs(keys).items(), key=lambda each: each[1])[0]
    lost = {(name, seq) for seq in (1, 2, 5, 6, 7)}
    kept = [r for r in own.exchange.records() if (r["instrument_name"], r["trade_seq"]) in lost]
    own.lose(lost)
    own.exchange.forget(name, [1, 5, 6])

    report = repair_gaps()
    assert (report.fetched, report.absent, report.remaining) == (2, 3, [])
    found = find_gaps(own.database)
    assert [(g.range.first, g.range.last, g.where, g.known_absent) for g in found] == [
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


def test_what_came_unreadable_is_not_fetched_again_unless_asked_for(user: User) -> None:
    """It stays missing, with the reason, and the repair ends with 1 without a question."""
    keys = user.keys()
    name, seq = user.inner_keys()[3]
    [(currency, kind)] = user.client.query(
        f"select any(currency), any(kind) from deribit_raw.trades where instrument_name = '{name}'"
    ).result_rows
    user.lose([(name, seq)])
    user.client.insert(
        "deribit_raw.rejected_trades",
        [[currency, kind, "price", json.dumps({"instrument_name": name, "trade_seq": seq}), "1", "1"]],
        column_names=["currency", "kind", "reason", "raw", "_dlt_load_id", "_dlt_id"],
    )
    told = user.tape("repair")
    assert told.code == 1
    assert "unreadable: deribit_raw.rejected_trades" in told.out
    assert "tape repair --again" in told.out
    assert user.requested_methods() == set()
    assert user.tape("repair", "--again").code == 0
    assert user.keys() == keys


def test_faults_of_the_exchange_are_waited_out(
    own: User, start_exchange: Callable[..., SandboxExchange], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A failed answer is never read as no trades."""
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
