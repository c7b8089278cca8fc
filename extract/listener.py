"""Progress protocol: how long-running work reports its progress."""

from __future__ import annotations

from typing import Protocol


class Listener(Protocol):
    """Receives the progress of one piece of work. Implementations that draw are in `cli/progress.py`."""

    def start(self, total: int, unit: str) -> None:
        """The work begins: `total` items of `unit`, a plural such as `trades`."""

    def advance(self, count: int) -> None:
        """`count` more items are done."""


class SilentListener:
    """A listener that shows nothing."""

    def start(self, total: int, unit: str) -> None:
        pass

    def advance(self, count: int) -> None:
        pass
