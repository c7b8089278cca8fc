"""Volatility models on a market that QuantLib prices, and on trades with extreme and with impossible values."""

from __future__ import annotations

import math
from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import count, product
from typing import Any

import pytest

from harness import raw_tables
from harness.dbt_project import Project
from tests.dbt.test_black76 import Option, quantlib_greeks
from tests.dbt.test_model_truth import trade

pytestmark = pytest.mark.slow

HOUR_MS = 3_600_000
YEAR_MS = 365 * 24 * HOUR_MS
START_MS = 1_735_732_800_000
"""2025-01-01 12:00 UTC."""
INDEX = 100_000.0
MARKET = {
    # day of the expiry: forward, iv in percent, whether its future is traded
    "31JAN25": (101_000.0, 50.0, True),
    "28MAR25": (103_000.0, 60.0, False),
    "26SEP25": (104_000.0, 62.0, False),
}
STRIKES = [40_000 * 1.04**n for n in range(56)]
GREEKS = ("option_value", "delta", "gamma", "vega", "theta", "rho")
EXTREMES = (None, 0.0, 1e-9, 999.0, 1e12)
VIEWS = (
    *("forwards_1h", "futures_basis_1h", "iv_rank_1d", "iv_smile_1h", "iv_tenors_1h", "option_chain_1h"),
    *("put_call_1d", "realised_volatility_1d", "trade_greeks"),
)
IMPOSSIBLE = (5e-324, 1e-300, 1e-13, 50.0, 1e13, 1e300, 1.7e308)
"""Of a price, index, volatility or strike; all but 50."""
STRIKE_CODES = ("0d" + "0" * 323 + "5", "0d0000000000001", "0d000000000001", "50", "9" * 13, "9" * 320)


def expiry_ms(day: str) -> int:
    return int(datetime.strptime(day, "%d%b%y").replace(hour=8, tzinfo=UTC).timestamp() * 1000)


def option_of(day: str, strike: float, is_call: bool, at_ms: int) -> Option:
    forward, iv, _ = MARKET[day]
    return forward, float(round(strike)), iv, (expiry_ms(day) - at_ms) / YEAR_MS, is_call


def market_trades() -> Iterator[dict[str, Any]]:
    """In each of two hours, trades of the future and of a call and a put of every strike, inverse and linear."""
    for hour, base, (day, (forward, iv, has_future)) in product(
        range(2), ("BTC", "BTC_USDC"), MARKET.items()
    ):
        at_ms = START_MS + hour * HOUR_MS
        if has_future:
            yield trade(f"{base}-{day}", hour + 1, at_ms, price=forward, index_price=INDEX)
        for number, (strike, is_call) in enumerate(product(STRIKES, (True, False))):
            option_ms = at_ms + 60_000 + number * 1000
            option = option_of(day, strike, is_call, option_ms)
            value = quantlib_greeks(option)["option_value"]
            yield trade(
                f"{base}-{day}-{round(strike)}-{'C' if is_call else 'P'}", hour + 1, option_ms,
                price=value / forward if base == "BTC" else value, iv=iv, index_price=INDEX, amount=1.0,
            )  # fmt: skip


def extreme_trades() -> Iterator[dict[str, Any]]:
    """Options of ETH with every extreme value in every place, before and after their expiry."""
    numbers = count(1)
    for price, iv, index, strike, hours in product(
        (0.0, 1e-9, 0.01, 1e12), EXTREMES, EXTREMES, ("1", "3000", "9999999"), (-1, 0, 1)
    ):
        at_ms = expiry_ms("2JAN25") + hours * HOUR_MS
        kind = "C" if len(strike) % 2 else "P"
        yield trade(
            f"ETH-2JAN25-{strike}-{kind}", next(numbers), at_ms, price=price, iv=iv, index_price=index, amount=1.0
        )  # fmt: skip
    for index, price in product(EXTREMES, (0.0, 1e-9, 1e12)):
        yield trade("ETH-2JAN25", next(numbers), START_MS, price=price, index_price=index)


