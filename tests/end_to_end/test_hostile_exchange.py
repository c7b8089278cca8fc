"""A hostile exchange: the stream concerned is set aside with a sentence, everything else is loaded and proven."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from clickhouse_connect.driver.client import Client

from extract.clickhouse.client import shared_database
from extract.clickhouse.settings import clickhouse_settings
from extract.coverage.gaps import find_gaps
from extract.coverage.repair import repair_gaps
from extract.coverage.status import fetch_status
from extract.errors import OutsideError, ProofError
from extract.pipeline.options import RunOptions
from extract.pipeline.run import StreamsSetAsideError, run
from extract.sandbox.instrument_names import parse
from extract.sandbox.server import SandboxExchange
from extract.sandbox.tape import Tape
from tests.support.hostile_exchange import (
    DRIP,
    GZIP,
    Answer,
    HostileExchange,
    bomb,
    drip,
    million_instruments,
    nested,
    plain,
)

MIB = 2**20
VICTIM = ("BTC", "option")
MAX_RUN_BYTES = 700 * 10**6

Start = Callable[[Answer], HostileExchange]


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


def for_victim(hostile: Callable[[], tuple[dict[str, str], Any]]) -> Answer:
    """Hostile pages of one stream."""

    def answer(method: str, params: dict[str, str]) -> tuple[dict[str, str], Any] | None:
        is_victim = "trades" in method and (params.get("currency"), params.get("kind")) == VICTIM
        return hostile() if is_victim else None

    return answer


def streams_of(tape: Tape) -> dict[tuple[str, str], set[tuple[str, int]]]:
    """Keys of the trades of the requested currencies, by stream."""
    kinds = {each["instrument_name"]: each for each in tape.instruments}
    keys: dict[tuple[str, str], set[tuple[str, int]]] = {}
    for trade in tape.trades:
        name = trade["instrument_name"]
        currency = parse(name).currency
        if currency in ("BTC", "ETH"):
            keys.setdefault((currency, kinds[name]["kind"]), set()).add((name, trade["trade_seq"]))
    return keys


def loaded(client: Client) -> dict[tuple[str, str], list[tuple[str, int]]]:
    rows = client.query(
        "SELECT currency, kind, instrument_name, trade_seq FROM deribit_raw.trades"
    ).result_rows
    keys: dict[tuple[str, str], list[tuple[str, int]]] = {}
    for currency, kind, name, seq in rows:
        keys.setdefault((currency, kind), []).append((name, seq))
    return keys


def require_others_whole(client: Client, tape: Tape, victim: tuple[str, str] = VICTIM) -> None:
    """Every trade of the other streams once, none of the victim; only the others are covered."""
    expected = {stream: keys for stream, keys in streams_of(tape).items() if stream != victim}
    rows = loaded(client)
    assert {stream: set(keys) for stream, keys in rows.items()} == expected
    assert all(len(keys) == len(set(keys)) for keys in rows.values())
    covered = {
        tuple(row)
        for row in client.query("SELECT DISTINCT currency, kind FROM deribit_raw.coverage").result_rows
    }
    assert victim not in covered
    assert expected.keys() <= covered


ATTACKS: dict[str, tuple[Callable[[], tuple[dict[str, str], Any]], str]] = {
    "plain": (lambda: ({}, plain(40 * MIB)), "more than 16,777,216 bytes"),
    "bomb": (lambda: (GZIP, bomb(40 * MIB)), "more than 16,777,216 bytes"),
    "drip": (lambda: (DRIP, drip()), "was not complete after 8 s"),
    "no json": (lambda: ({"Content-Length": "4"}, [b"null"]), "without a result"),
    "tiny values": (
        lambda: ({}, [*plain(12 * MIB), b"0]}}"]),
        "more than 100,000 records",
    ),
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_stream_with_unusable_answers_is_set_aside(
    attack: str, start: Start, clickhouse_client: Client, tape: Tape
) -> None:
    """The others are loaded, proven and covered; the next run with a healthy exchange loads the rest."""
    hostile, sentence = ATTACKS[attack]
    is_hostile = True
    answer = for_victim(hostile)
    start(lambda method, params: answer(method, params) if is_hostile else None)
    with pytest.raises(StreamsSetAsideError, match=f"BTC option was set aside.*{sentence}") as raised:
        run(RunOptions())
    assert raised.value.exit_code == 4
    assert list(raised.value.summary.set_aside) == ["BTC option"]
    require_others_whole(clickhouse_client, tape)
    is_hostile = False
    run(RunOptions())
    rows = loaded(clickhouse_client)
    assert {stream: sorted(keys) for stream, keys in rows.items()} == {
        stream: sorted(keys) for stream, keys in streams_of(tape).items()
    }


def test_nested_record_is_rejected_and_the_stream_continues(
    start: Start, clickhouse_client: Client, tape: Tape
) -> None:
    """200,000 levels: the record is stored as it was sent."""
    start(for_victim(lambda: ({}, nested(200_000))))
    run(RunOptions())
    assert clickhouse_client.query(
        "SELECT max(length(raw)) > 400000 FROM deribit_raw.rejected_trades"
    ).result_rows == [(True,)]


def test_stream_that_fails_after_some_pages_leaves_no_trade(
    start: Start, clickhouse_client: Client, tape: Tape, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its first pages had been written into the load package, so the window is swept again without it."""
    monkeypatch.setattr("extract.sweep.windows.BATCH_ROWS", 1)
    pages = 0

    def answer(method: str, params: dict[str, str]) -> tuple[dict[str, str], Any] | None:
        nonlocal pages
        if "trades" in method and (params.get("currency"), params.get("kind")) == ("BTC", "future"):
            pages += 1
            return ({}, plain(20 * MIB)) if pages > 2 else None
        return None

    start(answer)
    with pytest.raises(StreamsSetAsideError, match="BTC future was set aside"):
        run(RunOptions())
    require_others_whole(clickhouse_client, tape, ("BTC", "future"))


