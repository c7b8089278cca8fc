"""Pages, errors and counts are the same with and without worker processes, also after these are killed."""

from __future__ import annotations

import gzip
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from extract.deribit.client import DeribitClient
from extract.deribit.config import DeribitConfig
from extract.deribit.transport.pool import PageTransport
from extract.deribit.transport.pooled import PooledTransport
from extract.deribit.transport.workers import Workers
from extract.errors import OutsideError
from extract.retry import Retrier, RetryPolicy
from extract.sandbox.server import SandboxExchange
from extract.sandbox.tape import Tape
from tests.support.histories import STREAMS, Record, histories, trade
from tests.support.sweep_helpers import Crawl
from tests.support.waiting import wait_until
from tests.sweep.test_completeness_properties import LATER_MS, last_ms, once, several, ways

pytestmark = pytest.mark.process

METHOD = "get_last_trades_by_currency"
CHANNELS = 3
WAIT_S = 20.0
ODD = trade("BTC-29DEC23", 7, 7, 1_700_000_000_000)


def body(*records: Any, **envelope: Any) -> bytes:
    return json.dumps({"result": {"trades": records, "has_more": True}} | envelope).encode()


ANSWERS: dict[str, tuple[int, dict[str, str], bytes]] = {
    "page": (200, {}, body(ODD, ODD | {"trade_seq": 8, "trade_id": "8"}, usIn=1_700_000_000_123_456)),
    "empty": (200, {}, body()),
    "odd": (200, {}, body(ODD | {"new": 1}, ODD | {"trade_seq": 0, "trade_id": "8"}, "text")),
    "gzip": (200, {"Content-Encoding": "gzip"}, gzip.compress(body(ODD))),
    "refused": (400, {}, b'{"error": {"code": 13020, "message": "not found"}}'),
    "busy": (429, {"Retry-After": "0.25"}, b'{"error": {"code": 10028, "message": "too_many_requests"}}'),
    "no json": (200, {}, b"<html>Please wait</html>"),
    "no result": (200, {}, b'{"result": {"trades": 5}}'),
    "half": (200, {"Content-Length": "5000"}, body(ODD)),
}


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        name = self.path.split("name=")[1].split("&")[0].replace("+", " ").replace("%20", " ")
        status, headers, text = ANSWERS[name]
        self.send_response(status)
        for header, value in ({"Content-Length": str(len(text))} | headers).items():
            self.send_header(header, value)
        self.end_headers()
        self.wfile.write(text)
        self.close_connection = name == "half"

    def log_message(self, *_: object) -> None: ...


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/api/v2"
    server.shutdown()
    server.server_close()


class Lasting(httpx.BaseTransport):
    """Keeps a transport open when a client closes it, so that several clients can use it in turn."""

    def __init__(self, inner: PageTransport) -> None:
        self.inner = inner

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        return self.inner.handle_request(request)


@contextmanager
def started() -> Iterator[PageTransport]:
    """A transport whose workers are ready."""
    transport = PageTransport(PooledTransport(CHANNELS), CHANNELS, Workers(CHANNELS))
    try:
        wait_until(lambda: transport.idle_channels == CHANNELS, WAIT_S)
        yield transport
    finally:
        transport.close()


@pytest.fixture(scope="module")
def pool() -> Iterator[Lasting]:
    with started() as transport:
        yield Lasting(transport)
        assert transport.idle_channels == CHANNELS, "a channel was lost"


def client_of(url: str, transport: httpx.BaseTransport) -> DeribitClient:
    config = DeribitConfig(api_url=url, history_url=url, timeout_s=5.0)
    return DeribitClient(config, transport=transport, retrier=Retrier(RetryPolicy(attempts=1)))


def outcome(client: DeribitClient, name: str) -> Any:
    """All properties of an answer that are visible to a caller."""
    try:
        page = client.trades(client.history, METHOD, {"name": name})
    except OutsideError as error:
        facts = {key: value for key, value in vars(error).items() if key != "request"}
        return type(error), str(error), facts, client.stats.bytes
    rejected = [(bad.reason, bad.raw, bad.key, bad.timestamp) for bad in page.rejected]
    facts = (page.rows, page.has_more, page.count, page.at_ms, rejected)
    return page.table.to_pylist(), page.table.schema, facts, client.stats.bytes


