"""Streams come from what the exchange lists and from what is stored, and cost few requests."""

from __future__ import annotations

import json
import re
from collections import Counter
from typing import Any

import httpx
import pytest

from extract.deribit.config import KINDS
from extract.deribit.instruments import InstrumentsReport, changed_instruments
from extract.deribit.streams import Stream
from extract.errors import OutsideError, UsageError
from extract.sandbox.server import SandboxExchange
from extract.sandbox.tape import Tape
from extract.sweep.universe import Universe, resolve_universe
from tests.support.altered_exchange import Alter, AlteredExchange
from tests.support.contradictory_exchange import client_of
from tests.support.histories import BEGIN_MS, trade
from tests.support.sweep_helpers import Crawl, quick_client, row_of

MINUTE_MS = 60_000
LISTED = [
    {"instrument_name": "BTC-PERPETUAL", "kind": "future", "settlement_currency": "BTC"},
    {"instrument_name": "BTC-INDEX-1", "kind": "index_option", "settlement_currency": "BTC"},
]
EXPIRED = [
    {"instrument_name": "SOL-25MAR22", "kind": "future", "settlement_currency": "SOL", "is_active": False}
]

COMBOS = [{"instrument_name": "SOL-FS-A_B", "kind": "future_combo", "settlement_currency": "SOL"}]
FORBIDDEN = "<html>Forbidden</html>"
UNKNOWN_ANY = json.dumps(
    {"error": {"code": -32602, "message": "Invalid params", "data": {"param": "currency"}}}
)


def universe_of(
    offered: Any = ({"currency": "BTC"},),
    stored: tuple[Stream, ...] = (),
    selected: list[str] | None = None,
    kinds: list[str] | None = None,
) -> Universe:
    def answer(method: str, params: dict[str, str]) -> Any:
        if method == "get_currencies":
            return {"result": list(offered)}
        expired = [each for each in EXPIRED if each["kind"] == params.get("kind", each["kind"])]
        if params["currency"] not in ("any", "SOL"):
            expired = []
        return {"result": expired if params["expired"] == "true" else LISTED}

    with client_of(answer) as client:
        return resolve_universe(client, selected or (), kinds or (), stored)


def test_kind_that_only_the_exchange_knows_is_a_stream_and_noted_once() -> None:
    universe = universe_of()
    assert Stream("BTC", "index_option") in universe.streams
    assert [note for note in universe.notes if "new kind" in note and "index_option" in note]
    again = universe_of(stored=tuple(universe.streams))
    assert sorted(again.streams) == sorted(universe.streams)
    assert not [note for note in again.notes if "new kind" in note]


def test_names_that_only_history_may_know_are_those_that_no_list_shows() -> None:
    assert universe_of(stored=(Stream("BTC", "option"),)).unoffered == {"SOL", "option"}
    assert not universe_of(offered=({"currency": "SOL"},), selected=["BTC"]).unoffered


def test_stored_currency_that_is_no_longer_offered_remains_a_stream() -> None:
    universe = universe_of(stored=(Stream("BTC", "future"), Stream("ETH", "future")))
    assert Stream("ETH", "future") in universe.streams
    assert any(re.search("does not offer ETH any more", note) for note in universe.notes)


