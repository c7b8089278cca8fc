"""The state tells new and restated rows from loaded ones, and stays small."""

from __future__ import annotations

import json
from typing import Any

from extract.deribit.series.cadence import DAY_MS, HOUR_MS
from extract.deribit.series.decode import RejectedRecord
from extract.deribit.series.state import (
    SeriesState,
    advance,
    forget_old_days,
    merge_keys,
    select_changed,
)

BEGIN = 1_640_995_200_000
"""2022-01-01 UTC."""


def rows(count: int, value: float = 0.0) -> list[dict[str, Any]]:
    return [{"timestamp": BEGIN + hour * HOUR_MS, "value": value} for hour in range(count)]


def time_of(row: dict[str, Any]) -> int:
    return int(row["timestamp"])


def load(state: SeriesState, answer: list[dict[str, Any]], complete_from_ms: int = 0) -> list[dict[str, Any]]:
    changed = select_changed(state, answer, time_of, complete_from_ms=complete_from_ms)
    advance(state, map(time_of, answer), searched_ms=0)
    forget_old_days(state)
    return changed


def test_rows_are_loaded_once() -> None:
    state = SeriesState()
    assert load(state, rows(100)) == rows(100)
    assert load(state, rows(100)) == []
    assert load(state, rows(101)) == rows(101)[-1:]
    assert state.loaded_rows == 101


def test_restated_row_of_a_recent_day_loads_that_day() -> None:
    state = SeriesState()
    load(state, rows(100))
    answer = rows(100)
    answer[30]["value"] = 1.0
    assert load(state, answer) == answer[24:48]
    assert load(state, answer) == []


def test_restated_row_of_an_older_year_loads_what_was_read_of_that_year() -> None:
    """Two years of hours: only the digest of the first one is left."""
    state = SeriesState()
    two_years = 2 * 365 * 24
    load(state, rows(two_years))
    answer = rows(two_years)
    answer[30]["value"] = 1.0
    assert load(state, answer) == answer[: 365 * 24]
    assert load(state, answer) == []


def test_year_that_was_read_partly_is_not_compared() -> None:
    state = SeriesState()
    load(state, rows(2 * 365 * 24))
    answer = rows(2 * 365 * 24, value=1.0)[200 * 24 : 300 * 24]
    assert load(state, answer, complete_from_ms=time_of(answer[0])) == []


def test_restated_row_of_a_day_that_lost_another_one_loads_the_rest_of_that_day() -> None:
    """The exchange may leave out what it sent before."""
    state = SeriesState()
    load(state, rows(100))
    answer = rows(100)
    answer[30]["value"] = 1.0
    lost = answer.pop(40)
    assert load(state, answer) == answer[24:47]
    assert load(state, answer) == []
    assert load(state, sorted([*answer, lost], key=time_of)) == [*answer[24:40], lost, *answer[40:47]]


def test_day_with_fewer_rows_at_an_end_of_the_answer_is_not_compared() -> None:
    """The answer may be cut off there."""
    state = SeriesState()
    load(state, rows(100))
    assert load(state, rows(100)[30:80]) == []


def test_year_with_fewer_rows_than_are_loaded_is_not_compared() -> None:
    state = SeriesState()
    load(state, rows(2 * 365 * 24))
    answer = [row | {"value": 1.0} for row in rows(365 * 24)[::2]]
    assert load(state, answer) == []


def test_row_of_a_hole_is_new() -> None:
    state = SeriesState()
    answer = rows(100)
    load(state, answer[:30] + answer[31:])
    state.holes = [(time_of(answer[30]), time_of(answer[30]))]
    assert load(state, answer) == [answer[30]]
    state.holes = []
    assert load(state, answer) == []


def test_row_of_a_hole_may_be_some_milliseconds_off() -> None:
    state = SeriesState()
    answer = rows(100)
    load(state, answer[:30] + answer[31:])
    state.holes = [(time_of(answer[30]), time_of(answer[30]))]
    answer[30]["timestamp"] += 3
    changed = select_changed(state, answer, time_of, complete_from_ms=0, step_ms=HOUR_MS)
    assert changed == [answer[30]]


def test_state_of_eight_years_is_small_and_survives_json() -> None:
    state = SeriesState()
    load(state, rows(8 * 365 * 24))
    text = json.dumps(state.to_builtins())
    assert len(text) < 2_000
    assert len(state.days) == 41
    assert SeriesState.read(json.loads(text)) == state
    assert SeriesState.read(None) == SeriesState()
    assert state.proven_ms == BEGIN + (8 * 365 * 24 - 1) * HOUR_MS
    assert state.proven_ms // DAY_MS == max(map(int, state.days))


def test_records_are_rejected_once_however_many_there_are() -> None:
    state = SeriesState()
    records = [RejectedRecord("odd", str(number)) for number in range(600)]
    assert state.reject_once(records) == records
    assert state.reject_once(records) == []
    assert state.reject_once(records[:3]) == []
    assert len(state.rejected) == 500


def test_of_two_states_of_a_key_the_further_one_is_merged() -> None:
    """Keys of either loader are in the merged state."""
    nearer, further = (SeriesState(proven_ms=proven_ms).to_builtins() for proven_ms in (1_000, 2_000))
    for one, other in ((nearer, further), (further, nearer)):
        merged = merge_keys({"BTC": one, "ETH": nearer}, {"BTC": other, "SOL": nearer})
        assert merged == {"BTC": further, "ETH": nearer, "SOL": nearer}
