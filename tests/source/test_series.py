"""Series as resources of the source, in a pipeline of any destination."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import dlt
import httpx
import pytest

from extract.deribit.client import DeribitClient
from extract.deribit.config import DeribitConfig
from extract.deribit.series.grid import CursorStuckError
from extract.deribit.streams import Stream
from extract.errors import FinalError, UsageError
from extract.pipeline.errors import unwrap_dlt_errors
from extract.sandbox.faults import Faults
from extract.sandbox.server import SandboxExchange
from extract.sandbox.tape import Tape
from extract.source import deribit
from extract.source.series import ALL_NAMES, SeriesFeed, resolve_series
from tests.support.contradictory_exchange import client_of
from tests.support.series_exchange import SeriesExchange
from tests.support.sweep_helpers import quick_client

# dlt's destination duckdb logs by a deprecated method.
pytestmark = pytest.mark.filterwarnings("ignore:The 'warn' method is deprecated:DeprecationWarning")
SERIES = ["delivery_prices", "settlements", "volatility_index", "funding_rates"]
NAME = "BTC-PERPETUAL"
MINUTE = 60_000
HOUR = 60 * MINUTE
DAY = 24 * HOUR


@pytest.fixture(scope="module")
def tape() -> Tape:
    return Tape.generate(seed=4, trades=500, days=4)


@pytest.fixture
def exchange(tape: Tape, monkeypatch: pytest.MonkeyPatch) -> Iterator[SandboxExchange]:
    with SandboxExchange(tape) as running:
        monkeypatch.setenv("SOURCES__DERIBIT__API_URL", running.url)
        monkeypatch.setenv("SOURCES__DERIBIT__HISTORY_URL", running.history_url)
        monkeypatch.setenv("SOURCES__DERIBIT__REQUESTS_PER_SECOND", "1000")
        monkeypatch.delenv("SOURCES__DERIBIT__SERIES", raising=False)
        yield running


@pytest.fixture
def pipeline(tmp_path: Path) -> dlt.Pipeline:
    return dlt.pipeline(
        "mine",
        destination=dlt.destinations.duckdb(str(tmp_path / "mine.duckdb")),
        dataset_name="market",
        pipelines_dir=str(tmp_path / "pipelines"),
    )


def run(pipeline: dlt.Pipeline, *names: str, **arguments: Any) -> bool:
    """Load series; returns whether there was a load package."""
    source = deribit(["BTC"], **arguments).with_resources(
        *(names or SERIES), "series_coverage", "series_gaps", "rejected_records"
    )
    with unwrap_dlt_errors():
        return bool(pipeline.run(source).loads_ids)


def query(pipeline: dlt.Pipeline, sql: str) -> list[tuple[Any, ...]]:
    with pipeline.sql_client() as client:
        return [tuple(row) for row in client.execute_sql(sql) or []]


def counts(pipeline: dlt.Pipeline) -> dict[str, int]:
    return {name: query(pipeline, f"select count(*) from {name}")[0][0] for name in SERIES}


def expected(exchange: SandboxExchange) -> dict[str, int]:
    return {
        "delivery_prices": len(exchange.series("delivery_prices", "btc_usd")),
        "settlements": len(exchange.series("settlements", "BTC")),
        "volatility_index": len(exchange.series("volatility_index", "BTC", HOUR)) - 1,
        "funding_rates": len(exchange.series("funding_rates", NAME)),
    }


def distinct(pipeline: dlt.Pipeline) -> dict[str, int]:
    """Rows of each series, of which several versions count once."""
    keys = {
        "delivery_prices": "index_name, date",
        "settlements": "type, timestamp, instrument_name",
        "volatility_index": "timestamp",
        "funding_rates": "timestamp",
    }
    return {
        name: query(pipeline, f"select count(*) from (select distinct {columns} from {name})")[0][0]
        for name, columns in keys.items()
    }


def test_series_are_loaded_once_from_the_beginning_of_their_history(
    pipeline: dlt.Pipeline, exchange: SandboxExchange
) -> None:
    """A second run at the same time sends no request for them, and has no load package; the state is small.

    On the next day, also on another machine, what is new is added, and a restated value replaces the earlier one.
    """
    assert run(pipeline)
    assert counts(pipeline) == expected(exchange)
    exchange.requests.clear()
    assert not run(pipeline)
    assert {request.path.rpartition("/")[2] for request in exchange.requests} <= {
        "get_time",
        "get_currencies",
        "get_instruments",
    }
    assert len(str(pipeline.state["sources"])) < 10_000

    pipeline.drop()
    at_ms = exchange.now_ms // HOUR * HOUR - 5 * HOUR
    exchange.restate_series("funding_rates", NAME, at_ms, interest_1h=0.25)
    exchange.now_ms += DAY
    assert run(pipeline)
    assert distinct(pipeline) == expected(exchange)
    [[latest]] = query(
        pipeline,
        f"select arg_max(interest_1h, _dlt_load_id) from funding_rates where epoch_ms(timestamp) = {at_ms}",
    )
    assert latest == 0.25
    assert counts(pipeline)["volatility_index"] == expected(exchange)["volatility_index"]


def test_gaps_and_coverage_name_what_is_missing(pipeline: dlt.Pipeline, exchange: SandboxExchange) -> None:
    """An hour that the feed lacks is named, and removed from the gaps once the exchange has it."""
    hole = exchange.now_ms // HOUR * HOUR - 5 * HOUR
    exchange.restate_series("funding_rates", NAME, hole)
    run(pipeline, "funding_rates")
    gaps = query(pipeline, "select series_key, epoch_ms(first_at), missing_rows from series_gaps")
    assert gaps == [(NAME, hole, 1)]
    [[covered, loaded, missing]] = query(
        pipeline,
        "select epoch_ms(covered_to), loaded_rows, missing_rows from series_coverage where series = 'funding_rates'",
    )
    assert (covered, missing) == (exchange.now_ms // HOUR * HOUR, 1)
    assert loaded == len(exchange.series("funding_rates", NAME))
    exchange.restate_series("funding_rates", NAME, hole, interest_1h=0.0)
    exchange.now_ms += DAY
    run(pipeline, "funding_rates")
    latest = query(
        pipeline,
        "select arg_max(missing_rows, _dlt_load_id), arg_max(loaded_rows, _dlt_load_id) from series_coverage",
    )
    assert latest == [(0, len(exchange.series("funding_rates", NAME)))]


def test_no_series_on_request() -> None:
    assert resolve_series(DeribitConfig(series=["none"]), [Stream("BTC", "option")])[0] == []


def feed_of(client: DeribitClient, now_ms: int, names: list[str] | None = None, **options: Any) -> SeriesFeed:
    """A feed without a pipeline: its state is what it was given."""
    options = {"states": {}, "listings": {}} | options
    return SeriesFeed(client, ["BTC"], names or SERIES, ["3600"], now_ms, **options)


def rows_of(feed: SeriesFeed) -> dict[str, int]:
    rows = dict.fromkeys(feed.names, 0)
    for series, _, batch in feed.batches():
        rows[series] += batch.table.num_rows
    return rows


def test_series_that_fails_is_left_for_the_next_run(exchange: SandboxExchange) -> None:
    """The others are loaded."""
    exchange.faults = Faults.parse("rate=1,kinds=503,on=get_funding_rate_history")
    config = DeribitConfig(api_url=exchange.url, history_url=exchange.history_url, retry_total_s=0.1)
    with DeribitClient(config) as client:
        feed = feed_of(client, exchange.now_ms)
        assert rows_of(feed) == expected(exchange) | {"funding_rates": 0}
    assert list(feed.report.set_aside) == [f"funding_rates of {NAME}"]
    exchange.faults = Faults.parse("")
    with quick_client(exchange) as client:
        later = feed_of(client, exchange.now_ms, states=feed.states, listings=feed.listings)
        assert later.is_due
        assert rows_of(later) == {
            **dict.fromkeys(SERIES, 0),
            "funding_rates": expected(exchange)["funding_rates"],
        }
        assert not feed_of(client, exchange.now_ms, states=later.states, listings=later.listings).is_due


def test_continuation_that_does_not_move_sets_its_key_aside(exchange: SandboxExchange) -> None:
    exchange.faults = Faults.parse("traps=stuck")
    with quick_client(exchange) as client:
        feed = feed_of(client, exchange.now_ms)
        rows = rows_of(feed)
    assert rows["funding_rates"] == expected(exchange)["funding_rates"]
    assert isinstance(feed.report.set_aside["settlements of BTC settlement"], CursorStuckError)


def test_exchange_that_does_not_offer_a_series_is_requested_again_a_day_later(
    exchange: SandboxExchange,
) -> None:
    """Its refusal is neither an error nor an empty history."""
    listed = {"instrument_name": "BTC-31DEC30", "kind": "future", "price_index": "btc_usd"}
    refusal = {"error": {"code": -32601, "message": "Method not found"}}

    def answer(method: str, params: dict[str, str]) -> dict[str, Any]:
        return {"result": [listed]} if method == "get_instruments" else refusal

    now_ms = 1_700_000_000_000
    with client_of(answer) as client:
        feed = feed_of(client, now_ms)
        assert rows_of(feed) == dict.fromkeys(SERIES, 0)
        assert not feed.report.set_aside
        assert "volatility_index of BTC 3600" in feed.report.refused
        stored = {"states": feed.states, "listings": feed.listings}
        assert not feed_of(client, now_ms + DAY - 1, **stored).is_due
        assert feed_of(client, now_ms + DAY, **stored).is_due


def test_exchange_that_answers_nothing_is_not_requested_for_every_key(exchange: SandboxExchange) -> None:
    """The first failure ends the feed; everything stays due."""
    exchange.stop()
    config = DeribitConfig(api_url=exchange.url, history_url=exchange.history_url, retry_total_s=0.1)
    with DeribitClient(config) as client:
        feed = feed_of(client, exchange.now_ms)
        assert rows_of(feed) == dict.fromkeys(SERIES, 0)
        assert list(feed.report.set_aside) == ["series of BTC"]
        assert feed.is_due


def test_cancelled_client_ends_the_feed(exchange: SandboxExchange) -> None:
    """What was not read stays due."""
    with quick_client(exchange) as client:
        feed = feed_of(client, exchange.now_ms)
        batches = feed.batches()
        next(batches)
        client.cancel()
        assert list(batches) == []
        assert not feed.report.is_complete
        assert feed.is_due
        with pytest.raises(FinalError):
            client.now_ms()


def test_load_package_ends_after_its_most_rows(exchange: SandboxExchange) -> None:
    """The next one continues, and loads nothing twice."""
    total: dict[str, int] = dict.fromkeys(SERIES, 0)
    states: dict[str, Any] = {}
    listings: dict[str, Any] = {}
    packages = 0
    with quick_client(exchange) as client:
        while True:
            feed = feed_of(client, exchange.now_ms, states=states, listings=listings, max_rows=1)
            for name, rows in rows_of(feed).items():
                total[name] += rows
            packages += 1
            if feed.report.is_complete:
                break
    assert packages > len(SERIES)
    assert total == expected(exchange)


def test_snapshots_are_recorded_once_an_hour(exchange: SandboxExchange) -> None:
    """They have no history, so that they are loaded only if they are named."""
    assert "book_summaries" not in resolve_series(DeribitConfig(), [Stream("BTC", "option")])[0]
    instruments = len(exchange.series("book_summaries", "BTC"))
    states: dict[str, Any] = {}
    with quick_client(exchange) as client:
        for now_ms, rows in (
            (exchange.now_ms, instruments),
            (exchange.now_ms, 0),
            (exchange.now_ms + HOUR, instruments),
        ):
            feed = feed_of(client, now_ms, ["book_summaries"], states=states)
            assert rows_of(feed) == {"book_summaries": rows}


def test_series_are_those_of_the_requested_kinds_and_currencies() -> None:
    config = DeribitConfig(series=list(ALL_NAMES))
    names, currencies, resolutions = resolve_series(
        config, [Stream("ETH", "option"), Stream("BTC", "option")]
    )
    assert "funding_rates" not in names
    assert "volatility_index" in names
    assert (currencies, resolutions) == (["ETH", "BTC"], ["3600"])
    assert resolve_series(config, [Stream("BTC", "spot")])[0] == ["book_summaries"]


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"series": ["quotes"]}, "no name 'quotes'"),
        ({"volatility_resolutions": "60, 7"}, "'7' is not a resolution"),
    ],
)
def test_unknown_setting_is_one_sentence(setting: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        resolve_series(DeribitConfig(**setting), [Stream("BTC", "option")])


NOW = 1_700_000_000_000
REFUSAL = {"error": {"code": -32601, "message": "Method not found"}}


def perpetual(name: str, **fields: Any) -> dict[str, Any]:
    return {"instrument_name": name, "kind": "future", "settlement_period": "perpetual"} | fields


def hourly(now_ms: int = NOW, hours: int = 10) -> list[dict[str, Any]]:
    newest = now_ms // HOUR * HOUR
    return [{"timestamp": newest - hour * HOUR, "interest_1h": 1e-6} for hour in range(hours)]


@pytest.mark.parametrize("is_loaded", [True, False])
@pytest.mark.parametrize("refusal", [REFUSAL, httpx.Response(403, text="<html>Forbidden</html>")])
def test_refused_key_is_set_aside_unless_it_is_not_offered(
    refusal: dict[str, Any] | httpx.Response, is_loaded: bool
) -> None:
    """Only an error of the exchange itself, for a key that never had a row, shows that it does not offer the key."""
    is_refused = not is_loaded

    def answer(method: str, params: dict[str, str]) -> dict[str, Any] | httpx.Response:
        if method == "get_instruments":
            return {"result": [perpetual(NAME)]}
        return refusal if is_refused else {"result": hourly()}

    with client_of(answer) as client:
        feed = feed_of(client, NOW, ["funding_rates"])
        if is_loaded:
            assert rows_of(feed) == {"funding_rates": 10}
            is_refused = True
            feed = feed_of(client, NOW + HOUR, ["funding_rates"], states=feed.states, listings=feed.listings)
        failed = [key for _, key, batch in feed.batches() if batch.is_failed]
        is_offered = is_loaded or refusal is not REFUSAL
        assert failed == [NAME] * is_offered
        assert (list(feed.report.set_aside), list(feed.report.refused))[not is_offered] == [
            f"funding_rates of {NAME}"
        ]
        assert feed.is_due == is_offered


def test_refused_list_of_keys_is_set_aside_and_keeps_the_earlier_one() -> None:
    """No empty list replaces it."""
    is_refused = False

    def answer(method: str, params: dict[str, str]) -> dict[str, Any]:
        if method == "get_instruments":
            return REFUSAL if is_refused else {"result": [perpetual(NAME)]}
        return {"result": hourly()}

    with client_of(answer) as client:
        feed = feed_of(client, NOW, ["funding_rates"])
        rows_of(feed)
        is_refused = True
        later = feed_of(client, NOW + DAY, ["funding_rates"], states=feed.states, listings=feed.listings)
        rows_of(later)
        assert "series of BTC" in later.report.set_aside
        assert NAME in later.listings["BTC"]["perpetuals"]
        assert later.is_due


@pytest.mark.parametrize("fault", [httpx.Response(503), {"result": {"of": "another shape"}}])
def test_keys_that_fail_do_not_hold_up_the_others_of_their_series(
    fault: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After three in a row without an answer the others are requested once; after some time in vain they wait."""
    names = [f"C{number}-PERPETUAL" for number in range(8)]
    failing = {names[0]}

    def answer(method: str, params: dict[str, str]) -> Any:
        if method == "get_instruments":
            return {"result": [perpetual(name) for name in names]}
        if params.get("instrument_name") in failing:
            return fault
        return {"result": hourly() if "instrument_name" in params else NOW}

    with client_of(answer, most=5_000) as client:
        feed = feed_of(client, NOW, ["funding_rates"])
        assert rows_of(feed) == {"funding_rates": 70}
        assert list(feed.report.set_aside) == [f"funding_rates of {names[0]}"]

        failing = {*names[:4]}
        feed = feed_of(client, NOW, ["funding_rates"])
        assert rows_of(feed) == {"funding_rates": 40}
        assert list(feed.report.set_aside) == [f"funding_rates of {name}" for name in names[:4]]

        monkeypatch.setattr("extract.source.series.MAX_UNANSWERED_S", 0)
        feed = feed_of(client, NOW, ["funding_rates"])
        assert rows_of(feed) == {"funding_rates": 0}
        assert list(feed.report.set_aside) == [f"funding_rates of {name}" for name in names]
        loaded = 0
        for hour in range(len(names)):
            feed = feed_of(
                client, NOW + hour * HOUR, ["funding_rates"], states=feed.states, listings=feed.listings
            )
            loaded += rows_of(feed)["funding_rates"]
        assert loaded == 40


