"""Feed of the series besides trades: which keys are due, and what is new of them."""

from __future__ import annotations

import math
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from typing import Any

import msgspec

from extract.deribit.client import DeribitClient
from extract.deribit.config import DeribitConfig, parse_names
from extract.deribit.jsonrpc import ExchangeRefusedError
from extract.deribit.series import (
    book_summaries,
    delivery_prices,
    funding_rates,
    settlements,
    volatility_index,
)
from extract.deribit.series.cadence import DAY_MS, HOUR_MS, MINUTE_MS, Cadence
from extract.deribit.series.decode import RejectedRecord
from extract.deribit.series.keys import list_keys
from extract.deribit.series.schema import BOOK_SUMMARIES
from extract.deribit.series.state import SeriesBatch, SeriesState
from extract.deribit.streams import Stream
from extract.errors import OutsideError, ProofError, RetriableError, TapeError, UsageError
from extract.retry import next_attempt_ms

DEFAULT_SERIES = ("delivery_prices", "settlements", "volatility_index", "funding_rates")
"""Series that are loaded by default, the shortest ones first."""
ALL_NAMES = ("book_summaries", *DEFAULT_SERIES)
NO_SERIES = "none"
KINDS_OF = {
    "book_summaries": frozenset({"option", "future", "spot", "option_combo", "future_combo"}),
    "delivery_prices": frozenset({"option", "future"}),
    "settlements": frozenset({"option", "future"}),
    "volatility_index": frozenset({"option"}),
    "funding_rates": frozenset({"future"}),
}
"""Kinds of instruments to which each series belongs."""
MAX_ROWS = 500_000
"""Rows after which a load package ends: the most that an interrupted run loses."""
MAX_UNANSWERED = 3
"""Successive keys of a series without an answer, after which its other keys are requested once, without retries."""
MAX_UNANSWERED_S = 40.0
"""Seconds spent on keys of all series without an answer, after which the other keys of such a series are not requested."""
MAX_TURN_S = 40.0
"""Seconds after which a turn of `tape follow` requests no further key, because new trades wait for it."""
MAX_KEY_S = 100.0
LONGEST_KEY_S = 300.0
KEY_SHARE = 0.1
"""Seconds for a key in a turn, whose history may have any number of pages: at first MAX_KEY_S. A key that has failed gets
this share of the time since, up to LONGEST_KEY_S, because its history may take that long."""
TURN_TIMEOUT_S = 10.0
"""Seconds to wait for data of an answer in such a turn."""
RETRY_PROOF_MS = 10 * MINUTE_MS
"""Time after which a key is requested again whose answers contradicted each other."""
REREAD_MS = 28 * DAY_MS
"""Time after which the whole history of a key is read again, to notice restated rows that are older than what each
request reads again."""

RETRY_TOTAL_S = 30.0
"""Seconds to retry a request: what fails longer is left for the next run, which does not hold up trades."""

Row = dict[str, Any]
Fetch = Callable[[SeriesState, bool], Iterator[SeriesBatch]]
"""Batches that follow a state, or, if True, of the whole history."""


@dataclass
class SeriesReport:
    """Result of loading series. `rows` are new and restated ones by series.

    `set_aside` are keys that could not be loaded, as `funding_rates of BTC-PERPETUAL`; `refused` those without any row
    that the exchange does not offer, with its answer. `missing` counts rows that it did not send, `is_complete` is False
    where MAX_ROWS or a stop ended the package.
    """

    rows: Counter[str] = field(default_factory=Counter)
    missing: dict[str, int] = field(default_factory=dict)
    rejected: int = 0
    disagreements: list[str] = field(default_factory=list)
    set_aside: dict[str, TapeError] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)
    is_complete: bool = True


@dataclass(frozen=True)
class _Task:
    """One key of a series. `has_history`: whether its whole history can be compared with what is loaded.

    `since_ms` is the time after which its rows begin, None if that is not known.
    """

    series: str
    key: str
    cadence: Cadence
    fetch: Fetch
    has_history: bool = True
    since_ms: int | None = None

    def __str__(self) -> str:
        return f"{self.series} of {self.key}"


@dataclass
class _Unanswered:
    """Keys of a series without an answer: the number of successive ones, and the last error."""

    keys: int = 0
    last: TapeError | None = None

    def add(self, error: TapeError) -> None:
        self.keys += 1
        self.last = error


