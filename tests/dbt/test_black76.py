"""Greeks in SQL against recorded answers of Deribit and against QuantLib."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from itertools import product
from typing import Any

import jinja2
import pytest
import QuantLib
from clickhouse_connect.driver.client import Client

from extract.paths import ROOT

YEAR_MS = 365 * 86_400_000
COLUMNS = ("option_value", "delta", "gamma", "vega", "theta", "rho")
TYPES = "forward Nullable(Float64), strike Nullable(Float64), iv Nullable(Float64), years Nullable(Float64), is_call Bool"
Option = tuple[float, float, float, float, bool]
"""Forward, strike, iv in percent, years, whether it is a call."""

RECORDED = {
    # name, time in ms, forward, mark iv: what Deribit returned; None where it is not recorded
    ("BTC-15JAN21-28000-C", 1609384730848, 29153.69, 87.2): {
        "delta": 0.62396, "vega": 22.57564, "theta": -64.77785, "rho": 6.46787, "mark": 0.09096156,
    },
    ("BTC-10SEP25-106000-P", 1757433676689, 110714.7602, 49.22): {
        "delta": -0.01874, "vega": 2.16672, "theta": -15.99927, "rho": -0.03815,
    },
    ("BTC-8MAY20-11000-P", 1588897318040, 9936.78, 179.23): {"mark": 0.1075835},
    ("BTC-7FEB25-106000-P", 1737074222663, 98763.21, 60.86): {"mark": 0.1042716},
    ("BTC-31JAN25-92000-P", 1737074222663, 99067.37, 60.13): {"mark": 0.01866323},
}  # fmt: skip


def greeks(client: Client, options: list[Option]) -> list[dict[str, Any]]:
    """What the macros compute for each option."""
    environment = jinja2.Environment(undefined=jinja2.StrictUndefined)
    macros = environment.from_string((ROOT / "dbt_project/macros/black76.sql").read_text()).module
    rows = ", ".join(f"({', '.join(map(_literal, option))})" for option in options)
    sql = f"""
        with
        options as (
            select * from values('{TYPES}', {rows})
        ),
        volatilities as (
            select *, {macros.black76_volatility("forward", "strike", "iv", "years")} from options
        ),
        terms as (select *, {macros.black76_terms("forward", "strike")} from volatilities),
        greeks as (select *, {macros.black76_greeks("forward", "strike", "iv", "years", "is_call")} from terms)
        select {", ".join(COLUMNS)} from greeks
    """
    return [dict(zip(COLUMNS, row, strict=True)) for row in client.query(sql).result_rows]


def _literal(value: Any) -> str:
    return "NULL" if value is None else str(value).lower() if isinstance(value, bool) else repr(float(value))


def years_to_expiry(name: str, at_ms: int) -> float:
    day = datetime.strptime(name.split("-")[1], "%d%b%y").replace(hour=8, tzinfo=UTC)
    return (day.timestamp() * 1000 - at_ms) / YEAR_MS


def quantlib_greeks(option: Option) -> dict[str, float]:
    """Black-76 of QuantLib, in Deribit's units: a percent point of volatility and of the rate, a day."""
    forward, strike, iv, years, is_call = option
    payoff = QuantLib.PlainVanillaPayoff(QuantLib.Option.Call if is_call else QuantLib.Option.Put, strike)
    calculator = QuantLib.BlackCalculator(payoff, forward, iv / 100 * math.sqrt(years))
    value = calculator.value()
    return {
        "option_value": value,
        "delta": calculator.deltaForward(),
        "gamma": calculator.gammaForward(),
        "vega": calculator.vega(years) / 100,
        "theta": -min(-calculator.theta(forward, years) / 365, value),
        "rho": calculator.rho(years) / 100,
    }


@pytest.mark.parametrize("recorded", RECORDED, ids=lambda recorded: recorded[0])
def test_greeks_equal_recorded_answers(
    clickhouse_client: Client, recorded: tuple[str, int, float, float]
) -> None:
    """Within 0.1 %; one recorded theta is the whole worth of the option."""
    name, at_ms, forward, iv = recorded
    years = years_to_expiry(name, at_ms)
    [row] = greeks(clickhouse_client, [(forward, float(name.split("-")[2]), iv, years, name.endswith("C"))])
    row["mark"] = row["option_value"] / forward
    for greek, value in RECORDED[recorded].items():
        assert row[greek] == pytest.approx(value, rel=1e-3), greek


def test_greeks_equal_quantlib(clickhouse_client: Client) -> None:
    """Strikes from a third to three times the forward, one hour to two years, iv from 5 to 300 %, both kinds."""
    strikes = (30_000.0, 70_000.0, 95_000.0, 100_000.0, 105_000.0, 140_000.0, 300_000.0)
    years = (1 / 8_760, 1 / 365, 7 / 365, 90 / 365, 1.0, 2.0)
    options = [
        (100_000.0, strike, iv, time, is_call)
        for strike, time, iv, is_call in product(
            strikes, years, (5.0, 20.0, 60.0, 120.0, 300.0), (True, False)
        )
    ]
    for option, row in zip(options, greeks(clickhouse_client, options), strict=True):
        for greek, value in quantlib_greeks(option).items():
            assert row[greek] == pytest.approx(value, rel=1e-3, abs=1e-9), (option, greek)


def test_put_and_call_differ_by_the_forward(clickhouse_client: Client) -> None:
    """Put-call parity of values and deltas; gamma and vega are the same."""
    call, put = greeks(
        clickhouse_client, [(3_000.0, 2_800.0, 70.0, 0.2, is_call) for is_call in (True, False)]
    )
    assert call["option_value"] - put["option_value"] == pytest.approx(200.0)
    assert call["delta"] - put["delta"] == pytest.approx(1.0)
    assert (call["gamma"], call["vega"]) == (put["gamma"], put["vega"])


def test_no_trade_gives_nan_or_infinity(clickhouse_client: Client) -> None:
    """Also with values that no market has: they are null or finite."""
    values = (None, -1.0, 0.0, 1e-300, 1e-9, 1e12)
    options = [
        (forward, strike, iv, years, is_call)
        for forward, strike, iv, years in product(
            values, values, (*values, 1e300), (None, -1.0, 0.0, 1e-12, 0.5, 50.0)
        )
        for is_call in (True, False)
    ]
    for option, row in zip(options, greeks(clickhouse_client, options), strict=True):
        forward, strike, iv, years, _ = option
        is_known = (
            years is not None and (forward or 0) > 0 and (strike or 0) > 0 and iv is not None and iv >= 0
        )
        for greek, value in row.items():
            assert (value is not None) == is_known, (option, greek)
            assert value is None or math.isfinite(value), (option, greek)


def test_expired_option_has_the_delta_of_its_payoff(clickhouse_client: Client) -> None:
    options = [
        (110.0, 100.0, 60.0, 0.0, True),
        (110.0, 100.0, 60.0, -0.1, False),
        (90.0, 100.0, 0.0, 0.5, False),
    ]
    rows = greeks(clickhouse_client, options)
    assert [(row["option_value"], row["delta"]) for row in rows] == [(10.0, 1.0), (0.0, 0.0), (10.0, -1.0)]
    assert [row[name] for row in rows for name in ("gamma", "theta")] == [0.0] * 6
