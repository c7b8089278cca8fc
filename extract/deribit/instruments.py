"""Fetch instruments that are new or have changed, as rows of `deribit_raw.instruments`."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any, NamedTuple

import msgspec

from extract.deribit.client import DeribitClient
from extract.deribit.config import KINDS
from extract.deribit.instrument_names import contradicts_kind
from extract.deribit.instrument_schema import COLUMNS, TIME_COLUMNS
from extract.deribit.jsonrpc import DECODE_ERRORS, ExchangeRefusedError
from extract.deribit.records import Record
from extract.deribit.schema import Int64, RejectedTrade, TimeMs
from extract.deribit.streams import ANY, SPOT, Stream, is_currency
from extract.errors import OutsideError, RetriableError, TapeError
from extract.retry import next_attempt_ms

PERPETUAL = "-PERPETUAL"
"""End of the name of a future that never expires."""
REJECTED = "rejected "
"""Beginning of the name of a record that has none."""
MAX_REQUESTED = 300
"""Instruments to request by name at once; more expired ones are taken from the list of all."""
RETRY_S = 20.0
"""How long a list or an instrument is requested, because new trades wait for it. The next run tries again."""
TIMEOUT_S = 10.0
"""Seconds to wait for data of a list of live instruments, or of an instrument."""
MAX_UNANSWERED = 3
"""Lists, or instruments of a currency, without an answer to the last retry, after which no further one is requested."""
CURRENCIES = "currencies"
"""Name of the state that has the rejected records of currencies; a stream's name has a space."""
EXPIRED = "expired"
"""Name of the state that has the streams of the expired instruments of all currencies, and when they were listed.

Selected currencies follow it after commas."""
MAX_CURRENCY_CHARS = 50
LONGEST_WAIT_MS = 86_400_000
"""The longest time between two requests for an instrument that the history host does not show as expired."""
FORGET_MS = 7 * 86_400_000
"""Time after which an instrument is no longer requested that the history host does not show as expired."""

LoadedRows = Callable[[Stream], Mapping[str, Mapping[str, Any]]]
"""Returns the newest loaded rows of a stream's instruments that were live in them, by name."""

_TYPES = {"String": str, "Int64": Int64, "Float64": float, "DateTime64": TimeMs, "Bool": bool}
_COLUMN_TYPES = {
    name: next(python for type_, python in _TYPES.items() if type_ in column)
    for name, column in COLUMNS.items()
    if name not in ("currency", "extra")
}


def to_row(record: dict[str, Any], currency: str) -> dict[str, Any]:
    """One row of `deribit_raw.instruments` from an API record with an `instrument_name`.

    Unknown fields, and values that do not fit their column, are stored in `extra`.
    """
    row: dict[str, Any] = dict.fromkeys(COLUMNS)
    extra = {}
    for name, value in record.items():
        try:
            row[name] = None if value is None else msgspec.convert(value, _COLUMN_TYPES[name])
        except (KeyError, msgspec.ValidationError, OverflowError):
            extra[name] = value
    for name in TIME_COLUMNS:
        if row[name] is not None:
            row[name] = datetime.fromtimestamp(row[name] / 1000, UTC)
    row["currency"] = currency
    row["extra"] = msgspec.json.encode(extra).decode() if extra else None
    return row


def row_checksum(row: Mapping[str, Any]) -> int:
    """Checksum of a row, the same before it is loaded and after."""
    values = (row[name] for name in COLUMNS)
    plain = [round(each.timestamp() * 1000) if isinstance(each, datetime) else each for each in values]
    return zlib.crc32(msgspec.json.encode(plain))


@dataclass
class InstrumentsReport:
    """Result of listing instruments. `rejected` records are those of this listing.

    `set_aside`: the currencies whose instruments could not be listed, or not all be requested by name, with the reason;
    they are not requested again.
    `vanished`: instruments that are neither listed nor known to the history host as expired: for a week, or, of those that
    never expire, at once.
    """

    rejected: list[tuple[Stream, RejectedTrade]] = field(default_factory=list)
    set_aside: dict[str, TapeError] = field(default_factory=dict)
    vanished: list[str] = field(default_factory=list)
    is_done: bool = False


