"""Each new or changed instrument gives one row; expiry and currency are derived from names."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from itertools import pairwise
from typing import Any

import httpx
import pytest

from extract.deribit.instrument_names import belongs_to_other_currency, has_expired
from extract.deribit.instrument_schema import COLUMNS
from extract.deribit.instruments import (
    InstrumentsReport,
    changed_instruments,
    list_live_instruments,
    merge_known,
    to_row,
)
from extract.deribit.schema import RejectedTrade
from extract.deribit.streams import Stream
from extract.errors import OutsideError
from tests.support.contradictory_exchange import client_of

MINUTE_MS = 60_000
DAY_MS = 24 * 60 * MINUTE_MS
FUTURES, OPTIONS = Stream("BTC", "future"), Stream("BTC", "option")


class Listing:
    """Answers get_instruments and get_instrument; records the value of `expired`, or the name, of each request."""

    def __init__(self) -> None:
        self.live: dict[str, dict[str, Any]] = {}
        self.expired: dict[str, dict[str, Any]] = {}
        self.requests: list[str] = []
        self.known: dict[str, Any] = {}
        self.report = InstrumentsReport()

    def list(self, name: str, kind: str = "future", created_ms: int = 0, **more: Any) -> None:
        self.live[name] = {"instrument_name": name, "kind": kind, "creation_timestamp": created_ms} | more

    def expire(self, name: str) -> None:
        self.expired[name] = self.live.pop(name) | {"is_active": False}

    def __call__(self, method: str, params: dict[str, str]) -> Any:
        self.requests.append(params.get("expired") or params["instrument_name"])
        if method == "get_instrument":
            record = self.expired.get(params["instrument_name"])
            return {"result": record} if record else {"error": {"code": 13020, "message": "not_found"}}
        return {"result": list((self.expired if params["expired"] == "true" else self.live).values())}

    def changed(self, *streams: Stream, now_ms: int = 1_000, traded: tuple[str, ...] = ()) -> list[str]:
        with client_of(self) as client:
            rows = list(
                changed_instruments(
                    client, streams, self.known, now_ms, self.report, traded={streams[0]: traded}
                )
            )
        self.known = json.loads(json.dumps(self.known))
        return sorted(row["instrument_name"] for row in rows)


def test_new_changed_and_expired_instruments_each_give_one_row() -> None:
    """The first run returns all, later ones only changes; an expired one is requested by name."""
    listing = Listing()
    listing.list("A")
    listing.list("B")
    listing.expired["OLD"] = {"instrument_name": "OLD", "kind": "future"}
    assert listing.changed(FUTURES) == ["A", "B", "OLD"]
    assert listing.changed(FUTURES) == []
    listing.list("B", tick_size=0.5)
    assert listing.changed(FUTURES) == ["B"]
    listing.expire("A")
    assert listing.changed(FUTURES) == ["A"]
    assert listing.changed(FUTURES) == []
    assert listing.requests.count("true") == 1
    assert listing.requests.count("A") == 1


def test_instrument_that_existed_only_between_two_runs_gives_a_row() -> None:
    """Its trades show its name."""
    listing = Listing()
    listing.list("A")
    listing.changed(FUTURES, now_ms=1_000)
    listing.list("SHORT")
    listing.expire("SHORT")
    assert listing.changed(FUTURES, now_ms=2_000, traded=("A", "SHORT")) == ["SHORT"]
    assert listing.changed(FUTURES, now_ms=3_000) == []


def test_instrument_that_came_and_went_between_two_lists_gives_a_row() -> None:
    """`tape follow` does not list instruments with each load package, and a list may fail."""
    listing = Listing()
    listing.list("A")
    listing.changed(FUTURES, now_ms=1_000)
    for name in ("SHORT", "SHORTER"):
        listing.list(name)
        listing.expire(name)
    listing.list("B")

    def changed(*streams: Stream, traded: tuple[str, ...], is_broken: bool = False) -> list[str]:
        def answer(method: str, params: dict[str, str]) -> Any:
            if method == "get_time":
                return {"result": 1}
            return httpx.Response(503) if is_broken else listing(method, params)

        with client_of(answer) as client:
            rows = changed_instruments(
                client, streams, listing.known, 2_000, InstrumentsReport(), traded={FUTURES: traded}
            )
            names = sorted(row["instrument_name"] for row in rows)
        listing.known = json.loads(json.dumps(listing.known))
        return names

    assert changed(traded=("A", "B", "SHORT")) == []
    assert changed(FUTURES, traded=("SHORTER",), is_broken=True) == []
    assert changed(FUTURES, traded=()) == ["B", "SHORT", "SHORTER"]
    assert changed(FUTURES, traded=()) == []
    assert "gone" not in listing.known["BTC future"]


@pytest.mark.parametrize("is_loaded", [False, True], ids=["by the state", "by loaded rows"])
def test_instrument_that_history_lists_late_is_requested_until_it_does(is_loaded: bool) -> None:
    """Also one that history still shows as live; after a week it is reported instead."""
    listing = LoadedListing() if is_loaded else Listing()
    for name in ("LATE", "OPEN", "LOST"):
        listing.list(name)
    listing.changed(FUTURES, now_ms=1_000)
    late, still_open = listing.live.pop("LATE"), listing.live.pop("OPEN")
    del listing.live["LOST"]
    listing.expired["OPEN"] = still_open | {"is_active": True}
    assert listing.changed(FUTURES, now_ms=2_000) == []
    assert listing.changed(FUTURES, now_ms=2_000 + 5 * MINUTE_MS) == []
    listing.expired["LATE"] = late | {"is_active": False}
    listing.expired["OPEN"]["is_active"] = False
    assert listing.changed(FUTURES, now_ms=2_000 + 10 * MINUTE_MS) == ["LATE", "OPEN"]
    assert listing.report.vanished == []
    assert listing.changed(FUTURES, now_ms=4_000 + 8 * DAY_MS) == []
    assert listing.report.vanished == ["LOST"]
    requests = len(listing.requests)
    listing.changed(FUTURES, now_ms=5_000 + 8 * DAY_MS)
    assert listing.requests[requests:] == ["false"]


@pytest.mark.parametrize("is_loaded", [False, True], ids=["by the state", "by loaded rows"])
def test_renamed_instrument_that_never_expires_is_reported_at_once(is_loaded: bool) -> None:
    listing = LoadedListing() if is_loaded else Listing()
    for name in ("BTC-PERPETUAL", "BTC-27MAR26"):
        listing.list(name)
    listing.changed(FUTURES, now_ms=1_000)
    listing.live.clear()
    listing.list("XBT-PERPETUAL")
    assert listing.changed(FUTURES, now_ms=2_000) == ["XBT-PERPETUAL"]
    assert listing.report.vanished == ["BTC-PERPETUAL"]
    listing.list("OTHER")
    assert listing.changed(FUTURES, now_ms=3_000) == ["OTHER"]
    assert listing.report.vanished == ["BTC-PERPETUAL"]


@pytest.mark.parametrize("count", [250, 400], ids=["by name", "by the list of all"])
@pytest.mark.parametrize("is_loaded", [False, True], ids=["by the state", "by loaded rows"])
def test_instruments_that_history_never_shows_are_requested_after_growing_waits(
    is_loaded: bool, count: int
) -> None:
    """A run every half hour sends requests for them in few of its runs, at last once a day."""
    listing = LoadedListing() if is_loaded else Listing()
    names = [f"N{number:04}" for number in range(count)]
    for name in ("BTC-PERPETUAL", *names):
        listing.list(name)
    listing.changed(FUTURES, now_ms=1)
    for name in names:
        del listing.live[name]
    busy = []
    for minutes in range(30, 8 * 24 * 60, 30):
        listing.requests.clear()
        listing.changed(FUTURES, now_ms=minutes * MINUTE_MS)
        busy += [minutes] * (len(listing.requests) > 1)
        assert len(listing.requests) <= count + 1
    assert len(busy) < 20
    assert max(later - earlier for earlier, later in pairwise(busy)) <= 24 * 60
    assert listing.report.vanished == names


def test_instrument_that_an_earlier_version_found_gone_is_requested() -> None:
    """Its state has only the time since when it is gone."""
    listing = Listing()
    listing.list("A")
    listing.changed(FUTURES)
    listing.expire("A")
    listing.known = {"BTC future": {"asked_ms": 1, "live": {}, "gone": {"A": 900}}}
    assert listing.changed(FUTURES) == ["A"]


@pytest.mark.parametrize("broken", [1, 5])
def test_instrument_without_an_answer_keeps_no_other_one_live(broken: int) -> None:
    """It is requested again by each run, also after a week; where several are not answered, the rest waits as well."""
    listing = Listing()
    names = [f"BAD{number}" for number in range(broken)]
    for name in ("A", "B", *names):
        listing.list(name)
    listing.changed(FUTURES)
    for name in names:
        listing.expire(name)
    failing, requests = True, []

    def answer(method: str, params: dict[str, str]) -> Any:
        requests.append(params.get("instrument_name"))
        is_bad = params.get("instrument_name", "").startswith("BAD")
        if method == "get_time":
            return {"result": 1}
        return httpx.Response(503) if is_bad and failing else listing(method, params)

    def changed(now_ms: int) -> list[str]:
        listing.report = InstrumentsReport()
        requests.clear()
        with client_of(answer) as client:
            rows = changed_instruments(client, [FUTURES], listing.known, now_ms, listing.report)
            return sorted(row["instrument_name"] for row in rows)

    assert changed(2_000) == []
    for name in ("A", "B"):
        listing.expire(name)
        listing.list(f"{name}-NEW")
    week_ms = 8 * DAY_MS
    assert changed(3_000 + week_ms) == ["A", "A-NEW", "B", "B-NEW"]
    assert "503" in str(listing.report.set_aside["BTC"])
    assert listing.report.vanished == []
    assert len({*requests} & {*names}) == min(broken, 3)
    failing = False
    assert changed(4_000 + week_ms) == names
    assert not listing.report.set_aside


def test_lists_that_fail_are_requested_once_each_after_the_first_and_at_most_three() -> None:
    """New trades wait for them; each currency is set aside."""
    names = ["BTC", "ETH", "SOL", "USDC", "XRP"]
    lists = []

    def answer(method: str, params: dict[str, str]) -> Any:
        if method == "get_time":
            return {"result": 1}
        lists.append(params["currency"])
        return httpx.Response(503)

    report = InstrumentsReport()
    with client_of(answer, attempts=4) as client:
        streams = [Stream(name, "future") for name in names]
        assert list(changed_instruments(client, streams, {}, 1_000, report)) == []
    assert lists == ["BTC"] * 4 + ["ETH", "SOL"]
    assert [*report.set_aside] == names


def test_exchange_that_answers_nothing_ends_the_requests_by_name() -> None:
    """The first instrument without an answer is the last one that is requested."""
    listing = Listing()
    for name in ("A", "B", "C"):
        listing.list(name)
    listing.changed(FUTURES)
    for name in ("A", "B", "C"):
        listing.expire(name)
    requested = set()

    def answer(method: str, params: dict[str, str]) -> Any:
        if method == "get_instruments":
            return listing(method, params)
        requested.add(params.get("instrument_name", method))
        return httpx.Response(503)

    with client_of(answer) as client, pytest.raises(OutsideError, match="503"):
        list(changed_instruments(client, [FUTURES], listing.known, 2_000, listing.report))
    assert len(requested) == 2
    assert "get_time" in requested


def test_many_expired_instruments_are_taken_from_the_list() -> None:
    """At most a few hundred are requested by name."""
    listing = Listing()
    names = [f"N{number:04}" for number in range(400)]
    for name in names:
        listing.list(name)
    listing.changed(FUTURES)
    for name in names:
        listing.expire(name)
    listing.requests.clear()
    assert listing.changed(FUTURES) == names
    assert listing.requests == ["false", "true"]


def test_list_of_all_currencies_is_divided_by_currency() -> None:
    """By settlement currency, else base currency, else the name; a record that cannot be read is rejected once."""
    records = [
        {"instrument_name": "BTC-PERPETUAL", "kind": "future", "settlement_currency": "BTC"},
        {"instrument_name": "BTC_USDC-PERPETUAL", "kind": "future", "settlement_currency": "USDC"},
        {"instrument_name": "BTC_USDC", "kind": "spot", "base_currency": "BTC"},
        {"instrument_name": "ETH_USDC-27JUN25", "kind": "future"},
        {"instrument_name": "ETH-27JUN25", "kind": "future"},
        {"kind": "future"},
    ]
    streams = [Stream(currency, kind) for currency in ("BTC", "ETH", "USDC") for kind in ("future", "spot")]
    known: dict[str, Any] = {}
    report = InstrumentsReport()
    with client_of(
        lambda method, params: {"result": records if params["currency"] == "any" else []}
    ) as client:
        listed = list_live_instruments(client, "any")
        rows = list(changed_instruments(client, streams, known, 1_000, report, listed=listed))
        assert {row["instrument_name"]: row["currency"] for row in rows} == {
            "BTC-PERPETUAL": "BTC",
            "BTC_USDC-PERPETUAL": "USDC",
            "BTC_USDC": "BTC",
            "ETH_USDC-27JUN25": "USDC",
            "ETH-27JUN25": "ETH",
        }
        assert len(report.rejected) == 1
        assert list(changed_instruments(client, streams, known, 2_000, report, listed=listed)) == []
        assert not report.rejected


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


@pytest.mark.parametrize(
    "odd",
    [
        {"kind": "future"},
        {"instrument_name": ["A"], "kind": "future"},
        {"instrument_name": "B"},
        {"instrument_name": "B", "kind": 7},
        {"instrument_name": "BTC-PERPETUAL", "kind": "option"},
        {"instrument_name": "BTC-27MAR26-90000-C", "kind": "future"},
        {"instrument_name": "BTC-FS-27MAR26_PERP", "kind": "future"},
        {"instrument_name": "BTC_USDC", "kind": "future", "settlement_currency": "BTC"},
        7,
        None,
    ],
)
@pytest.mark.parametrize("side", ["live", "expired"])
def test_record_without_a_name_or_its_kind_does_not_affect_the_others(odd: Any, side: str) -> None:
    listing = Listing()
    listing.list("A")
    getattr(listing, side)["odd"] = odd
    assert listing.changed(FUTURES) == ["A"]
    [(stream, rejected)] = listing.report.rejected
    assert (stream, json.loads(rejected.raw)) == (FUTURES, odd)
    assert listing.changed(FUTURES) == []
    assert not listing.report.rejected, "once"


@pytest.mark.parametrize("odd", ["NaN", '"\\ud800"'])
@pytest.mark.parametrize("side", ["live", "expired", "by name"])
def test_value_that_cannot_be_decoded_rejects_one_instrument(odd: str, side: str) -> None:
    """In either list, and in the answer for one instrument; the others of the list are read."""
    listing = Listing()
    listing.list("A")
    if side == "by name":
        listing.list("B")
        listing.changed(FUTURES)
        listing.expire("B")
        listing.expired["B"]["new"] = "odd"
    else:
        getattr(listing, side)["B"] = {"instrument_name": "B", "kind": "future", "new": "odd"}

    def answer(method: str, params: dict[str, str]) -> Any:
        return httpx.Response(200, text=json.dumps(listing(method, params)).replace('"odd"', odd))

    with client_of(answer) as client:
        rows = list(changed_instruments(client, [FUTURES], listing.known, 1_000, listing.report))
    assert [row["instrument_name"] for row in rows] == ([] if side == "by name" else ["A"])
    [(stream, rejected)] = listing.report.rejected
    assert (stream, rejected.reason) == (FUTURES, f"not an instrument: a value cannot be decoded: {odd}")
    assert f'"new": {odd}' in rejected.raw


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


class LoadedListing(Listing):
    """A listing whose rows are in a table that can be queried: the newest row of each instrument counts."""

    def __init__(self) -> None:
        super().__init__()
        self.table: dict[str, dict[str, Any]] = {}

    def changed(self, *streams: Stream, now_ms: int = 1_000) -> list[str]:
        def loaded(stream: Stream) -> dict[str, dict[str, Any]]:
            rows = {name: row for name, row in self.table.items() if row["kind"] == stream.kind}
            return {name: row for name, row in rows.items() if row["is_active"] is not False}

        with client_of(self) as client:
            rows = list(
                changed_instruments(client, streams, self.known, now_ms, self.report, loaded_rows=loaded)
            )
        self.known = json.loads(json.dumps(self.known))
        self.table |= {row["instrument_name"]: row for row in rows}
        return sorted(row["instrument_name"] for row in rows)


def test_list_is_compared_with_loaded_rows() -> None:
    """New, changed and expired instruments give one row each, and the state has one checksum."""
    listing = LoadedListing()
    for number in range(500):
        listing.list(f"I{number:03}")
    assert len(listing.changed(FUTURES)) == 500
    assert listing.changed(FUTURES) == []
    listing.list("I007", tick_size=0.5)
    listing.list("NEW")
    assert listing.changed(FUTURES) == ["I007", "NEW"]
    listing.expired["I001"] = listing.live.pop("I001") | {"is_active": False}
    assert listing.changed(FUTURES) == ["I001"]
    assert listing.changed(FUTURES) == []
    assert len(json.dumps(listing.known)) < 100


def test_same_instruments_in_another_spelling_give_no_row() -> None:
    """The exchange sends the fields in another order."""
    listing = LoadedListing()
    listing.list("A", tick_size=0.5)
    listing.changed(FUTURES)
    listing.live["A"] = dict(reversed(listing.live["A"].items()))
    assert listing.changed(FUTURES) == []


def test_odd_record_of_a_currency_is_rejected_once() -> None:
    """Until it changes; the exchange may list it for years."""
    listing, known = LoadedListing(), dict[str, Any]()

    def rejected(*texts: str) -> list[str]:
        with client_of(listing) as client:
            odd = [RejectedTrade("not a currency", text) for text in texts]
            list(changed_instruments(client, [FUTURES], known, 1_000, listing.report, odd_currencies=odd))
        return [bad.raw for _, bad in listing.report.rejected]

    assert rejected("7") == ["7"]
    assert rejected("7") == []
    assert rejected("7", "null") == ["null"]
    assert merge_known(known, known) == known
    assert rejected() == []
    assert rejected("7") == ["7"]


def test_pair_that_expired_under_both_of_its_currencies_is_listed_by_its_base() -> None:
    listing = Listing()
    listing.expired["ETH_BTC"] = {"instrument_name": "ETH_BTC", "kind": "spot", "base_currency": "ETH"}
    assert listing.changed(Stream("BTC", "spot"), Stream("ETH", "spot")) == ["ETH_BTC"]


@pytest.mark.parametrize("odd", ["1e999", "-1e400"])
@pytest.mark.parametrize("is_new", [True, False])
def test_number_that_cannot_be_decoded_is_rejected_once(odd: str, is_new: bool) -> None:
    """Also if the instrument has a loaded row, and while other instruments change."""
    listing = LoadedListing()
    names = ("A",) if is_new else ("A", "B")
    for name in names:
        listing.list(name)
    assert listing.changed(FUTURES) == [*names]
    listing.list("B", tick_size="odd")
    loaded = dict(listing.table)

    def answer(method: str, params: dict[str, str]) -> Any:
        return httpx.Response(200, text=json.dumps(listing(method, params)).replace('"odd"', odd))

    def changed() -> list[str]:
        rows = list(
            changed_instruments(
                client, [FUTURES], listing.known, 2_000, listing.report, loaded_rows=lambda stream: loaded
            )
        )
        loaded.update({row["instrument_name"]: row for row in rows})
        rejected.extend(bad.raw for _, bad in listing.report.rejected)
        return [row["instrument_name"] for row in rows]

    rejected: list[str] = []
    with client_of(answer) as client:
        assert changed() == []
        assert changed() == []
        listing.list("C")
        assert changed() == ["C"]
    assert len(rejected) == 1
    assert odd in rejected[0]


def test_rejected_record_is_reported_once_while_others_change() -> None:
    listing = LoadedListing()
    listing.live["odd"] = {"kind": "future"}
    listing.list("A")
    listing.changed(FUTURES)
    assert len(listing.report.rejected) == 1
    listing.list("B")
    assert listing.changed(FUTURES) == ["B"]
    assert listing.report.rejected == []
