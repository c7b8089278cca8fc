"""Pages of a slice are merged, whichever trades they share and however few trades a page has."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from extract.deribit.arrow import to_table, trade_keys
from extract.deribit.schema import PAGE_SCHEMA, Trade
from extract.deribit.streams import Stream
from extract.sweep.fetch_slice import HASH_MULTIPLIER, deduplicate, sweep_slice
from extract.sweep.slices import Slice
from tests.support.contradictory_exchange import Answer, client_of, page
from tests.support.histories import BEGIN_MS, trade

OPTIONS = Stream("BTC", "option")

KEYS = st.tuples(st.sampled_from("ABC"), st.sampled_from([1, 2, 3, 2**62, 2**63 - 1]))
PAGES = st.lists(st.dictionaries(KEYS, st.floats(1, 9), max_size=6), min_size=1, max_size=4)


def page_of(prices: dict[tuple[str, int], float]) -> pa.Table:
    same: dict[str, Any] = {"trade_id": "1", "timestamp": 0, "amount": 1.0, "direction": "buy"}
    return to_table(
        [
            Trade(instrument_name=name, trade_seq=seq, price=price, **same)
            for (name, seq), price in prices.items()
        ]
    )


@pytest.mark.parametrize("multiplier", [HASH_MULTIPLIER, np.uint64(0)], ids=["default", "equal hashes"])
@given(pages=PAGES)
def test_merged_pages_have_each_trade_once_in_its_latest_version(
    multiplier: np.uint64, pages: list[dict[tuple[str, int], float]]
) -> None:
    """This holds even if different keys have the same hash."""
    table = deduplicate([page_of(page) for page in pages], multiplier)
    assert table.schema == PAGE_SCHEMA
    keys = zip(table["instrument_name"].to_pylist(), table["trade_seq"].to_pylist(), strict=True)
    got = dict(zip(keys, table["price"].to_pylist(), strict=True))
    assert len(got) == table.num_rows
    assert got == {key: price for page in pages for key, price in page.items()}


def burst_and_later(burst: int) -> list[dict[str, Any]]:
    """An hour of an option a second, with `burst` trades of one that expires within 20 ms of it."""
    times = [("BTC-29DEC23-30000-C", n, BEGIN_MS + n * 1_000) for n in range(1, 3_601)]
    times += [("BTC-17NOV23-35000-P", n, BEGIN_MS + 1_800_000 + n * 20 // burst) for n in range(1, burst + 1)]
    times.sort(key=lambda each: each[2])
    return [trade(name, seq, number, at_ms) for number, (name, seq, at_ms) in enumerate(times)]


def limited(records: list[dict[str, Any]], limit: int, has_more: bool | None) -> Answer:
    """An exchange that sends at most `limit` trades whatever `count` is. `has_more`: None for the truth."""

    def answer(method: str, params: dict[str, str]) -> Any:
        if "start_id" in params:
            rows = [each for each in records if int(each["trade_id"]) >= int(params["start_id"])]
        else:
            first, last = int(params["start_timestamp"]), int(params["end_timestamp"])
            rows = [each for each in records if first <= each["timestamp"] <= last]
        more = len(rows) > limit if has_more is None else has_more
        return page(rows[:limit], more=more)

    return answer


@pytest.mark.slow
@pytest.mark.parametrize("limit", [30, 1_000])
@pytest.mark.parametrize("burst", [1, 540])
@pytest.mark.parametrize("has_more", [None, False], ids=["honest", "never"])
@pytest.mark.parametrize("is_probe", [False, True])
def test_trades_of_a_host_that_limits_its_pages_silently_are_whole(
    limit: int, burst: int, has_more: bool | None, is_probe: bool
) -> None:
    """Slices end early, and nothing of covered time is missing, not even after a burst."""
    records = burst_and_later(burst)
    keys, parts = [], 0
    with client_of(limited(records, limit, has_more)) as client:
        part = Slice(BEGIN_MS, BEGIN_MS + 86_400_000, is_probe)
        while part.start_ms <= part.end_ms:
            done = sweep_slice(client, client.history, OPTIONS, part)
            keys += trade_keys(done.table)
            part, parts = Slice(done.end_ms + 1, part.end_ms, is_probe), parts + 1
    assert sorted(keys) == sorted((each["instrument_name"], each["trade_seq"]) for each in records)
    assert parts > 1 or (limit == 1_000 and not is_probe), "memory has only the trades of a few pages"


def test_page_with_an_even_density_is_requested_once() -> None:
    """Only an end that is too quiet, or a round number of rows, is suspicious."""
    records = burst_and_later(1)[:3_599]
    with client_of(limited(records, 10_000, False)) as client:
        done = sweep_slice(client, client.history, OPTIONS, Slice(BEGIN_MS, BEGIN_MS + 3_600_000))
    assert done.table.num_rows == len(records)
    assert client.stats.requests == 1