def test_contradiction_of_every_stream_is_the_error_of_the_run(
    start: Start, clickhouse_client: Client
) -> None:
    """One sentence, as for a run of one stream."""
    page = json.dumps({"result": {"trades": [{"odd": 1}] * 20, "has_more": True}}).encode()
    start(lambda method, params: ({}, [page]) if "trades" in method else None)
    with pytest.raises(ProofError, match="has no valid time to continue from"):
        run(RunOptions(currencies=("BTC",)))


def test_unreachable_exchange_ends_the_run_at_once(start: Start) -> None:
    """Not one stream after the other, each to the end of its retries."""
    exchange = start(lambda method, params: None)
    exchange.close()
    started_s = time.monotonic()
    with pytest.raises(OutsideError, match="cannot be reached"):
        run(RunOptions())
    assert time.monotonic() - started_s < 30


@pytest.mark.parametrize(
    ("answer", "sentence"),
    [
        (lambda: ({}, million_instruments(300_000)), "more than 50,000 records"),
        (lambda: ({}, plain(200 * MIB, b'{"result": [')), "more than 134,217,728 bytes"),
        (lambda: ({"Content-Length": "2"}, [b"{}"]), "without a result"),
    ],
    ids=["too many", "too large", "no result"],
)
def test_instruments_that_cannot_be_read_are_set_aside(
    answer: Callable[[], tuple[dict[str, str], Any]],
    sentence: str,
    start: Start,
    clickhouse_client: Client,
    tape: Tape,
) -> None:
    """Of that currency; all trades are loaded and covered, and the other currency's instruments too."""
    start(
        lambda method, params: (
            answer() if method == "get_instruments" and params["currency"] == "BTC" else None
        )
    )
    with pytest.raises(StreamsSetAsideError, match=f"instruments of BTC was set aside.*{sentence}"):
        run(RunOptions())
    assert {stream: set(keys) for stream, keys in loaded(clickhouse_client).items()} == streams_of(tape)
    assert clickhouse_client.query("SELECT DISTINCT currency FROM deribit_raw.instruments").result_rows == [
        ("ETH",)
    ]


def test_instrument_without_a_name_is_rejected_once(start: Start, clickhouse_client: Client) -> None:
    """With its currency and kind, the reason, and its text; deep values reject only their record."""
    deep = '{"instrument_name": "DEEP", "kind": "future", "odd": ' + "[" * 200_000 + "]" * 200_000 + "}"
    records = f'[{{"kind": "future", "strike": 5}}, {deep}, {{"instrument_name": "GOOD", "kind": "future"}}]'
    body = f'{{"result": {records}}}'.encode()
    start(
        lambda method, params: (
            ({}, [body])
            if method == "get_instruments" and params == {"currency": "BTC", "expired": "false"}
            else None
        )
    )
    run(RunOptions(currencies=("BTC",)))
    run(RunOptions(currencies=("BTC",)))
    assert clickhouse_client.query(
        "SELECT currency, kind, reason, length(raw) FROM deribit_raw.rejected_trades ORDER BY length(raw)"
    ).result_rows == [
        ("BTC", "future", "an instrument without a name", 31),
        ("BTC", "future", "nested deeper than 64 levels", len(deep)),
    ]
    assert clickhouse_client.query(
        "SELECT count() FROM deribit_raw.instruments WHERE instrument_name = 'GOOD'"
    ).result_rows == [(1,)]