@dataclass
class SeriesFeed:
    """Fetches what is new of every key of the configured series.

    `states` are the stored states by series and key, `listings` what `list_keys` returned per currency; both are changed
    with each batch. `indexes_of`: indexes of the loaded instruments of a currency, which the exchange may list no more.
    With `only`, keys as (series, key), just those are requested, due or not, and everything that is missing of them is
    requested again. `in_turns`: trades wait for it, so that it ends after MAX_TURN_S, and what has failed is requested
    again after growing waits.
    """

    client: DeribitClient
    currencies: Sequence[str]
    names: Sequence[str]
    resolutions: Sequence[str]
    now_ms: int
    states: dict[str, Row]
    listings: dict[str, Row]
    should_stop: Callable[[], bool] = lambda: False
    indexes_of: Callable[[str], Sequence[str]] = lambda currency: ()
    max_rows: int = MAX_ROWS
    only: Collection[tuple[str, str]] | None = None
    in_turns: bool = False
    clock: Callable[[], float] = time.monotonic
    report: SeriesReport = field(default_factory=SeriesReport)
    _is_unreachable: bool = False
    _has_reread: bool = False
    _unanswered_s: float = 0.0
    _end_s: float = math.inf

    def __post_init__(self) -> None:
        timeout_s = TURN_TIMEOUT_S if self.in_turns else math.inf
        self.client = self.client.with_retries(RETRY_TOTAL_S, timeout_s=timeout_s)

    @property
    def is_due(self) -> bool:
        """Whether any key can have something new; sends no request."""
        return any(self._must_list(currency) for currency in self.currencies if self.names) or any(
            self._is_due(task) for task in self._tasks()
        )

    def batches(self) -> Iterator[tuple[str, str, SeriesBatch]]:
        """Yield (series, key, batch) of every key that is due.

        A key whose answers cannot be used is set aside, and so are the others of its series after MAX_UNANSWERED_S without
        an answer. Once the exchange answers no request at all, the feed ends. The whole history of one key that is due is
        read again, if that was not done for REREAD_MS.
        """
        self.report.is_complete = False
        if self.in_turns:
            self._end_s = self.clock() + MAX_TURN_S
        yield from self._batches()
        self.report.is_complete |= self._is_unreachable

    def _batches(self) -> Iterator[tuple[str, str, SeriesBatch]]:
        client, is_complete = self.client, True
        for currency in self.currencies if self.names else ():
            if self._must_list(currency) and not self._is_late():
                self._attempt(name := f"series of {currency}", partial(self._list, currency))
                if name in self.report.set_aside:
                    self.client = client.with_retries(0)
                    self._postpone_list(currency)
                if self._must_end:
                    return
        unanswered: dict[str, _Unanswered] = defaultdict(_Unanswered)
        for task in self._tasks():
            if not self._is_due(task):
                continue
            earlier = unanswered[task.series]
            if earlier.last and self._unanswered_s >= MAX_UNANSWERED_S:
                self.report.set_aside[str(task)] = earlier.last
                yield task.series, task.key, self._failed(task, earlier.last)
                continue
            if self._is_late():
                is_complete = False
                continue
            began_s = self.clock()
            left_s = 0 if earlier.keys >= MAX_UNANSWERED else max(0.0, self._end_s - began_s)
            end_s = began_s + self._most_s(task)
            self.client = client.with_retries(left_s, is_late=partial(self._is_after, end_s))
            again = self._must_reread(task)
            is_whole = again or self._state(task).proven_ms is None
            batches = task.fetch(self._state_to_fetch(task), again)
            while batch := self._attempt(str(task), partial(next, batches, None), task):
                self._note(task, batch, is_whole=is_whole)
                yield task.series, task.key, batch
                if self._must_end or (self._is_late() and not again):
                    return
            if str(task) in self.report.refused:
                yield task.series, task.key, self._refused(task)
            error = self.report.set_aside.get(str(task))
            if error and not self._is_unreachable:
                yield task.series, task.key, self._failed(task, error, again=again)
            if isinstance(error, RetriableError):
                earlier.add(error)
                self._unanswered_s += self.clock() - began_s
            else:
                earlier.keys = 0
            if self._must_end:
                return
        self.report.is_complete = is_complete

    @property
    def _must_end(self) -> bool:
        """Whether the load package ends with the last batch."""
        return (
            self.should_stop()
            or self.client.is_cancelled
            or self._is_unreachable
            or self.report.rows.total() >= self.max_rows
        )

    def _is_late(self) -> bool:
        return self._is_after(self._end_s)

    def _is_after(self, end_s: float) -> bool:
        return self.clock() >= end_s

    def _most_s(self, task: _Task) -> float:
        """Seconds after which no further page of a key is requested."""
        failed_ms = self._state(task).failed_ms
        failed_s = (self.now_ms - failed_ms) / 1000 if failed_ms is not None else 0.0
        return min(LONGEST_KEY_S, max(MAX_KEY_S, KEY_SHARE * failed_s)) if self.in_turns else math.inf

    def _attempt(self, name: str, call: Callable[[], Any], task: _Task | None = None) -> Any:
        """What `call` returns; None where `task` is not offered, or what `name` names was set aside."""
        try:
            return call()
        except (OutsideError, ProofError) as error:
            if self.client.is_cancelled:
                return None
            if task and self._is_not_offered(task, error):
                self.report.refused[name] = str(error)
                return None
            self.report.set_aside[name] = error
            self._is_unreachable |= isinstance(error, RetriableError) and not self._answers()
        return None

    def _is_not_offered(self, task: _Task, error: TapeError) -> bool:
        """Whether the exchange itself, not a proxy before it, refused a key of which it never had a row."""
        is_refusal = isinstance(error, ExchangeRefusedError) and error.code is not None
        return is_refusal and self._state(task).proven_ms is None

    def _answers(self) -> bool:
        """Whether the exchange answers any request."""
        try:
            # Also once the time for a key is over.
            self.client.with_retries(RETRY_TOTAL_S).require_answer(self.client.live)
        except OutsideError:
            return False
        return True

    def _list(self, currency: str) -> None:
        """Add the listed keys to the known ones: one that is listed no more may still have rows to request.

        The list is requested again a day later, an empty one an hour later.
        """
        keys = list_keys(self.client, currency, self.now_ms)
        earlier = self.listings.get(currency, {})
        perpetuals = {name: list(times) for name, times in keys.perpetuals.items()}
        wait_ms = DAY_MS if keys.perpetuals or keys.indexes else HOUR_MS
        self.listings[currency] = {
            "list_again_ms": self.now_ms + wait_ms,
            "perpetuals": earlier.get("perpetuals", {}) | perpetuals,
            "indexes": list(
                dict.fromkeys([*earlier.get("indexes", ()), *keys.indexes, *self.indexes_of(currency)])
            ),
        }

    def _postpone_list(self, currency: str) -> None:
        """In turns, keep the earlier list of a currency whose list cannot be read, and request it again later."""
        if self.in_turns and not self._is_unreachable:
            earlier = self.listings.get(currency, {})
            failed_ms = earlier.get("failed_ms", self.now_ms)
            again_ms = next_attempt_ms(failed_ms, self.now_ms, longest_ms=HOUR_MS)
            self.listings[currency] = {**earlier, "list_again_ms": again_ms, "failed_ms": failed_ms}

    def _must_list(self, currency: str) -> bool:
        return bool(self.listings.get(currency, {}).get("list_again_ms", 0) <= self.now_ms)

    def _state(self, task: _Task) -> SeriesState:
        return SeriesState.read(self.states.get(task.series, {}).get(task.key))

    def _state_to_fetch(self, task: _Task) -> SeriesState:
        state = self._state(task)
        if self.only is not None:
            state.requested_ms = state.healed_ms = None
        return state

    def _is_due(self, task: _Task) -> bool:
        if self.only is not None:
            return (task.series, task.key) in self.only
        state = self._state(task)
        if state.contradicted_ms is not None and self.now_ms < state.contradicted_ms + RETRY_PROOF_MS:
            return False
        if self.in_turns and state.retry_ms is not None and self.now_ms < state.retry_ms:
            return False
        newest_ms = task.since_ms if state.proven_ms is None else state.proven_ms
        return task.cadence.is_due(self.now_ms, newest_ms, state.requested_ms)

    def _must_reread(self, task: _Task) -> bool:
        """Whether to read the whole history again; True for one key at most."""
        state = self._state(task)
        if self._has_reread or self.only is not None or not task.has_history or state.proven_ms is None:
            return False
        self._has_reread = (state.reread_ms or 0) + REREAD_MS <= self.now_ms
        return self._has_reread

    def _note(self, task: _Task, batch: SeriesBatch, *, is_whole: bool) -> None:
        batch.state.failed_ms = batch.state.contradicted_ms = batch.state.retry_ms = None
        if is_whole and batch.state.requested_ms == self.now_ms:  # the last batch
            batch.state.reread_ms = self.now_ms
        batch.rejected = batch.state.reject_once(batch.rejected)
        self.states.setdefault(task.series, {})[task.key] = batch.state.to_builtins()
        self.report.rows[task.series] += batch.table.num_rows
        self.report.rejected += len(batch.rejected)
        self.report.disagreements += batch.disagreements
        if missing := sum(gap.missing for gap in batch.gaps):
            self.report.missing[str(task)] = missing

    def _refused(self, task: _Task) -> SeriesBatch:
        """A batch without rows: the exchange is asked again a day later."""
        state = self._state(task)
        state.requested_ms = self.now_ms
        self.states.setdefault(task.series, {})[task.key] = state.to_builtins()
        return SeriesBatch(BOOK_SUMMARIES.to_table([]), state)

    def _failed(self, task: _Task, error: TapeError, *, again: bool = False) -> SeriesBatch:
        """A batch without rows that records, once, that the answers could not be used; the key stays due.

        After a failure to read the whole history again, the next request is for what is new. Answers that contradict each
        other cost many requests, so the key waits for RETRY_PROOF_MS then. In turns, each failure makes it wait.
        """
        state = self._state(task)
        state.contradicted_ms = self.now_ms if isinstance(error, ProofError) else None
        if again:
            state.reread_ms = self.now_ms
        rejected = []
        if state.failed_ms is None:
            state.failed_ms = self.now_ms
            raw = msgspec.json.encode({"unproven_to_ms": self.now_ms}).decode()
            rejected = [RejectedRecord(str(error), raw)]
        if self.in_turns:
            state.retry_ms = next_attempt_ms(state.failed_ms, self.now_ms, longest_ms=HOUR_MS)
        self.states.setdefault(task.series, {})[task.key] = state.to_builtins()
        return SeriesBatch(BOOK_SUMMARIES.to_table([]), state, rejected=rejected, is_failed=True)

    def _tasks(self) -> Iterator[_Task]:
        """Keys by series, at last those of all series that failed before: another one of them first in each hour."""
        tasks = [
            task
            for name in self.names
            for currency in self.currencies
            for task in getattr(self, f"_{name}")(currency)
        ]
        failed = [task for task in tasks if self._state(task).failed_ms is not None]
        yield from (task for task in tasks if task not in failed)
        first = self.now_ms // HOUR_MS % (len(failed) or 1)
        yield from failed[first:] + failed[:first]

    def _book_summaries(self, currency: str) -> Iterator[_Task]:
        def fetch(state: SeriesState, _: bool) -> Iterator[SeriesBatch]:
            return book_summaries.fetch_book_summaries(self.client, currency, state, self.now_ms)

        yield _Task("book_summaries", currency, book_summaries.cadence, fetch, has_history=False)

    def _delivery_prices(self, currency: str) -> Iterator[_Task]:
        for index in self.listings.get(currency, {}).get("indexes", ()):
            yield _Task("delivery_prices", index, delivery_prices.cadence, partial(self._fetch_prices, index))

    def _fetch_prices(self, index: str, state: SeriesState, again: bool) -> Iterator[SeriesBatch]:
        return delivery_prices.fetch_delivery_prices(
            self.client, index, state, self.now_ms, again=again or self.only is not None
        )

    def _has_instruments(self, currency: str) -> bool:
        """Whether an instrument of the currency is listed that can be settled, or whose volatility is measured."""
        listing = self.listings.get(currency, {})
        return bool(listing.get("indexes") or listing.get("perpetuals"))

    def _settlements(self, currency: str) -> Iterator[_Task]:
        for type_ in settlements.TYPES if self._has_instruments(currency) else ():
            fetch = partial(self._fetch_settlements, currency, type_)
            yield _Task("settlements", f"{currency} {type_}", settlements.cadence, fetch)

    def _fetch_settlements(
        self, currency: str, type_: str, state: SeriesState, again: bool
    ) -> Iterator[SeriesBatch]:
        return settlements.fetch_settlements(
            self.client, currency, type_, state, self.now_ms, again=again or self.only is not None
        )

    def _volatility_index(self, currency: str) -> Iterator[_Task]:
        for resolution in self.resolutions if self._has_instruments(currency) else ():
            fetch = partial(self._fetch_candles, currency, resolution)
            yield _Task(
                "volatility_index",
                f"{currency} {resolution}",
                volatility_index.cadence(resolution),
                fetch,
                has_history=volatility_index.step_ms_of(resolution) > MINUTE_MS,
            )

    def _fetch_candles(
        self, currency: str, resolution: str, state: SeriesState, again: bool
    ) -> Iterator[SeriesBatch]:
        return volatility_index.fetch_volatility_index(
            self.client, currency, resolution, state, self.now_ms, again=again
        )

    def _funding_rates(self, currency: str) -> Iterator[_Task]:
        for name, (created_ms, expiry_ms) in self.listings.get(currency, {}).get("perpetuals", {}).items():
            fetch = partial(self._fetch_rates, name, created_ms, expiry_ms)
            yield _Task("funding_rates", name, funding_rates.cadence, fetch, since_ms=created_ms)

    def _fetch_rates(
        self, name: str, created_ms: int, expiry_ms: int | None, state: SeriesState, again: bool
    ) -> Iterator[SeriesBatch]:
        return funding_rates.fetch_funding_rates(
            self.client,
            name,
            state,
            self.now_ms,
            since_ms=created_ms,
            until_ms=expiry_ms,
            again=again,
        )


