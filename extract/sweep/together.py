"""Fetch the newest trades of all kinds of a currency with one request, and divide them by kind.

The API documents `kind=any` for trades of all kinds. The trades of each kind are proven by their numbers like those that
were requested by kind. What cannot be divided, because an instrument is not listed, is requested by kind. So is the
time since the run before once a day: an instrument that `any` left out and that trades in that time shows a hole in its
numbers. Covered time that is read again is always requested by kind. Trades that are then in no answer by kind are
requested by number, or are of a new kind, whose stream `sweep_windows` adds.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from extract.deribit.arrow import times_ms
from extract.deribit.client import DeribitClient
from extract.deribit.streams import ANY, SPOT, Stream
from extract.sweep.fetch_slice import SliceResult, sweep_slice
from extract.sweep.slices import Slice
from extract.sweep.state import Span
from extract.sweep.stream_window import StreamSweep

DAY_MS = 86_400_000
BY_KIND_MS = (3 * 60 + 17) * 60_000
"""Time of the day, in ms UTC, whose trades are requested by kind: no usual hour at which much happens."""


@dataclass(frozen=True)
class Together:
    """Streams of one currency whose newest trades are fetched together; each with the start of its span in ms."""

    currency: str
    sweeps: Sequence[tuple[StreamSweep, int]]
    part: Slice
    kind_of: Mapping[str, str]

    def fetch(self, client: DeribitClient) -> SliceResult:
        """The trades of all kinds."""
        return sweep_slice(client, client.live, Stream(self.currency, ANY), self.part)

    def divide(self, result: SliceResult) -> list[tuple[StreamSweep, SliceResult]]:
        """The result of each stream; empty if the trades have to be requested by kind."""
        names = result.table.column("instrument_name").combine_chunks().dictionary_encode()
        kinds = [self.kind_of.get(name) for name in names.dictionary.to_pylist()]
        if None in kinds or result.rejected or result.end_ms < self.part.end_ms:
            return []
        kind_of_row = np.array(kinds or [""], dtype=object)[names.indices.to_numpy()]
        times = times_ms(result.table)
        parts = []
        for sweep, start_ms in self.sweeps:
            table = result.table.filter(
                pa.array((kind_of_row == sweep.stream.kind) & (times >= start_ms), pa.bool_())
            )
            if sweep.lacks_recent(table):
                return []
            # The result is without spot pairs of other currencies, of which one may have been the last trade of all.
            sent = times[kind_of_row == sweep.stream.kind]
            last_ms = result.last_ms if sweep.stream.kind == SPOT else int(sent.max(initial=0))
            left = result.left if sweep.stream.kind == SPOT else None
            parts.append((sweep, SliceResult(table, result.end_ms, [], result.at_ms, last_ms, left)))
        return parts


def group_sweeps(sweeps: Sequence[StreamSweep], kind_of: Mapping[str, str]) -> Iterator[Together]:
    """Groups of streams of one currency whose spans are short, recent and end at the same time."""
    by_currency: dict[str, list[tuple[StreamSweep, Span]]] = {}
    for sweep in sweeps:
        if span := sweep.recent_span:
            by_currency.setdefault(sweep.stream.currency, []).append((sweep, span))
    for currency, group in by_currency.items():
        start_ms, end_ms = min(span.start_ms for _, span in group), group[0][1].end_ms
        is_by_kind = (end_ms - BY_KIND_MS) // DAY_MS > (start_ms - 1 - BY_KIND_MS) // DAY_MS
        if kind_of and len(group) > 1 and not is_by_kind and all(span.end_ms == end_ms for _, span in group):
            starts = [(sweep, span.start_ms) for sweep, span in group]
            yield Together(currency, starts, Slice(start_ms, end_ms), kind_of)