def test_names_of_an_exchange_are_data(start: Start, clickhouse_client: Client) -> None:
    """Names and values with quotes, markup, templates and control characters arrive unchanged and execute nothing."""
    odd = [
        "'; drop table deribit_raw.trades -- ",
        '"\\',
        "`x`",
        "{x:String} %(x)s {{ 1/0 }}",
        "[red]\x1b[2J",
        "a\nb\t",
    ]
    records = [
        {
            "trade_seq": 1,
            "trade_id": str(number),
            "timestamp": 1_700_000_000_000 + number,
            "price": 1.0,
            "amount": 1.0,
            "instrument_name": name,
            "direction": name,
            name: {name: name},
        }
        for number, name in enumerate(odd)
    ]

    def answer(method: str, params: dict[str, str]) -> tuple[dict[str, str], Any] | None:
        if "trades" not in method:
            return None
        first, last = int(params.get("start_timestamp", 0)), int(params.get("end_timestamp", 0))
        is_victim = (params.get("currency"), params.get("kind")) == VICTIM
        trades = [each for each in records if is_victim and first <= each["timestamp"] <= last]
        return {}, [json.dumps({"result": {"trades": trades, "has_more": False}}).encode()]

    start(answer)
    summary = run(RunOptions(currencies=("BTC",)))
    assert set(summary.unknown_fields) == set(odd)
    rows = clickhouse_client.query(
        "SELECT instrument_name, direction, extra FROM deribit_raw.trades"
    ).result_rows
    assert {(name, direction) for name, direction, _ in rows} == {(name, name) for name in odd}
    assert [json.loads(extra) for *_, extra in rows] == [{name: {name: name}} for name, *_ in rows]
    assert find_gaps(shared_database(clickhouse_settings())) == []
    assert fetch_status(shared_database(clickhouse_settings()))
    assert repair_gaps().wanted == 0


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
@pytest.mark.parametrize("is_proxied", [False, True], ids=["direct", "through a proxy"])
@pytest.mark.parametrize("method", ["trades", "get_instruments"])
def test_run_ends_soon_after_sigterm_while_answers_drip(
    is_proxied: bool, method: str, start: Start, clickhouse_client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also headers may drip. A stream that did not answer is not covered; without instruments, trades are loaded."""
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
        assert covered is not None
        assert covered.result_rows
    else:
        assert covered is None or VICTIM not in [tuple(row) for row in covered.result_rows]


def wait_until_idle(exchange: HostileExchange, quiet_s: float = 3.0) -> None:
    """Wait until no request has arrived for `quiet_s` seconds."""
    while True:
        requests = len(exchange.requests)
        time.sleep(quiet_s)
        if len(exchange.requests) == requests:
            return


def tree_bytes(pid: int) -> int:
    """Resident memory of a process and its descendants."""
    total = 0
    try:
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                total = int(line.split()[1]) * 1024
        children = " ".join(path.read_text() for path in Path(f"/proc/{pid}/task").glob("*/children"))
    except OSError:
        return 0
    return total + sum(tree_bytes(int(child)) for child in children.split())


GIANTS: dict[str, Callable[[], tuple[dict[str, str], Any]]] = {
    "1 GiB of gzip": lambda: (GZIP, bomb(2**30)),
    "2 GB of JSON": lambda: ({}, plain(2 * 10**9)),
    "200,000 levels": lambda: ({}, nested(200_000)),
    "16 MiB of tiny values": lambda: ({}, [*plain(15 * MIB), b"0]}}"]),
    "16 MiB of small records": lambda: ({}, [*plain(15 * MIB, filler=b"{},"), b"0]}}"]),
}


@pytest.mark.slow
@pytest.mark.parametrize("attack", [*GIANTS, "a million instruments"])
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
            most = max(most, tree_bytes(process.pid))
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
