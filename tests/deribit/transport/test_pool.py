"""Pages and errors are the same with and without worker processes, also while these are killed or stopped."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from extract.deribit.decode import decode_page
from extract.deribit.jsonrpc import DECODE_ERRORS, NoResultError
from extract.deribit.records import TooManyRecordsError
from extract.deribit.transport.pool import PageDecoder
from extract.deribit.transport.workers import Workers
from tests.support.histories import trade
from tests.support.waiting import wait_until

pytestmark = pytest.mark.process

COUNT = min(2, os.cpu_count() or 1)
WAIT_S = 20.0
ODD = trade("BTC-29DEC23", 7, 7, 1_700_000_000_000)


def body(*records: Any, **envelope: Any) -> bytes:
    return json.dumps({"result": {"trades": records, "has_more": True}} | envelope).encode()


BODIES: dict[str, bytes] = {
    "page": body(ODD, ODD | {"trade_seq": 8, "trade_id": "8"}, usIn=1_700_000_000_123_456),
    "large": body(*(ODD | {"trade_seq": n, "trade_id": str(n)} for n in range(1, 20_000))),
    "empty": body(),
    "odd": body(ODD | {"new": 1}, ODD | {"trade_seq": 0, "trade_id": "8"}, "text"),
    "refused": b'{"error": {"code": 13020, "message": "not found"}}',
    "no json": b"<html>Please wait</html>",
    "no result": b'{"result": {"trades": 5}}',
    "too many": b'{"result": {"trades": [%b1]}}' % (b"{}," * 100_001),
    "no bytes": b"",
}
PAGE = BODIES["page"]


@contextmanager
def started(deadline_s: int = 20) -> Iterator[PageDecoder]:
    """A decoder whose workers are ready and decode every page."""
    decoder = PageDecoder(Workers(COUNT), large_page_bytes=0, deadline_s=deadline_s)
    try:
        wait_until(lambda: decoder.ready == COUNT, WAIT_S)
        yield decoder
    finally:
        decoder.close()


@pytest.fixture(scope="module")
def pool() -> Iterator[PageDecoder]:
    with started() as decoder:
        before = list(decoder.workers)
        yield decoder
        assert decoder.workers == before, "a worker was replaced"


def outcome(decode: Callable[[bytes], Any], text: bytes) -> Any:
    """All properties of a page, or the error."""
    try:
        page = decode(text)
    except (NoResultError, TooManyRecordsError, *DECODE_ERRORS) as error:
        return type(error), str(error)
    rejected = [(bad.reason, bad.raw, bad.key, bad.timestamp) for bad in page.rejected]
    return page.table.to_pylist(), page.table.schema, page.rows, page.has_more, page.at_ms, rejected


@pytest.mark.parametrize("name", BODIES)
def test_page_is_the_same_with_and_without_workers(name: str, pool: PageDecoder) -> None:
    """Table, counts, rejected records and errors."""
    assert outcome(pool.decode, BODIES[name]) == outcome(decode_page, BODIES[name])


def test_more_threads_than_workers_share_them(pool: PageDecoder) -> None:
    """Each thread gets the page that it asked for."""
    texts = [body(ODD | {"trade_seq": n, "trade_id": str(n)}) for n in range(1, 65)]
    pages: dict[int, Any] = {}

    def decode(number: int) -> None:
        pages[number] = pool.decode(texts[number]).table["trade_seq"].to_pylist()

    threads = [threading.Thread(target=decode, args=(number,)) for number in range(len(texts))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(WAIT_S)
    assert pages == {number: [number + 1] for number in range(len(texts))}


def test_workers_start_with_the_first_large_page() -> None:
    """A small increment starts none, and closing the decoder ends them."""
    decoder = PageDecoder(large_page_bytes=len(PAGE))
    for name in ("empty", "no json", "refused"):
        outcome(decoder.decode, BODIES[name])
    assert not decoder.workers
    expected = outcome(decode_page, PAGE)
    assert outcome(decoder.decode, PAGE) == expected
    workers = list(decoder.workers)
    assert 1 <= len(workers) <= (os.cpu_count() or 1)
    wait_until(lambda: decoder.ready == len(workers), WAIT_S)
    assert outcome(decoder.decode, PAGE) == expected
    decoder.close()
    assert all(worker.process.poll() is not None for worker in workers)
    assert outcome(decoder.decode, PAGE) == expected


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "message"), [(signal.SIGKILL, "has ended"), (signal.SIGSTOP, "did not answer within 1 s")]
)
def test_worker_that_ends_or_hangs_is_replaced(
    number: signal.Signals, message: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Its page arrives nevertheless, new workers decode the next ones, and one warning reports it."""
    with started(deadline_s=1) as decoder:
        before = list(decoder.workers)
        for worker in before:
            worker.process.send_signal(number)
        for _ in range(2 * COUNT):
            assert outcome(decoder.decode, BODIES["large"]) == outcome(decode_page, BODIES["large"])
        wait_until(lambda: decoder.ready == COUNT, WAIT_S)
        assert not set(decoder.workers) & set(before)
        assert all(worker.process.poll() is not None for worker in before)
        assert outcome(decoder.decode, PAGE) == outcome(decode_page, PAGE)
        assert [record.levelname for record in caplog.records] == ["WARNING"]
        assert f"{message} and was replaced; the run continues." in caplog.text


def test_closing_ends_the_wait_for_a_stopped_worker() -> None:
    """A run that SIGTERM ends does not wait for a worker's deadline."""
    with started(deadline_s=60) as decoder:
        workers = list(decoder.workers)
        for worker in workers:
            worker.process.send_signal(signal.SIGSTOP)
        threading.Timer(0.5, decoder.close).start()
        began_s = time.monotonic()
        assert outcome(decoder.decode, BODIES["large"]) == outcome(decode_page, BODIES["large"])
        assert time.monotonic() - began_s < 10
        wait_until(lambda: all(worker.process.poll() is not None for worker in workers), WAIT_S)
        assert decoder.workers == workers, "none is started after the end"


def test_sigterm_of_the_process_group_does_not_end_workers(pool: PageDecoder) -> None:
    """The main process finishes its window with them."""
    for worker in pool.workers:
        worker.process.send_signal(signal.SIGTERM)
    for _ in range(2 * COUNT):
        assert outcome(pool.decode, PAGE) == outcome(decode_page, PAGE)


def test_workers_end_when_the_main_process_is_killed() -> None:
    """SIGKILL of the main process ends them, too."""
    script = (
        "import time\n"
        "from extract.deribit.transport.pool import PageDecoder\n"
        "from extract.deribit.transport.workers import Workers\n"
        "decoder = PageDecoder(Workers(1))\n"
        "while decoder.ready < 1: time.sleep(0.01)\n"
        "print(*(worker.process.pid for worker in decoder.workers), flush=True)\n"
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
