"""The client: questions about the tape, each with a lazy result."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal, Protocol
from urllib.parse import quote

import pyarrow as pa
import pyarrow.compute as pc

from extract.client.coverage import Coverage
from extract.client.question import (
    FOREVER_MS,
    HOUR_MS,
    STATEMENTS,
    Question,
    Route,
    Subject,
    When,
    bounds_ms,
    now_ms,
    to_ms,
)
from extract.client.result import Answer, Result
from extract.errors import UsageError
from extract.times import bucket_end_ms, iso

Level = Literal["1m", "15m", "1h", "4h", "1d", "1w", "1mo"]
LEVELS = ("1m", "15m", "1h", "4h", "1d", "1w", "1mo")
LOOKBACK_HOURS = (48, 40 * 24)
"""How far before `at` the newest hour is searched for, and how far without an `at` if that has no rows.

The views compute each hour from its trades, so a longer time costs more.
"""


class Backend(Protocol):
    """Where answers come from. `sends_coverage`: whether the coverage comes with the rows."""

    sends_coverage: bool

    def read(self, question: Question) -> Answer:
        """All rows of the answer."""

    def prove(self, question: Question) -> Coverage:
        """The coverage of the answer."""

    def read_coverage(self) -> Answer:
        """A row per stream, as in `tape status`."""

    def read_gaps(self, currency: str, kind: str, instrument: str) -> Answer:
        """A row per range of missing trade_seq, as in `tape gaps`."""

    def close(self) -> None:
        """Close connections."""


class Tape:
    """A connection to the tape, from `connect()`. Each method returns a lazy `Result`; safe in any number of threads.

    Times (`since`, `until`, `at`) are aware datetimes, days, or text: 2026-01-31, 2026-01-31T08:00Z, or 7d for seven days
    before now. `since` is included, `until` excluded. Prices are in the quote currency (of inverse options: in coin),
    volumes in coin, implied volatility in percent a year.

    Methods raise UsageError for a question that is too large or wrong; results raise OutsideError if the server fails.
    """

    def __init__(self, backend: Backend, *, decimals: bool = False) -> None:
        self._backend = backend
        self._decimals = decimals

    def __enter__(self) -> Tape:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection."""
        self._backend.close()

    def trades(
        self,
        instruments: str | Sequence[str],
        since: When | None = None,
        until: When | None = None,
        *,
        limit: int | None = None,
        book_only: bool = False,
    ) -> Result:
        """Trades of one or more instruments, by instrument and trade_seq; the columns of `deribit.trades`.

        `limit`: only the newest trades of each instrument. `book_only`: without block trades and legs of combos.
        Example: tape.trades("BTC-PERPETUAL", since="1d").
        """
        names = _names(instruments)
        since_ms, until_ms = bounds_ms(f"trades of {names[0]}", since, until, limit)
        query = {**_time_query(since_ms, until_ms), "is_book": "true" if book_only else None}
        return self._result(
            Question(
                "trades",
                {"instruments": names, "since_ms": since_ms, "until_ms": until_ms, "book_only": book_only},
                [
                    Route(f"/v1/instruments/{quote(name, safe='')}/trades", query | _limited(limit))
                    for name in names
                ],
                Subject("instruments", tuple(names), since_ms, until_ms),
                _direction(limit),
                ("instrument_name", "trade_seq"),
            )
        )

    def candles(
        self,
        instruments: str | Sequence[str],
        level: Level = "1h",
        since: When | None = None,
        until: When | None = None,
        *,
        limit: int | None = None,
    ) -> Result:
        """Candles of one or more instruments, by instrument and bucket_at; the columns of `deribit.ohlcv_1h`.

        `level`: 1m, 15m, 1h, 4h, 1d, 1w (from Monday) or 1mo, in UTC. Only buckets with trades have a candle. `open` to
        `close` are of the whole tape, `book_open` to `book_close` of the order book alone. `limit`: only the newest candles
        of each instrument. Example: tape.candles("BTC-PERPETUAL", "1m", since="1d").
        """
        names = _names(instruments)
        if level not in LEVELS:
            raise UsageError(f"level {level!r} does not exist; choose of {', '.join(LEVELS)}.")
        since_ms, until_ms = bounds_ms(f"candles of {names[0]}", since, until, limit)
        # Without a start, the API answers the newest buckets only.
        query = {"level": level, **_time_query(since_ms, until_ms), "since": iso(since_ms), **_limited(limit)}
        return self._result(
            Question(
                "candles",
                {"instruments": names, "since_ms": since_ms, "until_ms": until_ms},
                [Route(f"/v1/instruments/{quote(name, safe='')}/candles", query) for name in names],
                Subject("instruments", tuple(names), since_ms, bucket_end_ms(level, until_ms - 1)),
                {"level": level, **_direction(limit)},
                ("instrument_name", "bucket_at"),
                "bucket_at" if isinstance(instruments, str) else None,
            )
        )

    def panel(
        self,
        instruments: Sequence[str],
        level: Level = "1h",
        since: When | None = None,
        until: When | None = None,
        *,
        column: str = "close",
        fill: bool = False,
    ) -> Result:
        """One column of the candles of several instruments side by side: a row per bucket, a column per instrument.

        A bucket in which an instrument was not traded is null, or with `fill` the value before it.
        Example: tape.panel(["BTC-PERPETUAL", "ETH-PERPETUAL"], "1d", since="90d").df().
        """
        names = _names(instruments)
        result = self.candles(names, level, since, until)
        return self._transformed(result, lambda table: _widen(table, names, column, fill), "bucket_at")

    def instruments(
        self, currency: str | None = None, kind: str | None = None, *, expired: bool | None = None
    ) -> Result:
        """Instruments that were listed or traded, by name; the columns of `deribit.instruments`.

        `currency`: the underlying coin. `expired`: only those that have expired, or only those that have not.
        """
        flag = "" if expired is None else str(expired).lower()
        return self._result(
            Question(
                "instruments",
                {"currency": currency or "", "kind": kind or "", "expired": flag, "now_ms": now_ms()},
                [Route("/v1/instruments", {"currency": currency, "kind": kind, "expired": flag or None})],
                Subject("everything"),
                order=("instrument_name",),
            )
        )

    def option_chain(self, currency: str, at: When | None = None) -> Result:
        """Options of a coin with their last trade before the end of an hour, its volatility and Greeks.

        The newest hour that begins at or before `at`, by default the newest of all; it has what was traded until its end, so
        a backtest takes the hour before. The columns of `deribit.option_chain_1h`: `price` and `model_price` are as the
        option is quoted (inverse: in coin), `option_value` is in the currency of the strike, `iv` in percent.
        """
        return self._at("option_chain", "chain", currency, at)

    def smile(self, currency: str, at: When | None = None) -> Result:
        """Implied volatility in percent by expiry and delta (-0.1, -0.25, 0.5, 0.25, 0.1) in one hour.

        The newest hour of the two days before `at`, by default of 40 days before the newest trade of an option; the columns
        of `deribit.iv_smile_1h`.
        """
        return self._at("smile", "smile", currency, at)

    def term_structure(self, currency: str, at: When | None = None) -> Result:
        """Implied volatility in percent by days to maturity in one hour, with risk reversal and butterfly.

        The newest hour of the two days before `at`, by default of 40 days before the newest trade of an option; the columns
        of `deribit.iv_tenors_1h`.
        """
        return self._at("term_structure", "term-structure", currency, at)

    def funding(
        self,
        instrument: str,
        level: Literal["1h", "1d"] = "1h",
        since: When | None = None,
        until: When | None = None,
    ) -> Result:
        """Funding of a perpetual: `interest_1h` as a fraction of the position (1h), or `funding` of the day (1d).

        The columns of `deribit.funding_1h` or `funding_1d`; positive if longs pay shorts.
        """
        since_ms, until_ms = bounds_ms(f"funding of {instrument}", since, until)
        index = {"1h": "timestamp", "1d": "day"}.get(level)
        if index is None:
            raise UsageError(f"level {level!r} of funding does not exist; choose of 1h, 1d.")
        return self._of_instrument(
            "funding", "funding_rates", instrument, since_ms, until_ms, {"level": level, "time": index}, index
        )

    def settlements(self, instrument: str, since: When | None = None, until: When | None = None) -> Result:
        """Daily settlements, deliveries and bankruptcies of an instrument; the columns of `deribit.settlements`."""
        since_ms, until_ms = bounds_ms(f"settlements of {instrument}", since, until)
        return self._of_instrument("settlements", "settlements", instrument, since_ms, until_ms, {}, None)

    def outcomes(self, currency: str, since: When | None = None, until: When | None = None) -> Result:
        """Options of a coin that expired between `since` and `until`: delivery price, payoff, premium of the takers.

        The columns of `deribit.option_outcomes`; `payoff` is per unit, in the settlement currency.
        """
        since_ms, until_ms = bounds_ms(f"outcomes of {currency}", since, until)
        return self._result(
            Question(
                "outcomes",
                {"currency": currency, "since_ms": since_ms, "until_ms": until_ms},
                [Route(f"/v1/outcomes/{quote(currency, safe='')}", _time_query(since_ms, until_ms))],
                Subject("outcomes", (currency,), since_ms, until_ms),
                order=("expires_at", "instrument_name"),
            )
        )

    def coverage(self) -> Result:
        """What is loaded, missing and absent of each currency and kind: a row per stream, as in `tape status`."""
        everything = Question("streams", {}, [], Subject("everything"))
        return self._special(self._backend.read_coverage, everything)

    def gaps(
        self, currency: str | None = None, kind: str | None = None, instrument: str | None = None
    ) -> Result:
        """Missing trade_seq: a row per range, both ends included, as in `tape gaps`.

        `where`: head, inner or tail; `known_absent`: the exchange does not have them.
        """
        names = (instrument,) if instrument else ()
        question = Question("streams", {}, [], Subject("instruments" if names else "everything", names))
        return self._special(
            lambda: self._backend.read_gaps(currency or "", kind or "", instrument or ""), question
        )

    def _at(self, statement: str, route: str, currency: str, at: When | None) -> Result:
        at_ms = now_ms() if at is None else to_ms(at, "at")
        query = {"at": None if at is None else iso(at_ms)}
        hour_ms = at_ms - at_ms % HOUR_MS
        narrow, wide = ({"hours": hours} for hours in LOOKBACK_HOURS)
        return self._result(
            Question(
                statement,
                {"currency": currency, "at_ms": at_ms, **narrow},
                [Route(f"/v1/volatility/{quote(currency, safe='')}/{route}", query, has_pages=False)],
                Subject("hour", (currency,), hour_ms - narrow["hours"] * HOUR_MS, hour_ms + HOUR_MS),
                {"recent_hours": STATEMENTS["recent_hours"]},
                wider=wide if at is None else {},
            )
        )

    def _of_instrument(
        self,
        statement: str,
        series: str,
        instrument: str,
        since_ms: int,
        until_ms: int,
        texts: dict[str, str],
        index: str | None,
    ) -> Result:
        query = {"level": texts.get("level"), **_time_query(since_ms, until_ms)}
        return self._result(
            Question(
                statement,
                {"instrument": instrument, "since_ms": since_ms, "until_ms": until_ms},
                [Route(f"/v1/instruments/{quote(instrument, safe='')}/{statement}", query)],
                Subject("series", (instrument,), since_ms, until_ms, series),
                texts,
                index=index,
            )
        )

    def _result(self, question: Question) -> Result:
        return Result(
            lambda: self._backend.read(question),
            self._prover(question),
            question.text,
            decimals=self._decimals,
            index=question.index,
        )

    def _special(self, read: Callable[[], Answer], question: Question) -> Result:
        return Result(read, self._prover(question), question.text, decimals=self._decimals)

    def _prover(self, question: Question) -> Callable[[], Coverage] | None:
        return None if self._backend.sends_coverage else lambda: self._backend.prove(question)

    def _transformed(self, result: Result, transform: Callable[[pa.Table], pa.Table], index: str) -> Result:
        return Result(
            lambda: result._answer,
            lambda: result.coverage,
            result.sql(),
            decimals=self._decimals,
            index=index,
            transform=transform,
        )


