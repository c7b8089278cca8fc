"""A proxy in front of the sandbox exchange that answers chosen requests with hostile bodies, in constant memory.

Also what has to be loaded from it: every stream except the one whose answers are hostile.
"""

from __future__ import annotations

import gzip
import http.client
import threading
import time
import zlib
from collections.abc import Callable, Iterable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qsl, urlsplit

from clickhouse_connect.driver.client import Client

from extract.sandbox.instrument_names import parse
from extract.sandbox.server import SandboxExchange
from extract.sandbox.tape import Tape

Body = Iterable[bytes]
Answer = Callable[[str, dict[str, str]], "tuple[dict[str, str], Body] | None"]
"""(headers, chunks of the body) for a method and its parameters; None for the sandbox's own answer."""

CHUNK = 2**20


class HostileExchange:
    """Serves `sandbox` on loopback, except for the requests for which `answer` returns a body."""

    def __init__(self, sandbox: SandboxExchange, answer: Answer) -> None:
        self.requests: list[tuple[str, dict[str, str]]] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                url = urlsplit(self.path)  # absolute where a client uses this server as its proxy
                method, params = url.path.rpartition("/")[2], dict(parse_qsl(url.query))
                outer.requests.append((method, params))
                hostile = answer(method, params)
                if hostile is None:
                    self._forward(f"{url.path}?{url.query}")
                    return
                headers, body = hostile
                self.send_response(200)
                for name, value in ({"Connection": "close"} | headers).items():
                    self.send_header(name, value)
                self.end_headers()
                self.close_connection = True
                try:
                    for chunk in body:
                        self.wfile.write(chunk)
                except OSError:
                    pass

            def _forward(self, target: str) -> None:
                connection = http.client.HTTPConnection("127.0.0.1", sandbox.port)
                connection.request("GET", target)
                response = connection.getresponse()
                body = response.read()
                connection.close()
                self.send_response(response.status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None: ...

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.address = f"http://127.0.0.1:{self._server.server_port}"
        self.url = self.address + urlsplit(sandbox.url).path
        self.history_url = self.address + urlsplit(sandbox.history_url).path
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


def plain(size: int, start: bytes = b'{"result": {"trades": [', filler: bytes = b"0,") -> Iterator[bytes]:
    """About `size` bytes of JSON that never ends."""
    yield start
    chunk = filler * (CHUNK // len(filler))
    for _ in range(0, size, CHUNK):
        yield chunk


def bomb(size: int) -> Iterator[bytes]:
    """Gzip that decompresses to `size` bytes."""
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    yield packer.compress(b'{"result": {"trades": [')
    for _ in range(0, size, CHUNK):
        yield packer.compress(b" " * CHUNK)
    yield packer.flush()


def nested(levels: int) -> Iterator[bytes]:
    yield b'{"result": {"trades": [{"trade_seq": 1, "odd": '
    yield b"[" * levels + b"]" * levels
    yield b'}], "has_more": false}}'


def million_instruments(count: int = 1_000_000) -> Iterator[bytes]:
    yield b'{"result": ['
    for first in range(0, count, 10_000):
        records = (
            b'{"instrument_name":"X-%d","kind":"future"},' % number for number in range(first, first + 10_000)
        )
        yield b"".join(records)
    yield b'{"instrument_name":"X"}]}'


def drip(seconds: float = 600.0, pause_s: float = 0.2) -> Iterator[bytes]:
    """One byte after another."""
    end_s = time.monotonic() + seconds
    while time.monotonic() < end_s:
        yield b" "
        time.sleep(pause_s)


GZIP = {"Content-Encoding": "gzip"}
DRIP = {"Content-Length": "100000"}


def packed(body: bytes) -> tuple[dict[str, str], Body]:
    return GZIP, [gzip.compress(body)]


MIB = 2**20

VICTIM = ("BTC", "option")

Start = Callable[[Answer], HostileExchange]


def for_victim(hostile: Callable[[], tuple[dict[str, str], Body]]) -> Answer:
    """Hostile pages of one stream."""

    def answer(method: str, params: dict[str, str]) -> tuple[dict[str, str], Body] | None:
        is_victim = "trades" in method and (params.get("currency"), params.get("kind")) == VICTIM
        return hostile() if is_victim else None

    return answer


def streams_of(tape: Tape) -> dict[tuple[str, str], set[tuple[str, int]]]:
    """Keys of the trades of the requested currencies, by stream."""
    kinds = {each["instrument_name"]: each for each in tape.instruments}
    keys: dict[tuple[str, str], set[tuple[str, int]]] = {}
    for trade in tape.trades:
        name = trade["instrument_name"]
        currency = parse(name).currency
        if currency in ("BTC", "ETH"):
            keys.setdefault((currency, kinds[name]["kind"]), set()).add((name, trade["trade_seq"]))
    return keys


def loaded(client: Client) -> dict[tuple[str, str], list[tuple[str, int]]]:
    rows = client.query(
        "SELECT currency, kind, instrument_name, trade_seq FROM deribit_raw.trades"
    ).result_rows
    keys: dict[tuple[str, str], list[tuple[str, int]]] = {}
    for currency, kind, name, seq in rows:
        keys.setdefault((currency, kind), []).append((name, seq))
    return keys


def require_others_whole(client: Client, tape: Tape, victim: tuple[str, str] = VICTIM) -> None:
    """Every trade of the other streams once, none of the victim; only the others are covered."""
    expected = {stream: keys for stream, keys in streams_of(tape).items() if stream != victim}
    rows = loaded(client)
    assert {stream: set(keys) for stream, keys in rows.items()} == expected
    assert all(len(keys) == len(set(keys)) for keys in rows.values())
    covered = {
        tuple(row)
        for row in client.query("SELECT DISTINCT currency, kind FROM deribit_raw.coverage").result_rows
    }
    assert victim not in covered
    assert expected.keys() <= covered
