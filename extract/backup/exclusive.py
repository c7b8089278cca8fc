"""Locks of TAPE_DIR that backups and trial restores hold; a run holds another one, and may load meanwhile."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager

from extract.errors import UsageError
from extract.paths import make_private_dir, tape_dir


@contextmanager
def only_process(work: str) -> Iterator[None]:
    """Be the only process that does `work` in this TAPE_DIR. Raises UsageError where another one does."""
    make_private_dir(tape_dir())
    with (tape_dir() / f"{work.replace(' ', '-')}.lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UsageError(f"Another {work} is in progress; wait for it or stop it.") from None
        yield
