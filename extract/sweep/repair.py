"""Fetch missing trades of single instruments by trade_seq, or establish that they are absent."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass, field
from functools import partial
from itertools import groupby
from typing import Generic, TypeVar

import numpy as np
import pyarrow as pa

from extract.deribit.client import DeribitClient, Host
from extract.deribit.jsonrpc import ExchangeRefusedError
from extract.deribit.schema import PAGE_SCHEMA, RejectedTrade, TradePage
from extract.errors import ProofError, TapeError
from extract.sweep.contradictions import HeldTrades
from extract.sweep.ledger import SeqRange
from extract.sweep.scheduler import Task, run_all
from extract.sweep.seq_pager import Hole, SeqPager
from extract.sweep.time_pager import OutsideRangeError

Owner = TypeVar("Owner")

PAGES_PER_STEP = 3
"""Pages of one instrument per result, so that memory does not grow with the number of missing trades."""


@dataclass
class RepairResult:
    """Fetched trades in PAGE_SCHEMA, ranges that the exchange does not have, and rejected records."""

    table: pa.Table = field(default_factory=PAGE_SCHEMA.empty_table)
    absent: list[SeqRange] = field(default_factory=list)
    rejected: list[RejectedTrade] = field(default_factory=list)


class InstrumentRepair:
    """Fetches missing trades of one instrument from the history host, and what that does not have from the live host.

    The history host is some seconds behind, and may not know an instrument that is only minutes old.
    """

    def __init__(self, client: DeribitClient, instrument_name: str, holes: Iterable[Hole]) -> None:
        self._client = client
        self._host = client.history
        self.instrument_name = instrument_name
        self._pager = SeqPager(instrument_name, holes, client.page_size(client.history))
        self._refusals: dict[str, ExchangeRefusedError] = {}
        self._is_certain = True
        self._failure: TapeError | None = None

    @property
    def is_done(self) -> bool:
        is_last_host = self._host is self._client.live or not self._pager.absent
        return self._pager.request is None and is_last_host and self._failure is None

    @property
    def remaining(self) -> list[SeqRange]:
        """Trades that are neither fetched nor shown to be absent, as ranges in ascending order."""
        return self._pager.remaining

    def step(self) -> RepairResult:
        """Fetch the next few pages. Raises ProofError if trades can neither be fetched nor be shown to be absent.

        Pages that arrived before an error are returned first; the next step raises it.
        """
        if self._failure:
            raise self._failure
        result = RepairResult()
        try:
            self._fetch_pages(result)
        except TapeError as error:
            if not (result.table.num_rows or result.rejected):
                raise
            self._failure = error
        return result

    def _fetch_pages(self, result: RepairResult) -> None:
        for _ in range(PAGES_PER_STEP):
            if self._pager.request is None:
                break
            try:
                self._accept_page(_fetch_page(self._client, self._host, self._pager.request), result)
            except ExchangeRefusedError as error:
                self._skip_host(error)
        if self._pager.request is None and self._pager.absent:
            if self._host is self._client.live:
                self._report_absent(result)
            else:
                self._switch_to_live_host()

    def _accept_page(self, page: TradePage, result: RepairResult) -> None:
        for name in page.table.column("instrument_name").unique().to_pylist():
            if name != self.instrument_name:
                raise OutsideRangeError(
                    f"Trades of {self.instrument_name} were requested, and the exchange sent one of {name}."
                )
        rejected = [bad.key[1] for bad in page.rejected if bad.key and bad.key[0] == self.instrument_name]
        seqs = page.table.column("trade_seq").to_numpy()
        fetched = self._pager.feed(
            np.concatenate((seqs, np.array(rejected, dtype=np.int64))), is_full=page.rows >= page.count
        )
        held = HeldTrades(frozenset([self.instrument_name]))
        held.take(page.table.filter(pa.array([seq in fetched for seq in seqs.tolist()], pa.bool_())))
        table, contradictory = held.resolve({})
        result.table = pa.concat_tables([result.table, table])
        result.rejected += [bad for bad in page.rejected if bad.key is None or bad.key[1] in fetched]
        result.rejected += contradictory
        # A rejected record without trade_seq may be one of the missing trades.
        self._is_certain &= all(bad.key for bad in page.rejected)

    def _skip_host(self, error: ExchangeRefusedError) -> None:
        """Continue with the other host: this one does not serve the instrument."""
        self._refusals[self._host.name] = error
        while self._pager.request is not None:
            self._pager.feed(np.empty(0, dtype=np.int64), is_full=False)

    def _switch_to_live_host(self) -> None:
        holes = [(each.first, each.last) for each in self._pager.absent]
        self._host = self._client.live
        self._pager = SeqPager(self.instrument_name, holes, self._client.page_size(self._host))

    def _report_absent(self, result: RepairResult) -> None:
        """Raises ProofError if the trades that did not arrive may exist."""
        first = self._pager.absent[0]
        # The live host has one day only, so absence needs the answer of the history host.
        if error := self._refusals.get(self._client.history.name):
            raise ProofError(
                f"The exchange sends trades of {self.instrument_name} but refuses them by number: its trades "
                f"{first.first}–{first.last} cannot be fetched. {error}"
            )
        if not self._is_certain:
            raise ProofError(
                f"The exchange sent records without a trade_seq instead of trades {first.first}–{first.last} of "
                f"{self.instrument_name}, which may be among them: they are in deribit_raw.rejected_trades."
            )
        result.absent += self._pager.absent


class RepairQueue(Generic[Owner]):
    """Repairs that wait for a thread, each with its owner, such as the stream of its instrument.

    `handle` receives the owner, the repair that failed, and its TapeError; by default the error is raised.
    """

    def __init__(
        self,
        owned: Iterable[tuple[Owner, InstrumentRepair]],
        handle: Callable[[Owner, InstrumentRepair, TapeError], None] | None = None,
    ) -> None:
        self._waiting = deque(owned)
        self._handle = handle
        self.dropped: list[tuple[Owner, InstrumentRepair]] = []
        self._dropped_owners: set[Owner] = set()

    def drop(self, owner: Owner) -> None:
        """Move the repairs of `owner` to `dropped`, those under way after the pages that they are fetching."""
        self._dropped_owners.add(owner)
        self.dropped += [each for each in self._waiting if each[0] == owner]
        self._waiting = deque(each for each in self._waiting if each[0] != owner)

    def take_waiting(self) -> list[tuple[Owner, InstrumentRepair]]:
        """The repairs that are not under way; the queue is empty afterwards."""
        waiting = list(self._waiting)
        self._waiting.clear()
        return waiting

    @property
    def is_empty(self) -> bool:
        return not self._waiting

    def run(
        self, *, in_flight: int, cancel: Callable[[], None], max_trades: float = math.inf
    ) -> Generator[tuple[Owner, RepairResult]]:
        """Repair instruments concurrently, a few pages at a time, until none is left or `max_trades` are fetched.

        Raises what `InstrumentRepair.step` raises, after `cancel`.
        """
        trades = 0

        def accept(owner: Owner, each: InstrumentRepair, result: RepairResult) -> tuple[Owner, RepairResult]:
            nonlocal trades
            trades += result.table.num_rows
            if not each.is_done:
                if owner in self._dropped_owners:
                    self.dropped.append((owner, each))
                else:
                    self._waiting.appendleft((owner, each))
            return owner, result

        def next_task() -> Task[RepairResult, tuple[Owner, RepairResult]] | None:
            if trades >= max_trades or not self._waiting:
                return None
            owner, each = self._waiting.popleft()
            handle = partial(self._handle, owner, each) if self._handle else None
            return Task(each.step, partial(accept, owner, each), handle)

        return run_all(next_task, in_flight=in_flight, cancel=cancel)


def repairs(client: DeribitClient, missing: Iterable[SeqRange]) -> list[InstrumentRepair]:
    """One InstrumentRepair for each instrument of `missing`."""
    by_name = groupby(sorted(missing), key=lambda each: each.instrument_name)
    return [
        InstrumentRepair(client, name, [(each.first, each.last) for each in ranges])
        for name, ranges in by_name
    ]


def _fetch_page(client: DeribitClient, host: Host, missing: SeqRange) -> TradePage:
    return client.trades(
        host,
        "get_last_trades_by_instrument",
        {
            "instrument_name": missing.instrument_name,
            "start_seq": missing.first,
            "end_seq": missing.last,
            "sorting": "asc",
        },
    )
