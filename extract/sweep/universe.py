"""Streams of the exchange: which currencies and kinds there are, taken from what the exchange lists and has traded.

A list in code would lose the trades of a new kind, or of a currency that is no longer offered. The documented kinds are
streams only where the exchange's own lists cannot be read; by them, expired instruments of all currencies are listed,
which shows currencies that are no longer offered. The list of each currency has all of its kinds.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

import msgspec

from extract.deribit.client import DeribitClient
from extract.deribit.config import KINDS
from extract.deribit.instruments import (
    EXPIRED,
    MAX_REQUESTED,
    RETRY_S,
    ListedInstrument,
    list_live_instruments,
)
from extract.deribit.jsonrpc import DECODE_ERRORS, INVALID_PARAMS, ExchangeRefusedError
from extract.deribit.records import TooManyRecordsError
from extract.deribit.schema import RejectedTrade
from extract.deribit.streams import ANY, Stream, is_currency
from extract.errors import OutsideError, UsageError


@dataclass(frozen=True)
class Universe:
    """Streams to load, and what is unusual about them as sentences.

    `listed`: the live instruments of all currencies, None if they cannot be read. `rejected`: records of currencies that
    cannot be read. `expired`: streams of the expired instruments of the requested currencies, None while they have not
    been read; `expired_error` is the reason that they could not be read, or not again. `is_expired_new`: whether they were
    read now. `expired_name`: name of the state that has them. `has_all_kinds`: whether no kinds are selected, so that
    trades of further kinds belong to it. `unoffered`: currencies that are not offered any more, and kinds of which no
    instrument is live, as far as the lists show.
    """

    streams: list[Stream]
    notes: list[str] = field(default_factory=list)
    listed: Sequence[ListedInstrument] | None = None
    rejected: Sequence[RejectedTrade] = ()
    expired: Sequence[Stream] | None = None
    expired_error: OutsideError | None = None
    is_expired_new: bool = False
    expired_name: str = EXPIRED
    has_all_kinds: bool = False
    unoffered: frozenset[str] = frozenset()

    @property
    def kind_of(self) -> dict[str, str]:
        """Kind of each live instrument, by name."""
        return {each.name: each.kind for each in self.listed or () if each.kind and not each.fault}


def expired_name(currencies: Iterable[str]) -> str:
    """Name of the state that has the streams of the expired instruments of these currencies, by default of all."""
    return ",".join([EXPIRED, *sorted(set(currencies))])


def resolve_universe(
    client: DeribitClient,
    currencies: Sequence[str] = (),
    kinds: Sequence[str] = (),
    stored: Iterable[Stream] = (),
    *,
    with_expired: bool = True,
    expired: Iterable[Stream] | None = None,
    is_expired_old: bool = False,
) -> Universe:
    """The streams of the given currencies and kinds, by default of all that the exchange has or that are `stored`.

    `with_expired`: whether to list expired instruments: of a currency that is not stored yet, and of all, for kinds that
    it had and, without `currencies`, for those that are no longer offered. `expired`: the result of the latter if it was
    read before; `is_expired_old`: whether to read it again, for what was listed and has expired since.

    Raises UsageError for a currency or kind that the exchange does not have, and OutsideError if it does not answer.
    """
    known = None if expired is None else list(expired)
    return _Resolver(
        client, list(currencies), list(kinds), list(stored), with_expired, known, is_expired_old
    ).resolve()


class _Currency(msgspec.Struct):
    currency: str


_currency_decoder = msgspec.json.Decoder(_Currency)


@dataclass
class _Resolver:
    """Resolves a universe. Once a list `has_failed`, each other one is requested once: new trades wait for them."""

    client: DeribitClient
    currencies: list[str]
    kinds: list[str]
    stored: list[Stream]
    with_expired: bool
    expired: list[Stream] | None
    is_expired_old: bool
    is_expired_new: bool = False
    expired_error: OutsideError | None = None
    notes: list[str] = field(default_factory=list)
    rejected: list[RejectedTrade] = field(default_factory=list)
    listed_expired: set[str] = field(default_factory=set)
    is_certain: bool = True
    has_failed: bool = False
    unlisted: dict[str, OutsideError] = field(default_factory=dict)

    def resolve(self) -> Universe:
        offered = self._offered()
        listed = _list_all(self.client, self._retry_s)
        self.has_failed |= listed is None
        self.is_certain = listed is not None and (self.with_expired or bool(self.stored))
        live = [Stream(each.currency, each.kind) for each in listed or () if each.kind and not each.fault]
        existing = [*live, *self.stored, *(self.expired or ())]
        if self.with_expired:
            existing += self._expired_streams(offered, existing)
        names = self._checked_currencies(offered, existing)
        kinds = self._checked_kinds(existing)
        streams = [Stream(name, kind) for name in names for kind in kinds]
        self._note_unusual(offered, streams)
        live_names = {*offered, *(name for each in live for name in each)}
        return Universe(
            streams,
            self.notes,
            listed,
            self.rejected,
            self.expired,
            self.expired_error,
            self.is_expired_new,
            expired_name(self.currencies),
            has_all_kinds=not self.kinds,
            unoffered=frozenset(name for each in streams for name in each if listed is not None) - live_names,
        )

    def _offered(self) -> list[str]:
        """Currencies of get_currencies; those of the stored streams if it cannot be read."""
        client = self.client.with_retries(RETRY_S) if self.stored or self.currencies else self.client
        try:
            records = list(client.currencies())
        except OutsideError as error:
            if not self.stored and not self.currencies:
                raise
            self.has_failed = True
            self.notes.append(f"The list of currencies cannot be read: {error}")
            return list(dict.fromkeys([*self.currencies, *(each.currency for each in self.stored)]))
        offered = []
        for record in records:
            fault = record.fault
            if not fault:
                try:
                    name = _currency_decoder.decode(record.text).currency
                    if not is_currency(name):
                        raise msgspec.ValidationError("a name of one word was expected")
                    offered.append(name)
                except DECODE_ERRORS as error:
                    fault = str(error)
            if fault:
                text = record.sent.decode("utf-8", "replace")
                self.rejected.append(RejectedTrade(f"not a currency: {fault}", text))
        return list(dict.fromkeys(offered))

    def _expired_streams(self, offered: Sequence[str], existing: Sequence[Stream]) -> list[Stream]:
        """Streams of expired instruments, also of currencies that are no longer offered."""
        stored = {each.currency for each in self.stored}
        has_unknown_kind = not {each.kind for each in existing}.issuperset(self.kinds)
        new = [name for name in self.currencies or offered if name not in stored or has_unknown_kind]
        streams: set[Stream] = set()
        for name in new:
            streams |= self._list_expired(name)
        is_due = self.expired is None or self.is_expired_old
        if is_due and not (self.currencies and self.kinds):
            names = self.currencies or [*offered, *(each.currency for each in existing)]
            # A currency that is no longer offered may have had other kinds than those of today.
            kinds = dict.fromkeys([*KINDS, *(each.kind for each in [*existing, *sorted(streams)])])
            streams |= self._list_all_expired([] if self.currencies else [*kinds], names)
            if isinstance(self.expired_error, ExchangeRefusedError):  # each currency that is known otherwise
                for name in sorted({each.currency for each in existing} - stored.union(new)):
                    streams |= self._list_expired(name)
        return sorted(streams)

    def _list_all_expired(self, kinds: Sequence[str], names: Sequence[str]) -> set[Stream]:
        """Streams of the expired instruments of all currencies; sets `expired` or `expired_error`.

        Lists of all currencies, by kind, show further currencies than `names`; a list may be too long for an answer, as
        that of all options. The list of each currency shows all of its kinds.
        """
        streams: set[Stream] = set()
        too_long: list[OutsideError] = []
        try:
            for kind in kinds:
                try:
                    streams |= self._request_expired(ANY, kind)
                except TooManyRecordsError as error:
                    too_long.append(error)
            if too_long and len(too_long) == len(kinds):
                raise too_long[0]
            for name in sorted({*names, *(each.currency for each in streams)} - self.listed_expired):
                streams |= self._request_expired(name)
        except OutsideError as error:
            if self.client.is_cancelled:
                raise
            self.is_certain, self.expired_error, self.has_failed = False, error, True
        else:
            self.expired, self.is_expired_new = sorted(streams.union(self.expired or ())), True
        return streams

    def _list_expired(self, currency: str) -> set[Stream]:
        """Streams of the expired instruments of a currency; the list of kinds is uncertain if it cannot be read."""
        try:
            streams = self._request_expired(currency)
        except OutsideError as error:
            if self.client.is_cancelled:
                raise
            self.is_certain, self.has_failed = False, True
            self.unlisted[currency] = error
            return set()
        self.listed_expired.add(currency)
        return streams

    def _request_expired(self, currency: str, kind: str | None = None) -> set[Stream]:
        client = self.client.with_retries(self._retry_s)
        try:
            expired = map(ListedInstrument.of, client.instruments(currency, expired=True, kind=kind))
            return {Stream(each.currency, each.kind) for each in expired if each.kind and not each.fault}
        except ExchangeRefusedError as error:
            # Only a host that does not know the kind or the currency shows that it has none of it.
            unknown = (None, "currency") if currency != ANY else ("kind",)
            if error.code != INVALID_PARAMS or error.param not in unknown:
                raise
            return set()

    @property
    def _retry_s(self) -> float:
        return 0.0 if self.has_failed else RETRY_S

    def _checked_kinds(self, existing: Sequence[Stream]) -> list[str]:
        """The selected kinds, by default all that exist; also the documented ones if a list cannot be read."""
        kinds = list(dict.fromkeys(each.kind for each in existing))
        if not self.is_certain or not kinds:
            kinds = list(dict.fromkeys([*KINDS, *kinds]))
        for kind in self.kinds:
            if kind not in kinds:
                raise UsageError(
                    f"--kind {kind!r} does not exist; the exchange has {', '.join(sorted(kinds))}."
                )
        return list(dict.fromkeys(self.kinds)) or kinds

    def _checked_currencies(self, offered: Sequence[str], existing: Sequence[Stream]) -> list[str]:
        known = list(dict.fromkeys([*offered, *(each.currency for each in existing)]))
        for currency in self.currencies:
            if currency not in known and (self.with_expired or not self._list_expired(currency)):
                if error := self.unlisted.get(currency):
                    raise error
                raise UsageError(
                    f"--currency {currency!r} does not exist; the exchange has {', '.join(sorted(offered))}."
                )
        return list(dict.fromkeys(self.currencies)) or known

    def _note_unusual(self, offered: Sequence[str], streams: Sequence[Stream]) -> None:
        for name in dict.fromkeys(stream.currency for stream in streams if stream.currency not in offered):
            self.notes.append(
                f"The exchange does not offer {name} any more: its trades are loaded up to the last one that it has."
            )
        noted = {*KINDS, *(each.kind for each in self.stored)}
        for kind in dict.fromkeys(each.kind for each in streams if each.kind not in noted):
            self.notes.append(f"The exchange lists a new kind of instrument, {kind}: its trades are loaded.")


def stream_of_instrument(client: DeribitClient, name: str, currency: str) -> Stream | None:
    """Stream of a traded instrument of `currency`, whether it has expired or not; None if neither host shows its kind.

    Raises OutsideError if a host does not answer.
    """
    for host in (client.history, client.live):
        try:
            each = ListedInstrument.of(client.instrument(host, name))
        except ExchangeRefusedError:
            continue
        if each.kind and not each.fault:
            return Stream(currency, each.kind)
    return None


def streams_of_instruments(
    client: DeribitClient, names: Iterable[tuple[str, str]]
) -> dict[tuple[str, str], Stream | None]:
    """`stream_of_instrument` by (currency, name); None also after a host did not answer."""
    streams: dict[tuple[str, str], Stream | None] = dict.fromkeys(names)
    for currency, name in list(streams)[:MAX_REQUESTED]:
        try:
            streams[currency, name] = stream_of_instrument(client, name, currency)
        except OutsideError:
            if client.is_cancelled:
                raise
            break
    return streams


def relist(universe: Universe, client: DeribitClient) -> Universe:
    """`universe` with the instruments that are live now."""
    return replace(universe, listed=_list_all(client))


def _list_all(client: DeribitClient, retry_s: float = RETRY_S) -> list[ListedInstrument] | None:
    """Live instruments of all currencies; None if the list cannot be read, so that each currency's is requested."""
    try:
        return list_live_instruments(client, ANY, retry_s=retry_s)
    except OutsideError:
        if client.is_cancelled:
            raise
        return None
