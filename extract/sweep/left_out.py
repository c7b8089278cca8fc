"""Instruments whose trades were sent in a window, and that the stream which has to load them was not sent.

An answer for all kinds that cannot be divided may have trades that the answers by kind leave out, above all of an
instrument that is not listed. A spot pair that is listed under both of its currencies is left to the base currency,
which may not be sent its trades. Such trades are requested by number.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import pyarrow as pa

from extract.deribit.client import DeribitClient, Host
from extract.deribit.jsonrpc import ExchangeRefusedError
from extract.deribit.streams import SPOT, Stream
from extract.sweep.stream_window import StreamSweep


class Sent(NamedTuple):
    """The lowest and the highest number of the trades of an instrument that were sent, and the first and last time in ms."""

    first_seq: int
    last_seq: int
    first_ms: int
    last_ms: int

    def merge(self, other: Sent) -> Sent:
        return Sent(
            min(self.first_seq, other.first_seq),
            max(self.last_seq, other.last_seq),
            min(self.first_ms, other.first_ms),
            max(self.last_ms, other.last_ms),
        )


def sent_by_instrument(table: pa.Table) -> dict[str, Sent]:
    """What was sent of each instrument in `table`."""
    times = table.column("timestamp").cast(pa.int64())
    columns = {"name": table.column("instrument_name"), "seq": table.column("trade_seq"), "ms": times}
    grouped = pa.table(columns).group_by("name")
    rows = grouped.aggregate([("seq", "min"), ("seq", "max"), ("ms", "min"), ("ms", "max")]).to_pylist()
    return {row["name"]: Sent(row["seq_min"], row["seq_max"], row["ms_min"], row["ms_max"]) for row in rows}


@dataclass
class LeftOut:
    """Collects what was sent in a window: `undivided` answers by currency and name, `pairs` by stream and name."""

    client: DeribitClient
    undivided: dict[tuple[str, str], Sent] = field(default_factory=dict)
    pairs: dict[tuple[Stream, str], tuple[Host, Sent]] = field(default_factory=dict)

    def note_undivided(self, currency: str, table: pa.Table) -> None:
        """Note trades of all kinds that could not be divided by kind."""
        for name, sent in sent_by_instrument(table).items():
            self.undivided[currency, name] = sent

    def note_pairs(self, stream: Stream, host: Host, table: pa.Table) -> None:
        """Note trades of pairs that `stream` leaves to their base currencies."""
        for name, sent in sent_by_instrument(table).items():
            if before := self.pairs.get((stream, name)):
                sent = sent.merge(before[1])
            self.pairs[stream, name] = host, sent

    def pairs_to_fetch(self, sweeps: Mapping[Stream, StreamSweep]) -> Iterator[tuple[StreamSweep, str, Sent]]:
        """(the sweep of the quote currency, the pair, what was sent of it) of pairs that the base currency is not sent.

        Where its answer for the same time is not in the window, one trade is requested of the base currency, once for each
        pair. Raises OutsideError if that gets no answer.
        """
        for (stream, name), (host, sent) in self.pairs.items():
            sweep, base = sweeps.get(stream), sweeps.get(Stream(name.split("_")[0], SPOT))
            if sweep is None:
                continue
            if base and base.is_swept(sent.first_ms, sent.last_ms):
                is_sent = base.has_traded(name)
            else:
                is_sent = self.client.pairs_of_base.get(name) or self._is_sent_to_base(host, name, sent)
            self.client.pairs_of_base[name] = is_sent
            if not is_sent:
                yield sweep, name, sent

    def _is_sent_to_base(self, host: Host, name: str, sent: Sent) -> bool:
        """Whether the trades of the base currency at the time of the last one that was sent have the pair."""
        parameters: dict[str, str | int] = {"currency": name.split("_")[0], "kind": SPOT, "sorting": "asc"}
        parameters |= {"start_timestamp": sent.last_ms, "end_timestamp": sent.last_ms}
        try:
            page = self.client.trades(host, "get_last_trades_by_currency_and_time", parameters)
        except ExchangeRefusedError:  # a currency that the exchange does not know
            return False
        return name in page.table.column("instrument_name").unique().to_pylist()
