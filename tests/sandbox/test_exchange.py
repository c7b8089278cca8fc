"""The sandbox selects trades as Deribit does: limits, filters, bounds, time; and tests can change its trades."""

from __future__ import annotations

import pytest

from extract.sandbox.instrument_names import DAY_MS, parse
from extract.sandbox.tape import Tape, id_parts
from tests.support.crawler import CLIENT, get, key

BY_CURRENCY = "get_last_trades_by_currency"
BY_TIME = "get_last_trades_by_currency_and_time"
BY_INSTRUMENT = "get_last_trades_by_instrument"
PERP = "BTC-PERPETUAL"


@pytest.fixture
def plain(start_exchange, small_tape):
    """The exchange without quirks, whose pages are exactly predictable."""
    return start_exchange(small_tape, quirks=False)


def of(tape: Tape, name: str) -> list[dict]:
    return [trade for trade in tape.trades if trade["instrument_name"] == name]


def currency_of(trade: dict) -> str:
    return parse(trade["instrument_name"]).currency


def seqs(trades: list[dict]) -> list[int]:
    return [trade["trade_seq"] for trade in trades]


def keys(trades: list[dict]) -> set:
    return {key(trade) for trade in trades}


# Selection of trades


def test_default_count_is_ten(plain):
    """Without `count`, a page has ten trades."""
    assert len(get(plain, BY_CURRENCY, currency="BTC")["trades"]) == 10


@pytest.mark.parametrize(("live", "limit"), [(True, 1000), (False, 10_000)])
def test_each_host_limits_count(exchange, live, limit):
    """1,000 live, 10,000 history; above it, the error that Deribit gives."""
    base = exchange.url if live else exchange.history_url
    ask = f"{base}/public/{BY_CURRENCY}?currency=BTC&count="
    assert CLIENT.get(f"{ask}{limit}").status_code == 200
    refused = CLIENT.get(f"{ask}{limit + 1}")
    assert refused.status_code == 400
    assert refused.json()["error"] == {
        "code": -32602,
        "message": "Invalid params",
        "data": {"reason": "value is too high", "param": "count"},
    }


def test_each_trade_and_its_instrument_belong_to_one_currency(plain, small_tape):
    """Linear under USDC, spot under its base; get_instruments agrees with the trades."""
    fetched = []
    for entry in get(plain, "get_currencies"):
        currency = entry["currency"]
        trades = get(plain, BY_CURRENCY, currency=currency, count=10_000)["trades"]
        listed = {
            each["instrument_name"]
            for expired in ("true", "false")
            for each in get(plain, "get_instruments", currency=currency, expired=expired)
        }
        assert {trade["instrument_name"] for trade in trades} <= listed
        fetched += trades
    assert sorted(map(key, fetched)) == sorted(map(key, small_tape.trades))
    assert {t["instrument_name"] for t in fetched if currency_of(t) == "USDC"} >= {"SOL_USDC-PERPETUAL"}
    eth = get(plain, BY_CURRENCY, currency="ETH", kind="spot")["trades"]
    assert {trade["instrument_name"] for trade in eth} == {"ETH_USDC"}


@pytest.mark.parametrize("kind", ["future", "option", "spot", "future_combo", "option_combo", "combo", "any"])
def test_kind_filters_trades(plain, small_tape, kind):
    """Each kind by itself, both combos together, or all."""
    kinds = {entry["instrument_name"]: entry["kind"] for entry in small_tape.instruments}
    wanted = {"combo": {"future_combo", "option_combo"}, "any": set(kinds.values())}.get(kind, {kind})
    expected = [
        trade
        for trade in small_tape.trades
        if currency_of(trade) == "BTC" and kinds[trade["instrument_name"]] in wanted
    ]
    assert expected
    got = get(plain, BY_CURRENCY, currency="BTC", kind=kind, count=10_000)["trades"]
    assert sorted(map(key, got)) == sorted(map(key, expected))


def test_trades_equal_those_of_the_tape(plain, small_tape):
    """Field by field, legs included."""
    on_tape = {key(trade): trade for trade in small_tape.trades}
    got = get(plain, BY_CURRENCY, currency="USDC", count=10_000)["trades"]
    assert len(got) > 300
    assert all(on_tape[key(trade)] == trade for trade in got)


def test_sorting_selects_oldest_or_newest_ids(plain, small_tape):
    """asc: the first by id; desc: the last; left out: the earliest if a start is given, else the newest."""
    everything = [id_parts(trade["trade_id"])[1] for trade in of(small_tape, PERP)]
    ask = {"instrument_name": PERP, "count": 20}

    def ids(**params) -> list[int]:
        return [id_parts(t["trade_id"])[1] for t in get(plain, BY_INSTRUMENT, **ask, **params)["trades"]]

    assert ids(sorting="asc") == everything[:20]
    assert ids(sorting="desc") == ids() == everything[::-1][:20]
    assert ids(start_seq=5) == everything[4:24][::-1]
    assert ids(start_seq=5, sorting="desc") == everything[::-1][:20]


