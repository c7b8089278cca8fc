"""A page server of negligible cost: it sends slices of one file of trades from the page cache.

The file repeats the same `PAGE` records with increasing sequence numbers, ids and times in fields of fixed width. The
offset of any trade is therefore arithmetic, and a response is a head, a range of the file sent by the kernel, and a
tail. The records are the options of a generated tape.

Run `python -m bench.pages FILE TRADES`: creates FILE if it is missing, prints the port, and serves.
"""

from __future__ import annotations

import json
import socket
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import cycle, islice
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from extract.sandbox.tape import Tape

PAGE = 10_000
CURRENCY, KIND = "BTC", "option"
FIRST_MS = 1_577_836_800_000
"""2020-01-01 UTC."""
STEP_MS = 250
"""Time between two trades: 345,600 trades a day."""
FIRST_ID = 100_000_000
NOW_MS = FIRST_MS + 2000 * 86_400_000
"""The server's time."""
HEAD = b'{"jsonrpc":"2.0","result":{"trades":['
TAIL = b'],"has_more":%%s},"usIn":%d,"usOut":%d,"usDiff":1,"testnet":false}' % (
    NOW_MS * 1000,
    NOW_MS * 1000 + 1,
)
NEWLINE = b"\n"


class TradeFile:
    """`trades` records in `path`, each ending with a comma."""

    def __init__(self, path: Path, trades: int) -> None:
        self.path = path
        self.trades = trades
        template, self._names, self._per_page = _template()
        self._template = template
        first = self._page(0)
        self._starts = [0]
        for _ in range(PAGE):
            self._starts.append(first.index(NEWLINE, self._starts[-1]) + 1)
        self._page_bytes = len(first)

    def create(self) -> None:
        """Write the file unless it exists with the right size."""
        if self.path.exists() and self.path.stat().st_size == self._offset(self.trades):
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("wb") as file:
            for page in range(-(-self.trades // PAGE)):
                file.write(self._page(page)[: self._starts[min(PAGE, self.trades - page * PAGE)]])

    def range_of(self, first: int, last: int) -> tuple[int, int]:
        """(offset, size) of trades first..last without the last comma; (0, 0) for an empty range."""
        if first > last:
            return 0, 0
        start = self._offset(first)
        return start, self._offset(last + 1) - start - len(b",\n")

    def _offset(self, trade: int) -> int:
        return trade // PAGE * self._page_bytes + self._starts[trade % PAGE]

    def _page(self, page: int) -> bytes:
        numbers: list[int] = []
        for row, (name, place) in enumerate(self._names):
            trade = page * PAGE + row
            seq = page * self._per_page[name] + place + 1
            numbers += (seq, FIRST_ID + trade, FIRST_MS + trade * STEP_MS)
        return self._template % tuple(numbers)


def _template() -> tuple[bytes, list[tuple[str, int]], dict[str, int]]:
    """A page with placeholders for (seq, id, time); per row its instrument and index within it; rows by instrument."""
    options = [t for t in Tape.generate(seed=1, trades=12_000, days=14.0).trades if is_btc_option(t)]
    rows: list[bytes] = []
    names: list[tuple[str, int]] = []
    per_page: dict[str, int] = {}
    for trade in islice(cycle(options), PAGE):
        name = trade["instrument_name"]
        names.append((name, per_page.get(name, 0)))
        per_page[name] = names[-1][1] + 1
        rest = {k: v for k, v in trade.items() if k not in ("trade_seq", "trade_id", "timestamp")}
        text = json.dumps(rest, separators=(",", ":")).encode().replace(b"%", b"%%")
        rows.append(b'{"trade_seq":%8d,"trade_id":"%d","timestamp":%d,' + text[1:] + b",\n")
    return b"".join(rows), names, per_page


def is_btc_option(trade: dict[str, Any]) -> bool:
    return "iv" in trade and trade["instrument_name"].startswith("BTC-")


class PageServer(ThreadingHTTPServer):
    """Serves the requests of the extractor, and `page=N` for clients that can only count pages."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, trades: TradeFile) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.trades = trades
        self.file = trades.path.open("rb")


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: PageServer

    def setup(self) -> None:
        super().setup()
        self.request.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        params = {name: values[0] for name, values in parse_qs(url.query).items()}
        method = url.path.rpartition("/")[2]
        if method == "get_last_trades_by_currency_and_time":
            self._send_trades(*self._requested_range(params))
        elif method == "get_last_trades_by_currency":
            total = self.server.trades.trades
            self._send_trades(max(0, total - int(params["count"])), total - 1, total > int(params["count"]))
        elif method in _RESULTS:
            self._send(json.dumps({"jsonrpc": "2.0", "result": _RESULTS[method]}).encode())
        else:
            self.send_error(500, f"{method} is not served by this benchmark")

    do_HEAD = do_GET

    def _requested_range(self, params: dict[str, str]) -> tuple[int, int, bool]:
        """(first, last, has_more) of the requested trades."""
        total = self.server.trades.trades
        if "page" in params:
            first = int(params["page"]) * PAGE
            return first, min(first + PAGE, total) - 1, first + PAGE < total
        first = max(0, -(-(int(params["start_timestamp"]) - FIRST_MS) // STEP_MS))
        last = min(total - 1, (int(params["end_timestamp"]) - FIRST_MS) // STEP_MS)
        page_last = min(last, first + int(params["count"]) - 1)
        return first, page_last, page_last < last

    def _send_trades(self, first: int, last: int, has_more: bool) -> None:
        offset, size = self.server.trades.range_of(first, last)
        tail = TAIL % (b"true" if has_more else b"false")
        self._head(len(HEAD) + size + len(tail))
        if self.command == "GET":
            self.wfile.write(HEAD)
            if size:
                with open(self.server.file.name, "rb") as file:
                    self.connection.sendfile(file, offset, size)
            self.wfile.write(tail)

    def _send(self, body: bytes) -> None:
        self._head(len(body))
        if self.command == "GET":
            self.wfile.write(body)

    def _head(self, size: int) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(size))
        self.end_headers()

    def log_message(self, *_: object) -> None: ...


_RESULTS: dict[str, Any] = {
    "get_time": NOW_MS,
    "get_currencies": [{"currency": CURRENCY}],
    "get_instruments": [],
}


def main(path: str, trades: int) -> None:
    file = TradeFile(Path(path), trades)
    file.create()
    server = PageServer(file)
    print(server.server_address[1], flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
