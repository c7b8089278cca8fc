"""Every row of a series is loaded once or named as missing, whatever the exchange's peculiarities are."""

from __future__ import annotations

from datetime import date, timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from extract.deribit.series.delivery_prices import fetch_delivery_prices
from extract.deribit.series.funding_rates import fetch_funding_rates
from extract.deribit.series.settlements import fetch_settlements
from extract.deribit.series.volatility_index import fetch_volatility_index
from tests.support.examples import examples
from tests.support.series_exchange import BEGIN, DAY, HOUR, NAME, Loader, Peculiarities, SeriesExchange

several = settings(
    max_examples=examples(40),
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
MINUTES = 20 * 60_000


@st.composite
def peculiarities(draw: st.DrawFn, limits: tuple[int, ...]) -> Peculiarities:
    return Peculiarities(
        limit=draw(st.sampled_from(limits)),
        ignores_start=draw(st.booleans()),
        excludes_start=draw(st.booleans()),
        excludes_end=draw(st.booleans()),
        order=draw(st.sampled_from(["ascending", "descending", "shuffled"])),
        repeats_rows=draw(st.booleans()),
        first_answer_is_empty=draw(st.booleans()),
        null_at_end=draw(st.booleans()),
        shifts=draw(st.booleans()),
    )


@st.composite
def steps(draw: st.DrawFn, most: int) -> list[int]:
    """Steps with rows: most of a range, without a few holes of any length."""
    count = draw(st.integers(1, most))
    holes = draw(st.lists(st.tuples(st.integers(0, count), st.integers(1, 1_500)), max_size=4))
    without = {step for first, length in holes for step in range(first, first + length)}
    return [step for step in range(count) if step not in without]


def missing_between(steps: list[int]) -> set[int]:
    return set(range(min(steps), max(steps) + 1)) - set(steps) if steps else set()


def named(loader: Loader, step: int) -> set[int]:
    """Steps that the loader's gaps name; each gap counts its rows correctly."""
    steps = [range(gap.first_ms, gap.last_ms + 1, step) for gap in loader.gaps]
    assert [gap.missing for gap in loader.gaps] == [len(each) for each in steps]
    return {at for each in steps for at in each}


@pytest.mark.slow
@several
@given(steps(4_000), peculiarities((744, 500, 60)), st.integers(0, 30), st.data())
def test_funding_rates(
    hours: list[int], ways: Peculiarities, months_before: int, data: st.DataObject
) -> None:
    """Each hour is loaded once, holes are named, an idle run requests nothing, and later values replace earlier ones."""
    exchange = SeriesExchange(ways, funding={BEGIN + hour * HOUR: hour * 1e-7 for hour in hours})
    loader = Loader(exchange.answer, "timestamp")
    since_ms = BEGIN - months_before * 30 * DAY
    now_ms = BEGIN + max(hours, default=0) * HOUR + MINUTES

    def run(now_ms: int) -> int:
        return loader.load(fetch_funding_rates(loader.client, NAME, loader.state, now_ms, since_ms=since_ms))

    def loaded() -> dict[int, float]:
        return {at_ms: row["interest_1h"] for (at_ms,), row in loader.rows.items()}

    assert run(now_ms) == len(hours)
    assert loaded() == exchange.funding
    assert named(loader, HOUR) == {BEGIN + hour * HOUR for hour in missing_between(hours)}
    requests = loader.requests
    assert run(now_ms) == 0
    assert loader.requests == requests
    if hours:
        later = BEGIN + (max(hours) + 1) * HOUR
        exchange.funding[later] = 5e-5
        assert run(later + MINUTES) == 1
        recent = [at for at in exchange.funding if at > later - 20 * DAY]
        restated = data.draw(st.sampled_from(recent))
        exchange.funding[restated] = 7e-5
        assert run(later + HOUR + MINUTES) <= 24
        assert loaded() == exchange.funding
        assert run(later + 2 * HOUR + MINUTES) == 0


def test_restated_rate_of_the_first_day_is_loaded_if_the_history_begins_within_the_day() -> None:
    """The hours of that day before the first one are not missing."""
    exchange = SeriesExchange(funding={BEGIN + hour * HOUR: 1e-7 for hour in range(1, 12)})
    loader = Loader(exchange.answer, "timestamp")
    for hour, rate in ((11, 1e-7), (12, 7e-5)):
        exchange.funding |= {BEGIN + HOUR: rate, BEGIN + hour * HOUR: 1e-7}
        now_ms = BEGIN + hour * HOUR + MINUTES
        loader.load(fetch_funding_rates(loader.client, NAME, loader.state, now_ms, since_ms=BEGIN - DAY))
        assert {at_ms: row["interest_1h"] for (at_ms,), row in loader.rows.items()} == exchange.funding


@several
@given(steps(4_000), peculiarities((1_000, 333, 60)), st.data())
def test_volatility_index(hours: list[int], ways: Peculiarities, data: st.DataObject) -> None:
    """Each closed candle is loaded once, holes are named, and later values replace earlier ones."""
    candles = {BEGIN + hour * HOUR: [hour, hour + 2, hour - 1, hour + 1] for hour in hours}
    exchange = SeriesExchange(ways, candles=candles)
    loader = Loader(exchange.answer, "timestamp")
    now_ms = BEGIN + (max(hours, default=0) + 1) * HOUR + MINUTES

    def run(now_ms: int) -> int:
        return loader.load(
            fetch_volatility_index(
                loader.client, "BTC", "3600", loader.state, now_ms, since_ms=BEGIN - 100 * DAY
            )
        )

    def loaded() -> dict[int, list[float]]:
        return {
            at_ms: [row[name] for name in ("open", "high", "low", "close")]
            for (at_ms,), row in loader.rows.items()
        }

    assert run(now_ms) == len(hours)
    assert loaded() == exchange.candles
    assert named(loader, HOUR) == {BEGIN + hour * HOUR for hour in missing_between(hours)}
    requests = loader.requests
    assert run(now_ms) == 0
    assert loader.requests == requests
    if hours:
        later = BEGIN + (max(hours) + 1) * HOUR
        exchange.candles[later] = [1.0, 1.0, 1.0, 1.0]
        exchange.candles[later + HOUR] = [9.0, 9.0, 9.0, 9.0]  # not closed yet
        assert run(later + HOUR + MINUTES) == 1
        if ways.first_answer_is_empty:
            return  # whether a page of known candles was empty by mistake is not examined
        restated = data.draw(st.sampled_from([at for at in loaded() if at > later - 15 * DAY]))
        exchange.candles[restated] = [2.0, 2.0, 2.0, 2.0]
        assert 2 <= run(later + 2 * HOUR + MINUTES) <= 25
        assert loaded() == exchange.candles


def test_only_candle_of_an_index_is_loaded_if_the_end_of_a_request_is_exclusive() -> None:
    """The first request only finds out whether the index has any candles."""
    exchange = SeriesExchange(Peculiarities(excludes_end=True), candles={BEGIN: [1.0, 2.0, 0.5, 1.5]})
    loader = Loader(exchange.answer, "timestamp")
    now_ms = BEGIN + HOUR + MINUTES
    batches = fetch_volatility_index(loader.client, "BTC", "3600", loader.state, now_ms, since_ms=BEGIN - DAY)
    assert loader.load(batches) == 1


@several
@given(st.sets(st.integers(0, 2_500)), peculiarities((1_000, 100, 7)), st.data())
def test_delivery_prices(offsets: set[int], ways: Peculiarities, data: st.DataObject) -> None:
    """Each day is loaded once, although offsets shift between pages; later values replace earlier ones."""
    days = {(date(2019, 1, 1) + timedelta(offset)).isoformat(): float(offset + 1) for offset in offsets}
    exchange = SeriesExchange(ways, prices=days)
    loader = Loader(exchange.answer, "date")
    today = date(2019, 1, 1) + timedelta(max(offsets, default=0))

    def run(day: date) -> int:
        now_ms = (day - date(1970, 1, 1)).days * DAY + 9 * HOUR
        return loader.load(fetch_delivery_prices(loader.client, "btc_usd", loader.state, now_ms))

    def loaded() -> dict[str, float]:
        return {day: row["delivery_price"] for (day,), row in loader.rows.items()}

    run(today)
    if ways.limit >= len(days) - ways.shifts:
        # One page shows everything at its time, before the newest row appears.
        run(today + timedelta(1))
    assert loaded() == days
    assert not loader.gaps
    requests = loader.requests
    assert run(today) == 0
    assert loader.requests == requests
    tomorrow = today + timedelta(2)
    days[tomorrow.isoformat()] = 17.0
    assert run(tomorrow) == 1
    recent = [day for day in days if day > (tomorrow - timedelta(30)).isoformat()]
    restated = data.draw(st.sampled_from(sorted(recent)))
    days[restated] = 18.5  # no day has this value
    days[(tomorrow + timedelta(1)).isoformat()] = 19.0
    assert run(tomorrow + timedelta(1)) >= 2
    assert loaded() == days


@st.composite
def settlements(draw: st.DrawFn) -> list[dict[str, Any]]:
    """Up to 400 days with many instruments, of which some settle in the same millisecond."""
    days = draw(st.sets(st.integers(0, 400), min_size=0, max_size=60))
    return [
        {
            "type": draw(st.sampled_from(["delivery", "delivery", "settlement"])),
            "timestamp": BEGIN + day * DAY + 8 * HOUR + draw(st.sampled_from([0, 0, 23])),
            "instrument_name": f"I-{day}-{number}",
            "index_price": float(day),
        }
        for day in days
        for number in range(draw(st.integers(1, 6)))
    ]


@several
@given(settlements(), peculiarities((1_000, 50, 7)), st.data())
def test_settlements(rows: list[dict[str, Any]], ways: Peculiarities, data: st.DataObject) -> None:
    """Each delivery is loaded once, through continuations that end too early; later values replace earlier ones."""
    exchange = SeriesExchange(ways, settled=rows)
    loader = Loader(exchange.answer, "instrument_name")
    last_ms = max((row["timestamp"] for row in rows), default=BEGIN) // DAY * DAY

    def run(now_ms: int) -> int:
        return loader.load(fetch_settlements(loader.client, "BTC", "delivery", loader.state, now_ms))

    def deliveries() -> dict[str, float]:
        return {row["instrument_name"]: row["index_price"] for row in rows if row["type"] == "delivery"}

    def loaded() -> dict[str, float]:
        return {name: row["index_price"] for (name,), row in loader.rows.items()}

    assert run(last_ms + 9 * HOUR) == len(deliveries())
    assert loaded() == deliveries()
    requests = loader.requests
    assert run(last_ms + 9 * HOUR) == 0
    assert loader.requests == requests
    newest = {
        "type": "delivery",
        "timestamp": last_ms + DAY + 8 * HOUR,
        "instrument_name": "new",
        "index_price": 1.0,
    }
    rows.append(newest)
    if deliveries().keys() == {"new"}:
        return
    assert run(last_ms + 2 * DAY) == 1
    recent = [row for row in rows if row["type"] == "delivery" and row["timestamp"] > last_ms - 5 * DAY]
    data.draw(st.sampled_from(recent))["index_price"] = 99.0
    assert run(last_ms + 3 * DAY) <= 12
    assert loaded() == deliveries()