def test_time_bounds_are_inclusive_despite_unordered_ids(plain, small_tape):
    """Any window holds exactly the trades whose time is in it."""
    trades = [trade for trade in small_tape.trades if currency_of(trade) == "BTC"]
    stamps = sorted({trade["timestamp"] for trade in trades})
    for start, end in zip(stamps[::53], stamps[7::53], strict=False):
        got = get(plain, BY_TIME, currency="BTC", start_timestamp=start, end_timestamp=end, count=10_000)
        assert keys(got["trades"]) == keys([t for t in trades if start <= t["timestamp"] <= end])
        assert got["has_more"] is False


def test_pages_by_time_are_filled_by_id(plain, small_tape):
    """The first page of a window holds the lowest ids, so its newest time is not the next page's earliest."""
    trades = [t for t in small_tape.trades if currency_of(t) == "BTC" and "_" not in t["instrument_name"]]
    ids = sorted(id_parts(trade["trade_id"])[1] for trade in trades)
    spot = {t["trade_id"] for t in small_tape.trades if "_" in t["instrument_name"]}
    page = get(
        plain,
        BY_TIME,
        currency="BTC",
        start_timestamp=0,
        end_timestamp=plain.now_ms,
        count=300,
        sorting="asc",
    )["trades"]
    got = [id_parts(t["trade_id"])[1] for t in page if t["trade_id"] not in spot]
    assert got == ids[: len(got)]


def test_start_id_and_end_id_are_inclusive(plain, small_tape):
    """start_id and end_id are inclusive; a prefix that the currency does not have is an error."""
    eth = [t["trade_id"] for t in small_tape.trades if t["trade_id"].startswith("ETH-")]
    eth.sort(key=id_parts)
    ask = {"currency": "ETH", "count": 1000, "sorting": "asc"}
    got = get(plain, BY_CURRENCY, start_id=eth[50], end_id=eth[90], **ask)["trades"]
    assert [t["trade_id"] for t in got if t["trade_id"].startswith("ETH-")] == eth[50:91]
    bad = CLIENT.get(f"{plain.history_url}/public/{BY_CURRENCY}", params=ask | {"start_id": "XYZ-1"})
    assert bad.json()["error"]["data"]["param"] == "start_id"


def test_start_seq_and_end_seq_are_inclusive(plain, small_tape):
    """Inclusive at both ends, empty beyond the last and for an inverted range."""
    total = len(of(small_tape, PERP))
    ask = {"instrument_name": PERP, "sorting": "asc", "count": 50}
    assert seqs(get(plain, BY_INSTRUMENT, start_seq=11, end_seq=30, **ask)["trades"]) == list(range(11, 31))
    tail = get(plain, BY_INSTRUMENT, start_seq=total - 3, **ask)["trades"]
    assert seqs(tail) == list(range(total - 3, total + 1))
    assert get(plain, BY_INSTRUMENT, start_seq=total + 1, **ask) == {"trades": [], "has_more": False}
    assert get(plain, BY_INSTRUMENT, start_seq=30, end_seq=11, **ask)["trades"] == []


def test_has_more_is_correct_without_quirks(plain):
    """True exactly if the range has more trades than the page."""
    ask = {"instrument_name": PERP, "start_seq": 1, "end_seq": 20, "sorting": "asc"}
    assert get(plain, BY_INSTRUMENT, count=19, **ask)["has_more"] is True
    assert get(plain, BY_INSTRUMENT, count=20, **ask)["has_more"] is False


