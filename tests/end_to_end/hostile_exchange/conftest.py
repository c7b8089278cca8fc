"""A hostile exchange in front of a small tape."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from extract.sandbox.server import SandboxExchange
from extract.sandbox.tape import Tape
from tests.support.hostile_exchange import (
    Answer,
    HostileExchange,
    Start,
)


@pytest.fixture(scope="module")
def tape() -> Tape:
    return Tape.generate(seed=5, trades=400, days=3)


@pytest.fixture
def start(
    small_windows: None,
    start_exchange: Callable[..., SandboxExchange],
    monkeypatch: pytest.MonkeyPatch,
    tape: Tape,
) -> Iterator[Start]:
    """Start a hostile exchange over `tape` and point the environment at it."""
    started: list[HostileExchange] = []

    def start(answer: Answer) -> HostileExchange:
        exchange = HostileExchange(start_exchange(tape), answer)
        started.append(exchange)
        monkeypatch.setenv("SOURCES__DERIBIT__API_URL", exchange.url)
        monkeypatch.setenv("SOURCES__DERIBIT__HISTORY_URL", exchange.history_url)
        monkeypatch.setenv("SOURCES__DERIBIT__CURRENCIES", '["BTC", "ETH"]')
        monkeypatch.setenv("SOURCES__DERIBIT__TIMEOUT_S", "2")
        monkeypatch.setenv("SOURCES__DERIBIT__RETRY_TOTAL_S", "2")
        return exchange

    yield start
    for exchange in started:
        exchange.close()