def changed_instruments(
    client: DeribitClient,
    streams: Iterable[Stream],
    known: dict[str, Any],
    now_ms: int,
    report: InstrumentsReport,
    *,
    listed: Sequence[ListedInstrument] | None = None,
    traded: Mapping[Stream, Iterable[str]] = MappingProxyType({}),
    loaded_rows: LoadedRows | None = None,
    odd_currencies: Sequence[RejectedTrade] = (),
) -> Iterator[dict[str, Any]]:
    """Yield rows of instruments that are new or have changed since the last time; updates `known` and `report`.

    `known` holds, by stream, a checksum of each live instrument, when the expired ones were listed, and since when an
    instrument is gone that the history host does not show as expired yet: it is requested after waits that grow. With
    `loaded_rows`, one checksum of the whole list replaces those of its instruments, and a list that differs is compared
    with the loaded rows.

    Expired instruments do not change: all are listed the first time, and later each is requested by name once it is no
    longer live, or if its name is in `traded` and was never listed. The names in `traded`, by stream, stay in `known` until
    the next list of their stream that can be read. `listed`: the live instruments of all currencies. `odd_currencies`:
    records of currencies that cannot be read; each is rejected once.

    A currency whose list cannot be read is set aside. So is one of whose expired instruments one cannot be requested: that
    waits for the next run, and the others give their rows. After that, each other list or instrument is requested once,
    without retries. Raises OutsideError if the exchange answers no request at all.
    """
    report.rejected, report.is_done, is_first = _reject_once(odd_currencies, known), False, True
    _remember_traded(traded, known, now_ms)
    unanswered: list[OutsideError] = []
    for currency, kinds in _kinds_of(streams).items():
        if len(unanswered) >= MAX_UNANSWERED:
            report.set_aside.setdefault(currency, unanswered[-1])
        if currency in report.set_aside:
            continue
        part = _CurrencyListing(client, currency, kinds, known, now_ms, report, is_first, loaded_rows)
        is_first = False
        try:
            yield from part.rows(listed)
        except OutsideError as error:
            if client.is_cancelled:
                break
            if isinstance(error, RetriableError):
                client.require_answer()
                unanswered.append(error)
            report.set_aside[currency] = error
        else:
            known.update(part.states)
    report.is_done = True


def _remember_traded(traded: Mapping[Stream, Iterable[str]], known: dict[str, Any], now_ms: int) -> None:
    """Count traded instruments as gone until a list shows that they are live. Before the first one, every one is new."""
    for stream, names in traded.items():
        if state := known.get(str(stream)):
            new = {name: [*_Gone(now_ms)] for name in names}
            state |= {"gone": new | state.get("gone", {})} if new else {}


def _reject_once(
    records: Iterable[RejectedTrade], known: dict[str, Any]
) -> list[tuple[Stream, RejectedTrade]]:
    """The records of currencies that were not rejected before; updates `known`."""
    by_name = {f"{REJECTED}{zlib.crc32(each.raw.encode())}": each for each in records}
    before = known.pop(CURRENCIES, {}).get("rejected", ())
    if by_name:
        known[CURRENCIES] = {"asked_ms": 0, "rejected": sorted(by_name)}
    return [(Stream(ANY, ANY), each) for name, each in by_name.items() if name not in before]


class _Gone(NamedTuple):
    """Since when an instrument is gone that history does not show as expired, and when it is requested again, in ms."""

    since_ms: int
    again_ms: int = 0

    @classmethod
    def read(cls, stored: int | Sequence[int]) -> _Gone:
        """Earlier versions stored only the first of both."""
        return cls(stored) if isinstance(stored, int) else cls(*stored)

    def is_over(self, now_ms: int) -> bool:
        return now_ms - self.since_ms >= FORGET_MS

    def is_due(self, now_ms: int) -> bool:
        return now_ms >= self.again_ms or self.is_over(now_ms)

    def after(self, now_ms: int) -> _Gone:
        """After an answer that did not show it as expired."""
        return _Gone(self.since_ms, next_attempt_ms(self.since_ms, now_ms, longest_ms=LONGEST_WAIT_MS))