def test_chart_aggregates_trades(plain, small_tape):
    """Daily bars of a perpetual: open, high, low, close, and volume in coin from amounts in USD."""
    trades = of(small_tape, PERP)
    chart = get(
        plain,
        "get_tradingview_chart_data",
        instrument_name=PERP,
        resolution="1D",
        start_timestamp=0,
        end_timestamp=plain.now_ms,
    )
    day = [trade for trade in trades if trade["timestamp"] // DAY_MS * DAY_MS == chart["ticks"][1]]
    prices = [trade["price"] for trade in day]
    bar = [chart[name][1] for name in ("open", "high", "low", "close", "cost")]
    assert bar == [prices[0], max(prices), min(prices), prices[-1], sum(trade["amount"] for trade in day)]
    assert chart["volume"][1] == pytest.approx(sum(trade["amount"] / trade["price"] for trade in day))
    assert sum(chart["cost"]) == sum(trade["amount"] for trade in trades)


# Time


def test_live_host_returns_nothing_for_a_start_older_than_24_hours(plain, small_tape):
    """A slow cursor would lose trades here without an error; the history host has them."""
    now = plain.now_ms
    ask = {"currency": "BTC", "end_timestamp": now, "count": 1000, "sorting": "asc"}
    assert get(plain, BY_TIME, live=True, start_timestamp=now - DAY_MS - 1, **ask) == {
        "trades": [],
        "has_more": False,
    }
    recent = get(plain, BY_TIME, live=True, start_timestamp=now - DAY_MS, **ask)["trades"]
    assert recent
    assert keys(recent) == keys(
        [t for t in small_tape.trades if currency_of(t) == "BTC" and t["timestamp"] >= now - DAY_MS]
    )
    assert len(get(plain, BY_TIME, start_timestamp=0, **ask | {"count": 10_000})["trades"]) > len(recent)


def test_live_host_trims_seq_ranges_to_24_hours(plain, small_tape):
    """An older start_seq returns the oldest available trades; an entirely older range is empty."""
    kept = [t["trade_seq"] for t in of(small_tape, PERP) if t["timestamp"] >= plain.now_ms - DAY_MS]
    ask = {"instrument_name": PERP, "sorting": "asc", "count": 3, "live": True}
    assert seqs(get(plain, BY_INSTRUMENT, start_seq=1, **ask)["trades"]) == kept[:3]
    assert get(plain, BY_INSTRUMENT, start_seq=1, end_seq=kept[0] - 1, **ask)["trades"] == []


def test_trades_after_now_are_hidden(plain, small_tape):
    """Both hosts hide them; by default the clock is one second after the last trade."""
    last = small_tape.trades[-1]["timestamp"]
    assert get(plain, "get_time") == plain.now_ms == last + 1000
    plain.now_ms = middle = small_tape.trades[1500]["timestamp"]
    trades = [trade for trade in small_tape.trades if currency_of(trade) == "BTC"]
    seen = get(plain, BY_CURRENCY, currency="BTC", count=10_000)["trades"]
    assert keys(seen) == keys([trade for trade in trades if trade["timestamp"] <= middle])
    plain.now_ms = last
    assert len(get(plain, BY_CURRENCY, currency="BTC", count=10_000)["trades"]) == len(trades)


def test_clock_can_be_a_function(start_exchange, small_tape):
    """It is called for each request; the history host may lag behind it."""
    ticks = iter(range(1_768_500_000_000, 1_768_500_000_999))
    exchange = start_exchange(small_tape, clock=lambda: next(ticks), history_lag_ms=5000)
    first, second = get(exchange, "get_time", live=True), get(exchange, "get_time", live=True)
    assert second > first >= 1_768_500_000_000
    assert get(exchange, "get_time") < first - 4000


def test_expired_instruments_are_listed_separately(plain):
    """expired=true lists exactly those that have expired by the exchange's clock, marked as inactive."""
    for wanted in (True, False):
        entries = get(plain, "get_instruments", currency="any", expired=str(wanted).lower())
        assert entries
        assert all((each.get("expiration_timestamp", 1e15) <= plain.now_ms) == wanted for each in entries)
        assert all(each["is_active"] != wanted for each in entries)
    before = len(get(plain, "get_instruments", currency="BTC", expired="true"))
    plain.now_ms -= 2 * DAY_MS
    assert len(get(plain, "get_instruments", currency="BTC", expired="true")) < before


# Control by tests


def test_trades_can_be_added_restated_and_deleted(plain, small_tape):
    """The exchange changes, the tape does not."""
    trades = of(small_tape, PERP)
    next_seq = len(trades) + 1
    late = trades[0] | {
        "trade_seq": next_seq,
        "trade_id": "999000000",
        "timestamp": trades[3]["timestamp"] + 1,
    }
    plain.add([late, late | {"instrument_name": "DOT-1MAR22", "trade_seq": 1, "trade_id": "DOT-1"}])
    plain.restate(PERP, 2, price=1.5)
    plain.forget(PERP, [5, 6])
    got = get(plain, BY_INSTRUMENT, instrument_name=PERP, count=10_000, sorting="asc")["trades"]
    assert seqs(got) == [seq for seq in range(1, next_seq + 1) if seq not in (5, 6)]
    assert got[1] == trades[1] | {"price": 1.5}
    window = {"start_timestamp": late["timestamp"], "end_timestamp": late["timestamp"]}
    assert late in get(plain, BY_TIME, currency="BTC", count=10_000, **window)["trades"]
    assert len(get(plain, BY_CURRENCY, currency="DOT")["trades"]) == 1
    assert sorted(keys(plain.records())) == sorted(
        keys(small_tape.trades) - {(PERP, 5), (PERP, 6)} | {(PERP, next_seq), ("DOT-1MAR22", 1)}
    )
    assert trades[1]["price"] != 1.5


def test_requests_are_recorded(exchange):
    """Each request is recorded as (path, params, status), in order."""
    get(exchange, "get_time", live=True)
    CLIENT.get(f"{exchange.history_url}/public/{BY_CURRENCY}?currency=NOPE")
    assert list(exchange.requests) == [
        ("/api/v2/public/get_time", {}, 200),
        (f"/history/api/v2/public/{BY_CURRENCY}", {"currency": "NOPE"}, 400),
    ]
