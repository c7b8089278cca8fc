"""Whatever an exchange does, each trade is loaded once or named as missing, and other streams are whole."""

from __future__ import annotations

import json
from collections import Counter
from contextlib import suppress
from itertools import count
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from extract.deribit.streams import Stream
from extract.errors import TapeError
from extract.sandbox.server import SandboxExchange
from extract.sandbox.tape import Tape
from extract.sweep.universe import resolve_universe
from tests.support.altered_exchange import AlteredExchange
from tests.support.examples import examples
from tests.support.histories import STREAMS, Record, histories
from tests.support.sweep_helpers import Crawl, quick_client, row_of

MINUTE_MS = 60_000
RESTARTING = "BTC-29DEC23"

faults = st.fixed_dictionaries(
    {
        "empty": st.sampled_from([None, "history", "any", "live"]),
        "lag_minutes": st.sampled_from([0, 1, 40, 1_500]),
        "broken_name": st.sampled_from([None, "BTC-PERPETUAL", "BTC-29DEC23-30000-C", "BTC-17NOV23"]),
        "hidden": st.integers(2, 40),
        "odd_every": st.sampled_from([0, 1, 7]),
        "drip_every": st.sampled_from([0, 5]),
        "failing_kind": st.sampled_from([None, "option", "future_combo"]),
        "unlisted": st.booleans(),
        "dropped_kind": st.sampled_from([None, "option", "future"]),
        "currencies": st.sampled_from([["BTC"], [], ["BTC", "DOGE"]]),
        "restarts": st.booleans(),
    }
)
EMPTY = {"trades": [], "has_more": False}
ODD = [{"odd": 1}, 7]
"""Records that are none, in any list."""