def impossible_trades() -> Iterator[dict[str, Any]]:
    """Trades with every impossible value in every place: options, their futures at each price and index, perpetuals."""
    numbers = count(1)
    for iv, index, strike, hours in product(IMPOSSIBLE, IMPOSSIBLE, STRIKE_CODES, (-2, 0)):
        at_ms = expiry_ms("3JAN25") + hours * HOUR_MS
        for base, price, kind in product(("SOL", "SOL_USDC"), (5e-324, 0.01, 1.7e308), "CP"):
            name = f"{base}-3JAN25-{strike}-{kind}"
            yield trade(name, next(numbers), at_ms, price=price, iv=iv, index_price=index, amount=1.0)
    for n, (price, index) in enumerate(product((*IMPOSSIBLE, 1e-12, 1e12), repeat=2)):
        at_ms = START_MS + n * HOUR_MS
        yield trade("SOL-28MAR25", n + 1, at_ms, price=price, index_price=index)
        for half, half_price in enumerate((price, index)):  # the low and the high of an hour
            yield trade("SOL-PERPETUAL", 2 * n + half, at_ms + half, price=half_price)
        yield trade("SOL-28MAR25-50-C", n + 1, at_ms + 1, price=0.01, iv=50.0, index_price=50.0, amount=1.0)
    # An hour later, an ordinary option on the forward of a future whose index was nearly 0.
    yield trade("XRP-28MAR25", 1, START_MS, price=100.0, index_price=1e-300)
    yield trade(
        "XRP-28MAR25-100-C", 1, START_MS + HOUR_MS, price=0.03, iv=50.0, index_price=100.0, amount=1.0
    )


@pytest.fixture(scope="module")
def built(dbt: Project) -> Project:
    dbt.fresh()
    raw_tables.load(dbt.client, "1764000001.5", [*market_trades(), *extreme_trades(), *impossible_trades()])
    dbt.run("--select", "+path:models/marts/volatility")
    return dbt


def expiry_of(row: dict[str, Any]) -> str:
    return str(row["expiry"].strftime("%-d%b%y")).upper()


def priced_option(row: dict[str, Any], at_ms: int) -> Option:
    """The option of a row on the forward of its expiry, which is that of the future, else of put-call parity."""
    day = expiry_of(row)
    assert row["forward_source"] == ("future" if MARKET[day][2] else "parity")
    return option_of(day, row["strike"], row["option_type"] == "call", at_ms)


def test_forwards_are_those_of_the_market(built: Project) -> None:
    """The future's price, and where no future is traded the forward by which the options are priced."""
    rows = built.rows("SELECT * FROM deribit.forwards_1h WHERE underlying = 'BTC'")
    assert len(rows) == 12
    for row in rows:
        forward, _, has_future = MARKET[expiry_of(row)]
        assert row["forward_source"] == ("future" if has_future else "parity")
        assert row["forward"] == pytest.approx(forward, rel=1e-7)
        assert row["forward_ratio"] == pytest.approx(forward / INDEX, rel=1e-7)


def test_greeks_of_trades_equal_quantlib(built: Project) -> None:
    """On the forward of their expiry. The model's price is the traded price, in its unit."""
    rows = built.rows("SELECT * FROM deribit.trade_greeks WHERE underlying = 'BTC' AND trade_seq = 2")
    assert len(rows) == 2 * len(MARKET) * 2 * len(STRIKES)
    for row in rows:
        at_ms = round(row["timestamp"].replace(tzinfo=UTC).timestamp() * 1000)
        option = priced_option(row, at_ms)
        expected = quantlib_greeks(option)
        for greek in GREEKS:
            assert row[greek] == pytest.approx(expected[greek], rel=1e-3, abs=1e-9), (greek, option)
        assert row["model_price"] == pytest.approx(row["price"], rel=1e-4, abs=1e-9)
        assert row["moneyness"] == pytest.approx(option[1] / option[0])
        assert row["days_to_expiry"] == pytest.approx(option[3] * 365)


def test_smile_of_a_flat_market_is_flat(built: Project) -> None:
    """Five points of each expiry, hour and kind of settlement."""
    rows = built.rows("SELECT * FROM deribit.iv_smile_1h WHERE underlying = 'BTC'")
    assert len(rows) == 5 * 2 * 2 * len(MARKET)
    for row in rows:
        assert row["iv"] == pytest.approx(MARKET[expiry_of(row)][1])


def test_maturities_are_interpolated_in_total_variance(built: Project) -> None:
    """Between the expiries around 30, 60, 90 and 180 days; none is before 7 days."""
    rows = built.rows("SELECT * FROM deribit.iv_tenors_1h WHERE underlying = 'BTC'")
    assert len(rows) == 4 * 2 * 2
    for row in rows:
        end_ms = row["bucket_at"].replace(tzinfo=UTC).timestamp() * 1000 + HOUR_MS
        points = [((expiry_ms(day) - end_ms) / YEAR_MS * 365, iv) for day, (_, iv, _) in MARKET.items()]
        below = max(point for point in points if point[0] <= row["tenor_days"])
        above = min(point for point in points if point[0] >= row["tenor_days"])
        share = (row["tenor_days"] - below[0]) / (above[0] - below[0])
        variance = (1 - share) * below[1] ** 2 * below[0] + share * above[1] ** 2 * above[0]
        assert row["atm_iv"] == pytest.approx(math.sqrt(variance / row["tenor_days"]))
        assert row["risk_reversal_25"] == pytest.approx(0, abs=1e-9)
        assert row["butterfly_25"] == pytest.approx(0, abs=1e-9)