def test_hanging_series_delay_new_trades_for_a_minute_and_less_and_less_often() -> None:
    """Each turn of `tape follow` loads trades before the series; the other series are loaded meanwhile."""
    names = [f"C{number}-PERPETUAL" for number in range(8)]
    hanging = {"get_funding_rate_history", "get_last_settlements_by_currency", "get_volatility_index_data"}
    clock_s = 0.0

    def now_ms() -> int:
        return NOW + round(clock_s * 1000)

    def answer(method: str, params: dict[str, str]) -> Any:
        nonlocal clock_s
        if method in hanging:
            clock_s += 30
            return httpx.Response(503)
        if method == "get_funding_rate_history":
            return {"result": hourly(now_ms())}
        listed = [perpetual(name, price_index="btc_usd") for name in names]
        return {"result": listed} if method == "get_instruments" else REFUSAL

    stored: dict[str, Any] = {"states": {}, "listings": {}}

    def turn() -> float:
        """Seconds that the series of a turn take; the next one begins ten seconds later."""
        nonlocal clock_s
        began_s = clock_s
        feed = feed_of(client, now_ms(), in_turns=True, clock=lambda: clock_s, **stored)
        if feed.is_due:
            rows_of(feed)
        clock_s += 10
        return clock_s - 10 - began_s

    def turns(seconds: float) -> list[float]:
        end_s = clock_s + seconds
        return [turn() for _ in iter(lambda: clock_s < end_s, False)]

    with client_of(answer, most=5_000, attempts=1) as client:
        first = turns(7200)
        assert max(first) <= 60
        assert 0 < sum(first[len(first) // 2 :]) < 600
        assert all("failed_ms" in stored["states"]["funding_rates"][name] for name in names)
        assert "failed_ms" not in stored["states"]["delivery_prices"]["btc_usd"]
        hanging.clear()
        assert sum(turns(3700)) == 0
        assert all("proven_ms" in stored["states"]["funding_rates"][name] for name in names)


def test_hanging_list_of_keys_delays_new_trades_less_and_less_often() -> None:
    """The keys of the earlier list are requested nevertheless."""
    clock_s, is_hanging, lists = 0.0, False, 0

    def answer(method: str, params: dict[str, str]) -> Any:
        nonlocal clock_s, lists
        if method == "get_instruments":
            lists += 1
            if is_hanging:
                clock_s += 30
                return httpx.Response(503)
            return {"result": [perpetual(NAME)]}
        return {"result": hourly(NOW + DAY) if "instrument_name" in params else NOW}

    stored: dict[str, Any] = {"states": {}, "listings": {}}
    with client_of(answer, attempts=1) as client:
        rows_of(feed_of(client, NOW, ["funding_rates"], in_turns=True, **stored))
        is_hanging, lists = True, 0
        turn = partial(
            feed_of, client, names=["funding_rates"], in_turns=True, clock=lambda: clock_s, **stored
        )
        for minutes in range(60):
            rows_of(turn(NOW + DAY + minutes * MINUTE))
        assert 2 < lists < 10
        assert stored["states"]["funding_rates"][NAME]["proven_ms"] == (NOW + DAY) // HOUR * HOUR
        is_hanging = False
        rows_of(feed_of(client, NOW + DAY + 2 * HOUR, ["funding_rates"], in_turns=True, **stored))
        assert "failed_ms" not in stored["listings"]["BTC"]


def test_turn_ends_while_a_long_history_is_loaded_and_the_next_one_continues() -> None:
    clock_s = 0.0
    names = [f"C{number}-PERPETUAL" for number in range(20)]

    def answer(method: str, params: dict[str, str]) -> Any:
        nonlocal clock_s
        clock_s += 5
        listed = [perpetual(name, creation_timestamp=NOW - 10 * HOUR) for name in names]
        return {"result": listed if method == "get_instruments" else hourly()}

    stored: dict[str, Any] = {"states": {}, "listings": {}}
    loaded, is_complete = [], False
    with client_of(answer) as client:
        turn = partial(
            feed_of, client, names=["funding_rates"], in_turns=True, clock=lambda: clock_s, **stored
        )
        while not is_complete:
            began_s = clock_s
            feed = turn(NOW)
            loaded.append(rows_of(feed)["funding_rates"])
            assert clock_s - began_s <= 60
            is_complete = feed.report.is_complete
    assert sum(loaded) == 200
    assert len(loaded) > 2


def test_history_of_a_key_without_end_ends_the_turn() -> None:
    """Each page of a walk arrives in time, and there is always another one. The other keys are loaded."""
    clock_s, page, is_endless = 0.0, 0, True

    def answer(method: str, params: dict[str, str]) -> Any:
        nonlocal clock_s, page
        if method == "get_last_settlements_by_currency":
            clock_s, page = clock_s + 25 * is_endless, page + 1
            row = {"type": params["type"], "timestamp": NOW - page * MINUTE, "instrument_name": NAME}
            token = str(page) if is_endless else None
            return {"result": {"settlements": [row] * is_endless, "continuation": token}}
        return {"result": [perpetual(NAME)] if method == "get_instruments" else hourly()}

    stored: dict[str, Any] = {"states": {}, "listings": {}}
    names = ["funding_rates", "settlements"]
    with client_of(answer, most=5_000) as client:
        turns = []
        for now_ms in range(NOW, NOW + 2 * DAY, 10 * MINUTE):
            began_s = clock_s
            feed = feed_of(client, now_ms, names, in_turns=True, clock=lambda: clock_s, **stored)
            rows_of(feed)
            turns.append(clock_s - began_s)
        assert turns[0] <= 125 < max(turns) <= 325
        assert "proven_ms" in stored["states"]["funding_rates"][NAME]
        assert "failed_ms" in stored["states"]["settlements"]["BTC delivery"]
        is_endless = False
        rows_of(feed_of(client, NOW + 3 * DAY, names, in_turns=True, clock=lambda: clock_s, **stored))
        assert "failed_ms" not in stored["states"]["settlements"]["BTC delivery"]


def test_key_whose_answers_contradict_each_other_is_not_requested_by_each_run() -> None:
    """A walk through its history takes many requests."""

    def answer(method: str, params: dict[str, str]) -> Any:
        if method == "get_instruments":
            return {"result": [perpetual(NAME)]}
        return {"result": NOW}

    with client_of(answer) as client:
        feed = feed_of(client, NOW, ["funding_rates"])
        [task] = (feed._list("BTC"), *feed._tasks())[1:]
        feed._failed(task, CursorStuckError("The answers contradict each other."))
        states, listings = feed.states, feed.listings
        assert [
            feed_of(
                client, NOW + minutes * 60_000, ["funding_rates"], states=states, listings=listings
            ).is_due
            for minutes in (1, 9, 10)
        ] == [False, False, True]


def test_keys_that_are_listed_no_more_are_requested() -> None:
    """A listing that is empty once hides nothing; without any key it is requested again an hour later."""
    listed = [perpetual(NAME)]

    def answer(method: str, params: dict[str, str]) -> dict[str, Any]:
        return {"result": listed if method == "get_instruments" else hourly()}

    with client_of(answer) as client:
        feed = feed_of(client, NOW, ["funding_rates"])
        assert rows_of(feed) == {"funding_rates": 10}
        listed = []
        later = feed_of(client, NOW + DAY, ["funding_rates"], states=feed.states, listings=feed.listings)
        rows_of(later)
        assert list(later.listings["BTC"]["perpetuals"]) == [NAME]

        first = feed_of(client, NOW, ["funding_rates"], indexes_of=lambda currency: ["old_usdc"])
        assert [str(task) for task in first._delivery_prices("BTC")] == []
        assert not rows_of(first)["funding_rates"]
        assert [str(task) for task in first._delivery_prices("BTC")] == ["delivery_prices of old_usdc"]
        listed = [perpetual(NAME)]
        again = feed_of(client, NOW + HOUR, ["funding_rates"], states=first.states, listings=first.listings)
        assert rows_of(again)["funding_rates"] == 10


def test_rejected_record_is_stored_once() -> None:
    """A record that each request returns again is not news."""
    odd = {"timestamp": NOW // HOUR * HOUR - 20 * HOUR, "interest_1h": "abc"}
    now_ms = NOW

    def answer(method: str, params: dict[str, str]) -> dict[str, Any]:
        if method == "get_instruments":
            return {"result": [perpetual(NAME)]}
        return {"result": [*hourly(now_ms), odd]}

    states: dict[str, Any] = {}
    listings: dict[str, Any] = {}
    rejected = []
    with client_of(answer) as client:
        for now_ms in (NOW, NOW + HOUR, NOW + 2 * HOUR):
            feed = feed_of(client, now_ms, ["funding_rates"], states=states, listings=listings)
            rejected.append(sum(len(batch.rejected) for _, _, batch in feed.batches()))
    assert rejected == [1, 0, 0]


@pytest.mark.parametrize(
    "times",
    [
        {"creation_timestamp": 9_000_000_000_000},
        {"creation_timestamp": (NOW - 30 * DAY) * 1_000},
        {"creation_timestamp": NOW - 30 * DAY, "expiration_timestamp": 0},
        {"creation_timestamp": NOW - 30 * DAY, "expiration_timestamp": NOW - 31 * DAY},
        {"creation_timestamp": NOW - 30 * DAY, "expiration_timestamp": NOW * 1_000},
    ],
)
def test_odd_times_of_a_perpetual_neither_hide_its_rates_nor_end_them(times: dict[str, int]) -> None:
    now_ms = NOW

    def answer(method: str, params: dict[str, str]) -> dict[str, Any]:
        if method == "get_instruments":
            return {"result": [perpetual(NAME, **times)]}
        return {"result": hourly(now_ms)}

    with client_of(answer) as client:
        feed = feed_of(client, now_ms, ["funding_rates"])
        assert rows_of(feed) == {"funding_rates": 10}
        now_ms += HOUR
        later = feed_of(client, now_ms, ["funding_rates"], states=feed.states, listings=feed.listings)
        assert rows_of(later) == {"funding_rates": 1}


def test_snapshots_continue_after_an_answer_with_an_impossible_time() -> None:
    def answer(method: str, params: dict[str, str]) -> dict[str, Any]:
        odd = {"usIn": (NOW + 400 * DAY) * 1_000}
        return {"result": [{"instrument_name": NAME}], **(odd if "book" in method else {})}

    states: dict[str, Any] = {}
    with client_of(answer) as client:
        for now_ms in (NOW, NOW + HOUR):
            feed = feed_of(client, now_ms, ["book_summaries"], states=states)
            assert rows_of(feed) == {"book_summaries": 1}


def test_value_restated_before_what_each_request_reads_is_loaded_within_four_weeks_per_key() -> None:
    """The whole history of one key is read again in each run, and not again for four weeks; also if that fails."""
    begin = NOW // HOUR * HOUR - 2_000 * HOUR
    exchange = SeriesExchange(funding={begin + hour * HOUR: 1e-6 for hour in range(4_000)})
    names = ["A-PERPETUAL", "B-PERPETUAL"]
    end_ms = NOW
    is_broken = False

    def answer(method: str, params: dict[str, str]) -> dict[str, Any]:
        if method == "get_instruments":
            return {"result": [perpetual(name, creation_timestamp=begin) for name in names]}
        if is_broken and int(params.get("start_timestamp", NOW)) < NOW - 60 * DAY:
            return REFUSAL
        if "end_timestamp" in params:
            params["end_timestamp"] = str(min(int(params["end_timestamp"]), end_ms))
        return exchange.answer(method, params)

    states: dict[str, Any] = {}
    listings: dict[str, Any] = {}

    def run_at(now_ms: int) -> dict[str, int]:
        nonlocal end_ms
        end_ms = now_ms
        feed = feed_of(client, now_ms, ["funding_rates"], states=states, listings=listings)
        return {key: batch.table.num_rows for _, key, batch in feed.batches()}

    with client_of(answer, most=5_000) as client:
        assert run_at(NOW) == dict.fromkeys(names, 2_001)
        exchange.funding[begin + 5 * HOUR] = 0.5
        assert run_at(NOW + 27 * DAY) == dict.fromkeys(names, 27 * 24)
        is_broken = True
        assert run_at(NOW + 28 * DAY) == {names[0]: 0, names[1]: 24}
        is_broken = False
        rows = run_at(NOW + 28 * DAY + HOUR)
        assert rows[names[0]] == 25
        assert rows[names[1]] > 1_000
        assert run_at(NOW + 28 * DAY + 2 * HOUR) == dict.fromkeys(names, 1)
        assert run_at(NOW + 56 * DAY)[names[0]] > 1_000
