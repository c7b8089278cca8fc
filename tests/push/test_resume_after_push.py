"""Runs into cloud after and before a push resume where both databases end."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from functools import partial

import pytest

from extract.clickhouse.lease import Lease
from extract.errors import OutsideError
from extract.listener import Listener
from extract.push import dlt_state
from extract.push.push import push
from extract.sandbox.instrument_names import parse
from extract.sandbox.server import SandboxExchange
from extract.sandbox.tape import Tape
from tests.push.conftest import Both

TAPE = Tape.generate(seed=4, trades=1000, days=20)
END_MS = max(trade["timestamp"] for trade in TAPE.trades)
DAY_MS = 86_400_000


def day(days_before_end: float) -> str:
    """A time as `--since` and `--until` take it."""
    from extract.times import iso

    return iso(END_MS - days_before_end * DAY_MS)


def wanted(currency: str | None = None) -> list[tuple[str, int]]:
    return sorted(
        (t["instrument_name"], t["trade_seq"])
        for t in TAPE.trades
        if currency in (None, parse(t["instrument_name"]).currency)
    )


@pytest.fixture
def exchange(listed: Callable[[Tape], SandboxExchange]) -> SandboxExchange:
    return listed(TAPE)


@pytest.mark.slow
def test_run_into_cloud_resumes_where_local_ended(both: Both, exchange: SandboxExchange) -> None:
    """The run fetches only new trades; the next push copies nothing again."""
    first = both.run("local", until=day(5))
    assert both.tape("push").code == 0
    rest = both.run("cloud")
    assert 0 < rest < first
    assert both.keys(both.cloud) == wanted()
    done = both.tape("push")
    assert done.code == 0
    assert f"{rest:,} trades are from cloud's own runs" in done.out


@pytest.mark.slow
def test_targets_have_separate_states(both: Both, exchange: SandboxExchange) -> None:
    """A run into local does not change the state of cloud, although both use one directory."""
    both.run("local", until=day(10), currencies=("BTC",))
    both.tape("push")
    both.run("local", currencies=("BTC",))
    both.run("cloud", until=day(5), currencies=("BTC",))
    assert both.keys(both.cloud) == [key for key in wanted("BTC") if key in set(both.keys(both.cloud))]
    with pytest.MonkeyPatch.context() as env:
        env.setenv("CLICKHOUSE_MODE", "cloud")
        assert both.tape("gaps").code == 0
    both.run("cloud", currencies=("BTC",))
    assert both.keys(both.cloud) == wanted("BTC")


@pytest.mark.slow
def test_push_into_tables_that_init_has_created(both: Both, exchange: SandboxExchange) -> None:
    """`tape init` stores a state without any source; the state of local is merged into it."""
    assert both.tape("init", "--target", "cloud").code == 0
    both.run("local", currencies=("BTC",))
    done = both.tape("push")
    assert done.code == 0, done.output
    assert both.keys(both.cloud) == wanted("BTC")
    assert both.run("cloud", currencies=("BTC",)) == 0


@pytest.mark.slow
@pytest.mark.parametrize("cloud_until", [None, 4.0])
def test_push_merges_states_of_two_extracting_databases(
    both: Both, exchange: SandboxExchange, cloud_until: float | None
) -> None:
    """Trades of time that both have loaded are on cloud twice; the next run requests none of it again."""
    both.run("local", until=day(8), currencies=("BTC",))
    both.run(
        "cloud", since=day(12), until=day(cloud_until) if cloud_until else None, currencies=("BTC", "ETH")
    )
    done = both.tape("push")
    assert done.code == 0, done.output
    assert len(both.keys(both.cloud)) > len(set(both.keys(both.cloud)))
    both.run("cloud", currencies=("BTC",))
    exchange.requests.clear()
    both.run("cloud", currencies=("BTC",))
    btc = [key for key in both.keys(both.cloud) if parse(key[0]).currency == "BTC"]
    assert sorted(set(btc)) == wanted("BTC")
    with pytest.MonkeyPatch.context() as env:
        env.setenv("CLICKHOUSE_MODE", "cloud")
        assert both.tape("gaps", "--currency", "BTC").code == 0
        spans = {
            s["currency"]: s for s in json.loads(both.tape("status", "--json").out) if s["kind"] == "future"
        }
    assert spans["BTC"]["covered_from"].startswith("2016-01-01")
    assert spans["ETH"]["covered_from"] == day(12).replace("Z", ".000Z") or "." in day(12)
    again = both.tape("push")
    assert again.code == 0, again.output


@pytest.mark.slow
def test_merged_state_is_newer_than_that_of_runs_into_cloud(both: Both, exchange: SandboxExchange) -> None:
    """Its version is newer than that of any number of runs into cloud before the push."""
    for until in (10, 9, 8, 7):
        both.run("cloud", since=day(11), until=day(until), currencies=("BTC",))
    both.run("local", until=day(4), currencies=("BTC",))
    assert both.tape("push").code == 0
    exchange.requests.clear()
    loaded = both.run("cloud", currencies=("BTC",))
    late = {key for key in wanted("BTC") if key not in set(both.keys(both.local))}
    assert loaded == len(late) > 0


@pytest.mark.slow
def test_restated_trade_in_a_newer_cloud_package_is_reported(both: Both, exchange: SandboxExchange) -> None:
    both.run("local", until=day(8))
    both.tape("push")
    both.cloud.command(
        "insert into deribit_raw.trades select * replace ('9999999999.5' as _dlt_load_id, price + 1 as price) "
        "from deribit_raw.trades order by instrument_name, trade_seq limit 3"
    )
    both.cloud.command(
        "insert into deribit_raw._dlt_loads (load_id, status, inserted_at) values ('9999999999.5', 0, now())"
    )
    done = both.tape("push")
    assert done.code == 1
    assert "Restated trades" in done.out
    report = json.loads(both.tape("push", "--verify", "--json").out)
    assert sum(each["restated"] for each in report["partitions"]) == 3


@pytest.mark.slow
def test_state_is_not_written_after_the_lease_is_lost(
    both: Both, exchange: SandboxExchange, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A machine that was suspended before it writes the merged state might overwrite a newer one."""
    both.run("cloud", since=day(3), until=day(2), currencies=("BTC",))
    both.run("local", until=day(4), currencies=("BTC",))
    merge_states = dlt_state.merge_states
    clocks = [time.time]

    def merge_too_late(*states: dlt_state.State) -> dlt_state.State:
        clocks.append(lambda: 4e9)
        return merge_states(*states)

    states = "select count() from deribit_raw._dlt_pipeline_state"
    before = both.cloud.command(states), both.local.command(states)
    monkeypatch.setattr(dlt_state, "merge_states", merge_too_late)
    with pytest.raises(OutsideError, match="lease on the database"):
        push(open_lease=partial(Lease, clock=lambda: clocks[-1]()))
    assert both.cloud.command(states) == sum(before)


def test_package_is_not_listed_after_the_lease_is_lost(both: Both, exchange: SandboxExchange) -> None:
    """Another run may be in progress on cloud, and has deleted the rows of the package that is not listed yet."""
    both.run("local", until=day(4), currencies=("BTC",))
    clocks = [time.time]

    class Suspend(Listener):
        def advance(self, count: int) -> None:
            clocks.append(lambda: 4e9)

    lease = partial(Lease, clock=lambda: clocks[-1](), renew_every_s=3600)
    with pytest.raises(OutsideError, match="lease on the database"):
        push(open_lease=lease, listener=Suspend())
    listed = "select count() from deribit_raw._dlt_loads where load_id in (select _dlt_load_id from deribit_raw.trades)"
    assert both.cloud.command("select count() from deribit_raw.trades") > 0
    assert both.cloud.command(listed) == 0
