"""The exchange over HTTP: one question in, one decoded result out, whatever it took to get it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import httpx
import msgspec

from extract.deribit.config import DeribitConfig
from extract.deribit.envelope import INVALID_PARAMS, Envelope, ExchangeRefusedError, NoResultError, error_of
from extract.deribit.record import TradePage, decode_page
from extract.deribit.retry import RateLimiter, Retrier, RetryPolicy
from extract.deribit.transport import pooled_transport
from extract.errors import RetriableError

T = TypeVar("T")
Params = Mapping[str, "str | int"]

LIVE_PAGE_SIZE = 1_000
"""The live host refuses a larger count."""


@dataclass(frozen=True)
class Host:
    """One of the exchange's hosts. `page_size` shrinks when the host refuses a count."""

    name: str
    url: str


@dataclass
class Traffic:
    """What was asked so far, over all threads."""

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
        retrier: Retrier | None = None,
        limiter: RateLimiter | None = None,
    ) -> None:
        self.live = Host("live", config.api_url)
        self.history = Host("history", config.history_url)
        self.traffic = Traffic()
        self._page_sizes = {self.live: min(LIVE_PAGE_SIZE, config.page_size), self.history: config.page_size}
        self._limiter = limiter or RateLimiter(config.requests_per_second)
        self._retrier = retrier or Retrier(RetryPolicy(total_s=config.retry_total_s))
        self._lock = threading.Lock()
        self._http = httpx.Client(
            transport=transport or pooled_transport(config.requests_in_flight + 2),
            timeout=config.timeout_s,
            headers={"User-Agent": "deribit-tape"},
            limits=httpx.Limits(max_connections=config.requests_in_flight + 2),
        )

    def __enter__(self) -> DeribitClient:
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()

    def page_size(self, host: Host) -> int:
        """The largest page that `host` is known to take."""
        return self._page_sizes[host]

    def trades(self, host: Host, method: str, params: Params) -> TradePage:
        """A page of one of the get_last_trades_by_* endpoints; `params` without count."""
        while True:
            count = self._page_sizes[host]
            try:
                return self.call(host, method, {**params, "count": count}, decode_page)
            except ExchangeRefusedError as error:
                if error.code != INVALID_PARAMS or error.param != "count" or count <= LIVE_PAGE_SIZE:
                    raise
                self._page_sizes[host] = LIVE_PAGE_SIZE

    def result(self, host: Host, method: str, params: Params | None = None, type: type[Any] = Any) -> Any:
        """The result of any other public method, as `type`."""
        decoder = msgspec.json.Decoder(Envelope[type])
        return self.call(host, method, params or {}, lambda body: decoder.decode(body).unwrap())

    def now_ms(self) -> int:
        """The exchange's own clock. Gives up early: a run that cannot begin should say so at once."""
        greeting = replace(self._retrier, policy=RetryPolicy(attempts=4, total_s=20.0))
        decoder = msgspec.json.Decoder(Envelope[int])
        return greeting.run(
            lambda: self._once(self.live, "get_time", {}, lambda body: decoder.decode(body).unwrap())
        )

    def call(self, host: Host, method: str, params: Params, decode: Callable[[bytes], T]) -> T:
        """`decode` of the answer's body, tried again as long as that may help."""
        return self._retrier.run(lambda: self._once(host, method, params, decode), self._note_retry)

    def _once(self, host: Host, method: str, params: Params, decode: Callable[[bytes], T]) -> T:
        self._limiter.acquire()
        try:
            response = self._http.get(f"{host.url}/public/{method}", params=dict(params))
        except httpx.TransportError as error:
            fault = str(error) or type(error).__name__
            raise RetriableError(f"The exchange cannot be reached at {host.url}: {fault}") from error
        with self._lock:
            self.traffic.requests += 1
            self.traffic.bytes += response.num_bytes_downloaded
        if response.status_code == 200:
            try:
                return decode(response.content)
            except (NoResultError, msgspec.DecodeError):
                pass
        error = error_of(method, response.status_code, response.headers, response.content)
        if isinstance(error, RetriableError) and error.retry_after_s:
            self._limiter.pause(error.retry_after_s)
        raise error

    def _note_retry(self, wait_s: float) -> None:
        with self._lock:
            self.traffic.retries += 1
