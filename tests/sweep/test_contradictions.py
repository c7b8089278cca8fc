"""A number that another trade has is a contradiction, which overwrites nothing and loses nothing."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from extract.deribit.arrow import content_digests
from extract.deribit.streams import Stream
from extract.sandbox.server import SandboxExchange
from extract.sandbox.tape import Tape
from extract.sweep.state import Span, StreamState
from extract.sweep.window import SweepRequest, WindowDiscardedError
from extract.sweep.windows import sweep_windows
from tests.support.contradictory_exchange import client_of, page
from tests.support.histories import BEGIN_MS, Record, trade
from tests.support.sweep_helpers import Crawl, row_of

FUTURES = Stream("BTC", "future")
MINUTE_MS = 60_000


class Exchange:
    """All given trades by time, also several with the same number, and by number the newest of those."""

    def __init__(self, trades: list[Record], now_ms: int) -> None:
        self.trades, self.now_ms = trades, now_ms

    def __call__(self, method: str, params: dict[str, str]) -> object:
        if method == "get_time":
            return {"result": self.now_ms}
        known = [each for each in self.trades if each["timestamp"] <= self.now_ms]
        if "start_seq" in params:
            first, last = int(params["start_seq"]), int(params["end_seq"])
            newest = {
                each["trade_seq"]: each
                for each in known
                if each["instrument_name"] == params["instrument_name"]
            }
            return page([each for seq, each in newest.items() if first <= seq <= last])
        first, last = int(params.get("start_timestamp", 0)), int(params.get("end_timestamp", 10**13))
        inside = [each for each in known if first <= each["timestamp"] <= last]
        return page(
            inside[: int(params["count"])]
            if params["sorting"] == "asc"
            else inside[::-1][: int(params["count"])]
        )


class Run:
    """Runs whose state is carried over as JSON; with `looks_up`, loaded trades are looked up as in a database."""

    def __init__(self, exchange: Exchange, *, looks_up: bool) -> None:
        self.exchange = exchange
        self.looks_up = looks_up
        self.trades: list[Record] = []
        self.rejected: list[Record] = []
        self.contradictory = 0
        self.digests: dict[tuple[str, int], int] = {}
        self.state = "{}"

    @property
    def loaded(self) -> list[tuple[int, str]]:
        return [(each["trade_seq"], each["trade_id"]) for each in self.trades]

    def last_seqs(self, span: Span, names: Collection[str]) -> dict[str, int]:
        inside = sorted(self._seqs_in(span))
        return {name: seq for name, seq in inside if name in names}

    def first_seqs(self, span: Span) -> dict[str, int]:
        return dict(sorted(self._seqs_in(span), reverse=True))

    def _seqs_in(self, span: Span) -> list[tuple[str, int]]:
        inside = [each for each in self.trades if span.start_ms <= each["timestamp"] <= span.end_ms]
        return [(each["instrument_name"], each["trade_seq"]) for each in inside]

    def trade_ids(self, keys: Collection[tuple[str, int]]) -> dict[tuple[str, int], str]:
        first = {
            (each["instrument_name"], each["trade_seq"]): each["trade_id"] for each in reversed(self.trades)
        }
        return {key: first[key] for key in keys if key in first}

    def contents(self, span: Span, names: Collection[str]) -> dict[tuple[str, int], int]:
        inside = [each for each in self.trades if span.start_ms <= each["timestamp"] <= span.end_ms]
        keys = {(each["instrument_name"], each["trade_seq"]) for each in inside}
        return {key: self.digests[key] for key in keys}

    def __call__(
        self, now_ms: int, since_ms: int = BEGIN_MS, until_ms: int | None = None, *, again: bool = False
    ) -> None:
        self.exchange.now_ms = now_ms
        states = {FUTURES: StreamState.from_json(json.loads(self.state), self if self.looks_up else None)}
        with client_of(self.exchange, page_size=20) as client:
            request = SweepRequest(since_ms, until_ms, machine_s=lambda: now_ms / 1000, again=again)
            rows: list[Record] = []
            for item in sweep_windows(client, request, states):
                if isinstance(item, pa.Table):
                    place = item.schema.get_field_index("timestamp")
                    times = item.column("timestamp").cast("int64")
                    table_rows = item.set_column(place, "timestamp", times).to_pylist()
                    keys = [(each["instrument_name"], each["trade_seq"]) for each in table_rows]
                    self.digests |= zip(keys, content_digests(item), strict=True)
                    rows += table_rows
                elif isinstance(item, WindowDiscardedError):
                    rows.clear()
                else:
                    self.trades += rows
                    rows = []
                    self.rejected += [json.loads(bad.raw) for _, bad in item.report.rejected]
                    self.contradictory += item.report.contradictory
                    self.state = json.dumps(item.states.get("BTC future", json.loads(self.state)))


def numbered(seqs: range, first_id: int, first_ms: int, name: str = "BTC-PERPETUAL") -> list[Record]:
    return [trade(name, seq, first_id + seq, first_ms + seq * 1_000) for seq in seqs]


FIRST = numbered(range(1, 51), 0, BEGIN_MS)
SECOND = numbered(range(1, 31), 500, BEGIN_MS + 10 * MINUTE_MS)


@pytest.mark.parametrize(
    "runs",
    [[30], [5, 30], [5, 11, 30], [2, 5, 10, 11, 12, 13, 30]],
    ids=["in one window", "between two runs", "within the second", "run by run"],
)
@pytest.mark.parametrize("looks_up", [True, False])
def test_numbering_that_begins_again_overwrites_nothing(runs: list[int], looks_up: bool) -> None:
    """The 50 older trades are loaded once, and the 30 newer ones are rejected with their text, once."""
    run = Run(Exchange(FIRST + SECOND, 0), looks_up=looks_up)
    for minutes in runs:
        run(BEGIN_MS + minutes * MINUTE_MS)
    assert sorted(run.loaded) == sorted((each["trade_seq"], each["trade_id"]) for each in FIRST)
    assert {each["trade_id"] for each in run.rejected} == {each["trade_id"] for each in SECOND}
    assert all(each in SECOND for each in run.rejected)
    run(BEGIN_MS + 60 * MINUTE_MS)
    assert len(run.loaded) == len(FIRST)


@pytest.mark.parametrize("gap_minutes", [0, 5], ids=["up to it", "with a gap"])
@pytest.mark.parametrize("looks_up", [True, False])
def test_older_trades_do_not_overwrite_a_newer_numbering_that_was_loaded_first(
    looks_up: bool, gap_minutes: int
) -> None:
    """The newest days first and the history later: older trades with the same numbers are rejected with their text."""
    run = Run(Exchange(FIRST + SECOND, 0), looks_up=looks_up)
    second_ms = SECOND[0]["timestamp"]
    run(BEGIN_MS + 30 * MINUTE_MS, since_ms=second_ms - 1_000)
    assert len(run.loaded) == len(SECOND)
    run(BEGIN_MS + 31 * MINUTE_MS, until_ms=second_ms - gap_minutes * MINUTE_MS - 5_000)
    run(BEGIN_MS + 32 * MINUTE_MS)
    ids = [trade_id for _, trade_id in run.loaded]
    assert len(run.loaded) == len(dict(run.loaded)), "one trade for each number"
    assert sorted(ids + [each["trade_id"] for each in run.rejected]) == sorted(
        each["trade_id"] for each in FIRST + SECOND
    )
    assert {each["trade_id"] for each in run.rejected} >= {each["trade_id"] for each in FIRST[:30]}


@pytest.mark.parametrize("looks_up", [True, False])
def test_newer_trades_do_not_overwrite_an_older_numbering_before_a_gap_in_time(looks_up: bool) -> None:
    """As in a visit to the present during a long backfill."""
    run = Run(Exchange(FIRST + SECOND, 0), looks_up=looks_up)
    run(BEGIN_MS + 30 * MINUTE_MS, until_ms=BEGIN_MS + 2 * MINUTE_MS)
    run(BEGIN_MS + 31 * MINUTE_MS, since_ms=SECOND[0]["timestamp"] - 1_000)
    run(BEGIN_MS + 32 * MINUTE_MS)
    assert sorted(run.loaded) == sorted((each["trade_seq"], each["trade_id"]) for each in FIRST)
    assert {each["trade_id"] for each in run.rejected} == {each["trade_id"] for each in SECOND}


@pytest.mark.parametrize("looks_up", [True, False])
def test_one_far_too_high_number_does_not_reject_later_trades(looks_up: bool) -> None:
    """The exchange has none of the numbers in between, so that trades which come later may have them."""
    odd = trade("BTC-PERPETUAL", 5_000_000, 700, BEGIN_MS + 5 * MINUTE_MS)
    later = numbered(range(31, 61), 800, BEGIN_MS + 10 * MINUTE_MS)
    restarted = numbered(range(41, 51), 900, BEGIN_MS + 50 * MINUTE_MS)
    run = Run(Exchange([*FIRST[:30], odd, *later, *restarted], 0), looks_up=looks_up)
    for minutes in (8, 12, 45):
        run(BEGIN_MS + minutes * MINUTE_MS)
    assert len(run.loaded) == 61
    assert not run.rejected
    run(BEGIN_MS + 60 * MINUTE_MS)
    assert {each["trade_id"] for each in run.rejected} == {each["trade_id"] for each in restarted}
    assert len(run.loaded) == 61


@pytest.mark.parametrize("first_seq", [31, 1], ids=["continued", "restarted"])
@pytest.mark.parametrize("looks_up", [True, False])
def test_instrument_that_trades_after_the_date_in_its_name_keeps_its_numbers(
    looks_up: bool, first_seq: int
) -> None:
    """Also after a window without a trade of it, in one process or several: nothing comes twice or is overwritten."""
    name, day_ms = "BTC-1NOV23", 86_400_000
    first = numbered(range(1, 31), 0, BEGIN_MS, name)
    second = numbered(range(first_seq, 51), 500, BEGIN_MS + 5 * day_ms, name)
    run = Run(Exchange(first + second, 0), looks_up=looks_up)
    for days in (0.001, 1, 3, 4, 6, 7):
        run(BEGIN_MS + int(days * day_ms))
    assert len(run.loaded) == len(dict(run.loaded)) == 50
    assert len(run.rejected) == (30 if first_seq == 1 else 0)


def test_expired_name_is_looked_up_again_in_the_same_process() -> None:
    """Its last number was dropped from memory, although this process has swept the span from its start."""
    name, day_ms = "BTC-1NOV23", 86_400_000
    run = Run(Exchange([], 0), looks_up=True)
    run.trades = numbered(range(1, 31), 0, BEGIN_MS - 10 * day_ms, name)
    state = StreamState(lookup=run)
    state.add_span(Span(BEGIN_MS - 20 * day_ms, BEGIN_MS - day_ms), {name: 1}, {name: 30})
    state.add_span(Span(BEGIN_MS - day_ms + 1, BEGIN_MS + day_ms), {}, {})
    assert name not in state.last_seq[BEGIN_MS + day_ms]
    assert state.last_before(BEGIN_MS + day_ms + 1, [name]) == {name: 30}


@pytest.mark.parametrize("since_ms", [BEGIN_MS, SECOND[0]["timestamp"] - 1_000], ids=["all", "second"])
def test_reading_a_restarted_numbering_again_overwrites_nothing(since_ms: int) -> None:
    """Whether the older trades are in the requested time or not, the newer ones are rejected again, and counted."""
    run = Run(Exchange(FIRST + SECOND, 0), looks_up=True)
    run(BEGIN_MS + 30 * MINUTE_MS)
    loaded = run.loaded
    run.rejected, run.contradictory = [], 0
    run(BEGIN_MS + 60 * MINUTE_MS, since_ms, again=True)
    assert run.loaded == loaded
    assert {each["trade_id"] for each in run.rejected} == {each["trade_id"] for each in SECOND}
    assert run.contradictory == len(SECOND)


def test_number_with_another_id_in_the_newest_minute_is_rejected() -> None:
    run = Run(Exchange(FIRST, 0), looks_up=True)
    now_ms = FIRST[-1]["timestamp"] + 5_000
    run(now_ms)
    changed = FIRST[-1] | {"trade_id": "999999", "price": 1.0}
    run.exchange.trades = [*FIRST[:-1], changed]
    run(now_ms + 30_000)
    run(now_ms + 10 * MINUTE_MS)
    assert (
        sorted(run.loaded) == sorted((each["trade_seq"], each["trade_id"]) for each in FIRST)
        or changed in run.rejected
    )


@settings(max_examples=10, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    st.lists(st.integers(1, 25), min_size=1, max_size=4),
    st.integers(10, 40),
    st.lists(st.integers(1, 60), max_size=4),
    st.booleans(),
)
def test_each_trade_of_any_restarts_is_loaded_or_rejected_once(
    lengths: list[int], max_length: int, runs: list[int], looks_up: bool
) -> None:
    """For each number the first trade is loaded, whatever the runs."""
    trades: list[Record] = []
    for turn, length in enumerate([max_length, *lengths]):
        trades += numbered(range(1, length + 1), 1_000 * turn, BEGIN_MS + turn * 10 * MINUTE_MS)
    run = Run(Exchange(trades, 0), looks_up=looks_up)
    for minutes in [*sorted(runs), 90]:
        run(BEGIN_MS + minutes * MINUTE_MS)
    first = {each["trade_seq"]: each["trade_id"] for each in reversed(trades)}
    assert Counter(run.loaded) == Counter(first.items())
    rejected = {each["trade_id"] for each in run.rejected}
    assert rejected == {each["trade_id"] for each in trades} - set(first.values())


def test_restated_trades_are_no_contradiction() -> None:
    """They keep their ids: a new version is loaded."""
    with SandboxExchange(Tape.of(FIRST), clock=FIRST[-1]["timestamp"] + 1_000) as exchange:
        crawl = Crawl(exchange, [FUTURES])
        crawl.run()
        exchange.restate("BTC-PERPETUAL", 50, price=7.0)
        crawl.run()
        assert crawl.rows == Counter(map(row_of, [*FIRST, FIRST[-1] | {"price": 7.0}]))
        assert not crawl.rejected
