"""What is loaded of one key of a series, and which rows of an answer are new or restated.

The state is small and independent of the length of the history: per year and per recent day, the number of loaded rows
and a checksum of their content.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import msgspec
import pyarrow as pa

from extract.deribit.series.cadence import DAY_MS
from extract.deribit.series.decode import RejectedRecord
from extract.deribit.series.grid import Steps, is_within, ranges_of, step_of, steps_of
from extract.deribit.series.schema import Row

RECENT_DAYS = 40
"""Days before the newest row in which restated rows are noticed by each run."""
MAX_HOLES = 1_000
"""Ranges of missing rows in the state; of older ones it has only one span, which is read again with everything."""
MAX_REJECTED = 500
"""Rejected records of a key that are remembered, at least all of the last answer."""
_CHECKSUM = 2**53 - 1

Digest = tuple[int, int]
"""(number of rows, checksum of their content), independent of their order."""


class SeriesState(msgspec.Struct, omit_defaults=True):
    """State of one key. Times in ms since 1970 UTC.

    first_ms      the first row of the history
    proven_ms     the newest row; every row up to it is loaded, except those in `holes`
    searched_ms   of a key without rows: the end of the time that had none, which is searched again
    requested_ms  the last request
    holes         spans without the rows that they should have, requested again once a day (`healed_ms`)
    more_holes    the span of all older holes, and the number of rows that they lack
    compared_ms   the end of the time whose sums were compared with the exchange's
    disagreements spans whose sums differed, with the sentence that says so
    failed_ms     when the answers could not be used for the first time since the last success
    contradicted_ms  when the answers contradicted each other, since the last success
    retry_ms      after a failure: the time before which trades do not wait for another request
    reread_ms     when the whole history was read for the last time
    rejected      checksums of the records that were rejected last
    """

    first_ms: int | None = None
    proven_ms: int | None = None
    searched_ms: int | None = None
    requested_ms: int | None = None
    healed_ms: int | None = None
    compared_ms: int | None = None
    failed_ms: int | None = None
    contradicted_ms: int | None = None
    retry_ms: int | None = None
    reread_ms: int | None = None
    holes: list[tuple[int, int]] = []
    more_holes: tuple[int, int, int] | None = None
    disagreements: list[tuple[int, int, str]] = []
    days: dict[str, Digest] = {}
    years: dict[str, Digest] = {}
    rejected: list[int] = []

    @classmethod
    def read(cls, stored: Any) -> SeriesState:
        """A copy of a stored state; an empty one for None."""
        return msgspec.convert(stored or {}, cls)

    def to_builtins(self) -> dict[str, Any]:
        """The state as plain JSON values."""
        return msgspec.to_builtins(self)  # type: ignore[no-any-return]  # declared as Any

    @property
    def loaded_rows(self) -> int:
        """Number of loaded rows."""
        return sum(rows for rows, _ in self.years.values())

    def copy(self) -> SeriesState:
        return SeriesState.read(self.to_builtins())

    def reject_once(self, records: Iterable[RejectedRecord]) -> list[RejectedRecord]:
        """The records that were not rejected before, which the state then remembers."""
        by_checksum = {zlib.crc32(each.raw.encode()): each for each in records}
        before = set(self.rejected)
        earlier = [checksum for checksum in self.rejected if checksum not in by_checksum]
        self.rejected = [*earlier, *by_checksum][-max(MAX_REJECTED, len(by_checksum)) :]
        return [each for checksum, each in by_checksum.items() if checksum not in before]


@dataclass(frozen=True)
class SeriesGap:
    """Rows that a series should have and that the exchange did not send: `missing` ones from `first_ms` to `last_ms`."""

    first_ms: int
    last_ms: int
    missing: int
    detail: str = ""


@dataclass
class SeriesBatch:
    """Rows of one key that are new or restated, and the state that belongs to them: both are stored, or neither.

    `gaps` are all that are known; `disagreements` are sentences about sums that differ from the exchange's. `is_failed`:
    the answers could not be used, so that nothing is known about the gaps.
    """

    table: pa.Table
    state: SeriesState
    gaps: list[SeriesGap] = field(default_factory=list)
    rejected: list[RejectedRecord] = field(default_factory=list)
    disagreements: list[str] = field(default_factory=list)
    is_failed: bool = False


def select_changed(
    state: SeriesState,
    rows: Iterable[Row],
    time_of: Callable[[Row], int],
    *,
    complete_from_ms: int,
    step_ms: int = 1,
) -> list[Row]:
    """The rows that are not loaded, or that were restated, in ascending order of time; updates the state's digests.

    `rows` are all that the exchange has since `complete_from_ms`, and perhaps older ones. Rows are new after
    `proven_ms` and in `holes`, of which a row may be up to half of `step_ms` off. Others are compared per day, or per
    year if they are older: where the content differs, all rows of that day or year are returned. A year with fewer rows
    than are loaded is not compared, nor is such a day at either end of the answer, which may be cut off there.
    """
    holes = hole_steps(state, step_ms)

    def is_new(at_ms: int) -> bool:
        is_after = state.proven_ms is None or at_ms > state.proven_ms
        return is_after or is_within(step_of(at_ms, step_ms), holes)

    if state.first_ms is not None and complete_from_ms <= state.first_ms:
        complete_from_ms = 0  # no older row is loaded: also the day of the first row is complete
    changed: list[Row] = []
    loaded: dict[int, list[Row]] = {}
    ordered = sorted(rows, key=time_of)
    ends = {time_of(row) // DAY_MS for row in (*ordered[:1], *ordered[-1:])}
    for row in ordered:
        at_ms = time_of(row)
        if is_new(at_ms):
            changed.append(row)
        else:
            loaded.setdefault(at_ms // DAY_MS, []).append(row)
    older: dict[str, list[Row]] = {}
    recent_from = (state.proven_ms or 0) // DAY_MS - RECENT_DAYS
    for day, of_day in loaded.items():
        if day < recent_from:
            older.setdefault(_year(day), []).extend(of_day)
        elif day * DAY_MS >= complete_from_ms and (
            new := _restated(state.days.get(str(day)), of_day, may_lack=day not in ends)
        ):
            _replace_day(state, day, new)
            changed += of_day
    for year, of_year in older.items():
        changed += _changed_in_year(state, year, of_year, loaded, recent_from, complete_from_ms)
    _add(state, [row for row in changed if is_new(time_of(row))], time_of)
    return sorted(changed, key=time_of)


def _changed_in_year(
    state: SeriesState,
    year: str,
    older: list[Row],
    loaded: dict[int, list[Row]],
    recent_from: int,
    complete_from_ms: int,
) -> list[Row]:
    """`older` rows of a year, if its content differs from the loaded one and was read completely."""
    start_ms = int(datetime(int(year), 1, 1, tzinfo=UTC).timestamp()) * 1000
    if max(start_ms, state.first_ms or 0) < complete_from_ms:
        return []
    of_year = [row for day, rows in loaded.items() if _year(day) == year for row in rows]
    if not (new := _restated(state.years.get(year), of_year)):
        return []
    state.years[year] = new
    return older


def _restated(stored: Digest | None, rows: list[Row], *, may_lack: bool = False) -> Digest | None:
    """The digest of `rows` if they differ from the stored ones, and are not fewer unless some `may_lack`."""
    new = _digest(rows)
    stored = stored or (0, 0)
    return new if new != stored and (may_lack or new[0] >= stored[0]) else None


def _replace_day(state: SeriesState, day: int, new: Digest) -> None:
    old = state.days.get(str(day), (0, 0))
    rows, checksum = state.years.get(_year(day), (0, 0))
    state.years[_year(day)] = rows + new[0] - old[0], (checksum + new[1] - old[1]) & _CHECKSUM
    state.days[str(day)] = new


def _add(state: SeriesState, rows: list[Row], time_of: Callable[[Row], int]) -> None:
    by_day: dict[int, list[Row]] = {}
    for row in rows:
        by_day.setdefault(time_of(row) // DAY_MS, []).append(row)
    for day, of_day in by_day.items():
        old, new = state.days.get(str(day), (0, 0)), _digest(of_day)
        _replace_day(state, day, (old[0] + new[0], (old[1] + new[1]) & _CHECKSUM))


def forget_old_days(state: SeriesState) -> None:
    """Drop the digests of days that are no longer recent; those of their years stay."""
    oldest = (state.proven_ms or 0) // DAY_MS - RECENT_DAYS
    state.days = {day: digest for day, digest in state.days.items() if int(day) >= oldest}


def _digest(rows: list[Row]) -> Digest:
    sums = (
        zlib.crc32(msgspec.json.encode({name: value for name, value in row.items() if value is not None}))
        for row in rows
    )
    return len(rows), sum(sums) & _CHECKSUM


def _year(day: int) -> str:
    return str(datetime.fromtimestamp(day * 86_400, UTC).year)


def advance(state: SeriesState, times_ms: Iterable[int], *, searched_ms: int) -> None:
    """Move the state to the newest of the rows that were read, or, without any row, to the end of the searched time."""
    times = list(times_ms)
    if times:
        state.first_ms = min([*times, *([] if state.first_ms is None else [state.first_ms])])
        state.proven_ms = max(*times, state.proven_ms or 0)
    if state.proven_ms is None:
        state.searched_ms = searched_ms


def hole_steps(state: SeriesState, step_ms: int) -> list[Steps]:
    """The holes, in steps."""
    return [(step_of(first, step_ms), step_of(last, step_ms)) for first, last in state.holes]


def loaded_steps(state: SeriesState, step_ms: int, unknown: Iterable[Steps] = ()) -> list[Steps]:
    """Ranges of loaded steps: from the first to the newest row, without the holes, and without `unknown` ranges."""
    if state.first_ms is None or state.proven_ms is None:
        return []
    ranges, start = [], step_of(state.first_ms, step_ms)
    for first, last in sorted([*hole_steps(state, step_ms), *unknown]):
        if first > start:
            ranges.append((start, first - 1))
        start = max(start, last + 1)
    end = step_of(state.proven_ms, step_ms)
    return [*ranges, (start, end)] if start <= end else ranges


def missing_steps(loaded: list[Steps], steps: set[int]) -> list[Steps]:
    """Ranges without a row between the first and the newest of all `loaded` and further `steps`."""
    rows = steps | steps_of(loaded)
    return ranges_of(set(range(min(rows), max(rows))) - rows) if rows else []


def set_holes(state: SeriesState, missing: list[Steps], step_ms: int) -> None:
    """Set the holes to ascending ranges of missing steps; those that are too many are joined to `more_holes`."""
    older, newer = missing[:-MAX_HOLES], missing[-MAX_HOLES:]
    state.holes = [(first * step_ms, last * step_ms) for first, last in newer]
    spans = [(first * step_ms, last * step_ms, last - first + 1) for first, last in older]
    spans += [state.more_holes] if state.more_holes else []
    if spans:
        starts, ends, rows = zip(*spans, strict=True)
        state.more_holes = min(starts), max(ends), sum(rows)


def take_more_holes(state: SeriesState, first: int, last: int, step_ms: int) -> list[Steps]:
    """The steps of `more_holes`, which the state then forgets, if all of them are from `first` to `last`."""
    if state.more_holes is None:
        return []
    start, end = (step_of(at_ms, step_ms) for at_ms in state.more_holes[:2])
    if not first <= start <= end <= last:
        return []
    state.more_holes = None
    return [(start, end)]


def grid_gaps(state: SeriesState, step_ms: int) -> list[SeriesGap]:
    """The holes as gaps."""
    gaps = [SeriesGap(first, last, (last - first) // step_ms + 1) for first, last in state.holes]
    if state.more_holes:
        detail = f"rows of more than {MAX_HOLES:,} holes; this span also has rows that are loaded"
        gaps.insert(0, SeriesGap(*state.more_holes, detail))
    return gaps


def merge_keys(one: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    """Merge the states of one series of two loaders whose rows are in one database: of each key, the further one."""
    merged = {**one, **other}
    for key in one.keys() & other.keys():
        sides = (SeriesState.read(one[key]), SeriesState.read(other[key]))
        first, second = (side.proven_ms or 0 for side in sides)
        merged[key] = one[key] if first > second else other[key]
    return merged