@dataclass
class _CurrencyListing:
    """Lists the instruments of one currency; `states` then has what `known` becomes.

    Records of a list of all currencies that cannot be read count as those of the first one. `unanswered`: instruments that
    could not be requested by name.
    """

    client: DeribitClient
    currency: str
    kinds: list[str]
    known: dict[str, Any]
    now_ms: int
    report: InstrumentsReport
    is_first: bool
    loaded_rows: LoadedRows | None
    states: dict[str, Any] = field(default_factory=dict)
    unanswered: set[str] = field(default_factory=set)

    def rows(self, listed: Sequence[ListedInstrument] | None) -> Iterator[dict[str, Any]]:
        if listed is None:
            listed = list_live_instruments(self.client, self.currency, retry_s=self._retry_s)
        else:
            listed = [
                each for each in listed if each.currency == self.currency or (each.fault and self.is_first)
            ]
        live: dict[str, dict[str, ListedInstrument]] = {kind: {} for kind in self.kinds}
        for each in listed:
            if each.kind in live or each.fault:
                live[each.kind if each.kind in live else self.kinds[0]][each.name] = each
        gone: dict[str, set[str]] = {}
        for kind in self.kinds:
            changed, gone[kind] = self._compare(Stream(self.currency, kind), live[kind])
            for each in changed:
                yield from self._row(kind, each)
        yield from self._expired_rows()
        for kind in self.kinds:
            yield from self._gone_rows(kind, gone[kind] - live[kind].keys(), live[kind])

    def _compare(
        self, stream: Stream, live: Mapping[str, ListedInstrument]
    ) -> tuple[list[ListedInstrument], set[str]]:
        """(new and changed instruments, names that are no longer live) of a stream; sets its state."""
        before = self.known.get(str(stream), {})
        state = self.states[str(stream)] = {"asked_ms": before.get("asked_ms", 0)}
        if self.loaded_rows is None:
            state["live"] = {name: each.checksum() for name, each in live.items()}
            known = before.get("live", {})
            changed = [each for name, each in live.items() if known.get(name) != state["live"][name]]
            return changed, {name for name in known if not name.startswith(REJECTED)}
        state["checksum"] = zlib.crc32(b"\n".join(sorted(each.text for each in live.values())))
        if state["checksum"] == before.get("checksum"):
            state |= {"rejected": before["rejected"]} if "rejected" in before else {}
            return [], set()
        rows = {name: row_checksum(row) for name, row in self.loaded_rows(stream).items()}
        changed, rejected = [], set()
        for name, each in live.items():
            checksum = self._row_checksum(each)
            if checksum is None:
                rejected.add(each.rejected_name)
                is_changed = each.rejected_name not in before.get("rejected", ())
            else:
                is_changed = rows.get(name) != checksum
            changed += [each] * is_changed
        if rejected:
            state["rejected"] = sorted(rejected)
        return changed, set(rows)

    def _row_checksum(self, each: ListedInstrument) -> int | None:
        """Checksum of the row of an instrument; None if its record cannot be read."""
        if not each.fault:
            with suppress(*DECODE_ERRORS):
                return row_checksum(to_row(msgspec.json.decode(each.text), self.currency))
        return None

    def _expired_rows(self) -> Iterator[dict[str, Any]]:
        """All expired instruments of kinds that were never listed."""
        new = {kind for kind in self.kinds if not self._state(kind)["asked_ms"]}
        if not new:
            return
        for record in self._patient.instruments(self.currency, expired=True):
            each = ListedInstrument.of(record)
            if each.kind == SPOT and each.currency != self.currency:
                continue  # a pair that is listed under both of its currencies
            if each.kind in new:
                yield from self._row(each.kind, each)
            elif each.fault and self.kinds[0] in new:
                yield from self._row(self.kinds[0], each)
        for kind in new:
            self._state(kind)["asked_ms"] = self.now_ms

    def _gone_rows(self, kind: str, names: Iterable[str], live: Collection[str]) -> Iterator[dict[str, Any]]:
        """Expired instruments among `names`, and among those that history did not show as expired before."""
        state, before = self._state(kind), self.known.get(str(Stream(self.currency, kind)), {})
        waiting = {
            name: _Gone.read(each) for name, each in before.get("gone", {}).items() if name not in live
        }
        gone = {name: _Gone(self.now_ms) for name in names} | waiting
        requested = {name: each for name, each in gone.items() if each.is_due(self.now_ms)}
        expired = self._request_all(requested) if requested else {}
        for each in expired.values():
            yield from self._row(kind, each)
        answered = requested.keys() - expired.keys() - self.unanswered
        vanished = {name for name in answered if gone[name].is_over(self.now_ms)}
        # Nothing is late about one that never expires: it has another name, or was delisted.
        renamed = {name for name in answered - waiting.keys() if kind == SPOT or name.endswith(PERPETUAL)}
        self.report.vanished += sorted(vanished | renamed)
        after = {
            name: [*(each.after(self.now_ms) if name in answered else each)]
            for name, each in gone.items()
            if name not in vanished | expired.keys()
        }
        if after:
            state["gone"] = after

    def _request_all(self, names: Collection[str]) -> dict[str, ListedInstrument]:
        """The expired instruments among `names`, by name; many are taken from the list, a few are requested by name."""
        if len(names) > MAX_REQUESTED:
            expired = map(ListedInstrument.of, self._patient.instruments(self.currency, expired=True))
            return {each.name: each for each in expired if each.name in names}
        requested = ((name, self._request(name)) for name in names)
        return {name: each for name, each in requested if each is not None}

    def _request(self, name: str) -> ListedInstrument | None:
        """The expired instrument; None while the history host does not know it, or shows it as live.

        Also None without an answer that can be used, which sets the currency aside, and after MAX_UNANSWERED of those.
        """
        if len(self.unanswered) >= MAX_UNANSWERED:
            self.unanswered.add(name)
            return None
        client = self.client.with_retries(self._retry_s, timeout_s=TIMEOUT_S)
        try:
            each = ListedInstrument.of(client.instrument(client.history, name))
        except ExchangeRefusedError:
            return None
        except OutsideError as error:
            if client.is_cancelled:
                raise
            if isinstance(error, RetriableError):
                client.require_answer()
            self.unanswered.add(name)
            self.report.set_aside.setdefault(self.currency, error)
            return None
        return each if each.fault or not each.is_active else None

    @property
    def _retry_s(self) -> float:
        """How long a request is retried: not at all once anything was not answered, because other ones failed before."""
        return 0.0 if self.report.set_aside else RETRY_S

    @property
    def _patient(self) -> DeribitClient:
        """A client for the list of expired instruments, for which the exchange may take some time."""
        return self.client.with_retries(self._retry_s)

    def _state(self, kind: str) -> dict[str, Any]:
        state: dict[str, Any] = self.states[str(Stream(self.currency, kind))]
        return state

    def _row(self, kind: str, each: ListedInstrument) -> Iterator[dict[str, Any]]:
        fault = each.fault
        if not fault:
            try:
                yield to_row(msgspec.json.decode(each.text), self.currency)
                return
            except DECODE_ERRORS as error:
                fault = str(error)
        raw = each.text.decode("utf-8", "replace")
        self.report.rejected.append(
            (Stream(self.currency, kind), RejectedTrade(f"not an instrument: {fault}", raw))
        )


