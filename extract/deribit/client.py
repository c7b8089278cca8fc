"""HTTP client of the exchange: rate limit, retries, cancellation and decoding."""

from __future__ import annotations

import contextlib
import ipaddress
import math
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from copy import copy
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, TypeVar

import httpx
import msgspec

from extract.deribit.config import DeribitConfig
from extract.deribit.jsonrpc import (
    DECODE_ERRORS,
    INVALID_PARAMS,
    Envelope,
    ExchangeRefusedError,
    NoResultError,
    error_from_response,
)
from extract.deribit.rate_limit import RateLimiter
from extract.deribit.records import Record, TooManyRecordsError, decode_record, decode_records
from extract.deribit.schema import TradePage
from extract.deribit.streams import SPOT
from extract.deribit.transport.pool import PageDecoder
from extract.deribit.transport.pooled import (
    MAX_BYTES,
    WIRE_BYTES,
    AbortableTransport,
    AnswerTooLargeError,
    AnswerTooSlowError,
    PooledTransport,
)
from extract.deribit.transport.workers import Workers
from extract.errors import FinalError, RetriableError, UsageError
from extract.retry import Retrier, RetryPolicy

T = TypeVar("T")
Params = Mapping[str, "str | int"]
Decode = Callable[[httpx.Response], T]
Extensions = Mapping[str, Any]

CONNECT_POLICY = RetryPolicy(attempts=4, total_s=20.0)

LIVE_PAGE_SIZE = 1_000
"""The live host rejects a larger count."""
MAX_PAGE_BYTES = 16 * 2**20
"""A page of 10,000 trades has 3 MB; 16 MiB are 1,600 bytes a trade, more than a combo trade with its legs has."""
MAX_CURRENCIES = 10_000
"""Currencies in an answer, which bounds memory."""
MAX_LIVE = 50_000
"""Live instruments of a currency; all currencies together have 5,000."""
MAX_EXPIRED = 250_000
"""Expired instruments of a currency; BTC has 100,000."""
SANDBOX = "a sandbox on loopback"
"""Name of each exchange on loopback, whose clock may show any time."""
_SMALL: Extensions = {MAX_BYTES: MAX_PAGE_BYTES}
RECENT_S = 5.0
"""Age of an answer whose time is used instead of requesting the time."""
MAX_CLOCK_DIFFERENCE_MS = 10 * 60_000
"""Difference from a known time above which the time of an answer is not used."""
TAIL_BYTES = 200
"""End of an answer, in which the exchange sends its times."""
_US_IN = re.compile(rb'"usIn" ?: ?([0-9]{16})[,} ]')


@dataclass(frozen=True)
class Host:
    """One of the exchange's hosts. Credentials in its address are kept separately, so that no message shows them."""

    name: str
    url: str
    auth: httpx.BasicAuth | None = field(default=None, compare=False, repr=False)

    @classmethod
    def from_address(cls, name: str, address: str) -> Host:
        """Raises UsageError for a malformed address."""
        try:
            url, host = httpx.URL(address), httpx.URL(address).host
        except (httpx.InvalidURL, UnicodeError):  # a host name that is not valid Punycode
            url, host = httpx.URL(""), ""
        if not host:
            raise UsageError(f"The address of the exchange's {name} host in [sources.deribit] is not a URL.")
        auth = httpx.BasicAuth(url.username, url.password) if url.userinfo else None
        return cls(name, str(url.copy_with(userinfo=b"", query=None, fragment=None)).rstrip("/"), auth)


@dataclass
class RequestStats:
    """Counters of all threads; `bytes` as received over the wire."""

    requests: int = 0
    retries: int = 0
    bytes: int = 0


