"""Overlapping pages of a slice are merged, whichever trades they share."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from extract.deribit.arrow import to_table
from extract.deribit.schema import PAGE_SCHEMA, Trade
from extract.sweep.fetch_slice import HASH_MULTIPLIER, deduplicate

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