def test_first_run_includes_currencies_that_only_history_has() -> None:
    assert Stream("SOL", "future") in universe_of().streams


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "future"])
def test_delisted_currency_has_expired_instruments_of_a_kind_that_is_not_live(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every documented kind is looked for, although the live instruments are futures and index options."""
    odd = {"instrument_name": "SOL-1", "kind": kind, "settlement_currency": "SOL", "is_active": False}
    monkeypatch.setattr(f"{__name__}.EXPIRED", [odd])
    assert Stream("SOL", kind) in universe_of().streams


@pytest.mark.parametrize("stored", [(), (Stream("BTC", "future"),)], ids=["first run", "loaded before"])
def test_currencies_of_history_are_listed_until_the_list_could_be_read(stored: tuple[Stream, ...]) -> None:
    """Also where every offered currency is loaded already; then the list is not requested again."""
    is_broken = True
    requested = []

    def answer(method: str, params: dict[str, str]) -> Any:
        if method == "get_currencies":
            return {"result": [{"currency": "BTC"}]}
        if params["expired"] == "false":
            return {"result": LISTED}
        if params["currency"] != "any":
            return {"result": []}
        requested.append(params["kind"])
        return httpx.Response(503) if is_broken else {"result": EXPIRED if params["kind"] == "future" else []}

    with client_of(answer) as client:
        universe = resolve_universe(client, stored=stored)
        assert universe.expired is None
        assert "503" in str(universe.expired_error)
        is_broken = False
        universe = resolve_universe(client, stored=universe.streams, expired=universe.expired)
        assert universe.expired_error is None
        assert Stream("SOL", "future") in universe.streams
        requested.clear()
        again = resolve_universe(client, stored=[Stream("BTC", "future")], expired=universe.expired)
        assert Stream("SOL", "future") in again.streams, "although no trade of it was loaded yet"
        assert not requested


def test_old_list_of_all_expired_instruments_is_read_again_and_kept_if_it_cannot_be() -> None:
    """A currency that was offered for less than the time between two runs is only there."""
    is_broken = False
    stored = [Stream("BTC", "future")]
    before = [Stream("XRP", "future")]

    def answer(method: str, params: dict[str, str]) -> Any:
        if method == "get_currencies":
            return {"result": [{"currency": "BTC"}]}
        if params["expired"] == "false":
            return {"result": LISTED}
        return httpx.Response(503) if is_broken else {"result": EXPIRED}

    with client_of(answer) as client:
        universe = resolve_universe(client, stored=stored, expired=before, is_expired_old=True)
        assert universe.is_expired_new
        assert universe.expired == [Stream("SOL", "future"), *before]
        assert {*universe.expired} <= {*universe.streams}
        is_broken = True
        universe = resolve_universe(client, stored=stored, expired=before, is_expired_old=True)
        assert "503" in str(universe.expired_error)
        assert (universe.expired, universe.is_expired_new) == (before, False)
        assert before[0] in universe.streams


def test_currency_of_history_has_all_kinds_if_the_list_of_one_kind_is_too_long(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("extract.deribit.client.MAX_EXPIRED", 5)
    option = {"instrument_name": "SOL-25MAR22-100-C", "kind": "index_option", "settlement_currency": "SOL"}

    def answer(method: str, params: dict[str, str]) -> Any:
        if method == "get_currencies":
            return {"result": [{"currency": "BTC"}]}
        if params["expired"] == "false":
            return {"result": LISTED}
        if params["currency"] == "any":
            return {"result": [option] * 6 if params["kind"] == "index_option" else EXPIRED}
        return {"result": [*EXPIRED, option] if params["currency"] == "SOL" else []}

    with client_of(answer) as client:
        universe = resolve_universe(client)
    assert {Stream("SOL", "future"), Stream("SOL", "index_option")} <= {*universe.streams}
    assert universe.expired_error is None


@pytest.mark.parametrize("selected", [[], ["BTC"]], ids=["all currencies", "a selected currency"])
def test_kind_that_no_list_in_code_has_is_found_once_it_has_expired(selected: list[str]) -> None:
    """It came and went between two runs: only the list of its currency shows it, which is requested once a day."""
    event = {"instrument_name": "BTC-EVENT-X", "kind": "event", "settlement_currency": "BTC"}
    stored = [Stream("BTC", "future"), Stream("BTC", "index_option"), Stream("ETH", "future")]
    requested = []

    def answer(method: str, params: dict[str, str]) -> Any:
        if method == "get_currencies":
            return {"result": [{"currency": "BTC"}, {"currency": "ETH"}]}
        if params["expired"] == "false":
            return {"result": LISTED}
        requested.append(params["currency"])
        return {"result": [event] if params["currency"] == "BTC" and "kind" not in params else []}

    with client_of(answer) as client:
        again = resolve_universe(client, selected, stored=stored, expired=(), is_expired_old=True)
        assert Stream("BTC", "event") in again.streams
        assert any("event" in note for note in again.notes)
        assert {*requested} == ({"BTC"} if selected else {"any", "BTC", "ETH"})
        assert again.is_expired_new
        requested.clear()
        later = resolve_universe(client, selected, stored=stored, expired=again.expired)
        assert Stream("BTC", "event") in later.streams
        assert not requested


def test_lists_of_expired_instruments_are_of_the_selected_currencies() -> None:
    """What was listed of one currency does not count as the list of all."""
    assert (
        universe_of(selected=["SOL", "BTC"]).expired_name == universe_of(selected=["BTC", "SOL"]).expired_name
    )
    assert len({universe_of(selected=each).expired_name for each in ([], ["BTC"], ["SOL"])}) == 3


def test_first_run_requests_the_list_of_each_currency_once() -> None:
    requested = []

    def answer(method: str, params: dict[str, str]) -> Any:
        if method == "get_currencies":
            return {"result": [{"currency": "BTC"}]}
        requested.append((params["currency"], params["expired"]))
        return {"result": LISTED if params["expired"] == "false" else []}

    with client_of(answer) as client:
        resolve_universe(client)
    assert requested.count(("BTC", "true")) == 1


def test_record_of_a_currency_that_cannot_be_read_is_rejected_with_its_text() -> None:
    universe = universe_of([{"currency": "BTC"}, {"currency": ["X"]}, 7, None, {"currency": "ETH"}])
    assert {"BTC", "ETH"} <= {stream.currency for stream in universe.streams}
    assert [each.raw for each in universe.rejected] == ['{"currency": ["X"]}', "7", "null"]
    assert all(each.reason.startswith("not a currency: ") for each in universe.rejected)


@pytest.mark.parametrize("odd", ["NaN", '"X\\ud800"'])
def test_currency_that_cannot_be_decoded_is_rejected_alone(odd: str) -> None:
    """Also by the first run, which knows no other list."""

    def answer(method: str, params: dict[str, str]) -> Any:
        if method == "get_currencies":
            text = f'{{"result": [{{"currency": {odd}}}, {{"currency": "ETH"}}, {{"currency": "BTC"}}]}}'
            return httpx.Response(200, text=text)
        return {"result": LISTED if params["expired"] == "false" else []}

    with client_of(answer) as client:
        universe = resolve_universe(client)
    assert {stream.currency for stream in universe.streams} == {"BTC", "ETH"}
    assert [each.raw for each in universe.rejected] == [f'{{"currency": {odd}}}']
    assert [each.reason for each in universe.rejected] == [
        f"not a currency: a value cannot be decoded: {odd}"
    ]


@pytest.mark.parametrize("name", ["", "B TC", " BTC", "BTC\n", "any"])
def test_instrument_of_an_impossible_currency_is_rejected_and_no_stream(name: str) -> None:
    """A stream's name is the currency and the kind, and requests have the currency."""
    odd = {"instrument_name": f"{name}-PERPETUAL", "kind": "future", "settlement_currency": name}

    def answer(method: str, params: dict[str, str]) -> Any:
        if method == "get_currencies":
            return {"result": [{"currency": "BTC"}, {"currency": name}]}
        return {"result": [odd] if params["expired"] == "true" else [*LISTED, odd]}

    report = InstrumentsReport()
    with client_of(answer) as client:
        universe = resolve_universe(client)
        list(changed_instruments(client, universe.streams, {}, 0, report, listed=universe.listed))
    assert {stream.currency for stream in universe.streams} == {"BTC"}
    assert all(Stream.parse(str(stream)) == stream for stream in universe.streams)
    assert [each.reason for each in universe.rejected] == ["not a currency: a name of one word was expected"]
    assert {json.loads(each.raw)["settlement_currency"] for _, each in report.rejected} == {name}
    assert all("of a currency" in each.reason for _, each in report.rejected)


@pytest.mark.parametrize("body", [FORBIDDEN, UNKNOWN_ANY], ids=["forbidden", "unknown"])
def test_refused_list_of_all_expired_instruments_is_an_error_and_not_an_empty_list(body: str) -> None:
    """It is requested again by the next run; currencies that are known otherwise have lists of their own."""
    live = [*LISTED, {"instrument_name": "SOL-PERPETUAL", "kind": "future", "settlement_currency": "SOL"}]
    is_refused = True

    def answer(method: str, params: dict[str, str]) -> Any:
        if method == "get_currencies":
            return {"result": [{"currency": "BTC"}]}
        if params["expired"] == "false":
            return {"result": live}
        if params["currency"] == "any" and is_refused:
            return httpx.Response(403 if body is FORBIDDEN else 400, text=body)
        return {"result": COMBOS if params["currency"] in ("SOL", "any") else []}

    with client_of(answer) as client:
        universe = resolve_universe(client, stored=[Stream("BTC", "future")])
        assert (universe.expired, str(universe.expired_error)[:12]) == (None, "The exchange")
        assert Stream("SOL", "future_combo") in universe.streams
        is_refused = False
        again = resolve_universe(client, stored=[Stream("BTC", "future")], expired=universe.expired)
    assert again.expired_error is None
    assert again.expired == [Stream("SOL", "future_combo")]


def test_refused_list_of_a_currency_leaves_its_kinds_open() -> None:
    """Only a currency that the exchange does not know has no expired instruments."""

    def answer(method: str, params: dict[str, str]) -> Any:
        if method == "get_currencies":
            return {"result": [{"currency": "BTC"}]}
        return {"result": LISTED} if params["expired"] == "false" else httpx.Response(403)

    with client_of(answer) as client:
        assert {*KINDS} <= {stream.kind for stream in resolve_universe(client, ["BTC"]).streams}


def test_kinds_are_those_that_are_listed_or_have_expired_or_are_stored() -> None:
    """A documented kind without any instrument is not requested.

    A delisted currency has all of them, as instruments that never expire are in no list any more.
    """
    assert {stream.kind for stream in universe_of().streams} == {"future", "index_option"}
    stored = (Stream("BTC", "option"), Stream("SOL", "spot"))
    assert set(universe_of(stored=stored).streams) == {
        Stream(currency, kind)
        for currency in ("BTC", "SOL")
        for kind in ("future", "index_option", "option", "spot")
    }


def test_kind_of_expired_instruments_alone_can_be_selected() -> None:
    """Nothing of it is live at the moment, as it often is with combos."""
    combo = {"instrument_name": "BTC-FS-A_B", "kind": "future_combo", "settlement_currency": "BTC"}

    def answer(method: str, params: dict[str, str]) -> Any:
        if method == "get_currencies":
            return {"result": [{"currency": "BTC"}]}
        return {"result": [combo] if params["expired"] == "true" else LISTED}

    with client_of(answer) as client:
        for stored in ((), (Stream("BTC", "future"),)):
            universe = resolve_universe(client, ["BTC"], ["future_combo"], stored)
            assert universe.streams == [Stream("BTC", "future_combo")]


@pytest.mark.parametrize("broken", ["false", "true"], ids=["live", "expired"])
def test_documented_kinds_are_requested_if_a_list_of_instruments_cannot_be_read(broken: str) -> None:
    def answer(method: str, params: dict[str, str]) -> Any:
        if method == "get_currencies":
            return {"result": [{"currency": "BTC"}]}
        if params["expired"] == broken:
            return httpx.Response(503)
        return {"result": LISTED if params["expired"] == "false" else []}

    with client_of(answer) as client:
        assert {*KINDS} <= {stream.kind for stream in resolve_universe(client).streams}


@pytest.mark.parametrize("stored", [(), (Stream("BTC", "future"),)], ids=["first run", "loaded before"])
def test_lists_of_instruments_that_fail_are_requested_once_each_after_the_first(
    stored: tuple[Stream, ...],
) -> None:
    """New trades wait for them. The first one is retried."""
    lists: Counter[tuple[str, str]] = Counter()

    def answer(method: str, params: dict[str, str]) -> Any:
        if method == "get_currencies":
            return {"result": [{"currency": "BTC"}, {"currency": "ETH"}]}
        lists[params["currency"], params["expired"]] += 1
        return httpx.Response(503)

    with client_of(answer, attempts=3) as client:
        assert resolve_universe(client, stored=stored).streams
    assert lists.pop(("any", "false")) == 3
    assert {*lists.values()} == {1}


def test_selected_currency_whose_list_cannot_be_read_is_no_usage_error() -> None:
    """It may have only expired instruments."""

    def answer(method: str, params: dict[str, str]) -> Any:
        if method == "get_currencies":
            return {"result": [{"currency": "BTC"}]}
        return {"result": LISTED} if params["expired"] == "false" else httpx.Response(503)

    with client_of(answer) as client, pytest.raises(OutsideError, match="503"):
        resolve_universe(client, ["SOL"])


@pytest.mark.parametrize("selected", [{"selected": ["XYZ"]}, {"kinds": ["odd"]}])
def test_currency_or_kind_that_does_not_exist_is_a_usage_error(selected: dict[str, list[str]]) -> None:
    with pytest.raises(UsageError, match=r"--(currency 'XYZ'|kind 'odd') does not exist"):
        universe_of(**selected)


def test_selected_streams_may_be_of_a_delisted_currency_or_a_new_kind() -> None:
    assert Stream("BTC", "index_option") in universe_of(kinds=["index_option"]).streams
    assert universe_of(selected=["SOL"], kinds=["future"]).streams == [Stream("SOL", "future")]


def crawl_with(alter: Alter, exchange: SandboxExchange, universe: Universe) -> tuple[Crawl, AlteredExchange]:
    transport = AlteredExchange(alter)
    crawl = Crawl(exchange, universe.streams, kind_of=universe.kind_of)
    crawl.transport = transport
    return crawl, transport


def test_idle_run_of_thirty_streams_needs_at_most_ten_requests(small_tape: Tape) -> None:
    """The currencies, the instruments, and one page for each currency, and the trades are the same as by kind."""
    with SandboxExchange(small_tape, clock=small_tape.trades[-1]["timestamp"] - 60 * MINUTE_MS) as exchange:
        with quick_client(exchange) as client:
            universe = resolve_universe(client)
        assert len(universe.streams) >= 25
        crawl, transport = crawl_with(lambda method, params, is_history: None, exchange, universe)
        crawl.run()
        transport.requests.clear()
        exchange.now_ms += 20 * MINUTE_MS
        with quick_client(exchange, transport) as client:
            universe = resolve_universe(client, stored=universe.streams, expired=universe.expired)
            crawl.kind_of = universe.kind_of
        crawl.transport = together = AlteredExchange()
        loaded = crawl.run()
        assert loaded > 0
        assert len(transport.requests) + len(together.requests) <= 10
        exchange.now_ms = small_tape.trades[-1]["timestamp"] + MINUTE_MS
        crawl.run()
        assert crawl.rows == Counter(map(row_of, small_tape.trades))


def test_trades_of_an_instrument_that_is_not_listed_are_requested_by_kind() -> None:
    """An instrument that was created or that expired since the list was requested."""
    names = ("BTC-PERPETUAL", "BTC-29DEC23-30000-C")
    trades = [trade(names[n % 2], n // 2 + 1, n, BEGIN_MS + n * 1_000) for n in range(600)]
    streams = [Stream("BTC", "future"), Stream("BTC", "option")]
    with SandboxExchange(Tape.of(trades), clock=BEGIN_MS + 5 * MINUTE_MS) as exchange:
        crawl, transport = crawl_with(
            lambda method, params, is_history: None, exchange, Universe(streams, listed=())
        )
        crawl.kind_of = {names[0]: "future"}
        crawl.run()
        exchange.now_ms = BEGIN_MS + 15 * MINUTE_MS
        crawl.run()
        assert crawl.rows == Counter(map(row_of, trades))
    assert {"any", "future", "option"} <= {params.get("kind") for _, params, is_history in transport.requests}


@pytest.mark.parametrize("is_known", [True, False], ids=["kind is shown", "instrument is unknown"])
def test_kind_that_only_the_trades_of_all_kinds_show_is_loaded_in_the_same_run(is_known: bool) -> None:
    """It came and went between two runs; an instrument whose kind nobody shows is a rejected record."""
    names = ("BTC-PERPETUAL", "BTC-29DEC23-30000-C")
    trades = [trade(names[n % 2], n // 2 + 1, n, BEGIN_MS + n * 1_000) for n in range(600)]
    combos = [trade("BTC-FS-29DEC23_PERP", n, 900 + n, BEGIN_MS + 400_000 + n) for n in range(1, 4)]
    streams = [Stream("BTC", "future"), Stream("BTC", "option")]

    def alter(method: str, params: dict[str, str], is_history: bool) -> Any:
        unknown = {"error": {"code": 13020, "message": "not_found"}}
        is_refused = method == "get_instrument" and not is_known
        return httpx.Response(400, text=json.dumps(unknown)) if is_refused else None

    with SandboxExchange(Tape.of(trades), clock=BEGIN_MS + 5 * MINUTE_MS) as exchange:
        crawl, transport = crawl_with(alter, exchange, Universe(streams))
        crawl.has_all_kinds = True
        crawl.kind_of = dict(zip(names, ("future", "option"), strict=True))
        crawl.run()
        exchange.add(combos)
        exchange.now_ms = BEGIN_MS + 15 * MINUTE_MS
        crawl.run()
    assert crawl.rows == Counter(map(row_of, [*trades, *combos] if is_known else trades))
    assert ("BTC future_combo" in json.loads(crawl.state)) == is_known
    assert {*crawl.rejected} == (set() if is_known else {'{"instrument_name": "BTC-FS-29DEC23_PERP"}'})
    by_name = [method for method, _, _ in transport.requests if method == "get_instrument"]
    assert len(by_name) == (1 if is_known else 2)


def test_unlisted_instrument_that_the_answer_by_kind_leaves_out_is_requested_by_number() -> None:
    """It expired since the list was requested, and only the trades of all kinds show it."""
    names = ("BTC-PERPETUAL", "BTC-29DEC23-30000-C")
    trades = [trade(names[n % 2], n // 2 + 1, n, BEGIN_MS + n * 1_000) for n in range(600)]
    gone = [trade("BTC-29DEC23-36000-C", n, 900 + n, BEGIN_MS + 400_000 + n) for n in range(1, 4)]

    def without(result: Any) -> Any:
        kept = [each for each in result["trades"] if each["instrument_name"] != gone[0]["instrument_name"]]
        return result | {"trades": kept}

    def alter(method: str, params: dict[str, str], is_history: bool) -> Any:
        is_by_kind = "trades" in method and params.get("kind") != "any" and "instrument_name" not in params
        return without if is_by_kind else None

    with SandboxExchange(Tape.of(trades), clock=BEGIN_MS + 5 * MINUTE_MS) as exchange:
        crawl, transport = crawl_with(
            alter, exchange, Universe([Stream("BTC", "future"), Stream("BTC", "option")])
        )
        crawl.has_all_kinds = True
        crawl.kind_of = dict(zip(names, ("future", "option"), strict=True))
        crawl.run()
        exchange.add(gone)
        for minutes in (15, 16, 30):
            exchange.now_ms = BEGIN_MS + minutes * MINUTE_MS
            crawl.run()
    assert crawl.rows == Counter(map(row_of, [*trades, *gone]))
    assert not crawl.rejected
    by_name = [method for method, _, _ in transport.requests if method == "get_instrument"]
    assert len(by_name) == 1


@pytest.mark.parametrize("left_out", [(1, 2, 3), (3,)], ids=["all trades", "the last trade"])
@pytest.mark.parametrize("is_served", [True, False], ids=["by number", "not by number"])
@pytest.mark.parametrize("is_listed", [False, True], ids=["unlisted", "listed"])
def test_trades_that_only_any_shows_are_loaded_or_reported(
    left_out: tuple[int, ...], is_served: bool, is_listed: bool
) -> None:
    """No later trade shows that they are missing: without an answer by number, their numbers are rejected records.

    The answer for all kinds cannot be divided, because another instrument is not listed.
    """
    names = ("BTC-PERPETUAL", "BTC-29DEC23-30000-C")
    trades = [trade(names[n % 2], n // 2 + 1, n, BEGIN_MS + n * 1_000) for n in range(600)]
    gone = "BTC-29DEC23-36000-C"
    late = [trade(gone, n, 900 + n, BEGIN_MS + 400_000 + n) for n in range(1, 4)]
    other = trade("BTC-29DEC23-38000-C", 1, 990, BEGIN_MS + 500_000)

    def without(result: Any) -> Any:
        hidden = [(gone, seq) for seq in left_out]
        kept = [
            each for each in result["trades"] if (each["instrument_name"], each["trade_seq"]) not in hidden
        ]
        return result | {"trades": kept}

    def alter(method: str, params: dict[str, str], is_history: bool) -> Any:
        if not is_served and "start_seq" in params:
            return httpx.Response(
                400, text=json.dumps({"error": {"code": 11044, "message": "not_open_order"}})
            )
        is_by_kind = "trades" in method and params.get("kind") != "any" and "instrument_name" not in params
        return without if is_by_kind else None

    with SandboxExchange(Tape.of(trades), clock=BEGIN_MS + 5 * MINUTE_MS) as exchange:
        crawl, _ = crawl_with(alter, exchange, Universe([Stream("BTC", "future"), Stream("BTC", "option")]))
        crawl.has_all_kinds = True
        crawl.kind_of = dict(zip(names, ("future", "option"), strict=True))
        crawl.run()
        if is_listed:
            crawl.kind_of[gone] = "option"
        exchange.add([*late, other])
        exchange.now_ms = BEGIN_MS + 15 * MINUTE_MS
        crawl.run()
    loaded = late if is_served else [each for each in late if each["trade_seq"] not in left_out]
    assert crawl.rows == Counter(map(row_of, [*trades, other, *loaded]))
    reported = {json.loads(raw)["trade_seq"] for raw in crawl.rejected}
    assert reported == (set() if is_served else {left_out[0], left_out[-1]})


def test_kind_that_any_leaves_out_is_requested_by_kind_while_a_loaded_trade_shows_it() -> None:
    """The newest minute is read twice: a trade that was loaded and is not on the page of all kinds is a contradiction."""
    names = ("BTC-PERPETUAL", "BTC-29DEC23-30000-C")
    trades = [trade(names[n % 2], n // 2 + 1, n, BEGIN_MS + n * 1_000) for n in range(600)]
    streams = [Stream("BTC", "future"), Stream("BTC", "option")]
    kind_of = dict(zip(names, ("future", "option"), strict=True))

    def alter(method: str, params: dict[str, str], is_history: bool) -> Any:
        if params.get("kind") != "any":
            return None
        return lambda result: (
            result | {"trades": [each for each in result["trades"] if each["instrument_name"] == names[0]]}
        )

    with SandboxExchange(Tape.of(trades), clock=BEGIN_MS + 5 * MINUTE_MS) as exchange:
        crawl, _ = crawl_with(alter, exchange, Universe(streams))
        crawl.kind_of = kind_of
        for minutes in (5, 6, 7, 8, 15):
            exchange.now_ms = BEGIN_MS + minutes * MINUTE_MS
            crawl.run()
        assert crawl.rows == Counter(map(row_of, trades))
