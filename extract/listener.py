"""Progress listener: how long-running work reports its progress."""

from __future__ import annotations


class Listener:
    """Receives the progress of one piece of work, and shows nothing; `cli/progress.py` has one that draws."""

    def start(self, total: int, unit: str) -> None:
        """The work begins: `total` items of `unit`, a plural such as `trades`."""

    def advance(self, count: int) -> None:
        """`count` more items are done."""