def resolve_series(
    config: DeribitConfig, streams: Sequence[Stream]
) -> tuple[list[str], list[str], list[str]]:
    """(names of series, currencies, resolutions of the volatility index) to load with `streams`. Raises UsageError."""
    requested = list(config.series or DEFAULT_SERIES)
    if requested == [NO_SERIES]:
        requested = []
    for name in requested:
        if name not in ALL_NAMES:
            raise UsageError(
                f"series of [sources.deribit] has no name {name!r}; the series are {', '.join(ALL_NAMES)}, or none."
            )
    resolutions = series_resolutions(config)
    kinds = {stream.kind for stream in streams}
    names = [name for name in ALL_NAMES if name in requested and KINDS_OF[name] & kinds]
    currencies = list(dict.fromkeys(stream.currency for stream in streams))
    return names, currencies, resolutions


def series_resolutions(config: DeribitConfig) -> list[str]:
    """Configured resolutions of the volatility index. Raises UsageError for one that does not exist."""
    resolutions = parse_names("volatility_resolutions", config.volatility_resolutions)
    for resolution in resolutions:
        volatility_index.step_ms_of(resolution)
    return resolutions


def coverage_row(series: str, key: str, batch: SeriesBatch, now_ms: int) -> Row:
    """Row of `series_coverage`; of a key without rows it covers no time."""
    state = batch.state
    end_ms = now_ms if state.proven_ms is None else state.proven_ms
    return {
        "series": series,
        "series_key": key,
        "covered_from": _time(end_ms if state.first_ms is None else state.first_ms),
        "covered_to": _time(end_ms),
        "loaded_rows": state.loaded_rows,
        "missing_rows": sum(gap.missing for gap in batch.gaps),
        "disagreement": " ".join(batch.disagreements) or None,
        "checked_at": _time(now_ms),
    }


