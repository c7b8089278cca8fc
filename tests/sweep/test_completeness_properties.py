"""Every trade is loaded exactly once, whatever the exchange does, or the run ends with an error."""

from __future__ import annotations

import json
from collections import Counter
from itertools import count
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from extract.deribit.streams import EPOCH_MS
from extract.sandbox.server import SandboxExchange
from extract.sandbox.tape import Tape
from tests.support.examples import examples
from tests.support.histories import BEGIN_MS, STREAMS, Record, histories, trade
from tests.support.sweep_helpers import Crawl, row_of

LATER_MS = 120_000
"""Long enough for every trade to be settled."""

several = settings(
    max_examples=examples(12),
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
ways = st.fixed_dictionaries(
    {
        "page_size": st.sampled_from([2, 5, 13, 20, 40, 10_000]),
        "in_flight": st.integers(1, 6),
        "max_trades": st.one_of(st.integers(10, 60), st.just(500_000)),
        "together": st.booleans(),
    }
)
since = st.one_of(st.none(), st.integers(-5_000, 3 * 86_400_000).map(lambda offset: BEGIN_MS + offset))


def last_ms(records: list[Record]) -> int:
    return max(record["timestamp"] for record in records)


def once(records: list[Record]) -> Counter[Any]:
    return Counter(map(row_of, records))


@several
@given(histories(), ways, st.integers(0, 50), st.integers(1, 2**16))
def test_every_trade_is_loaded_once_at_any_rate_of_faults(
    records: list[Record], way: dict[str, int], percent: int, seed: int
) -> None:
    """Up to half of the requests fail, and pages have any size; a second run loads nothing."""
    faults = f"rate={percent / 100},seed={seed},retry_after=0.001,slow=0.001"
    with SandboxExchange(Tape.of(records), faults=faults, clock=last_ms(records) + LATER_MS) as exchange:
        crawl = Crawl(exchange, STREAMS, **way)
        crawl.run()
        assert crawl.rows == once(records)
        assert not crawl.absent
        assert crawl.run() == 0


@several
@given(histories(), ways, st.lists(st.integers(1, 5), max_size=4), st.integers(0, 5_000), st.data())
def test_growth_restatements_and_late_trades_while_fetching(
    records: list[Record], way: dict[str, int], splits: list[int], step_ms: int, data: st.DataObject
) -> None:
    """Time advances with each request; trades of the last minute are restated or appear late."""
    late = data.draw(st.lists(st.sampled_from(records), unique_by=row_of, max_size=5))
    end_ms = last_ms(records) + LATER_MS
    ticks, start_ms = count(), records[len(records) // 2]["timestamp"]
    present = [record for record in records if record not in late]
    tape = Tape(present, Tape.of(records).instruments)
    versions = once(records)
    pending = list(late)
    with SandboxExchange(tape, clock=lambda: min(end_ms, start_ms + next(ticks) * step_ms)) as exchange:

        def happens() -> None:
            now_ms = exchange.now_ms
            for record in [r for r in pending if now_ms - 50_000 < r["timestamp"] <= now_ms]:
                exchange.add([record])
                pending.remove(record)
            fresh = [r for r in exchange.records() if now_ms - 50_000 < r["timestamp"] <= now_ms]
            if fresh and len(versions) < len(records) + 10:
                old = fresh[next(ticks) % len(fresh)]
                new = exchange.restate(old["instrument_name"], old["trade_seq"], price=old["price"] + 0.5)
                versions[row_of(new)] = 1

        crawl = Crawl(exchange, STREAMS, between_windows=happens, **way)
        for windows in splits:
            crawl.run(most_windows=windows)
        crawl.between_windows = lambda: None
        exchange.add(pending)
        exchange.now_ms = end_ms
        crawl.run()
        truth = once(exchange.records())
        late_for_good = once(pending)
        assert crawl.rows <= versions, "a duplicate row, or one that the exchange never sent"
        assert truth - late_for_good <= crawl.rows
        assert crawl.run() == 0


@pytest.mark.slow
@several
@given(histories(), ways, st.lists(st.tuples(since, since, st.integers(1, 6)), min_size=1, max_size=5))
def test_runs_over_any_time_ranges_load_each_trade_once(
    records: list[Record], way: dict[str, int], runs: list[tuple[int | None, int | None, int]]
) -> None:
    """Runs with any `since` and `until`, in any order, each interrupted after some windows."""
    with SandboxExchange(Tape.of(records), clock=last_ms(records) + LATER_MS) as exchange:
        crawl = Crawl(exchange, STREAMS, **way)
        for since_ms, until_ms, windows in runs:
            if since_ms is not None and until_ms is not None and since_ms > until_ms:
                since_ms, until_ms = until_ms, since_ms
            crawl.run(since_ms, until_ms, most_windows=windows)
        crawl.run(since_ms=EPOCH_MS)
        assert crawl.rows == once(records)
        assert crawl.run(since_ms=EPOCH_MS) == 0
        for state in json.loads(crawl.state).values():
            assert len(state["covered"]) == 1
            assert not any(seqs for _, seqs in state["first_seq"])


@pytest.mark.slow
@several
@given(histories(), ways, st.data())
def test_absent_trades_are_reported_as_exact_ranges(
    records: list[Record], way: dict[str, int], data: st.DataObject
) -> None:
    """Absent heads and inner ranges are each reported once; all other trades are loaded."""
    lost = data.draw(st.lists(st.sampled_from(records), unique_by=row_of, max_size=len(records) // 2))
    kept = [record for record in records if record not in lost]
    last = {record["instrument_name"]: record["trade_seq"] for record in kept}
    with SandboxExchange(Tape.of(kept), clock=last_ms(records) + LATER_MS) as exchange:
        crawl = Crawl(exchange, STREAMS, **way)
        crawl.run()
        assert crawl.rows == once(kept)
        absent = Counter(
            (each.instrument_name, seq)
            for each in crawl.absent.elements()
            for seq in range(each.first, each.last + 1)
        )
        assert absent == Counter(
            (record["instrument_name"], record["trade_seq"])
            for record in lost
            if record["trade_seq"] < last.get(record["instrument_name"], 0)
        )
        assert crawl.run() == 0


def test_time_covered_is_not_fetched_again() -> None:
    """An earlier `since` requests the time before, and no trade of covered time."""
    records = [trade("BTC-PERPETUAL", n + 1, n, BEGIN_MS + n * 60_000) for n in range(600)]
    with SandboxExchange(Tape.of(records), clock=last_ms(records) + LATER_MS) as exchange:
        crawl = Crawl(exchange, STREAMS[:1])
        middle_ms = records[300]["timestamp"]
        assert crawl.run(since_ms=middle_ms) == 300
        exchange.requests.clear()
        assert crawl.run(since_ms=BEGIN_MS) == 300
        starts = [
            int(request.params["start_timestamp"])
            for request in exchange.requests
            if "start_timestamp" in request.params
        ]
        assert all(start < middle_ms or start > last_ms(records) for start in starts), starts


def test_state_does_not_grow_with_expired_instruments() -> None:
    """After a hundred expiries it is as large as after the first."""
    days = [f"{1 + n % 28}{('NOV', 'DEC')[n // 28]}23" for n in range(50)]
    records = [
        trade(f"BTC-{day}", seq, n * 3 + seq, BEGIN_MS - 14 * 86_400_000 + n * 86_400_000 + seq)
        for n, day in enumerate(days)
        for seq in (1, 2, 3)
    ]
    sizes = []
    with SandboxExchange(Tape.of(records), clock=0) as exchange:
        crawl = Crawl(exchange, STREAMS[:1])
        for record in records[::30]:
            exchange.now_ms = record["timestamp"] + LATER_MS
            crawl.run()
            sizes.append(len(crawl.state))
        assert crawl.rows.total() > 100
    assert max(sizes) < 1_000, sizes


@pytest.mark.parametrize("lag_ms", [0, 5_000, 60_000])
def test_history_behind_the_live_host(lag_ms: int) -> None:
    """Trades that the history host does not have yet are fetched from the live host, and are not absent."""
    records = [trade("BTC-PERPETUAL", n + 1, n, BEGIN_MS + n * 1_000) for n in range(300)]
    with SandboxExchange(Tape.of(records), clock=last_ms(records) + 10, history_lag_ms=lag_ms) as exchange:
        crawl = Crawl(exchange, STREAMS[:1], page_size=50)
        crawl.run()
        assert crawl.rows == once(records)
        assert not crawl.absent


class Clock:
    """This computer's clock, in seconds; each reading takes a few."""

    def __init__(self, step_s: float) -> None:
        self._readings = count()
        self._step_s = step_s

    def __call__(self) -> float:
        return next(self._readings) * self._step_s


@pytest.mark.slow
@several
@given(histories(), ways, st.sampled_from([0.5, 5.0, 40.0]), st.integers(1, 6))
def test_backfill_that_visits_the_newest_time_loads_each_trade_once(
    records: list[Record], way: dict[str, int], step_s: float, windows: int
) -> None:
    """It is interrupted, and resumed without `since` at the oldest time that is missing."""
    with SandboxExchange(Tape.of(records), clock=last_ms(records) + LATER_MS) as exchange:
        crawl = Crawl(exchange, STREAMS, machine_s=Clock(step_s), **way)
        crawl.run(most_windows=windows)
        crawl.run()
        assert crawl.rows == once(records)
        assert crawl.run() == 0
        for state in json.loads(crawl.state).values():
            assert len(state["covered"]) == 1
            assert "resume_ms" not in state


def test_backfill_keeps_the_newest_time_fresh() -> None:
    """Within two minutes of the first window, the newest trades are loaded while years are missing."""
    records = [trade("BTC-PERPETUAL", n + 1, n, BEGIN_MS + n * 60_000) for n in range(3_000)]
    with SandboxExchange(Tape.of(records), clock=last_ms(records) + LATER_MS) as exchange:
        crawl = Crawl(exchange, STREAMS[:1], page_size=50, max_trades=100, machine_s=Clock(10.0))
        crawl.run(most_windows=4)
        [state] = json.loads(crawl.state).values()
        assert len(state["covered"]) == 2
        assert state["covered"][-1][1] >= last_ms(records)
        assert (
            state["resume_ms"] == state["covered"][0][1] + 1 or state["resume_ms"] <= state["covered"][0][1]
        )
        crawl.run()
        assert crawl.rows == once(records)
