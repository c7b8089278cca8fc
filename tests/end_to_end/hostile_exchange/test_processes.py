"""Whole processes against a hostile exchange: their memory is bounded, and SIGTERM ends them soon."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from clickhouse_connect.driver.client import Client

from harness.processes import process_tree, resident_bytes
from tests.support.hostile_exchange import (
    DRIP,
    GZIP,
    MIB,
    VICTIM,
    HostileExchange,
    Start,
    bomb,
    drip,
    million_instruments,
    nested,
    plain,
)

MAX_RUN_BYTES = 700 * 10**6


def run_process(*arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [Path(sys.executable).parent / "dlt", "pipeline", "run", *arguments],
        env=os.environ.copy(),
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "is_proxied"),
    [
        pytest.param("trades", False, id="trades-direct"),
        pytest.param("get_instruments", True, id="get_instruments-through a proxy"),
        pytest.param("trades", True, id="trades-through a proxy", marks=pytest.mark.heavy),
        pytest.param("get_instruments", False, id="get_instruments-direct", marks=pytest.mark.heavy),
    ],
)
def test_run_ends_soon_after_sigterm_while_answers_drip(
    method: str, is_proxied: bool, start: Start, clickhouse_client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also headers may drip. A stream that did not answer is not covered; without instruments, no stream is known."""
    is_dripping = threading.Event()

    def answer(name: str, params: dict[str, str]) -> tuple[dict[str, str], Any] | None:
        if method not in name or params.get("currency") != "BTC" or params.get("kind", "option") != "option":
            return None
        is_dripping.set()
        return DRIP, drip()

    exchange = start(answer)
    monkeypatch.setenv("SOURCES__DERIBIT__TIMEOUT_S", "60")
    monkeypatch.setenv("SOURCES__DERIBIT__RETRY_TOTAL_S", "600")
    if is_proxied:
        monkeypatch.setenv("http_proxy", exchange.address)
        monkeypatch.setenv("no_proxy", "localhost")
        monkeypatch.setenv("SOURCES__DERIBIT__API_URL", exchange.url.replace("127.0.0.1", "127.0.0.2"))
        monkeypatch.setenv(
            "SOURCES__DERIBIT__HISTORY_URL", exchange.history_url.replace("127.0.0.1", "127.0.0.2")
        )
    with run_process() as process:
        assert is_dripping.wait(60)
        wait_until_idle(exchange)  # what can be fetched is fetched, however slow the machine is
        stopped_s = time.monotonic()
        process.send_signal(signal.SIGTERM)
        try:
            out, err = process.communicate(timeout=60)
        finally:
            process.kill()
    assert time.monotonic() - stopped_s < 35
    assert process.returncode == 0, err
    assert "Stopped on SIGTERM with more to do" in out
    exists = clickhouse_client.command("EXISTS TABLE deribit_raw.coverage")
    covered = clickhouse_client.query("SELECT currency, kind FROM deribit_raw.coverage") if exists else None
    if method == "get_instruments":
        assert covered is None
    else:
        assert covered is None or VICTIM not in [tuple(row) for row in covered.result_rows]


def wait_until_idle(exchange: HostileExchange, quiet_s: float = 3.0) -> None:
    """Wait until no request has arrived for `quiet_s` seconds."""
    while True:
        requests = len(exchange.requests)
        time.sleep(quiet_s)
        if len(exchange.requests) == requests:
            return


GIANTS: dict[str, Callable[[], tuple[dict[str, str], Any]]] = {
    "1 GiB of gzip": lambda: (GZIP, bomb(2**30)),
    "2 GB of JSON": lambda: ({}, plain(2 * 10**9)),
    "200,000 levels": lambda: ({}, nested(200_000)),
    "16 MiB of tiny values": lambda: ({}, [*plain(15 * MIB), b"0]}}"]),
    "16 MiB of small records": lambda: ({}, [*plain(15 * MIB, filler=b"{},"), b"0]}}"]),
}


@pytest.mark.slow
@pytest.mark.parametrize(
    "attack",
    [
        *("1 GiB of gzip", "200,000 levels", "a million instruments"),
        *(
            pytest.param(attack, marks=pytest.mark.heavy)
            for attack in ("2 GB of JSON", "16 MiB of tiny values", "16 MiB of small records")
        ),
    ],
)
def test_memory_of_a_run_is_bounded(
    attack: str, start: Start, clickhouse_client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All processes of the run together, with four requests in flight; another currency is loaded."""

    def answer(method: str, params: dict[str, str]) -> tuple[dict[str, str], Any] | None:
        if params.get("currency") != "BTC":
            return None
        if attack in GIANTS:
            return GIANTS[attack]() if "trades" in method else None
        return ({}, million_instruments()) if method == "get_instruments" else None

    start(answer)
    monkeypatch.setenv("SOURCES__DERIBIT__TIMEOUT_S", "30")
    with run_process("--since", "2016-01-01") as process:
        most = 0
        while process.poll() is None:
            most = max(most, sum(map(resident_bytes, process_tree(process.pid))))
            time.sleep(0.02)
        out, err = process.communicate()
    print(f"{attack}: {most / 1e6:.0f} MB at most")
    assert most < MAX_RUN_BYTES
    if attack != "200,000 levels":
        assert process.returncode == 4, err
        assert "set aside" in err
    assert clickhouse_client.query(
        "SELECT DISTINCT currency FROM deribit_raw.coverage WHERE currency = 'ETH'"
    ).result_rows == [("ETH",)]
    assert "new trades" in out
