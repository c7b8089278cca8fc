"""Start and end the worker processes of `worker`. Imports little, so that they start before anything else is imported."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from contextlib import suppress

from extract.process import SINGLE_THREADED_BLAS

MAX_WORKERS = 4
END_S = 2.0


class Worker:
    """A worker process, and the socket to it. Raises OSError if no process can be started."""

    def __init__(self) -> None:
        self.channel, worker_end = socket.socketpair()
        try:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "extract.deribit.transport.worker", str(worker_end.fileno())],
                # The worker imports numpy before it calls configure_process.
                env=os.environ | SINGLE_THREADED_BLAS,
                pass_fds=[worker_end.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
        except OSError:
            self.channel.close()
            raise
        finally:
            worker_end.close()

    def close(self) -> None:
        """Kill the process, also if it is stopped; a thread that waits for its answer gets an end of file."""
        self.process.kill()
        with suppress(OSError):
            self.channel.shutdown(socket.SHUT_RDWR)
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(END_S)
        self.channel.close()


class Workers:
    """Worker processes, one per core. Raises OSError if no process can be started."""

    def __init__(self, most: int = MAX_WORKERS) -> None:
        self.all: list[Worker] = []
        try:
            for _ in range(min(most, os.cpu_count() or 1)):
                self.all.append(Worker())
        except OSError:
            self.close()
            raise

    def close(self) -> None:
        """Kill the processes."""
        for worker in self.all:
            worker.close()