class DeribitClient:
    """Client of the live and the history host. Safe to use from several threads.

    `cut_rows`: numbers of rows, below the requested one, with which each host has cut a page. `pairs_of_base`: whether the
    trades of a spot pair that is listed under both currencies are sent under its base currency, where that is known.
    Its methods raise RetriableError after the last retry, and ExchangeRefusedError if the exchange rejects the request.
    `policy` applies unless a `retrier` is given; `connect_policy` bounds the retries of `now_ms` before the first answer.
    """

    def __init__(
        self,
        config: DeribitConfig,
        *,
        transport: httpx.BaseTransport | None = None,
        workers: Workers | None = None,
        policy: RetryPolicy | None = None,
        retrier: Retrier | None = None,
        limiter: RateLimiter | None = None,
        connect_policy: RetryPolicy = CONNECT_POLICY,
    ) -> None:
        self.live = Host.from_address("live", config.api_url)
        self.history = Host.from_address("history", config.history_url)
        self.exchange = _exchange_name(config.history_url)
        self.stats = RequestStats()
        self.cut_rows: dict[Host, set[int]] = {self.live: set(), self.history: set()}
        self.pairs_of_base: dict[str, bool] = {}
        self._page_sizes = {self.live: min(LIVE_PAGE_SIZE, config.page_size), self.history: config.page_size}
        self._cancelled = threading.Event()
        self._limiter = limiter or RateLimiter(config.requests_per_second, sleep=self._cancelled.wait)
        self._retrier = retrier or Retrier(
            policy or RetryPolicy(total_s=config.retry_total_s), sleep=self._cancelled.wait
        )
        self._connect_policy = connect_policy
        self._has_connected = False
        self._clock: tuple[int, float] | None = None
        self._last_answer: tuple[int | None, float] = (None, 0.0)
        self._lock = threading.Lock()
        self._pairs: dict[tuple[str, str], bool] = {}
        self._spot_lists: dict[str, bytes] = {}
        self._timeout_s = config.timeout_s
        self._is_late: Callable[[], bool] = lambda: False
        in_flight = config.requests_in_flight
        self._decoder = PageDecoder(workers)
        self._transport = transport or PooledTransport(in_flight)
        self._http = httpx.Client(
            transport=self._transport,
            headers={"User-Agent": "deribit-tape", "Accept-Encoding": "gzip"},
        )

    def __enter__(self) -> DeribitClient:
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()
        self._decoder.close()

    def cancel(self) -> None:
        """End all waits and requests under way; every thread raises FinalError. Safe in any thread."""
        self._cancelled.set()
        if isinstance(self._transport, AbortableTransport):
            self._transport.abort()
        self._decoder.close()

    @property
    def is_sandbox(self) -> bool:
        return self.exchange == SANDBOX

    def with_retries(
        self, total_s: float, *, timeout_s: float = math.inf, is_late: Callable[[], bool] = lambda: False
    ) -> DeribitClient:
        """This client, whose requests are retried for at most `total_s` seconds; cancelling one cancels both.

        `timeout_s`: at most as long each request waits for data of its answer. Once `is_late` returns True, each further
        request raises FinalError.
        """
        client = copy(self)
        client._is_late = is_late
        client._timeout_s = min(timeout_s, self._timeout_s)
        policy = self._retrier.policy
        client._retrier = replace(self._retrier, policy=replace(policy, total_s=min(total_s, policy.total_s)))
        return client

    @property
    def is_cancelled(self) -> bool:
        return self._cancelled.is_set()

    def require_answer(self, *hosts: Host) -> None:
        """Raise OutsideError if one of `hosts`, by default of both, answers no request at all; gives up early."""
        retrier = replace(self._retrier, policy=self._connect_policy)
        for host in hosts or (self.live, self.history):
            with contextlib.suppress(ExchangeRefusedError):
                retrier.run(partial(self._once, host, "get_time", {}, lambda answer: None), self._note_retry)

    def page_size(self, host: Host) -> int:
        """The largest `count` that `host` is known to accept."""
        return self._page_sizes[host]

    def trades(self, host: Host, method: str, params: Params) -> TradePage:
        """A page of a get_last_trades_by_* endpoint; `params` without count."""
        while True:
            count = self._page_sizes[host]
            try:
                page = self.call(host, method, {**params, "count": count}, self._decoder.decode)
            except ExchangeRefusedError as error:
                may_be_count = error.code == INVALID_PARAMS and error.param in (None, "count")
                if not may_be_count or count <= LIVE_PAGE_SIZE:
                    raise
                self._page_sizes[host] = LIVE_PAGE_SIZE
            else:
                page.count = count
                return page

    def result(self, host: Host, method: str, params: Params | None = None, type: Any = Any) -> Any:
        """The result of any other public method, as `type`."""
        decoder = msgspec.json.Decoder(Envelope[type])
        return self.call(host, method, params or {}, lambda body: decoder.decode(body).unwrap())

    def instruments(self, currency: str, *, expired: bool, kind: str | None = None) -> Iterator[Record]:
        """Records of get_instruments: of the live host, or expired ones of the history host.

        `currency` may be ANY. Also raises TooManyRecordsError, at once or while they are iterated over.
        """
        params = {"currency": currency, "expired": "true" if expired else "false"}
        params |= {"kind": kind} if kind else {}
        host, most = (self.history, MAX_EXPIRED) if expired else (self.live, MAX_LIVE)
        return self._retried(
            host, "get_instruments", params, lambda response: decode_records(response.content, most), {}
        )

    def currencies(self) -> Iterator[Record]:
        """Records of get_currencies. Also raises TooManyRecordsError, at once or while they are iterated over."""
        return self.call(self.live, "get_currencies", {}, lambda body: decode_records(body, MAX_CURRENCIES))

    def instrument(self, host: Host, name: str) -> Record:
        """The record of get_instrument."""
        return self.call(host, "get_instrument", {"instrument_name": name}, decode_record)

    def lists_pair(self, currency: str, name: str) -> bool:
        """Whether a spot pair is listed under a currency, live or expired.

        Lists are requested once for each currency, and once more for each pair that they lack.
        """
        pair, spelled = (currency, name), f'"{name}"'.encode()
        if pair not in self._pairs:
            listed = self._spot_lists.get(currency, b"")
            for expired in (False, True):
                if spelled not in listed:
                    with contextlib.suppress(
                        ExchangeRefusedError
                    ):  # a currency that the exchange does not know
                        records = self.instruments(currency, expired=expired, kind=SPOT)
                        listed += b"".join(each.text for each in records)
            self._pairs[pair], self._spot_lists[currency] = spelled in listed, listed
        return self._pairs[pair]

    def now_ms(self) -> int:
        """Time of the exchange in ms since 1970 UTC, from an answer that has just arrived, or else requested.

        Gives up early on the first request, to report an unreachable host.
        """
        at_ms, arrived_s = self._last_answer
        is_recent = time.monotonic() - arrived_s < RECENT_S
        if at_ms is not None and is_recent and self._is_plausible(at_ms, arrived_s):
            return at_ms
        decoder = msgspec.json.Decoder(Envelope[int])
        retrier = self._retrier
        if not self._has_connected:
            retrier = replace(retrier, policy=self._connect_policy)
        now_ms: int = retrier.run(
            lambda: self._once(
                self.live, "get_time", {}, lambda answer: decoder.decode(answer.content).unwrap()
            ),
            self._note_retry,
        )
        self._clock = (now_ms, time.monotonic())
        return now_ms

    def _is_plausible(self, at_ms: int, arrived_s: float) -> bool:
        """Whether the time of an answer agrees with the one that was requested last."""
        known_ms, known_s = self._clock or (at_ms, arrived_s)
        return abs(at_ms - known_ms - (arrived_s - known_s) * 1000) <= MAX_CLOCK_DIFFERENCE_MS

    def call(self, host: Host, method: str, params: Params, decode: Callable[[bytes], T]) -> T:
        """`decode` of the answer's body, with retries."""
        return self._retried(host, method, params, lambda answer: decode(answer.content))

    def _retried(
        self, host: Host, method: str, params: Params, decode: Decode[T], extensions: Extensions = _SMALL
    ) -> T:
        return self._retrier.run(
            lambda: self._once(host, method, params, decode, extensions), self._note_retry
        )

    def _once(
        self, host: Host, method: str, params: Params, decode: Decode[T], extensions: Extensions = _SMALL
    ) -> T:
        self._limiter.acquire()
        if self.is_cancelled:
            raise _cancelled(method)
        if self._is_late():
            raise FinalError(f"The answers to {method} took too long together; a later request begins again.")
        response = self._get(host, method, params, extensions)
        if response.status_code == 200:
            try:
                result = decode(response)
            except (NoResultError, *DECODE_ERRORS):
                pass
            else:
                self._has_connected = True
                if host is self.live:
                    self._last_answer = (_time_of(response.content), time.monotonic())
                return result
        error = error_from_response(method, response.status_code, response.headers, response.content)
        if isinstance(error, RetriableError) and error.retry_after_s:
            # A longer wait ends the run anyway; other threads do not have to wait as well.
            self._limiter.pause(min(error.retry_after_s, self._retrier.policy.total_s))
        raise error

    def _get(self, host: Host, method: str, params: Params, extensions: Extensions) -> httpx.Response:
        with self._lock:
            self.stats.requests += 1
        try:
            response = self._http.get(
                f"{host.url}/public/{method}",
                params=dict(params),
                auth=host.auth,
                timeout=self._timeout_s,
                extensions=dict(extensions),
            )
        except AnswerTooLargeError as error:
            raise TooManyRecordsError(f"{method} of {host.url} cannot be read: {error}.") from error
        except AnswerTooSlowError as error:
            if self.is_cancelled:
                raise _cancelled(method) from error
            raise RetriableError(f"{method} of {host.url} cannot be read: {error}") from error
        except httpx.RequestError as error:
            fault = str(error) or type(error).__name__
            raise RetriableError(f"The exchange cannot be reached at {host.url}: {fault}") from error
        with self._lock:
            self.stats.bytes += response.extensions.get(WIRE_BYTES, response.num_bytes_downloaded)
        # Ends the response's reference to itself, which would keep a page in memory until garbage collection.
        response.stream = httpx.ByteStream(b"")
        return response

    def _note_retry(self, wait_s: float) -> None:
        with self._lock:
            self.stats.retries += 1


def _time_of(body: bytes) -> int | None:
    """Time of an answer in ms since 1970 UTC, from the members that follow its result."""
    times = _US_IN.findall(body, max(0, len(body) - TAIL_BYTES))
    return int(times[-1]) // 1000 if times else None


def _cancelled(method: str) -> FinalError:
    return FinalError(f"{method} was cancelled because the run has ended.")


def _exchange_name(url: str) -> str:
    """Name of the exchange at an address: its host; all sandboxes on loopback have the same name."""
    host = httpx.URL(url).host
    try:
        is_loopback = ipaddress.ip_address(host).is_loopback
    except ValueError:
        is_loopback = host == "localhost"
    return SANDBOX if is_loopback else host
