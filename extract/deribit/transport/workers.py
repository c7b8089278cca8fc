"""Start and end the worker processes of `worker`. Imports little, so that they start before anything else is imported."""

from __future__ import annotations

import os
import socket
import subprocess
import sys

from extract.process import SINGLE_THREADED_BLAS

CHANNELS = 4


class Workers:
    """Worker processes, one per core, with `channels`: sockets, each for one request at a time.

    Raises OSError if no process can be started.
    """

    def __init__(self, channels: int = CHANNELS) -> None:
        self.processes: list[subprocess.Popen[bytes]] = []
        self.channels: list[socket.socket] = []
        count = min(channels, os.cpu_count() or 1)
        try:
            for number in range(count):
                self._start(len(range(number, channels, count)))
        except OSError:
            self.close()
            raise

    def _start(self, channels: int) -> None:
        pairs = [socket.socketpair() for _ in range(channels)]
        self.channels += [parent_end for parent_end, _ in pairs]
        descriptors = [worker_end.fileno() for _, worker_end in pairs]
        try:
            self.processes.append(
                subprocess.Popen(
                    [sys.executable, "-m", "extract.deribit.transport.worker", *map(str, descriptors)],
                    env=os.environ
                    | SINGLE_THREADED_BLAS,  # the worker imports numpy before it calls configure_process
                    pass_fds=descriptors,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                )
            )
        finally:
            for _, worker_end in pairs:
                worker_end.close()

    def close(self) -> None:
        """Kill the processes."""
        for process in self.processes:
            process.kill()
        for process in self.processes:
            process.wait()
        for channel in self.channels:
            channel.close()
