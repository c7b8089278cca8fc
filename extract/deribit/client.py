"""The exchange over HTTP: one question in, one decoded result out, whatever it took to get it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import httpx
import msgspec

from extract.deribit.config import DeribitConfig
from extract.deribit.decode import decode_page
from extract.deribit.jsonrpc import (
    DECODE_ERRORS,
    INVALID_PARAMS,
    Envelope,
    ExchangeRefusedError,
    NoResultError,
    error_from_response,
)
from extract.deribit.rate_limit import RateLimiter
from extract.deribit.schema import TradePage
from extract.deribit.transport.pool import PAGE, WIRE_BYTES, page_transport
from extract.deribit.transport.workers import Workers
from extract.errors import FinalError, RetriableError, UsageError
from extract.retry import Retrier, RetryPolicy

T = TypeVar("T")
Params = Mapping[str, "str | int"]
Decode = Callable[[httpx.Response], T]
Extensions = Mapping[str, Any]
_NONE: Extensions = {}

LIVE_PAGE_SIZE = 1_000
"""The live host refuses a larger count."""


@dataclass(frozen=True)
class Host:
    """One of the exchange's hosts. A name and password in its address are kept apart: no message shows them."""

    name: str
    url: str
    auth: httpx.BasicAuth | None = field(default=None, compare=False, repr=False)

    @classmethod
    def at(cls, name: str, address: str) -> Host:
        try:
            url = httpx.URL(address)
        except httpx.InvalidURL:
            url = httpx.URL("")
        if not url.host:
            raise UsageError(f"The address of the exchange's {name} host in [sources.deribit] is no URL.")
        auth = httpx.BasicAuth(url.username, url.password) if url.userinfo else None
        return cls(name, str(url.copy_with(userinfo=b"", query=None, fragment=None)).rstrip("/"), auth)


@dataclass
class RequestStats:
    """What was asked so far, over all threads; `bytes` as they came over the wire."""

    requests: int = 0
    retries: int = 0
    bytes: int = 0


class DeribitClient:
    """A pooled client of both hosts. Safe to use from several threads.

    Raises RetriableError when the bounds of trying again are met, ExchangeRefusedError for a final no.
    """

    def __init__(
        self,
        config: DeribitConfig,
        *,
        transport: httpx.BaseTransport | None = None,
        workers: Workers | None = None,
        retrier: Retrier | None = None,
        limiter: RateLimiter | None = None,
    ) -> None:
        self.live = Host.at("live", config.api_url)
        self.history = Host.at("history", config.history_url)
        self.exchange = _exchange_name(config.history_url)
        self.stats = RequestStats()
        self._page_sizes = {self.live: min(LIVE_PAGE_SIZE, config.page_size), self.history: config.page_size}
        self._abandoned = threading.Event()
        self._limiter = limiter or RateLimiter(config.requests_per_second, sleep=self._abandoned.wait)
        self._retrier = retrier or Retrier(
            RetryPolicy(total_s=config.retry_total_s), sleep=self._abandoned.wait
        )
        self._has_connected = False
        self._lock = threading.Lock()
        self._http = httpx.Client(
            transport=transport or page_transport(config.requests_in_flight, workers),
            timeout=config.timeout_s,
            headers={"User-Agent": "deribit-tape"},
            limits=httpx.Limits(max_connections=config.requests_in_flight + 2),
        )

    def __enter__(self) -> DeribitClient:
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()

    def cancel(self) -> None:
        """Has every thread give up at its next step: what they are asked for is not wanted any more."""
        self._abandoned.set()

    def page_size(self, host: Host) -> int:
        """The largest page that `host` is known to take."""
        return self._page_sizes[host]

    def trades(self, host: Host, method: str, params: Params) -> TradePage:
        """A page of one of the get_last_trades_by_* endpoints; `params` without count."""
        while True:
            count = self._page_sizes[host]
            try:
                page = self._retried(host, method, {**params, "count": count}, _page_of, {PAGE: True})
            except ExchangeRefusedError as error:
                may_be_count = error.code == INVALID_PARAMS and error.param in (None, "count")
                if not may_be_count or count <= LIVE_PAGE_SIZE:
                    raise
                self._page_sizes[host] = LIVE_PAGE_SIZE
            else:
                page.count = count
                return page

    def result(self, host: Host, method: str, params: Params | None = None, type: type[Any] = Any) -> Any:
        """The result of any other public method, as `type`."""
        decoder = msgspec.json.Decoder(Envelope[type])
        return self.call(host, method, params or {}, lambda body: decoder.decode(body).unwrap())

    def now_ms(self) -> int:
        """The exchange's own clock. The first question of all gives up early: a run that cannot begin says so."""
        decoder = msgspec.json.Decoder(Envelope[int])
        retrier = self._retrier
        if not self._has_connected:
            retrier = replace(retrier, policy=RetryPolicy(attempts=4, total_s=20.0))
        return retrier.run(
            lambda: self._once(
                self.live, "get_time", {}, lambda answer: decoder.decode(answer.content).unwrap()
            ),
            self._note_retry,
        )

    def call(self, host: Host, method: str, params: Params, decode: Callable[[bytes], T]) -> T:
        """`decode` of the answer's body, tried again as long as that may help."""
        return self._retried(host, method, params, lambda answer: decode(answer.content))

    def _retried(
        self, host: Host, method: str, params: Params, decode: Decode[T], extensions: Extensions = _NONE
    ) -> T:
        return self._retrier.run(
            lambda: self._once(host, method, params, decode, extensions), self._note_retry
        )

    def _once(
        self, host: Host, method: str, params: Params, decode: Decode[T], extensions: Extensions = _NONE
    ) -> T:
        self._limiter.acquire()
        if self._abandoned.is_set():
            raise FinalError(f"{method} was given up: the run has ended.")
        response = self._get(host, method, params, extensions)
        if response.status_code == 200:
            try:
                result = decode(response)
            except (NoResultError, *DECODE_ERRORS):
                pass
            else:
                self._has_connected = True
                return result
        error = error_from_response(method, response.status_code, response.headers, response.content)
        if isinstance(error, RetriableError) and error.retry_after_s:
            # A wait too long for the retrier ends the run; nobody else need sit it out.
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
                extensions=dict(extensions),
            )
        except httpx.RequestError as error:
            fault = str(error) or type(error).__name__
            raise RetriableError(f"The exchange cannot be reached at {host.url}: {fault}") from error
        with self._lock:
            self.stats.bytes += response.extensions.get(WIRE_BYTES, response.num_bytes_downloaded)
        return response

    def _note_retry(self, wait_s: float) -> None:
        with self._lock:
            self.stats.retries += 1


def _page_of(answer: httpx.Response) -> TradePage:
    # Taken out of the answer, which is part of a cycle and would keep it until the collector comes.
    return answer.extensions.pop(PAGE, None) or decode_page(answer.content)


def _exchange_name(url: str) -> str:
    """Which exchange an address belongs to: its host; every sandbox on loopback counts as one."""
    host = httpx.URL(url).host
    return "a sandbox on loopback" if host in ("localhost", "127.0.0.1", "::1") else host
