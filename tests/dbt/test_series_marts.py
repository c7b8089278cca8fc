"""Marts of the series besides trades: newest values of finished load packages, and outcomes to the last digit."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator
from datetime import UTC, date, datetime
from decimal import ROUND_HALF_UP, Decimal, localcontext
from itertools import product
from typing import Any

import pytest

from extract.sandbox.instrument_names import parse
from extract.sandbox.tape import Tape
from extract.source.tables import SERIES_TABLES
from harness import raw_tables
from harness.dbt_project import Project
from tests.dbt.test_model_truth import trade as traded
from tests.support.candle_truth import volume_and_notional
from tests.support.recorded import RECORDED_TAPE, needs_recordings

pytestmark = pytest.mark.slow

HOUR_MS = 3_600_000
EIGHT = 1_735_891_200_000
"""2025-01-03 08:00 UTC."""
OLD, NEW, UNFINISHED = "999999999.5", "1764000001.5", "1764000002.5"
DELIVERY_PRICES = {"BTC": 9_876.4321, "ETH": 234.567}
SERIES_VIEWS = (
    "funding_1h",
    "funding_1d",
    "delivery_prices",
    "settlements",
    "open_interest_1d",
    "volatility_index_1h",
)
DERIVED_VIEWS = ("option_outcomes", "futures_outcomes", "perpetual_carry_1d", "iv_rank_1d")
ODD_VALUES = (5e-324, 1e-320, 1e-30, 1e-12, 0.0, -1.0, -1e308, 1e12, 1e25, 1.7e308)


@pytest.fixture(scope="module")
def recorded() -> list[dict[str, Any]]:
    """Trades of the first weeks of the recorded tape; none where it is missing."""
    return raw_tables.raw_trades(Tape.load(RECORDED_TAPE))[:12_000] if RECORDED_TAPE.is_file() else []


@pytest.fixture(scope="module")
def built(dbt: Project, recorded: list[dict[str, Any]]) -> Project:
    """Funding and outcomes, built while the raw tables of series do not exist; then only staging is built again."""
    dbt.fresh()
    raw_tables.load(dbt.client, OLD, [*recorded, *odd_trades()])
    dbt.run("--select", *(f"+{view}" for view in (*SERIES_VIEWS, *DERIVED_VIEWS)))
    for table in SERIES_TABLES:
        raw_tables.create_raw_table(dbt.client, table)
    raw_tables.load(dbt.client, NEW, [])
    raw_tables.load(dbt.client, UNFINISHED, [], status=1)
    dbt.run("--select", "path:models/staging/series")
    return dbt


def funding(
    load_id: str, hour: int, rate: float, name: str = "BTC-PERPETUAL", index: float = 100.0
) -> dict[str, Any]:
    return {
        "instrument_name": name, "timestamp": EIGHT + hour * HOUR_MS, "interest_1h": rate,
        "index_price": index, "_dlt_load_id": load_id, "_dlt_id": "x",
    }  # fmt: skip


def test_values_of_unfinished_packages_are_not_shown(built: Project) -> None:
    """A restated value replaces the old one once its package is finished, without a run of dbt."""
    rows = [funding(OLD, 0, 0.25), funding(OLD, 1, 0.5), funding(NEW, 1, 0.125), funding(UNFINISHED, 0, 9.0)]
    raw_tables.insert_rows(built.client, "funding_rates", rows)
    btc = "WHERE instrument_name = 'BTC-PERPETUAL'"
    query = f"SELECT timestamp, interest_1h FROM deribit.funding_1h {btc} ORDER BY timestamp"
    assert [row["interest_1h"] for row in built.rows(query)] == [0.25, 0.125]
    (day,) = built.rows(f"SELECT * FROM deribit.funding_1d {btc}")
    assert (day["day"], day["funding"], day["hours"]) == (date(2025, 1, 3), 0.375, 2)
    raw_tables.load(built.client, UNFINISHED, [])
    assert [row["interest_1h"] for row in built.rows(query)] == [9.0, 0.125]


@needs_recordings
def test_outcomes_of_recorded_options_equal_a_decimal_computation(
    built: Project, recorded: list[dict[str, Any]]
) -> None:
    """Every option of 2019 has a row; with a delivery price, its payoff is right to the last digit."""
    by_name = defaultdict(list)
    for trade in recorded:
        by_name[trade["instrument_name"]].append(trade)
    days = sorted({day_of(name) for name in by_name})
    priced = set(days[::2])
    loaded = {"_dlt_load_id": NEW, "_dlt_id": "x"}
    prices = [
        {"index_name": f"{coin.lower()}_usd", "date": str(day), "delivery_price": price, **loaded}
        for coin, price in DELIVERY_PRICES.items()
        for day in priced
    ]
    raw_tables.insert_rows(built.client, "delivery_prices", prices)
    outcomes = built.rows("SELECT * FROM deribit.option_outcomes WHERE underlying IN ('BTC', 'ETH')")
    rows = {row["instrument_name"]: row for row in outcomes}
    assert rows.keys() == by_name.keys()
    for name, own in by_name.items():
        price = DELIVERY_PRICES[name[:3]] if day_of(name) in priced else None
        expected = outcome(name, own, price)
        assert {column: rows[name][column] for column in expected} == expected, name


def day_of(name: str) -> date:
    expiry_ms = parse(name).expiry_ms
    assert expiry_ms
    return datetime.fromtimestamp(expiry_ms / 1000, UTC).date()


def outcome(name: str, trades: list[dict[str, Any]], price: float | None) -> dict[str, Any]:
    """Outcome of an inverse option at a delivery price, computed with decimals."""
    parts = parse(name)
    delivered = None if price is None else Decimal(str(price))
    sides = {"buy": Decimal(0), "sell": Decimal(0)}
    premiums = dict(sides)
    for trade in trades:
        volume, notional = volume_and_notional(trade)
        sides[trade["direction"]] += volume
        premiums[trade["direction"]] += notional
    amount, paid = sides["buy"] - sides["sell"], premiums["buy"] - premiums["sell"]
    with localcontext() as context:
        context.prec = 80
        payoff = None
        if delivered is not None:
            gain = delivered - Decimal(str(parts.strike))
            payoff = max(gain if parts.option_type == "call" else -gain, Decimal(0))
        coin = None if payoff is None else payoff / delivered
        last = max(trades, key=lambda trade: (trade["timestamp"], trade["trade_seq"]))
        return {
            "delivery_price": price,
            "intrinsic_usd": rounded(payoff),
            "intrinsic_coin": rounded(coin),
            "payoff": rounded(coin),
            "is_in_the_money": None if payoff is None else payoff > 0,
            "last_price": last["price"],
            "trade_count": len(trades),
            "premium": sum(premiums.values()),
            "taker_premium": paid,
            "taker_payoff": None if coin is None else rounded(coin * amount),
            "taker_result": None if coin is None else rounded(coin * amount - paid),
        }


def rounded(value: Decimal | None) -> Decimal | None:
    return None if value is None else value.quantize(Decimal("1e-12"), ROUND_HALF_UP)


def odd_rows(table: str) -> Iterator[dict[str, Any]]:
    """Rows of a raw table of a series whose numbers all have one odd value, and one row with the value 200."""
    numbers = [name for name, type_ in SERIES_TABLES[table].columns.items() if "Float64" in type_]
    for n, value in enumerate((*ODD_VALUES, 200.0)):
        for pair, product_name in product(
            ("", "_USDC"), ("3JAN25", "3JAN25-100-C", "3JAN25-100-P", "PERPETUAL")
        ):
            row = {
                "index_name": f"odd{n}_usd{pair[4:].lower()}", "date": "2025-01-03", "timestamp": EIGHT,
                "instrument_name": f"{'SETTLED' if table == 'settlements' else 'ODD'}{n}{pair}-{product_name}",
                "type": "settlement" if product_name == "PERPETUAL" else "delivery",
                "currency": f"ODD{n}", "resolution": "3600",
            }  # fmt: skip
            known = {name: text for name, text in row.items() if name in SERIES_TABLES[table].columns}
            yield {**known, **dict.fromkeys(numbers, value), "_dlt_load_id": NEW, "_dlt_id": "x"}


def odd_trades() -> Iterator[dict[str, Any]]:
    """Trades of instruments that `odd_rows` names, also of huge size and strike."""
    for coin, (n, value), pair in product(("ODD", "SETTLED"), enumerate((*ODD_VALUES, 200.0)), ("", "_USDC")):
        name = f"{coin}{n}{pair}"
        yield traded(f"{name}-PERPETUAL", 1, EIGHT - HOUR_MS, price=value)
        for seq, price in enumerate((100.0, value), 1):
            yield traded(f"{name}-3JAN25", seq, EIGHT - HOUR_MS, price=price, amount=1e12)
        for strike, kind in product(("100", "999999999999"), "CP"):
            yield traded(
                f"{name}-3JAN25-{strike}-{kind}", 1, EIGHT - HOUR_MS, price=0.05, amount=1e12, iv=50.0
            )


def test_odd_values_leave_other_rows_right(built: Project) -> None:
    """Values of a raw table that no market has: every view can be read, without NaN and infinity."""
    for table in SERIES_TABLES:
        raw_tables.insert_rows(built.client, table, odd_rows(table))
    pairs = [(0, 0.25, 100.0), *((n, *pair) for n, pair in enumerate(product(ODD_VALUES, repeat=2), 1))]
    raw_tables.insert_rows(
        built.client,
        "funding_rates",
        (funding(NEW, 0, rate, f"PAIR{n}-PERPETUAL", index) for n, rate, index in pairs),
    )
    shown = {view: built.rows(f"SELECT * FROM deribit.{view}") for view in (*SERIES_VIEWS, *DERIVED_VIEWS)}
    for view, rows in shown.items():
        assert rows, view
        for row in rows:
            assert all(math.isfinite(x) for x in row.values() if isinstance(x, float | Decimal)), (view, row)
    days = {row["instrument_name"]: row for row in shown["funding_1d"]}
    assert (days["PAIR0-PERPETUAL"]["funding"], days["PAIR0-PERPETUAL"]["funding_per_usd"]) == (0.25, 0.0025)
    for n, rate, index in pairs:
        per_usd = rate / index if index > 0 else 0
        for shown_value, value in (
            (days[f"PAIR{n}-PERPETUAL"]["funding"], rate),
            (days[f"PAIR{n}-PERPETUAL"]["funding_per_usd"], per_usd),
        ):
            expected = pytest.approx(value, rel=1e-6, abs=1e-18) if abs(value) < 1e13 else None
            assert shown_value == expected, (rate, index)
    last = len(ODD_VALUES)
    payoffs = {row["instrument_name"]: row["payoff"] for row in shown["option_outcomes"]}
    for coin, (n, value) in product(("ODD", "SETTLED"), enumerate((*ODD_VALUES, 200.0))):
        is_possible = 1e-12 <= value <= 1e12
        assert (payoffs[f"{coin}{n}-3JAN25-100-C"] is not None) == is_possible
        assert (payoffs[f"{coin}{n}_USDC-3JAN25-100-P"] is not None) == is_possible
    assert [payoffs[f"ODD{last}-3JAN25-100-{kind}"] for kind in "CP"] == [Decimal("0.5"), 0]
