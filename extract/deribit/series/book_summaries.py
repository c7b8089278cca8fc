"""Snapshots of the order books' summaries: open interest, mark price and IV, best bid and ask.

The exchange has no history of them: what is not recorded at its time cannot be loaded later.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from extract.deribit.series.cadence import HOURLY
from extract.deribit.series.client import SeriesClient
from extract.deribit.series.decode import decode_list
from extract.deribit.series.schema import BOOK_SUMMARIES, Row
from extract.deribit.series.state import SeriesBatch, SeriesState

cadence = HOURLY


def fetch_book_summaries(
    client: SeriesClient, currency: str, state: SeriesState, now_ms: int
) -> Iterator[SeriesBatch]:
    """Yield one snapshot of all instruments of a currency per hour: nothing if this hour has one.

    `state.first_ms` is the time from which snapshots exist. Raises the errors of `client`.
    """
    if not cadence.is_due(now_ms, state.proven_ms, state.requested_ms):
        return
    state = state.copy()
    page = client.call(
        client.live,
        "get_book_summary_by_currency",
        {"currency": currency},
        lambda body: decode_list(BOOK_SUMMARIES, body, currency=currency, timestamp=now_ms),
    )
    at_ms = page.at_ms or now_ms
    if abs(at_ms - now_ms) > cadence.period_ms:
        at_ms = now_ms
    rows: dict[Any, Row] = {}
    for row in page.rows:
        row["timestamp"] = at_ms
        rows[BOOK_SUMMARIES.key_of(row)] = row
    state.requested_ms = now_ms
    if rows:
        state.first_ms = at_ms if state.first_ms is None else state.first_ms
        state.proven_ms = at_ms
    yield SeriesBatch(BOOK_SUMMARIES.to_table(list(rows.values())), state, rejected=page.rejected)
