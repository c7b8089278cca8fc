"""Profit of positions by the macro `position_payoff`, against decimals of Python."""

from __future__ import annotations

from decimal import ROUND_HALF_UP, Decimal, localcontext
from itertools import product

import jinja2
import pytest
from clickhouse_connect.driver.client import Client

from extract.paths import ROOT

Position = tuple[str, bool, float | None, float | None, float | None, float | None, str | None]
"""Kind, whether it is inverse, amount (negative if short), entry and exit price, strike and option type."""
TYPES = (
    "kind String, is_inverse Bool, amount Nullable(Float64), entry_price Nullable(Float64), "
    "exit_price Nullable(Float64), strike Nullable(Float64), option_type Nullable(String)"
)
MACROS = ("payoffs", "amounts")
AMOUNTS = (10.0, -0.1, 12_345_678.9)
PRICES = (0.05, 9_876.4321, 100_000.0)
STRIKES = (9_000.0, 9_876.4321, 0.0001)


def payoffs(client: Client, positions: list[Position]) -> list[Decimal | None]:
    """What the macro computes for each position."""
    environment = jinja2.Environment(undefined=jinja2.StrictUndefined)
    source = "".join((ROOT / f"dbt_project/macros/{name}.sql").read_text() for name in MACROS)
    columns = ("kind", "is_inverse", "amount", "entry_price", "exit_price", "strike", "option_type")
    expression = environment.from_string(source).module.position_payoff(*columns)
    rows = ", ".join(f"({', '.join(map(_literal, position))})" for position in positions)
    sql = f"select {expression} from values('{TYPES}', {rows})"
    return [payoff for (payoff,) in client.query(sql).result_rows]


def _literal(value: object) -> str:
    return "NULL" if value is None else str(value).lower() if isinstance(value, bool) else repr(value)


def computed(position: Position) -> Decimal:
    """Profit in the settlement currency, rounded once."""
    kind, is_inverse, *numbers, option_type = position
    amount, entry, exit_, strike = (Decimal(str(number)) for number in numbers)
    with localcontext() as context:
        context.prec = 90
        if kind == "option":
            value = max(exit_ - strike if option_type == "call" else strike - exit_, Decimal(0))
            profit = ((value / exit_ if is_inverse else value) - entry) * amount
        else:
            profit = amount / entry - amount / exit_ if is_inverse else (exit_ - entry) * amount
        return profit.quantize(Decimal("1e-12"), ROUND_HALF_UP)


def test_examples_are_those_of_the_contracts(clickhouse_client: Client) -> None:
    """Computed by hand: 100 USD bought at 50 and sold at 80 gain 2 - 1.25 coins, and so on."""
    examples: list[tuple[Position, str]] = [
        (("future", True, 100.0, 50.0, 80.0, None, None), "0.75"),
        (("future", True, -100.0, 50.0, 80.0, None, None), "-0.75"),
        (("future", False, 2.0, 50.0, 80.0, None, None), "60"),
        (("option", True, 3.0, 0.05, 10_000.0, 8_000.0, "call"), "0.45"),
        (("option", True, -3.0, 0.05, 10_000.0, 8_000.0, "put"), "0.15"),
        (("option", False, 3.0, 20.0, 8_000.0, 8_100.0, "put"), "240"),
    ]  # fmt: skip
    positions = [position for position, _ in examples]
    assert payoffs(clickhouse_client, positions) == [Decimal(profit) for _, profit in examples]


@pytest.mark.parametrize("is_inverse", [True, False], ids=["inverse", "linear"])
def test_payoffs_equal_a_decimal_computation(clickhouse_client: Client, is_inverse: bool) -> None:
    """Long and short futures and options, to the last digit."""
    futures: list[Position] = [
        ("future", is_inverse, amount, entry, exit_, None, None)
        for amount, entry, exit_ in product(AMOUNTS, PRICES, PRICES)
    ]
    options: list[Position] = [
        ("option", is_inverse, amount, entry, exit_, strike, option_type)
        for amount, entry, exit_, strike, option_type in product(
            AMOUNTS, (0.0005, 0.2), PRICES, STRIKES, ("call", "put")
        )
    ]
    priced = [(*position[:5], position[5] or 0.0, position[6]) for position in (*futures, *options)]
    expected = [computed(position) for position in priced]
    assert payoffs(clickhouse_client, [*futures, *options]) == expected


def test_unknown_values_have_no_payoff(clickhouse_client: Client) -> None:
    """A missing amount, price or strike, and a price of zero by which coin would be divided."""
    unknown: list[Position] = [
        ("future", True, None, 50.0, 80.0, None, None),
        ("future", True, 100.0, 0.0, 80.0, None, None),
        ("future", True, 100.0, 50.0, 0.0, None, None),
        ("future", False, 100.0, 50.0, None, None, None),
        ("option", True, 1.0, 0.05, 0.0, 8_000.0, "put"),
        ("option", False, 1.0, None, 9_000.0, 8_000.0, "call"),
        ("option", False, 1.0, 5.0, 9_000.0, None, "call"),
    ]
    assert payoffs(clickhouse_client, unknown) == [None] * len(unknown)
