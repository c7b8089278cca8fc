"""Values that are computed from the database once for each of its versions, and reused by all requests."""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Hashable
from dataclasses import dataclass
from typing import Generic, TypeVar

Value = TypeVar("Value")

CHECK_EVERY_S = 1.0
"""A version is at most this old when it is used."""
SERVE_STALE_S = 2.0
"""While a value is recomputed, the previous one is used if it was current so recently."""


class SingleFlight(Generic[Value]):
    """Shares one computation among all that want its result at the same time."""

    def __init__(self) -> None:
        self._running: dict[Hashable, asyncio.Task[Value]] = {}

    async def run(self, key: Hashable, compute: Callable[[], Awaitable[Value]]) -> Value:
        """The result of `compute`, of a call that already runs for `key` if there is one."""
        return await asyncio.shield(self.start(key, compute))

    def start(self, key: Hashable, compute: Callable[[], Awaitable[Value]]) -> asyncio.Task[Value]:
        """The task of `compute`, without waiting for it."""
        if (task := self._running.get(key)) is None:
            task = asyncio.ensure_future(compute())
            self._running[key] = task
            task.add_done_callback(lambda done: self._ended(key, done))
        return task

    def _ended(self, key: Hashable, task: asyncio.Task[Value]) -> None:
        self._running.pop(key, None)
        if not task.cancelled():
            task.exception()  # retrieved: the waiting requests report it, the loop need not


class Version:
    """The version of the data, a text that changes with every load; read again when it is older than CHECK_EVERY_S."""

    def __init__(
        self, read: Callable[[], Awaitable[str]], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._read, self._clock = read, clock
        self._value: str | None = None
        self._checked_at = 0.0
        self._flight: SingleFlight[str] = SingleFlight()

    async def current(self) -> str:
        """The version. Raises what reading it raises; nothing is known then."""
        if self._value is not None and self._clock() - self._checked_at < CHECK_EVERY_S:
            return self._value
        return await self._flight.run("version", self._refresh)

    async def _refresh(self) -> str:
        began = self._clock()
        self._value = None
        self._value = await self._read()
        self._checked_at = began
        return self._value


class Cell(Generic[Value]):
    """A value of the current version of the data. `max_age_s` also limits its age, for values that depend on the clock."""

    def __init__(
        self,
        version: Version,
        compute: Callable[[], Awaitable[Value]],
        max_age_s: float = 60.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._version, self._compute, self._max_age_s, self._clock = version, compute, max_age_s, clock
        self._value: Value | None = None
        self._of: str | None = None
        self._computed_at = self._current_at = 0.0
        self._flight: SingleFlight[Value] = SingleFlight()

    async def get(self) -> Value:
        """The value of the current version, or that of at most SERVE_STALE_S ago while a newer one is computed."""
        version, now = await self._version.current(), self._clock()
        is_current = version == self._of and now - self._computed_at < self._max_age_s
        if is_current:
            self._current_at = now
        if self._value is not None and (is_current or now - self._current_at < SERVE_STALE_S):
            if not is_current:
                self._flight.start(version, lambda: self._refresh(version))
            return self._value
        return await self._flight.run(version, lambda: self._refresh(version))

    async def _refresh(self, version: str) -> Value:
        began = self._clock()
        value = await self._compute()
        self._value, self._of = value, version
        self._computed_at = self._current_at = began
        return value


@dataclass(frozen=True)
class _Entry(Generic[Value]):
    value: Value
    version: str
    at: float
    size: int


class Cache(Generic[Value]):
    """Values by key, each used for its version and `max_age_s`; the least recently used ones go beyond `max_bytes`."""

    def __init__(
        self, max_bytes: int, max_age_s: float = 60.0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._entries: OrderedDict[Hashable, _Entry[Value]] = OrderedDict()
        self._max_bytes, self._max_age_s, self._clock = max_bytes, max_age_s, clock
        self._bytes = 0
        self._flight: SingleFlight[Value] = SingleFlight()

    async def get(
        self,
        key: Hashable,
        version: str,
        compute: Callable[[], Awaitable[Value]],
        size: Callable[[Value], int],
    ) -> Value:
        """The value of `key`, computed if it is not there."""
        entry = self._entries.get(key)
        if entry and entry.version == version and self._clock() - entry.at < self._max_age_s:
            self._entries.move_to_end(key)
            return entry.value
        value = await self._flight.run((key, version), compute)
        self._put(key, _Entry(value, version, self._clock(), size(value)))
        return value

    def _put(self, key: Hashable, entry: _Entry[Value]) -> None:
        if previous := self._entries.pop(key, None):
            self._bytes -= previous.size
        if entry.size > self._max_bytes // 4:
            return
        self._entries[key] = entry
        self._bytes += entry.size
        while self._bytes > self._max_bytes:
            _, dropped = self._entries.popitem(last=False)
            self._bytes -= dropped.size
