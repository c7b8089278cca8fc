"""Each new or changed instrument gives one row; expiry and currency are derived from names."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest

from extract.deribit.instrument_names import belongs_to_other_currency, has_expired
from extract.deribit.instrument_schema import COLUMNS
from extract.deribit.instruments import InstrumentsReport, changed_instruments, to_row
from extract.deribit.streams import Stream
from tests.support.contradictory_exchange import client_of

FUTURES, OPTIONS = Stream("BTC", "future"), Stream("BTC", "option")


class Listing:
    """Answers get_instruments with live and expired instruments; records the value of `expired` of each request."""

    def __init__(self) -> None:
        self.live: dict[str, dict[str, Any]] = {}
        self.expired: dict[str, dict[str, Any]] = {}
        self.requests: list[str] = []
        self.known: dict[str, Any] = {}
        self.report = InstrumentsReport()

    def list(self, name: str, kind: str = "future", created_ms: int = 0, **more: Any) -> None:
        self.live[name] = {"instrument_name": name, "kind": kind, "creation_timestamp": created_ms} | more

    def __call__(self, method: str, params: dict[str, str]) -> Any:
        self.requests.append(params["expired"])
        return {"result": list((self.expired if params["expired"] == "true" else self.live).values())}

    def changed(self, *streams: Stream, now_ms: int = 1_000) -> list[str]:
        with client_of(self) as client:
            rows = list(changed_instruments(client, streams, self.known, now_ms, self.report))
        self.known = json.loads(json.dumps(self.known))
        return sorted(row["instrument_name"] for row in rows)


def test_new_changed_and_expired_instruments_each_give_one_row() -> None:
    """The first run returns all, later ones only changes; expired ones are listed again when a live one disappears."""
    listing = Listing()
    listing.list("A")
    listing.list("B")
    listing.expired["OLD"] = {"instrument_name": "OLD", "kind": "future"}
    assert listing.changed(FUTURES) == ["A", "B", "OLD"]
    assert listing.changed(FUTURES) == []
    listing.list("B", tick_size=0.5)
    assert listing.changed(FUTURES) == ["B"]
    assert listing.requests.count("true") == 1
    listing.expired["A"] = listing.live.pop("A")
    assert listing.changed(FUTURES) == ["A"]
    assert listing.changed(FUTURES) == []


def test_instrument_that_existed_only_between_two_runs_gives_a_row() -> None:
    listing = Listing()
    listing.list("A")
    listing.changed(FUTURES, now_ms=1_000)
    listing.expired["A"] = listing.live.pop("A")
    listing.expired["SHORT"] = {"instrument_name": "SHORT", "kind": "future", "creation_timestamp": 1_500}
    assert listing.changed(FUTURES, now_ms=2_000) == ["A", "SHORT"]


def test_instruments_of_a_kind_requested_later_are_new() -> None:
    """Instruments of kinds that were not requested do not count as known."""
    listing = Listing()
    listing.list("F")
    listing.list("O", kind="option")
    assert listing.changed(FUTURES) == ["F"]
    assert listing.changed(FUTURES, OPTIONS) == ["O"]


def test_state_does_not_grow_with_expired_instruments() -> None:
    listing = Listing()
    listing.expired = {f"OLD{n}": {"instrument_name": f"OLD{n}", "kind": "future"} for n in range(500)}
    assert len(listing.changed(FUTURES)) == 500
    assert len(json.dumps(listing.known)) < 200


def test_row_has_typed_columns_and_other_fields_as_json() -> None:
    row = to_row({"instrument_name": "A", "strike": 5, "creation_timestamp": 1_500, "odd": [1]}, "BTC")
    assert set(row) == set(COLUMNS)
    assert (row["strike"], row["currency"], json.loads(row["extra"])) == (5.0, "BTC", {"odd": [1]})
    assert row["creation_timestamp"] == datetime(1970, 1, 1, 0, 0, 1, 500_000, UTC)


@pytest.mark.parametrize(
    "changes",
    [
        {"expiration_timestamp": 10**400},
        {"creation_timestamp": "soon"},
        {"strike": 10**400},
        {"strike": [5]},
        {"instrument_id": 2**70},
        {"is_active": "yes"},
        {"extra": 1},
    ],
    ids=lambda changes: "-".join(changes),
)
def test_field_of_another_type_is_stored_in_extra(changes: dict[str, Any]) -> None:
    """The row is loaded, with null in the column."""
    listing = Listing()
    listing.list("A")
    listing.live["A"] |= changes
    with client_of(listing) as client:
        [row] = changed_instruments(client, [FUTURES], {}, 1_000, InstrumentsReport())
    [name] = changes
    assert json.loads(row["extra"]) == changes
    assert name == "extra" or row[name] is None


@pytest.mark.parametrize("odd", [{"kind": "future"}, {"instrument_name": ["A"], "kind": "future"}, 7, None])
@pytest.mark.parametrize("side", ["live", "expired"])
def test_record_without_a_name_does_not_affect_the_others(odd: Any, side: str) -> None:
    listing = Listing()
    listing.list("A")
    getattr(listing, side)["odd"] = odd
    assert listing.changed(FUTURES) == ["A"]
    [(stream, rejected)] = listing.report.rejected
    assert (stream, json.loads(rejected.raw)) == (FUTURES, odd)
    assert listing.changed(FUTURES) == []
    assert not listing.report.rejected, "once"


@pytest.mark.parametrize(
    ("name", "day", "over"),
    [
        ("BTC-27JUN25", (2025, 6, 28), False),
        ("BTC-27JUN25-100000-C", (2025, 6, 28), False),
        ("BTC-27JUN25-100000-C", (2025, 6, 30), True),
        ("BTC-5APR24", (2024, 4, 8), True),
        ("BTC-FS-27JUN25_26SEP25", (2025, 9, 1), False),
        ("BTC-FS-27JUN25_PERP", (2025, 7, 1), True),
        ("BTC-PERPETUAL", (2099, 1, 1), False),
        ("BTC_USDC", (2099, 1, 1), False),
        ("ODD-31FEB25", (2099, 1, 1), False),
        ("ODD-99JAN25-X", (2099, 1, 1), False),
    ],
)
def test_expiry_is_two_midnights_after_the_last_date_in_the_name(
    name: str, day: tuple[int, int, int], over: bool
) -> None:
    """A name without a valid date never expires."""
    assert has_expired(name, datetime(*day, 1, tzinfo=UTC)) is over


@pytest.mark.parametrize(
    ("name", "currency", "wrong"),
    [
        ("BTC-PERPETUAL", "BTC", False),
        ("BTC-PERPETUAL", "ETH", True),
        ("BTC_USDC-PERPETUAL", "USDC", False),
        ("BTC_USDC-27JUN25-100000-C", "ETH", True),
        ("BTCDVOL_USDC-27JUN25", "USDC", False),
        ("BTC_USDT", "BTC", False),
        ("BTC-CS-19MAY26-70000_75000", "ETH", False),
        ("whatever it is", "ETH", False),
    ],
)
def test_currency_is_derived_from_a_name_that_follows_the_rules(
    name: str, currency: str, wrong: bool
) -> None:
    assert belongs_to_other_currency(name, currency) is wrong
