"""Decode pages in worker processes once a large page has arrived. A worker that does not answer is replaced."""

from __future__ import annotations

import logging
import queue
import threading
from contextlib import suppress

from extract.deribit.decode import decode_page
from extract.deribit.schema import TradePage
from extract.deribit.transport.worker import decode_by, receive, set_timeout
from extract.deribit.transport.workers import Worker, Workers

LARGE_PAGE_BYTES = 500_000
"""Smaller pages are decoded here, because a small increment is over before a process has started."""
DEADLINE_S = 20
"""Seconds without an answer after which a worker counts as hung; a page of 10,000 trades takes 0.03 s."""
START_S = 60
MAX_REPLACED = 20

_logger = logging.getLogger(__name__)


class PageDecoder:
    """Decodes large pages in processes, which it starts for the first one, and small ones in this process.

    Safe in any number of threads. A worker that has ended, or that does not answer within `deadline_s` seconds, is
    killed and replaced; its page is decoded in this process. The first time logs a warning, which Python prints to
    standard error unless the application configures logging.
    """

    def __init__(
        self,
        workers: Workers | None = None,
        *,
        large_page_bytes: int = LARGE_PAGE_BYTES,
        deadline_s: int = DEADLINE_S,
    ) -> None:
        self._large_page_bytes = large_page_bytes
        self._deadline_s = deadline_s
        self._lock = threading.Lock()
        self._idle: queue.SimpleQueue[Worker | None] = queue.SimpleQueue()
        self._workers: Workers | None = None
        self._ready = 0
        self._replaced = 0
        self._is_closed = False
        if workers:
            self._use(workers)

    @property
    def workers(self) -> list[Worker]:
        """All workers that have been started and not replaced."""
        return self._workers.all if self._workers else []

    @property
    def ready(self) -> int:
        """Number of workers that have started, idle or not."""
        return self._ready

    def decode(self, body: bytes) -> TradePage:
        """The page in `body`. Raises as `decode_page` does."""
        page = None
        if len(body) >= self._large_page_bytes:
            self._start()
            if worker := self._take():
                try:
                    page = decode_by(worker.channel, body)
                except BlockingIOError:
                    self._replace(worker, f"did not answer within {self._deadline_s} s")
                except (EOFError, OSError):
                    self._replace(worker, "has ended")
                else:
                    self._idle.put(worker)
        return page or decode_page(body)

    def close(self) -> None:
        """Kill the workers; later pages are decoded in this process. Safe in any thread."""
        with self._lock:
            self._is_closed = True
            self._ready = 0
        self._idle.put(None)
        if self._workers:
            self._workers.close()

    def _start(self) -> None:
        with self._lock:
            if self._workers or self._is_closed:
                return
            with suppress(OSError):
                self._use(Workers())

    def _use(self, workers: Workers) -> None:
        self._workers = workers
        for worker in workers.all:
            self._await_ready(worker)

    def _await_ready(self, worker: Worker) -> None:
        def wait() -> None:
            with suppress(EOFError, OSError):
                set_timeout(worker.channel, START_S)
                receive(worker.channel)
                set_timeout(worker.channel, self._deadline_s)
                with self._lock:
                    self._ready += not self._is_closed
                self._idle.put(worker)

        threading.Thread(target=wait, name="page worker", daemon=True).start()

    def _take(self) -> Worker | None:
        """An idle worker, waiting for one while all are busy; None if none has started, or the decoder is closed."""
        with suppress(queue.Empty):
            worker = self._idle.get(timeout=self._deadline_s) if self._ready else self._idle.get_nowait()
            if worker is None:
                self._idle.put(None)  # for the next thread
            return worker
        return None

    def _replace(self, worker: Worker, fault: str) -> None:
        worker.close()
        with self._lock:
            if self._is_closed or self._workers is None:
                return
            self._ready -= 1
            self._replaced += 1
            self._workers.all.remove(worker)
            if self._replaced == 1:
                _logger.warning(
                    f"A page worker (process {worker.process.pid}) {fault} and was replaced; the run continues."
                )
            if self._replaced <= MAX_REPLACED:
                with suppress(OSError):
                    self._workers.all.append(replacement := Worker())
                    self._await_ready(replacement)