def gap_rows(series: str, key: str, batch: SeriesBatch) -> list[Row]:
    """Rows of `series_gaps`."""
    return [
        {
            "series": series,
            "series_key": key,
            "first_at": _time(gap.first_ms),
            "last_at": _time(gap.last_ms),
            "missing_rows": gap.missing,
            "detail": gap.detail,
        }
        for gap in batch.gaps
    ]


def rejected_rows(series: str, key: str, batch: SeriesBatch) -> list[Row]:
    """Rows of `rejected_records`."""
    return [
        {"series": series, "series_key": key, "reason": each.reason, "raw": each.raw}
        for each in batch.rejected
    ]


def has_news(batch: SeriesBatch, before: Mapping[str, Any] | None) -> bool:
    """Whether a batch has more to store than the time of its request.

    Missing rows that were requested again are news, even if they are still missing, and so is the first success after a
    failure. The first answer without any row is news, too: the rows that must exist are missing.
    """
    old = SeriesState.read(before)
    if batch.is_failed:
        return False
    if old.failed_ms is not None:
        return True
    if batch.state.proven_ms is None:
        return before is None
    is_retried = bool(batch.state.holes) and batch.state.healed_ms != old.healed_ms
    has_changed = batch.state.holes != old.holes or batch.state.disagreements != old.disagreements
    is_news = is_retried or before is None or has_changed
    return bool(batch.table.num_rows or batch.rejected or is_news)


def _time(at_ms: int) -> datetime:
    return datetime.fromtimestamp(at_ms / 1000, UTC)