class _Identity(msgspec.Struct):
    instrument_name: Any = None
    kind: Any = None
    is_active: Any = None
    settlement_currency: Any = None
    base_currency: Any = None


_identity_decoder = msgspec.json.Decoder(_Identity)


@dataclass(frozen=True, eq=False)
class ListedInstrument:
    """A record of the list, decoded only as far as it is needed there.

    A record that has a `fault` is named by its checksum, so that it is rejected once. Its `kind` and `currency` are empty
    where it does not show them. `currency` selects the instrument's trades in a request.
    """

    name: str
    kind: str
    currency: str
    is_active: bool
    text: bytes
    fault: str | None = None

    @classmethod
    def of(cls, record: Record) -> ListedInstrument:
        fault, known = record.fault, _Identity()
        if not fault:
            try:
                record.text.decode()
                known = _identity_decoder.decode(record.text)
            except DECODE_ERRORS as error:
                fault = str(error)
        if not fault and not (isinstance(known.instrument_name, str) and known.instrument_name):
            fault = "it has no name"
        if not fault and not (isinstance(known.kind, str) and known.kind):
            fault = "it has no kind"
        if not fault and known.kind in KINDS and contradicts_kind(known.instrument_name, known.kind):
            fault = f"by its name it is no {known.kind}"
        currency = _currency_of(known)
        if not fault and not is_currency(currency):
            fault = f"an instrument of a currency {currency[:MAX_CURRENCY_CHARS]!r}"
        return cls(
            f"{REJECTED}{zlib.crc32(record.sent)}" if fault else known.instrument_name,
            known.kind if isinstance(known.kind, str) else "",
            currency,
            known.is_active is not False,
            record.sent if fault else record.text,
            fault,
        )

    @property
    def rejected_name(self) -> str:
        """Name of the record if it is rejected, also because of a field that the list does not need."""
        return self.name if self.fault else f"{REJECTED}{zlib.crc32(self.text)}"

    def checksum(self) -> int:
        """Checksum of the content, independent of its spelling in JSON."""
        if not self.fault:
            with suppress(*DECODE_ERRORS):
                return zlib.crc32(msgspec.json.encode(msgspec.json.decode(self.text), order="sorted"))
        return zlib.crc32(self.text)