@pytest.mark.parametrize("name", ANSWERS)
def test_answer_is_the_same_with_and_without_workers(name: str, url: str, pool: Lasting) -> None:
    """Table, counts, rejected records, errors and bytes."""
    with client_of(url, pool) as client:
        through_worker = outcome(client, name)
    with client_of(url, PooledTransport(1)) as client:
        assert through_worker == outcome(client, name)


def test_unreachable_exchange_is_reported_the_same(pool: Lasting) -> None:
    url = "http://127.0.0.1:9/api/v2"
    with client_of(url, pool) as client:
        with_worker = outcome(client, "page")
    assert "cannot be reached" in with_worker[1]
    with client_of(url, PooledTransport(1)) as client:
        assert with_worker[:2] == outcome(client, "page")[:2]


@several
@given(histories(), ways, st.integers(0, 40), st.integers(1, 2**16))
def test_generated_histories_are_loaded_exactly_once(
    pool: Lasting, records: list[Record], way: dict[str, int], percent: int, seed: int
) -> None:
    faults = f"rate={percent / 100},seed={seed},retry_after=0.001,slow=0.001"
    with SandboxExchange(Tape.of(records), faults=faults, clock=last_ms(records) + LATER_MS) as exchange:
        crawl = Crawl(exchange, STREAMS, transport=pool, **way)
        crawl.run()
        assert crawl.rows == once(records)
        assert crawl.run() == 0


def test_workers_start_after_enough_large_pages(url: str) -> None:
    """A small increment starts none; later pages are fetched by the workers."""
    transport = PageTransport(
        PooledTransport(CHANNELS),
        CHANNELS,
        start_after_large_pages=3,
        large_page_bytes=len(ANSWERS["page"][2]),
    )
    with client_of(url, transport) as client:
        for name in ("page", "empty", "empty", "empty", "page"):
            outcome(client, name)
        assert not transport.processes
        expected = outcome(client, "page")[:3]
        wait_until(lambda: transport.idle_channels == CHANNELS, WAIT_S)
        assert 1 <= len(transport.processes) <= min(CHANNELS, os.cpu_count() or 1)
        assert outcome(client, "page")[:3] == expected
    assert all(process.poll() is not None for process in transport.processes)


def test_workers_started_early_fetch_the_first_page(url: str) -> None:
    """Closing the transport ends the workers."""
    workers = Workers(CHANNELS)
    transport = PageTransport(PooledTransport(CHANNELS), CHANNELS, workers)
    with client_of(url, transport) as client:
        wait_until(lambda: transport.idle_channels == CHANNELS, WAIT_S)
        with_worker = outcome(client, "page")
    with client_of(url, PooledTransport(1)) as client:
        assert with_worker == outcome(client, "page")
    assert all(process.poll() is not None for process in workers.processes)


def test_pages_arrive_after_all_workers_are_killed(url: str) -> None:
    with started() as transport, client_of(url, Lasting(transport)) as client:
        expected = outcome(client, "page")[:3]
        for process in transport.processes:
            process.kill()
            process.wait()
        for _ in range(2 * CHANNELS):
            assert outcome(client, "page")[:3] == expected
        assert transport.idle_channels == 0


def test_workers_end_when_the_main_process_is_killed() -> None:
    """SIGKILL of the main process ends them, too."""
    script = (
        "import sys, time\n"
        "from extract.deribit.transport.pool import PageTransport\n"
        "from extract.deribit.transport.pooled import PooledTransport\n"
        "from extract.deribit.transport.workers import Workers\n"
        "transport = PageTransport(PooledTransport(2), 2, Workers(2))\n"
        "while transport.idle_channels < 2: time.sleep(0.01)\n"
        "print(*(process.pid for process in transport.processes), flush=True)\n"
        "time.sleep(60)\n"
    )
    run = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert run.stdout is not None
    workers = [int(pid) for pid in run.stdout.readline().split()]
    assert workers
    run.send_signal(signal.SIGKILL)
    run.wait()
    run.stdout.close()
    wait_until(lambda: not any(map(_is_alive, workers)), WAIT_S)


def _is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
