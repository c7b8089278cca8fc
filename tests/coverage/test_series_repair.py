"""`tape status`, `gaps`, `repair` and `health` of the series besides trades, on a loaded database."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator

import pytest

from extract.errors import TapeError
from extract.sandbox.faults import Faults
from extract.sandbox.tape import Tape
from tests.support.loaded_user import User

HOUR = 3_600_000
NAME = "BTC-PERPETUAL"


@pytest.fixture(scope="module")
def user(new_user: Callable[[Tape], User]) -> Iterator[User]:
    """A user with BTC loaded, whose exchange lacks an hour of funding and has stuck continuations of settlements."""
    user = new_user(Tape.generate(seed=5, trades=300, days=3))
    user.exchange.restate_series("funding_rates", NAME, user.exchange.now_ms // HOUR * HOUR - 5 * HOUR)
    user.exchange.faults = Faults.parse("traps=stuck")
    with pytest.MonkeyPatch.context() as env:
        env.setenv("SOURCES__DERIBIT__SERIES", "funding_rates, delivery_prices, settlements")
        with pytest.raises(TapeError, match="settlements of BTC delivery was set aside"):
            user.load(currencies=("BTC",))
        yield user


@pytest.mark.slow
def test_missing_rows_and_keys_are_named_until_a_repair_has_fetched_them(user: User) -> None:
    """A repair exits with 4 while a series is unusable; the next one requests just these keys, and completes them."""
    hole = user.exchange.now_ms // HOUR * HOUR - 5 * HOUR
    done = user.tape("gaps")
    assert done.code == 1
    assert "1 row of 1 key of series missing; `tape repair` requests them again." in done.out
    assert "settlements of BTC delivery was set aside" in done.err
    [gap] = json.loads(user.tape("gaps", "--json").out)
    assert (gap["series"], gap["series_key"], gap["missing"]) == ("funding_rates", NAME, 1)
    assert gap["first_missing_at"] == gap["last_missing_at"]
    assert not gap["known_absent"]
    assert user.tape("gaps", "--kind", "spot").code in (0, 2)

    statuses = {each.get("series_key"): each for each in json.loads(user.tape("status", "--json").out)}
    assert (statuses[NAME]["missing"], statuses["btc_usd"]["missing"]) == (1, 0)
    assert statuses[NAME]["rows"] == len(user.exchange.series("funding_rates", NAME))
    assert "funding_rates" in user.tape("status").out
    checks = {each["check"]: each for each in json.loads(user.tape("health", "--json").out)}
    assert (checks["series"]["state"], checks["series"]["value"]) == ("warn", 3)

    assert user.tape("repair").code == 4
    user.exchange.faults = Faults.parse("")
    user.exchange.restate_series("funding_rates", NAME, hole, interest_1h=0.0)
    user.exchange.requests.clear()
    done = user.tape("repair")
    assert done.code == 0, done.output
    assert "get_delivery_prices" not in user.requested_methods()
    unusable = [row for row in user.exchange.series("settlements", "BTC") if row["type"] != "bankruptcy"]
    rows = len(unusable) + 1
    assert f"1 missing rows of 3 keys of series were requested again: {rows} rows loaded." in done.out
    assert user.tape("repair").out == "There is nothing to fetch.\n"
    assert (user.tape("gaps").code, user.tape("gaps", "--json").out) == (0, "[]\n")
    [check] = json.loads(user.tape("health", "--json", "--check", "series").out)
    assert check["state"] == "ok"
