"""HTTP server of the sandbox exchange: serves a tape on loopback, as live host and as history host."""

from __future__ import annotations

import errno
import json
import threading
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import replace
from itertools import count
from time import perf_counter_ns
from typing import Any, NamedTuple
from urllib.parse import parse_qsl

from extract.errors import FinalError
from extract.sandbox.endpoints import HISTORY, LIVE, Endpoints, Host
from extract.sandbox.faults import API_ERRORS, Faults
from extract.sandbox.http import Reply, Server
from extract.sandbox.params import ApiError
from extract.sandbox.series import SeriesData
from extract.sandbox.tape import Record, Tape
from extract.sandbox.trade_index import ExchangeData
from extract.sandbox.traps import Traps

REMEMBERED_REQUESTS = 50_000
POLL_S = 0.05  # time between two checks for `stop`
_HTML = b"<html><title>Please wait</title><body><h1>Service Temporarily Unavailable</h1></body></html>"


class Request(NamedTuple):
    """A request that was handled; `status` is 0 if the connection was reset."""

    path: str
    params: dict[str, str]
    status: int


class SandboxExchange:
    """Serves `tape` on 127.0.0.1 from `start()` to `stop()`, or as a context manager.

    `quirks`   imitate Deribit: unordered pages, incomplete trade_seq ranges, unreliable has_more
    `faults`   errors to inject, as `extract.sandbox.faults` describes: a text, or Faults
    `clock`    the exchange's time in ms, a number or a callable; by default one second after the last trade.
               Trades later than this are hidden. Can be set later through `now_ms`.
    `history_lag_ms`  delay of the history host behind the live host
    `extend`   returns further trades, if any are needed for the exchange's time in ms to be reached
    """

    def __init__(
        self,
        tape: Tape,
        *,
        port: int = 0,
        quirks: bool = True,
        faults: Faults | str | None = None,
        clock: Callable[[], int] | int | None = None,
        history_lag_ms: int = 0,
        extend: Callable[[int], list[Record]] | None = None,
    ) -> None:
        self.quirks = quirks
        self.faults = Faults.parse(faults)
        self.history_lag_ms = history_lag_ms
        self.requests: deque[Request] = deque(maxlen=REMEMBERED_REQUESTS)
        self.port = port
        self._data = ExchangeData(tape)
        self._series = SeriesData(self._data)
        self._traps = Traps()
        last_ms = max((trade["timestamp"] for trade in tape.trades), default=0)
        self._clock = last_ms + 1000 if clock is None else clock
        self._extend = extend
        self._request_numbers = count(1)
        self._lock = threading.Lock()
        self._server: Server | None = None

    @property
    def url(self) -> str:
        """Base URL of the live host: up to 1,000 trades a page, the last 24 hours."""
        return f"http://127.0.0.1:{self.port}{LIVE.path}"

    @property
    def history_url(self) -> str:
        """Base URL of the history host: up to 10,000 trades a page, all time."""
        return f"http://127.0.0.1:{self.port}{HISTORY.path}"

    @property
    def now_ms(self) -> int:
        return self._clock() if callable(self._clock) else self._clock

    @now_ms.setter
    def now_ms(self, now_ms: int) -> None:
        self._clock = now_ms

    def add(self, records: Iterable[Record]) -> None:
        """Add trades, with any timestamp; new instruments are derived from their names."""
        with self._lock:
            self._data.put(records)

    def restate(self, instrument_name: str, trade_seq: int, **changes: Any) -> Record:
        """Change a trade and return its new record. Raises KeyError for an unknown trade."""
        with self._lock:
            return self._data.restate(instrument_name, trade_seq, changes)

    def restate_series(self, series: str, key: str, time: int | str, **changes: Any) -> None:
        """Change the row of a series at a time in ms, or at a date; without changes, remove it.

        `key` is the perpetual of funding_rates, the index of delivery_prices, the currency of the other series.
        """
        with self._lock:
            self._series.restate(series, key, time, changes or None)

    def alter_bar(self, instrument_name: str, resolution: str, at_ms: int, **changes: float) -> None:
        """Change columns of one bar of `get_tradingview_chart_data`; without changes, restore it."""
        with self._lock:
            self._traps.bars[instrument_name, resolution, at_ms] = changes

    def series(self, name: str, *key: Any) -> list[Any]:
        """All rows of a series until now, as the exchange would report them without traps.

        `key` as in `restate_series`; of volatility_index followed by the step in ms.
        """
        with self._lock:
            rows: list[Any] = getattr(self._series, name)(*key, self.now_ms)
            return rows

    def forget(self, instrument_name: str, seqs: Iterable[int]) -> None:
        """Delete these trades. Raises KeyError for an unknown one."""
        with self._lock:
            self._data.forget(instrument_name, seqs)

    def records(self) -> list[Record]:
        """All current trades, including those later than `now_ms`: the truth that tests compare with."""
        with self._lock:
            return self._data.records()

    def start(self) -> SandboxExchange:
        """Start listening and return once requests are served. Raises FinalError if the port cannot be used."""
        if self._server is not None:
            return self
        try:
            self._server = Server(self.port, self._respond)
        except OSError as error:
            if error.errno not in (errno.EADDRINUSE, errno.EACCES):
                raise
            reason = "in use" if error.errno == errno.EADDRINUSE else "not permitted"
            raise FinalError(
                f"Port {self.port} is {reason}; choose a free one with: tape sandbox --port 0"
            ) from error
        self.port = self._server.server_address[1]
        threading.Thread(
            target=self._server.serve_forever, args=(POLL_S,), name="sandbox", daemon=True
        ).start()
        return self

    def stop(self) -> None:
        """Close every connection and free the port. Does nothing if not started."""
        if self._server is not None:
            self._server.stop()
            self._server = None

    def __enter__(self) -> SandboxExchange:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _respond(self, verb: str, target: str) -> Reply:
        path, _, text = target.partition("?")
        query = dict(parse_qsl(text, keep_blank_values=True))
        host = HISTORY if path.startswith(HISTORY.path + "/") else LIVE
        area, _, method = path.removeprefix(host.path).rpartition("/")
        if not path.startswith(host.path) or verb != "GET":
            reply = Reply(404 if verb == "GET" else 405, b"")
        else:
            reply = self._with_fault(method, lambda: self._result(host, area, method, query))
        self.requests.append(Request(path, query, 0 if reply.reset else reply.status))
        return reply

    def _with_fault(self, method: str, handle: Callable[[], Reply]) -> Reply:
        """The reply of `handle`, unless this request is to fail."""
        if self.faults.on not in method:
            return handle()
        fault = self.faults.of(next(self._request_numbers))
        match fault:
            case None:
                return handle()
            case "reset":
                return Reply(0, b"", reset=True)
            case "html":
                return Reply(200, _HTML, "text/html")
            case "slow":
                return replace(handle(), delay_s=self.faults.slow_s)
            case "cut":
                return replace(handle(), cut=True)
            case "429":
                headers = {"Retry-After": f"{self.faults.retry_after_s:g}"}
                return replace(self._error(_api_error(10028), 429), headers=headers)
            case "error200":
                return self._error(_api_error(13888), 200)
            case _ if int(fault) in API_ERRORS:
                return self._error(_api_error(int(fault)))
        return Reply(int(fault), _HTML, "text/html")

    def _result(self, host: Host, area: str, method: str, query: dict[str, str]) -> Reply:
        started_ns = perf_counter_ns()
        now_ms = self.now_ms - (self.history_lag_ms if host is HISTORY else 0)
        try:
            if area != "/public":
                raise ApiError(-32601, "Method not found")
            with self._lock:
                if self._extend and (new := self._extend(now_ms)):
                    self._data.put(new)
                self._traps.names = self.faults.traps
                endpoints = Endpoints(self._data, host, now_ms, self.quirks, self._series, self._traps)
                result = endpoints.result(method, query)
        except ApiError as error:
            return self._error(error.error)
        took_us = (perf_counter_ns() - started_ns) // 1000
        times = b'"usIn":%d,"usOut":%d,"usDiff":%d' % (now_ms * 1000, now_ms * 1000 + took_us, took_us)
        return Reply(200, b'{"jsonrpc":"2.0","result":%b,%b,"testnet":false}' % (result, times))

    def _error(self, error: dict[str, Any], status: int = 400) -> Reply:
        now_us = self.now_ms * 1000
        times = {"testnet": False, "usIn": now_us, "usOut": now_us + 50, "usDiff": 50}
        return Reply(status, json.dumps({"jsonrpc": "2.0", "error": error, **times}).encode())


def _api_error(code: int) -> dict[str, Any]:
    return {"code": code, "message": API_ERRORS[code]}
