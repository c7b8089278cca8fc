"""The proof of an answer, from covered time and holes."""

from __future__ import annotations

from datetime import date
from typing import Any

import pytest

from extract.deribit.streams import Stream
from extract.serve.coverage import NOTHING_COVERED, Proof, TradeCoverage, combined, days_between

HOUR = 3_600_000
DAY = 24 * HOUR
START = 1_735_689_600_000
"""2025-01-01."""
FUTURE = Stream("BTC", "future")
NAME = "BTC-PERPETUAL"


def span(start_ms: int, end_ms: int, kind: str = "future") -> dict[str, Any]:
    return {"currency": "BTC", "kind": kind, "from_ms": start_ms, "to_ms": end_ms}


def gap(
    after_ms: int | None, before_ms: int | None, *, missing: int = 3, absent: bool = False
) -> dict[str, Any]:
    return {
        "instrument_name": NAME, "currency": "BTC", "kind": "future", "missing": missing, "known_absent": absent,
        "first_missing_seq": 5, "after_ms": after_ms, "before_ms": before_ms,
    }  # fmt: skip


def proof(coverage: TradeCoverage, since_ms: int, until_ms: int) -> Proof:
    return coverage.of_instrument(NAME, FUTURE, since_ms, until_ms)


def test_time_within_a_span_is_proven_up_to_its_end() -> None:
    """A request beyond the covered time is proven up to `as_of`, one that begins before it or after it is not."""
    coverage = TradeCoverage.of([span(START, START + DAY)], [])
    assert proof(coverage, START, START + HOUR) == Proof(True, 0, 0, START + DAY)
    assert proof(coverage, START + HOUR, START + 9 * DAY).proven
    assert not proof(coverage, START - 1, START + HOUR).proven
    assert not proof(coverage, START + DAY, START + 2 * DAY).proven


def test_time_between_two_spans_is_not_proven() -> None:
    """Neither a request in the hole between spans nor one across it."""
    coverage = TradeCoverage.of([span(START, START + HOUR), span(START + 2 * HOUR, START + 3 * HOUR)], [])
    assert not proof(coverage, START, START + 3 * HOUR).proven
    assert not proof(coverage, START + HOUR + 1, START + HOUR + 2).proven
    assert proof(coverage, START + 2 * HOUR, START + 3 * HOUR).proven
    assert not coverage.of_streams([FUTURE]).proven


def test_unknown_stream_is_not_covered() -> None:
    """There is no `as_of` either."""
    coverage = TradeCoverage.of([span(START, START + DAY)], [])
    assert coverage.of_instrument("X", Stream("ETH", "option"), START, START + HOUR) == NOTHING_COVERED


@pytest.mark.parametrize(
    ("after_ms", "before_ms", "is_within"),
    [
        (START, START + HOUR, True),
        (START + HOUR, START + 5 * HOUR, True),
        (START + 5 * HOUR, START + 9 * HOUR, True),
        (START + 6 * HOUR, START + 9 * HOUR, False),
        (START - 5 * HOUR, START - 1, False),
        (None, START + HOUR, True),
        (START + HOUR, None, True),
    ],
)
def test_missing_trades_count_between_their_neighbours(
    after_ms: int | None, before_ms: int | None, is_within: bool
) -> None:
    """A hole counts in every request that overlaps the time between the trades around it."""
    coverage = TradeCoverage.of([span(START - DAY, START + DAY)], [gap(after_ms, before_ms)])
    assert proof(coverage, START, START + 6 * HOUR) == Proof(not is_within, 3 * is_within, 0, START + DAY)


def test_absent_trades_do_not_disprove() -> None:
    """They are counted apart, because the exchange does not have them."""
    coverage = TradeCoverage.of([span(START, START + DAY)], [gap(START + 1, START + 2, absent=True)])
    assert proof(coverage, START, START + HOUR) == Proof(True, 0, 3, START + DAY)


def test_streams_together_end_with_the_earliest() -> None:
    """An answer of several streams is proven up to the first end of theirs."""
    coverage = TradeCoverage.of([span(START, START + DAY), span(START, START + HOUR, "option")], [])
    assert coverage.of_streams([FUTURE, Stream("BTC", "option")]) == Proof(True, 0, 0, START + HOUR)
    assert combined([Proof(True, 0, 1, 9), Proof(False, 2, 0, 5)]) == Proof(False, 2, 1, 5)
    assert combined([Proof(True, 0, 0, 9), NOTHING_COVERED]) == NOTHING_COVERED
    assert combined([]) == NOTHING_COVERED


def test_calendar_has_a_state_for_each_day() -> None:
    """Missing comes before absent, absent before proven; a part of a day is enough for each."""
    coverage = TradeCoverage.of(
        [span(START + DAY // 2, START + 4 * DAY)],
        [
            gap(START + DAY, START + DAY + 1),
            gap(START + DAY, START + DAY + 1, absent=True, missing=1),
            gap(START + 2 * DAY + 1, START + 2 * DAY + 9, absent=True),
        ],
    )
    days = list(coverage.calendar(FUTURE, days_between(date(2024, 12, 31), date(2025, 1, 5))))
    assert [
        (day["day"], day["state"], day["covered_share"], day["missing"], day["absent"]) for day in days
    ] == [
        ("2024-12-31", "not_requested", 0, 0, 0),
        ("2025-01-01", "proven", 0.5, 0, 0),
        ("2025-01-02", "missing", 1, 3, 1),
        ("2025-01-03", "absent", 1, 0, 3),
        ("2025-01-04", "proven", 1, 0, 0),
        ("2025-01-05", "not_requested", 0, 0, 0),
    ]