def _names(instruments: str | Sequence[str]) -> list[str]:
    names = [instruments] if isinstance(instruments, str) else list(dict.fromkeys(instruments))
    if not names:
        raise UsageError("No instrument is named; list some by tape.instruments(currency, kind).")
    return names


def _time_query(since_ms: int, until_ms: int) -> dict[str, Any]:
    return {
        "since": iso(since_ms) if since_ms else None,
        "until": iso(until_ms) if until_ms < FOREVER_MS else None,
    }


def _limited(limit: int | None) -> dict[str, Any]:
    return {} if limit is None else {"limit": limit, "order": "desc"}


def _direction(limit: int | None) -> dict[str, str]:
    """Texts of a statement whose newest rows are needed only."""
    if limit is None:
        return {"direction": "", "limit": ""}
    if limit < 1:
        raise UsageError(f"limit {limit} is not at least 1.")
    return {"direction": "desc", "limit": f"limit {limit} by instrument_name"}


def _widen(table: pa.Table, names: Sequence[str], column: str, fill: bool) -> pa.Table:
    """Candles with a column per instrument, by bucket_at."""
    if column not in table.column_names:
        raise UsageError(f"Candles have no column {column!r}; choose of {', '.join(table.column_names[4:])}.")
    buckets = pc.unique(table["bucket_at"]).sort()
    columns = {"bucket_at": buckets}
    for name in names:
        own = table.filter(pc.equal(table["instrument_name"], name))
        values = own[column].take(pc.index_in(buckets, value_set=own["bucket_at"]))
        columns[name] = pc.fill_null_forward(values) if fill else values
    return pa.table(columns)