class Hostility:
    """Alters the answers of a sandbox as `fault` describes, until `is_over`; a restarted numbering remains."""

    def __init__(self, fault: dict[str, Any], records: list[Record]) -> None:
        self.fault = fault
        self.is_over = False
        self.hidden = {each["trade_id"] for each in records[:: fault["hidden"]]}
        self._requests = count(1)
        numbered = sorted(each["trade_seq"] for each in records if each["instrument_name"] == RESTARTING)
        self._last_of_first = numbered[len(numbered) // 2] if numbered and fault["restarts"] else 10**9

    def renumbered(self, record: Record) -> Record:
        """The record as this exchange sends it."""
        seq = record["trade_seq"]
        if record["instrument_name"] != RESTARTING or seq <= self._last_of_first:
            return record
        return record | {"trade_seq": seq - self._last_of_first}

    def __call__(self, method: str, params: dict[str, str], is_history: bool) -> Any:
        fault = self.fault
        if self.is_over:
            return self._renumber if "trades" in method else None
        if fault["drip_every"] and next(self._requests) % fault["drip_every"] == 0:
            raise httpx.ReadTimeout("the answer was not complete after 120 s")
        if method == "get_currencies":
            return [{"currency": name} for name in fault["currencies"]] + ODD
        if method == "get_instruments":
            return self._listed
        if "trades" not in method:
            return None
        if fault["empty"] == "history" and is_history:
            return EMPTY
        if fault["empty"] == "live" and not is_history:
            return EMPTY
        if fault["empty"] == "any" and params.get("kind") == "any":
            return EMPTY
        if fault["failing_kind"] and params.get("kind") == fault["failing_kind"]:
            return httpx.Response(503)
        if fault["broken_name"] and params.get("instrument_name") == fault["broken_name"]:
            return httpx.Response(400, text=json.dumps({"error": {"code": 13020, "message": "not_found"}}))
        return lambda result: self._alter(self._renumber(result), by_time="start_seq" not in params)

    def _listed(self, records: list[Record]) -> list[Any]:
        """Instruments without those of a kind, or without every other one."""
        records = [each for each in records if each["kind"] != self.fault["dropped_kind"]]
        return [*(records[::2] if self.fault["unlisted"] else records), *ODD]

    def _renumber(self, result: Any) -> Any:
        return result | {"trades": [self.renumbered(each) for each in result["trades"]]}

    def _alter(self, result: Any, *, by_time: bool) -> Any:
        """Pages by time lack hidden trades; some pages have records that are none."""
        trades = result["trades"]
        if by_time:
            trades = [each for each in trades if each["trade_id"] not in self.hidden]
        if self.fault["odd_every"] and next(self._requests) % self.fault["odd_every"] == 0:
            trades = [*trades, *ODD]
        return {"trades": trades, "has_more": result["has_more"]}


def kind_of(name: str) -> str:
    return "option" if name.count("-") == 3 else "future_combo" if "-FS-" in name else "future"


def hostile(examples: int) -> Any:
    """A property of any history and any faults."""
    bounds = settings(max_examples=examples, deadline=None, suppress_health_check=list(HealthCheck))
    return lambda test: bounds(
        given(histories(), faults, st.booleans(), st.sampled_from([7, 20, 10_000]))(test)
    )


@hostile(examples(5))
def test_each_trade_is_loaded_once_or_named(
    records: list[Record], fault: dict[str, Any], together: bool, page_size: int
) -> None:
    """See `require_each_loaded_once_or_named`."""
    require_each_loaded_once_or_named(records, fault, together, page_size)


@pytest.mark.slow
@hostile(examples(60))
def test_each_trade_is_loaded_once_or_named_by_many_exchanges(
    records: list[Record], fault: dict[str, Any], together: bool, page_size: int
) -> None:
    """See `require_each_loaded_once_or_named`."""
    require_each_loaded_once_or_named(records, fault, together, page_size)


def require_each_loaded_once_or_named(
    records: list[Record], fault: dict[str, Any], together: bool, page_size: int
) -> None:
    """Covered time has each trade up to the last of its instrument, or names it; nothing comes twice.

    Once the exchange is healthy, the next run completes the streams that were set aside or not listed.
    """
    hostility = Hostility(fault, records)
    now_ms = max(each["timestamp"] for each in records) + 2 * MINUTE_MS
    with SandboxExchange(
        Tape.of(records), clock=now_ms, history_lag_ms=fault["lag_minutes"] * MINUTE_MS, quirks=False
    ) as exchange:
        crawl = Crawl(exchange, (), page_size=page_size)
        for _ in range(2):
            with suppress(TapeError):
                run(crawl, hostility, together=together)
        sent = [hostility.renumbered(each) for each in records]
        require_loaded_or_named(crawl, sent)
        hostility.is_over = True
        exchange.history_lag_ms = 0
        exchange.now_ms += 5 * MINUTE_MS
        run(crawl, hostility, together=together)
        traded = {
            str(stream)
            for stream in STREAMS
            if stream.kind in {kind_of(each["instrument_name"]) for each in records}
        }
        assert traded <= json.loads(crawl.state).keys()
        require_loaded_or_named(crawl, sent)


def run(crawl: Crawl, hostility: Hostility, *, together: bool) -> None:
    """Resolve the streams, and run until they are covered."""
    stored = map(Stream.parse, json.loads(crawl.state))
    with quick_client(crawl.exchange, AlteredExchange(hostility)) as client:
        universe = resolve_universe(client, stored=stored)
    crawl.streams = universe.streams
    crawl.kind_of = universe.kind_of if together else {}
    crawl.transport = AlteredExchange(hostility)
    crawl.run()


def require_loaded_or_named(crawl: Crawl, records: list[Record]) -> None:
    """Every trade of covered time that has a later loaded one of its instrument is loaded once, or reported."""
    rows = crawl.rows
    assert all(times == 1 for times in rows.values()), "a trade was loaded twice"
    assert rows.keys() <= Counter(map(row_of, records)).keys(), "a trade that the exchange never had"
    state = json.loads(crawl.state)
    covered = {
        stream.kind: state.get(str(Stream("BTC", stream.kind)), {}).get("covered", []) for stream in STREAMS
    }
    named = {
        (each.range.instrument_name, seq)
        for report in crawl.reports
        for each in [*report.unrepaired, *report.absent]
        for seq in range(each.range.first, each.range.last + 1)
    }
    rejected = "".join(crawl.rejected)
    last = Counter[str]()
    numbers = {(name, seq) for name, seq, *_ in rows}
    for name, seq in numbers:
        last[name] = max(last[name], seq)
    for each in records:
        name, seq = each["instrument_name"], each["trade_seq"]
        is_covered = any(start <= each["timestamp"] <= end for start, end in covered[kind_of(name)])
        if is_covered and seq < last[name]:
            is_rejected = f'"{each["trade_id"]}"' in rejected
            # Where numbering began again, a number that is loaded hides its second trade; the instrument is reported.
            is_rejected |= (name, seq) in numbers and f'"{name}"' in rejected
            assert row_of(each) in rows or is_rejected or (name, seq) in named, (
                f"{name} {seq} is neither loaded nor named"
            )