def _currency_of(known: _Identity) -> str:
    """Settlement currency, or the base currency of a spot pair, which has none; from the name if neither is sent."""
    for each in (known.settlement_currency, known.base_currency):
        if isinstance(each, str) and each:
            return each
    if not isinstance(known.instrument_name, str):
        return ""
    pair, dash, _ = known.instrument_name.partition("-")
    base, _, quote = pair.partition("_")
    return quote if dash and quote else base


def list_live_instruments(
    client: DeribitClient, currency: str, *, retry_s: float = RETRY_S
) -> list[ListedInstrument]:
    """The live instruments of a currency, or of ANY."""
    impatient = client.with_retries(retry_s, timeout_s=TIMEOUT_S)
    return [ListedInstrument.of(record) for record in impatient.instruments(currency, expired=False)]


def merge_known(one: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    """Merge `known` of two loaders whose rows are in one database, with which the next list is compared."""
    both: dict[str, Any] = {}
    for stream in one.keys() | other.keys():
        first, second = one.get(stream) or other[stream], other.get(stream) or one[stream]
        if first == second:
            both[stream] = first
            continue
        both[stream] = {"asked_ms": max(first["asked_ms"], second["asked_ms"])}
        if gone := {**first.get("gone", {}), **second.get("gone", {})}:
            both[stream]["gone"] = gone
        if rejected := {*first.get("rejected", ()), *second.get("rejected", ())}:
            both[stream]["rejected"] = sorted(rejected)
        if streams := {*first.get("streams", ()), *second.get("streams", ())}:
            both[stream]["streams"] = sorted(streams)
    return both


def _kinds_of(streams: Iterable[Stream]) -> dict[str, list[str]]:
    kinds: dict[str, list[str]] = {}
    for stream in streams:
        kinds.setdefault(stream.currency, []).append(stream.kind)
    return kinds