def test_chain_has_the_greeks_of_the_end_of_the_hour(built: Project) -> None:
    """The last trade stays, hours later, with its age; time passes for the Greeks."""
    rows = built.rows(
        "SELECT * FROM deribit.option_chain_1h WHERE underlying = 'BTC' AND bucket_at = '2025-01-01 20:00:00'"
    )
    assert len(rows) == 2 * len(MARKET) * 2 * len(STRIKES)
    for row in rows:
        option = priced_option(row, START_MS + 9 * HOUR_MS)
        assert row["delta"] == pytest.approx(quantlib_greeks(option)["delta"], rel=1e-3, abs=1e-9)
        assert 7 * 3600 <= row["age_seconds"] <= 8 * 3600


@pytest.mark.parametrize("underlying", ["BTC", "ETH"])
@pytest.mark.parametrize("hours", [-1, 0, 5, 21, 60, 24 * 400])
def test_chain_at_a_time_equals_the_chain_of_all_hours(built: Project, underlying: str, hours: int) -> None:
    """The newest hour of each option at or before the time, within two days of the newest hour of any."""
    at = f"fromUnixTimestamp64Milli({START_MS + hours * HOUR_MS + 1}, 'UTC')"
    own = built.client.query(
        f"SELECT * FROM deribit.option_chain_at(underlying = '{underlying}', at = {at}) ORDER BY instrument_name"
    )
    truth = built.client.query(
        f"""
        WITH earlier AS (
            SELECT * FROM deribit.option_chain_1h
            WHERE underlying = '{underlying}' AND bucket_at <= {at}
            QUALIFY bucket_at = max(bucket_at) OVER (PARTITION BY instrument_name)
        )
        SELECT * FROM earlier
        WHERE bucket_at > (SELECT max(bucket_at) FROM earlier) - INTERVAL 2 DAY
        ORDER BY instrument_name
        """
    )
    assert own.column_names == truth.column_names
    assert own.result_rows == truth.result_rows
    assert (len(own.result_rows) > 0) == (hours >= {"BTC": 0, "ETH": 19}[underlying])


@pytest.mark.parametrize("view", VIEWS)
def test_no_trade_gives_nan_or_infinity(built: Project, view: str) -> None:
    """Prices, volatilities, indexes and strikes of any size or missing, and trades after the expiry."""
    columns = built.rows(f"SELECT name FROM system.columns WHERE table = '{view}' AND type LIKE '%Float%'")
    odd = [f"countIf(NOT isFinite({column['name']})) AS {column['name']}" for column in columns]
    (counts,) = built.rows(f"SELECT count() AS rows, {', '.join(odd)} FROM deribit.{view}")
    assert counts.pop("rows") > 0
    assert set(counts.values()) == {0}, counts


def test_every_option_trade_with_a_possible_strike_has_a_row(built: Project) -> None:
    """Whatever its price, volatility and index; without a strike it has none."""
    rows = built.rows(
        "SELECT underlying, count() AS n FROM deribit.trade_greeks WHERE underlying != 'BTC' GROUP BY ALL"
    )
    sol = len(IMPOSSIBLE) ** 2 * 2 * 12 * 2 + (len(IMPOSSIBLE) + 2) ** 2
    assert {row["underlying"]: row["n"] for row in rows} == {"ETH": 4 * 5 * 5 * 3 * 3, "SOL": sol, "XRP": 1}


def test_forward_of_an_impossible_index_is_not_used(built: Project) -> None:
    """The option is priced on its own index. Without a possible index, it has no forward and no Greeks."""
    (xrp,) = built.rows("SELECT * FROM deribit.trade_greeks WHERE underlying = 'XRP'")
    assert (xrp["forward"], xrp["forward_source"]) == (100.0, "index")
    sol = "SELECT * FROM deribit.trade_greeks WHERE underlying = 'SOL' AND expiry = '2025-01-03 08:00:00'"
    for row in built.rows(f"{sol} LIMIT 1 BY index_price"):
        assert (row["index_price"], row["forward"]) in {(50.0, 50.0), (None, None)}
        assert (row["delta"] is None) == (row["index_price"] is None)
