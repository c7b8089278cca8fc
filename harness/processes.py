"""Processes on Linux: their children and descendants, and the memory that they use."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path


def children(pid: int) -> list[int]:
    """Process ids of the direct children; none if the process has ended."""
    try:
        threads = sorted(Path(f"/proc/{pid}/task").iterdir(), key=lambda path: int(path.name))
        return [int(child) for thread in threads for child in (thread / "children").read_text().split()]
    except OSError:
        return []


def process_tree(pid: int) -> Iterator[int]:
    """A process and its descendants."""
    yield pid
    for child in children(pid):
        yield from process_tree(child)


def resident_bytes(pid: int) -> int:
    """Resident memory; 0 if the process has ended."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0


def peak_bytes(pid: int) -> int:
    """Highest resident memory since the process began its program.

    `getrusage` does not tell it: Linux begins `ru_maxrss` with the memory of the process that started this one.
    """
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return 0
