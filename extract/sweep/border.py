"""Border between the history host and the live host: where the history of a stream really ends.

The history host is usually some seconds behind the live host, which has the trades of one day. Where it is further
behind, the time after its newest trade is fetched from the live host. Where it is more than that day behind, or has no
trades although there must be some, nobody can tell what was traded in between. That also holds for a currency that seems
to be quiet, if the history of all others ends as early and the live host shows that they are not.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace

from extract.deribit.arrow import times_ms
from extract.deribit.client import DeribitClient, Host
from extract.deribit.decode import decode_page
from extract.deribit.instruments import ListedInstrument
from extract.deribit.jsonrpc import INVALID_PARAMS, NOT_FOUND, ExchangeRefusedError
from extract.deribit.streams import ANY, Stream
from extract.errors import CannotTellError, OutsideError
from extract.sweep.state import FAR_MS
from extract.times import iso

MINUTE_MS = 60_000
LIVE_SPAN_MS = 15 * MINUTE_MS
"""The newest time is fetched from the live host, because the history host is some seconds behind."""
LIVE_ONLY_MS = 120 * MINUTE_MS
"""A span that begins this long before now is fetched from the live host alone."""
LIVE_REACH_MS = (24 * 60 - 10) * MINUTE_MS
"""Age of the oldest trades to request from the live host: it has a day, and the requests take some time."""
HISTORY_MARGIN_MS = MINUTE_MS
"""The history host may receive trades in another order than that of their times."""
VALID_FOR_MS = 10 * MINUTE_MS
"""A long run requests the end of history again after this time."""
SAMPLED_EXPIRED = 3
"""Expired instruments that are requested by name where history has no trade of their stream."""
NEWEST_TRADES = 10
"""Trades in the answer that shows the newest one, because some may be odd."""


@dataclass(frozen=True)
class Border:
    """Trades from `live_from_ms` on are fetched from the live host, earlier ones from the history host.

    `is_reached`: whether the newest trade of history, at `history_end_ms`, is not older than those of the live host. If it
    is, history proves something only if the live host has no trade of the stream before `complete_to_ms`.
    """

    live_from_ms: int
    is_reached: bool = True
    history_end_ms: int | None = None
    complete_to_ms: int = 0

    @classmethod
    def usual(cls, now_ms: int) -> Border:
        """The border if the history host is at most LIVE_SPAN_MS behind."""
        return cls(now_ms - LIVE_SPAN_MS)

    @classmethod
    def expected(cls, start_ms: int, now_ms: int) -> Border:
        """The border for a span from `start_ms` on while the history host is at most LIVE_SPAN_MS behind."""
        return cls(start_ms) if start_ms >= now_ms - LIVE_ONLY_MS else cls.usual(now_ms)

    @classmethod
    def at_history_end(cls, history_end_ms: int | None, now_ms: int) -> Border:
        """The border if the newest trade of the history host is at `history_end_ms`."""
        reached_ms = history_end_ms - HISTORY_MARGIN_MS if history_end_ms is not None else 0
        live_from_ms = max(now_ms - LIVE_REACH_MS, min(reached_ms, now_ms - LIVE_SPAN_MS))
        return cls(live_from_ms, reached_ms >= live_from_ms, history_end_ms, now_ms - LIVE_SPAN_MS)

    def require_reached(self, what: object, live_ms: int) -> None:
        """Raise CannotTellError if a trade of the live host at `live_ms` is missing in a history that ends before it."""
        if not self.is_reached and live_ms < self.complete_to_ms:
            ends = f"end at {iso(self.history_end_ms)}" if self.history_end_ms is not None else "do not exist"
            raise CannotTellError(
                f"The trades of {what} on the history host {ends}, and the live host has only those of one day: nothing in "
                "between can be proven until the history host has caught up."
            )


class HistoryEnds:
    """Requests the newest trade of each stream from the history host, as often as a run needs it.

    `currencies`: those of the run, which show together whether the history host is behind. `unoffered`: currencies and
    kinds that the live host may not know any more.
    """

    def __init__(
        self,
        client: DeribitClient,
        currencies: Collection[str] = (),
        unoffered: Collection[str] = (),
    ) -> None:
        self._client = client
        self._unoffered = unoffered
        self._unknown: dict[str, bool] = {}
        self._currencies = currencies
        self._unanswered: set[tuple[Host, str]] = set()
        self._ends: dict[tuple[Host, Stream], tuple[int, int | None]] = {}
        self._expired: dict[str, bool] = {}
        self._without_trades: set[Stream] = set()
        self._refused: dict[str, CannotTellError] = {}

    def border(self, stream: Stream, start_ms: int, now_ms: int) -> Border:
        """Border for a span of `stream` from `start_ms` on; the history of one kind may end before that of the others.

        Raises CannotTellError if history cannot be complete, and what the client raises.
        """
        if self._is_history_only(stream, now_ms):
            self._require_not_behind(stream.currency, now_ms)
            history_end_ms = self._newest_ms(self._client.history, stream, now_ms)
            if history_end_ms is None:
                self._require_no_expired_trade(stream)
            return Border(now_ms, history_end_ms=history_end_ms)
        if start_ms >= now_ms - LIVE_ONLY_MS:
            return Border.expected(start_ms, now_ms)
        whole = self._border_of_currency(stream.currency, now_ms)
        if not whole.is_reached and start_ms < whole.live_from_ms:
            self._require_not_behind(stream.currency, now_ms)
        if whole.history_end_ms is None:
            return whole
        border = Border.at_history_end(self._newest_ms(self._client.history, stream, now_ms), now_ms)
        if start_ms >= border.live_from_ms:  # the live host has the whole span
            return replace(border, is_reached=True)
        if border.history_end_ms is None:
            self._require_no_expired_trade(stream)
        return border if border.is_reached else replace(border, complete_to_ms=whole.live_from_ms)

    def reach_ms(self, stream: Stream, now_ms: int) -> int:
        """Time up to which the hosts together have the trades of `stream`: now, if the live host knows the stream.

        Otherwise it is where the history of any currency ends, or one day ago, by which time history is complete.
        """
        if not self._is_history_only(stream, now_ms):
            return now_ms
        ends_ms = self._newest_of_all(self._client.history, stream.currency, now_ms)
        usual_ms, reach_ms = now_ms - LIVE_SPAN_MS, now_ms - LIVE_REACH_MS
        for end_ms in ends_ms:
            reach_ms = max(reach_ms, end_ms - HISTORY_MARGIN_MS)
            if reach_ms >= usual_ms:
                break
        return min(reach_ms, usual_ms)

    def _is_history_only(self, stream: Stream, now_ms: int) -> bool:
        """Whether the live host refuses the currency or the kind of a stream, so that only history may have its trades."""
        names = (stream.currency, stream.kind)
        return any(name in self._unoffered and self._is_unknown(name, stream, now_ms) for name in names)

    def _is_unknown(self, name: str, stream: Stream, now_ms: int) -> bool:
        if name not in self._unknown:
            param, kind = ("kind", name) if name == stream.kind else ("currency", ANY)
            try:
                self._newest_ms(self._client.live, Stream(stream.currency, kind), now_ms)
            except ExchangeRefusedError as error:
                if error.code != INVALID_PARAMS or error.param not in (None, param):
                    raise
                self._unknown[name] = True
            else:
                self._unknown[name] = False
        return self._unknown[name]

    def _border_of_currency(self, currency: str, now_ms: int) -> Border:
        """Border of all kinds together. Raises CannotTellError if the history host lacks trades of the whole currency."""
        if refused := self._refused.get(currency):
            raise refused
        whole = Stream(currency, ANY)
        border = Border.at_history_end(self._newest_ms(self._client.history, whole, now_ms), now_ms)
        if border.is_reached:
            return border
        live_ms = self._newest_ms(self._client.live, whole, now_ms)
        try:
            if live_ms is not None and live_ms > (border.history_end_ms or 0):
                border.require_reached(currency, live_ms)
            if border.history_end_ms is None and self._has_expired(currency):
                raise CannotTellError(
                    f"The history host lists expired instruments of {currency} and has no trade of them: nothing can be "
                    "proven until it has."
                )
        except CannotTellError as error:
            self._refused[currency] = error
            raise
        return border

    def _require_not_behind(self, currency: str, now_ms: int) -> None:
        """Raise CannotTellError if no currency's history reaches the live host's, which has newer trades of some."""
        newest_ms = 0
        for end_ms in self._newest_of_all(self._client.history, currency, now_ms):
            if Border.at_history_end(end_ms, now_ms).is_reached:
                return
            newest_ms = max(newest_ms, end_ms)
        if any(live_ms > newest_ms for live_ms in self._newest_of_all(self._client.live, currency, now_ms)):
            ends = f"ends at {iso(newest_ms)}" if newest_ms else "has no trade"
            raise CannotTellError(
                f"The history host {ends} in all currencies, and the live host has newer trades, but only those of one day: "
                f"nothing in between can be proven of {currency} until the history host has caught up."
            )

    def _newest_of_all(self, host: Host, currency: str, now_ms: int) -> Iterator[int]:
        """Times of the newest trade of `currency` and of each other one, without those that cannot be requested."""
        for each in dict.fromkeys([currency, *self._currencies]):
            if (host, each) in self._unanswered:
                continue
            try:
                newest_ms = self._newest_ms(host, Stream(each, ANY), now_ms)
            except OutsideError:
                if self._client.is_cancelled:
                    raise
                self._unanswered.add((host, each))
            else:
                if newest_ms is not None:
                    yield newest_ms

    def _has_expired(self, currency: str) -> bool:
        if currency not in self._expired:
            instruments = self._client.instruments(currency, expired=True)
            self._expired[currency] = any(True for _ in instruments)
        return self._expired[currency]

    def _require_no_expired_trade(self, stream: Stream) -> None:
        """Raise CannotTellError if a few expired instruments of a stream without trades have some on the history host.

        Instruments that cannot be listed are set aside elsewhere, and hold up no trades.
        """
        if stream in self._without_trades:
            return
        try:
            records = self._client.instruments(stream.currency, expired=True, kind=stream.kind)
            expired = map(ListedInstrument.of, records)
            names = [each.name for each in expired if not each.fault and (each.currency, each.kind) == stream]
        except OutsideError:
            if self._client.is_cancelled:
                raise
            return
        for name in names[:: max(1, math.ceil(len(names) / SAMPLED_EXPIRED))]:
            if self._has_trade(name):
                raise CannotTellError(
                    f"The history host has trades of {name} and sends none of {stream}: nothing can be proven until it does."
                )
        self._without_trades.add(stream)

    def _has_trade(self, instrument_name: str) -> bool:
        params: dict[str, str | int] = {"instrument_name": instrument_name, "count": 1, "sorting": "desc"}
        try:
            page = self._client.call(
                self._client.history, "get_last_trades_by_instrument", params, decode_page
            )
        except ExchangeRefusedError as error:
            if error.param != "instrument_name" and error.code != NOT_FOUND:
                raise
            return False
        return page.rows > 0

    def _newest_ms(self, host: Host, stream: Stream, now_ms: int) -> int | None:
        key = (host, stream)
        at_ms, newest_ms = self._ends.get(key, (None, None))
        if at_ms is None or now_ms - at_ms > VALID_FOR_MS:
            newest_ms = _newest_trade_ms(self._client, host, stream, now_ms)
            self._ends[key] = (now_ms, newest_ms)
        return newest_ms


def _newest_trade_ms(client: DeribitClient, host: Host, stream: Stream, now_ms: int) -> int | None:
    """Time of the newest trade that `host` has, from the live host before the last LIVE_SPAN_MS; None if it has none.

    FAR_MS if it sends trades without a readable time.
    """
    params: dict[str, str | int] = {"currency": stream.currency, "kind": stream.kind}
    params |= {"count": NEWEST_TRADES, "sorting": "desc"}
    if host is client.live:
        params["end_timestamp"] = now_ms - LIVE_SPAN_MS
    page = client.call(host, "get_last_trades_by_currency", params, decode_page)
    times = times_ms(page.table).tolist() + [
        bad.timestamp for bad in page.rejected if bad.timestamp is not None
    ]
    past = [at_ms for at_ms in times if at_ms <= now_ms]
    # Trades without a readable time are no reason to distrust the host: the sweep rejects or contradicts them.
    return max(past, default=FAR_MS if page.rows else None)
