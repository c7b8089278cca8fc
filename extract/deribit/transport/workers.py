"""The processes that fetch and decode pages, see `page_worker`. Imports next to nothing: they start before all else."""

from __future__ import annotations

import os
import socket
import subprocess
import sys

from extract.process import SINGLE_THREADED_BLAS

LANES = 4


class Workers:
    """Processes, one a core, and `lanes` to them, over which each answers one question at a time.

    Raises OSError where no process can be started.
    """

    def __init__(self, lanes: int = LANES) -> None:
        self.processes: list[subprocess.Popen[bytes]] = []
        self.lanes: list[socket.socket] = []
        count = min(lanes, os.cpu_count() or 1)
        try:
            for number in range(count):
                self._start(len(range(number, lanes, count)))
        except OSError:
            self.close()
            raise

    def _start(self, lanes: int) -> None:
        pairs = [socket.socketpair() for _ in range(lanes)]
        self.lanes += [ours for ours, _ in pairs]
        descriptors = [theirs.fileno() for _, theirs in pairs]
        try:
            self.processes.append(
                subprocess.Popen(
                    [sys.executable, "-m", "extract.deribit.transport.worker", *map(str, descriptors)],
                    env=os.environ | SINGLE_THREADED_BLAS,  # the worker has numpy before it is lean
                    pass_fds=descriptors,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                )
            )
        finally:
            for _, theirs in pairs:
                theirs.close()

    def close(self) -> None:
        """Ends the processes, whatever they are at."""
        for process in self.processes:
            process.kill()
        for process in self.processes:
            process.wait()
        for lane in self.lanes:
            lane.close()
