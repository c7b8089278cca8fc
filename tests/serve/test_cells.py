"""Values that are computed once for each version of the data."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from extract.serve.cells import CHECK_EVERY_S, SERVE_STALE_S, Cache, Cell, Version
from tests.support.clock import Clock


class Source:
    """A database with a version and a value; counts what is read, and waits for `gate` where one is set."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.version = "1"
        self.reads = 0
        self.computed = 0
        self.gate: asyncio.Event | None = None
        self.fails = False

    async def read(self) -> str:
        self.reads += 1
        if self.fails:
            raise ConnectionError
        return self.version

    async def compute(self) -> str:
        self.computed += 1
        if self.gate:
            await self.gate.wait()
        return f"value of {self.version}"


def run(test: Callable[[Source], Awaitable[None]]) -> None:
    async def main() -> None:
        await test(Source())

    asyncio.run(main())


def test_version_is_read_again_after_a_second() -> None:
    """Many requests at once read it once."""

    async def test(source: Source) -> None:
        version = Version(source.read, source.clock)
        assert await asyncio.gather(*(version.current() for _ in range(50))) == ["1"] * 50
        assert source.reads == 1
        source.version = "2"
        assert await version.current() == "1"
        source.clock.sleep(CHECK_EVERY_S)
        assert await version.current() == "2"
        assert source.reads == 2

    run(test)


def test_version_that_cannot_be_read_is_unknown_until_it_can() -> None:
    """No older version is used in its place."""

    async def test(source: Source) -> None:
        version = Version(source.read, source.clock)
        await version.current()
        source.clock.sleep(CHECK_EVERY_S)
        source.fails = True
        for _ in range(2):
            with pytest.raises(ConnectionError):
                await version.current()
        source.fails = False
        assert await version.current() == "1"

    run(test)


def test_value_is_computed_once_for_a_version() -> None:
    """And again when it is too old."""

    async def test(source: Source) -> None:
        cell = Cell(Version(source.read, source.clock), source.compute, 60, source.clock)
        assert await asyncio.gather(*(cell.get() for _ in range(50))) == ["value of 1"] * 50
        source.clock.sleep(30)
        await cell.get()
        assert source.computed == 1
        source.clock.sleep(31)
        await cell.get()
        assert source.computed == 2

    run(test)


def test_previous_value_is_used_for_two_seconds_while_the_next_is_computed() -> None:
    """A request does not wait for a load that has just finished."""

    async def test(source: Source) -> None:
        cell = Cell(Version(source.read, source.clock), source.compute, 60, source.clock)
        await cell.get()
        source.clock.sleep(CHECK_EVERY_S)
        source.version, source.gate = "2", asyncio.Event()
        assert await cell.get() == "value of 1"
        source.gate.set()
        await asyncio.sleep(0.01)
        assert await cell.get() == "value of 2"

    run(test)


def test_old_value_is_not_used_after_a_quiet_time() -> None:
    """The first request after hours gets what is in the database now."""

    async def test(source: Source) -> None:
        cell = Cell(Version(source.read, source.clock), source.compute, 60, source.clock)
        await cell.get()
        source.version = "2"
        source.clock.sleep(SERVE_STALE_S + CHECK_EVERY_S)
        assert await cell.get() == "value of 2"

    run(test)


def test_cache_uses_an_answer_for_its_version_only() -> None:
    """And drops the answers that were not used for the longest time."""

    async def test(source: Source) -> None:
        cache: Cache[str] = Cache(max_bytes=400, clock=source.clock)

        async def get(key: str, version: str, size: int = 100) -> str:
            return await cache.get(key, version, source.compute, lambda _: size)

        await get("a", "1")
        await get("a", "1")
        assert source.computed == 1
        await get("a", "2")
        assert source.computed == 2
        for key in ("b", "c", "d"):
            await get(key, "2")
        await get("a", "2")
        await get("e", "2")
        assert source.computed == 6
        await get("a", "2")
        assert source.computed == 6
        await get("b", "2")
        assert source.computed == 7
        await get("large", "2", size=101)
        await get("large", "2", size=101)
        assert source.computed == 9

    run(test)
