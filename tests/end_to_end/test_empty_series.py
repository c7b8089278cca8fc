"""Series whose first answers are all empty, through runs and commands as a user makes them."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import pytest

from extract.sandbox.series_endpoints import SeriesEndpoints
from extract.sandbox.server import SandboxExchange
from extract.sandbox.tape import Tape
from tests.end_to_end.test_hostile_series import HOUR, KEYS, gaps, loaded_rows, rows_of_exchange
from tests.support.loaded_user import User

pytestmark = pytest.mark.slow
EMPTY = {
    "get_funding_rate_history": [],
    "get_delivery_prices": {"records_total": 0, "data": []},
    "get_last_settlements_by_currency": {"settlements": [], "continuation": None},
    "get_volatility_index_data": {"data": [], "continuation": None},
}


def test_history_that_was_empty_first_is_missing_and_then_loaded(
    new_user: Callable[[Tape], User], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What instruments and trades prove to exist is named at once; all of it is loaded once the exchange has it."""
    monkeypatch.setenv("SOURCES__DERIBIT__SERIES", ", ".join(KEYS))
    monkeypatch.setenv("SOURCES__DERIBIT__REQUESTS_PER_SECOND", "1000")
    user = new_user(Tape.generate(seed=4, trades=600, days=12))
    exchange: SandboxExchange = user.exchange
    answered = SeriesEndpoints.result
    with monkeypatch.context() as outage:
        outage.setattr(
            SeriesEndpoints,
            "result",
            lambda self, method, params: (
                msgspec.json.encode(EMPTY[method]) if method in EMPTY else answered(self, method, params)
            ),
        )
        user.load(currencies=("BTC",))
    assert user.tape("gaps").code == 1
    missing = gaps(user)
    assert all(missing[name] for name in ("funding_rates", "delivery_prices", "settlements"))
    assert not any(gap["known_absent"] for rows in missing.values() for gap in rows)

    for _ in range(2):
        exchange.now_ms += 25 * HOUR
        user.load(currencies=("BTC",))
    truth = rows_of_exchange(user)
    assert {name: set(loaded_rows(user, name)) for name in KEYS} == truth
    assert user.tape("gaps").code == 0
    assert not any(gaps(user).values())
