"""Series from an exchange with every misleading answer at once, through runs and commands as a user makes them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

import pytest

from extract.sandbox.faults import Faults
from extract.sandbox.tape import Tape
from tests.support.loaded_user import User

pytestmark = pytest.mark.slow
HOUR = 3_600_000
NAME = "BTC-PERPETUAL"
KEYS = {
    "funding_rates": "toUnixTimestamp64Milli(timestamp)",
    "volatility_index": "toUnixTimestamp64Milli(timestamp)",
    "delivery_prices": "toString(date)",
    "settlements": "(toUnixTimestamp64Milli(timestamp), type, instrument_name)",
}


@pytest.fixture(scope="module")
def tape() -> Tape:
    return Tape.generate(seed=4, trades=600, days=12)


@pytest.fixture(scope="module")
def user(new_user: Callable[[Tape], User], tape: Tape) -> Iterator[User]:
    """A user whose exchange has holes, empty answers, shifting offsets, and failing requests."""
    user = new_user(tape)
    user.exchange.faults = Faults.parse(
        "traps=holes+empty+shift,rate=0.05,seed=3,retry_after=0.001,slow=0.001"
    )
    with pytest.MonkeyPatch.context() as env:
        env.setenv("SOURCES__DERIBIT__SERIES", ", ".join(KEYS))
        env.setenv("SOURCES__DERIBIT__REQUESTS_PER_SECOND", "1000")
        yield user


def rows_of_exchange(user: User) -> dict[str, set[Any]]:
    """Keys of all rows that the exchange should have, without its traps."""
    exchange = user.exchange
    settlements = exchange.series("settlements", "BTC")
    return {
        "funding_rates": {row["timestamp"] for row in exchange.series("funding_rates", NAME)},
        "volatility_index": {row[0] for row in exchange.series("volatility_index", "BTC", HOUR)[:-1]},
        "delivery_prices": {row["date"] for row in exchange.series("delivery_prices", "btc_usd")},
        "settlements": {
            (row["timestamp"], row["type"], row.get("instrument_name", "")) for row in settlements
        },
    }


def loaded_rows(user: User, name: str) -> list[Any]:
    return [row[0] for row in user.client.query(f"select {KEYS[name]} from deribit_raw.{name}").result_rows]


def gaps(user: User) -> dict[str, list[dict[str, Any]]]:
    """What `tape gaps` names, by series."""
    named: dict[str, list[dict[str, Any]]] = {name: [] for name in KEYS}
    for gap in json.loads(user.tape("gaps", "--json").out):
        named[gap["series"]].append(gap)
    return named


def ms(text: str) -> int:
    return round(datetime.fromisoformat(text).timestamp() * 1000)


def test_every_row_is_loaded_once_or_named_as_missing(user: User, tape: Tape) -> None:
    """A second run adds nothing; a value that the exchange restates replaces the old one; a row that it adds is loaded."""
    truth = rows_of_exchange(user)
    lost = max(truth["funding_rates"]) - 50 * HOUR
    user.exchange.restate_series("funding_rates", NAME, lost)
    user.load(currencies=("BTC",))
    loaded = {name: loaded_rows(user, name) for name in KEYS}
    assert all(len(rows) == len(set(rows)) for rows in loaded.values())
    lacking = {name: truth[name] - set(loaded[name]) for name in KEYS}
    assert not any(set(loaded[name]) - truth[name] for name in KEYS)
    assert all(lacking.values()), "the tape has a hole of every series"

    assert user.tape("gaps").code == 1
    named = gaps(user)
    for name in ("funding_rates", "volatility_index"):
        times = {
            at_ms
            for gap in named[name]
            for at_ms in range(ms(gap["first_missing_at"]), ms(gap["last_missing_at"]) + 1, HOUR)
        }
        assert times == lacking[name]
        assert not any(gap["known_absent"] for gap in named[name])
    expiries = {
        datetime.fromtimestamp(row["expiration_timestamp"] / 1000, UTC).date().isoformat()
        for row in tape.instruments
        if row.get("price_index") == "btc_usd"
        and row["kind"] in ("option", "future")
        and "expiration_timestamp" in row
    }
    days = {gap["first_missing_at"][:10] for gap in named["delivery_prices"]}
    assert days == lacking["delivery_prices"] & expiries
    assert sum(gap["missing"] for gap in named["settlements"]) == len(lacking["settlements"])
    absent_days = {gap["first_missing_at"][:10] for gap in named["settlements"] if gap["known_absent"]}
    assert not absent_days & lacking["delivery_prices"]

    before = {name: len(rows) for name, rows in loaded.items()}
    user.exchange.requests.clear()
    user.load(currencies=("BTC",))
    assert {name: len(loaded_rows(user, name)) for name in KEYS} == before
    assert "get_funding_rate_history" not in user.requested_methods()

    restated = max(loaded["funding_rates"]) - 3 * HOUR
    user.exchange.restate_series("funding_rates", NAME, restated, interest_1h=0.25)
    user.exchange.restate_series("funding_rates", NAME, lost, interest_1h=0.0)
    user.exchange.faults = Faults.parse("")
    user.exchange.now_ms += 24 * HOUR
    user.load(currencies=("BTC",))
    [[value]] = user.client.query(
        "select argMax(interest_1h, _dlt_load_id) from deribit_raw.funding_rates "
        f"where toUnixTimestamp64Milli(timestamp) = {restated}"
    ).result_rows
    assert value == 0.25
    assert user.tape("repair", "--again").code == 0
    assert {name: set(loaded_rows(user, name)) for name in KEYS} == rows_of_exchange(user)
    assert user.tape("gaps", "--json").out == "[]\n"
