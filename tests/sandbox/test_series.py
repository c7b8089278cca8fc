"""The sandbox's series agree with its trades, and its traps are those of the exchange."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from itertools import pairwise
from typing import Any

import httpx
import pytest

from extract.deribit.series.delivery_prices import fetch_delivery_prices
from extract.deribit.series.funding_rates import fetch_funding_rates
from extract.deribit.series.grid import CursorStuckError
from extract.deribit.series.settlements import fetch_settlements
from extract.deribit.series.state import SeriesState
from extract.deribit.series.volatility_index import fetch_volatility_index
from extract.errors import UsageError
from extract.sandbox.faults import Faults
from extract.sandbox.server import SandboxExchange
from extract.sandbox.tape import Tape
from tests.support.sweep_helpers import quick_client

HOUR = 3_600_000
DAY = 24 * HOUR
NAME = "BTC-PERPETUAL"


@pytest.fixture(scope="module")
def tape() -> Tape:
    """Forty days, so that an answer of funding rates does not hold all hours."""
    return Tape.generate(seed=3, trades=3_000, days=40)


@pytest.fixture(scope="module")
def plain(tape: Tape) -> Iterator[SandboxExchange]:
    with SandboxExchange(tape) as exchange:
        yield exchange


def get(exchange: SandboxExchange, method: str, **params: Any) -> Any:
    answer = httpx.get(f"{exchange.url}/public/{method}", params=params, timeout=60).json()
    return answer["result"] if "result" in answer else answer["error"]


def test_funding_history_is_limited_from_its_end_and_ignores_the_start(plain: SandboxExchange) -> None:
    """The limits of the exchange: 744 rows, hourly, without the row at the start."""
    rows = get(
        plain, "get_funding_rate_history", instrument_name=NAME, start_timestamp=0, end_timestamp=plain.now_ms
    )
    assert len(rows) == 744
    assert [row["timestamp"] % HOUR for row in rows] == [0] * 744
    assert rows[-1]["timestamp"] == plain.now_ms // HOUR * HOUR
    inner = get(
        plain,
        "get_funding_rate_history",
        instrument_name=NAME,
        start_timestamp=rows[10]["timestamp"],
        end_timestamp=rows[12]["timestamp"],
    )
    assert inner == rows[11:13]


def test_funding_follows_the_basis_and_sums_to_the_value(plain: SandboxExchange, tape: Tape) -> None:
    rows = plain.series("funding_rates", NAME)
    row = max(rows, key=lambda each: abs(each["interest_1h"]))
    premiums = [
        (trade["mark_price"] or trade["price"]) / trade["index_price"] - 1
        for trade in tape.trades
        if trade["instrument_name"] == NAME
        and row["timestamp"] - HOUR < trade["timestamp"] <= row["timestamp"]
    ]
    assert row["interest_1h"] == pytest.approx(sum(premiums) / len(premiums) / 8)
    value = get(
        plain,
        "get_funding_rate_value",
        instrument_name=NAME,
        start_timestamp=rows[4]["timestamp"],
        end_timestamp=rows[28]["timestamp"],
    )
    assert value == pytest.approx(sum(each["interest_1h"] for each in rows[5:29]))


def test_option_is_delivered_at_the_price_of_its_index(plain: SandboxExchange) -> None:
    """The mark price of a delivery is the payoff, in coin for inverse options."""
    prices = {row["date"]: row["delivery_price"] for row in plain.series("delivery_prices", "btc_usd")}
    deliveries = [
        row
        for row in plain.series("settlements", "BTC")
        if row["type"] == "delivery" and row["instrument_name"].endswith("-C")
    ]
    in_the_money = 0
    for row in deliveries:
        day = datetime.fromtimestamp(row["timestamp"] / 1000, UTC).date().isoformat()
        strike = float(row["instrument_name"].split("-")[2])
        assert row["index_price"] == prices[day]
        assert row["mark_price"] == pytest.approx(max(prices[day] - strike, 0) / prices[day], abs=1e-8)
        in_the_money += row["mark_price"] > 0
    assert 0 < in_the_money < len(deliveries)


def test_delivery_price_is_the_mean_of_the_index(plain: SandboxExchange, tape: Tape) -> None:
    """Where no trade moved the index in the 30 minutes, it is the index price of the last trade before."""
    points = sorted(
        (trade["timestamp"], trade["index_price"])
        for trade in tape.trades
        if trade["instrument_name"].startswith("BTC-") and not trade.get("legs")
    )
    checked = 0
    for row in plain.series("delivery_prices", "btc_usd"):
        at_ms = int(datetime.fromisoformat(row["date"]).replace(tzinfo=UTC).timestamp() * 1000) + 8 * HOUR
        before = [price for each, price in points if each < at_ms - 30 * 60_000]
        within = [price for each, price in points if at_ms - 30 * 60_000 <= each < at_ms]
        if before and not within:
            assert row["delivery_price"] == pytest.approx(before[-1], abs=1e-3)
            checked += 1
        elif before:
            assert min([before[-1], *within]) <= row["delivery_price"] <= max([before[-1], *within])
    assert checked


def test_candles_of_volatility_connect_and_coarser_ones_contain_finer_ones(plain: SandboxExchange) -> None:
    hours = plain.series("volatility_index", "BTC", HOUR)
    for before, after in pairwise(hours):
        assert after[1] == before[4]
        assert after[3] <= min(after[1], after[4]) <= max(after[1], after[4]) <= after[2]
    day = plain.series("volatility_index", "BTC", DAY)[5]
    inside = [row for row in hours if day[0] <= row[0] < day[0] + DAY]
    assert day[2] == max(row[2] for row in inside)
    assert day[4] == inside[-1][4]
    assert plain.series("volatility_index", "USDC", HOUR) == []


def test_volatility_pages_backwards(plain: SandboxExchange) -> None:
    params = {"currency": "BTC", "resolution": "60", "start_timestamp": 0}
    page = get(plain, "get_volatility_index_data", **params, end_timestamp=plain.now_ms)
    assert len(page["data"]) == 1_000
    older = get(plain, "get_volatility_index_data", **params, end_timestamp=page["continuation"])
    assert older["data"][-1][0] == page["data"][0][0] - 60_000


def test_book_summary_has_every_live_instrument(plain: SandboxExchange) -> None:
    names = {row["instrument_name"] for row in get(plain, "get_book_summary_by_currency", currency="BTC")}
    live = {row["instrument_name"] for row in get(plain, "get_instruments", currency="BTC")}
    assert names == live


def test_history_host_has_no_series(plain: SandboxExchange) -> None:
    answer = httpx.get(
        f"{plain.history_url}/public/get_delivery_prices", params={"index_name": "btc_usd"}, timeout=60
    )
    assert answer.json()["error"]["code"] == -32601


@pytest.mark.parametrize(
    ("method", "params", "param"),
    [
        ("get_funding_rate_history", {"instrument_name": "BTC_USDC"}, "instrument_name"),
        ("get_delivery_prices", {"index_name": "btc_yen"}, "index_name"),
        ("get_delivery_prices", {"index_name": "btc_usd", "count": 1_001}, "count"),
        ("get_last_settlements_by_currency", {"currency": "BTC", "type": "x"}, "type"),
        ("get_volatility_index_data", {"currency": "BTC", "resolution": "7"}, "resolution"),
    ],
)
def test_wrong_parameter_is_named(
    plain: SandboxExchange, method: str, params: dict[str, Any], param: str
) -> None:
    error = get(plain, method, start_timestamp=0, end_timestamp=1, **params)
    assert error["data"]["param"] == param


def test_search_start_timestamp_is_the_latest_time(plain: SandboxExchange) -> None:
    at_ms = plain.now_ms - 10 * DAY
    answer = get(plain, "get_last_settlements_by_currency", currency="BTC", search_start_timestamp=at_ms)
    assert len(answer["settlements"]) == 20
    assert max(row["timestamp"] for row in answer["settlements"]) <= at_ms


def fetched(exchange: SandboxExchange, fetch: Callable[..., Any], *key: Any, **options: Any) -> Any:
    with quick_client(exchange) as client:
        batches = list(fetch(client, *key, SeriesState(), exchange.now_ms, **options))
    rows = [row for batch in batches for row in batch.table.to_pylist()]
    return rows, batches[-1].gaps


ALL_MISLEADING = "traps=empty+shift+holes"


def test_every_row_is_loaded_once_or_named_under_all_traps(tape: Tape) -> None:
    """What the feed lacks is missing, and nothing else."""
    with SandboxExchange(tape, faults=ALL_MISLEADING) as exchange:
        funding, gaps = fetched(exchange, fetch_funding_rates, NAME, since_ms=0)
        times = [int(row["timestamp"].timestamp() * 1000) for row in funding]
        named = {at for gap in gaps for at in range(gap.first_ms, gap.last_ms + 1, HOUR)}
        truth = {row["timestamp"] for row in exchange.series("funding_rates", NAME)}
        assert len(times) == len(set(times)) < len(truth)
        assert set(times) | named == {each for each in truth if min(times) <= each <= max(times)}
        assert not set(times) & named

        candles, gaps = fetched(exchange, fetch_volatility_index, "BTC", "3600")
        times = [int(row["timestamp"].timestamp() * 1000) for row in candles]
        named = {at for gap in gaps for at in range(gap.first_ms, gap.last_ms + 1, HOUR)}
        truth = {row[0] for row in exchange.series("volatility_index", "BTC", HOUR)[:-1]}
        assert len(times) == len(set(times))
        assert set(times) | named == {each for each in truth if min(times) <= each <= max(times)}

        days = [
            datetime.fromisoformat(row["date"]).date()
            for row in exchange.series("delivery_prices", "btc_usd")
        ]
        prices, gaps = fetched(exchange, fetch_delivery_prices, "btc_usd", expiry_days=days)
        dates = {row["date"] for row in prices}
        named_days = {datetime.fromtimestamp(gap.first_ms / 1000, UTC).date() for gap in gaps}
        assert dates | named_days >= set(days[1:])  # the newest one may appear after the only page
        assert named_days
        assert len(dates) == len(prices)

        truth_rows = [row for row in exchange.series("settlements", "BTC") if row["type"] == "delivery"]
        expired = {row["instrument_name"]: row["timestamp"] // 1000 * 1000 for row in truth_rows}
        deliveries, gaps = fetched(exchange, fetch_settlements, "BTC", "delivery", expired=expired)
        names = {row["instrument_name"] for row in deliveries}
        assert len(names) == len(deliveries) < len(truth_rows)
        assert sum(gap.missing for gap in gaps) == len(truth_rows) - len(deliveries)


def test_settlements_under_faults_come_whole(tape: Tape) -> None:
    """Continuations, empty answers and failed requests at once."""
    faults = "traps=empty,rate=0.2,seed=4,retry_after=0.001,slow=0.001"
    with SandboxExchange(tape, faults=faults) as exchange:
        rows, _ = fetched(exchange, fetch_settlements, "BTC", "settlement")
        truth = [row for row in exchange.series("settlements", "BTC") if row["type"] == "settlement"]
        assert sorted(row["position"] for row in rows) == sorted(row["position"] for row in truth)


@pytest.mark.parametrize(
    ("fetch", "key"),
    [
        (fetch_settlements, ("BTC", "settlement")),
        (fetch_volatility_index, ("BTC", "60")),
    ],
)
def test_continuation_that_does_not_move_is_an_error(
    tape: Tape, fetch: Callable[..., Any], key: tuple[str, ...]
) -> None:
    with SandboxExchange(tape, faults="traps=stuck") as exchange, pytest.raises(CursorStuckError):
        fetched(exchange, fetch, *key)


def test_restated_row_of_a_series_is_served(tape: Tape) -> None:
    with SandboxExchange(tape) as exchange:
        at_ms = exchange.now_ms // HOUR * HOUR
        exchange.restate_series("funding_rates", NAME, at_ms, interest_1h=0.5)
        exchange.restate_series("funding_rates", NAME, at_ms - HOUR)
        rows = exchange.series("funding_rates", NAME)
    assert rows[-1]["interest_1h"] == 0.5
    assert rows[-2]["timestamp"] == at_ms - 2 * HOUR


def test_added_trade_moves_the_series(tape: Tape) -> None:
    with SandboxExchange(tape) as exchange:
        before = exchange.series("delivery_prices", "btc_usd")[0]
        day_ms = int(datetime.fromisoformat(before["date"]).replace(tzinfo=UTC).timestamp() * 1000)
        last = next(trade for trade in reversed(tape.trades) if trade["instrument_name"] == NAME)
        late = last | {
            "trade_seq": last["trade_seq"] + 1,
            "trade_id": "999999999",
            "timestamp": day_ms + 8 * HOUR - 60_000,
            "index_price": 1.0,
        }
        exchange.add([late])
        assert exchange.series("delivery_prices", "btc_usd")[0]["delivery_price"] < before["delivery_price"]


def test_wrong_bar_is_the_only_difference(tape: Tape) -> None:
    """The trap of `get_tradingview_chart_data`."""
    charts = []
    for faults in ("", "traps=bar"):
        with SandboxExchange(tape, faults=faults) as exchange:
            charts.append(
                get(
                    exchange,
                    "get_tradingview_chart_data",
                    instrument_name=NAME,
                    start_timestamp=exchange.now_ms - 5 * DAY,
                    end_timestamp=exchange.now_ms,
                    resolution="60",
                )
            )
    right, wrong = charts
    different = [place for place, each in enumerate(right["close"]) if each != wrong["close"][place]]
    assert len(different) == 1
    assert right["volume"][different[0]] > 0
    assert {**right, "close": 0} == {**wrong, "close": 0}


def test_same_tape_has_the_same_series(tape: Tape, plain: SandboxExchange) -> None:
    with SandboxExchange(tape) as other:
        for name, key in (("funding_rates", NAME), ("delivery_prices", "btc_usd"), ("settlements", "BTC")):
            assert json.dumps(other.series(name, key)) == json.dumps(plain.series(name, key))


def test_unknown_trap_is_named() -> None:
    assert Faults.parse("traps=holes+shift").traps == {"holes", "shift"}
    with pytest.raises(UsageError, match="'pit' is not a trap"):
        Faults.parse("traps=pit")
