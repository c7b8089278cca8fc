"""A hostile exchange: the stream concerned is set aside with a sentence, everything else is loaded and proven."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable
from typing import Any

import pytest
from clickhouse_connect.driver.client import Client

from extract.clickhouse.client import shared_database
from extract.clickhouse.settings import clickhouse_settings
from extract.coverage.gaps import find_unproven
from extract.errors import OutsideError, ProofError
from extract.pipeline.run import run
from extract.pipeline.summary import StreamsSetAsideError
from extract.sandbox.tape import Tape
from extract.source.options import RunOptions
from tests.support.commands import tape_here
from tests.support.hostile_exchange import (
    DRIP,
    GZIP,
    MIB,
    VICTIM,
    Start,
    bomb,
    drip,
    for_victim,
    loaded,
    million_instruments,
    plain,
    require_others_whole,
    streams_of,
)

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


@pytest.mark.slow
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
    [unproven] = find_unproven(shared_database(clickhouse_settings()))
    assert unproven.stream == VICTIM
    assert re.search(sentence, unproven.reason)
    is_hostile = False
    run(RunOptions())
    assert find_unproven(shared_database(clickhouse_settings())) == []
    rows = loaded(clickhouse_client)
    assert {stream: sorted(keys) for stream, keys in rows.items()} == {
        stream: sorted(keys) for stream, keys in streams_of(tape).items()
    }


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
    """One sentence, as for a run of one stream; `tape gaps` reports the time of each."""
    page = json.dumps({"result": {"trades": [{"odd": 1}] * 20, "has_more": True}}).encode()
    start(lambda method, params: ({}, [page]) if "trades" in method else None)
    with pytest.raises(ProofError, match="has no valid time to continue from"):
        run(RunOptions(currencies=("BTC",), kinds=("option", "future")))
    done = tape_here("gaps")
    assert done.code == 2
    assert "BTC option was set aside, and 2016-01-01" in done.err
    assert "BTC future was set aside, and 2016-01-01" in done.err


def test_unreachable_exchange_ends_the_run_at_once(start: Start) -> None:
    """Not one stream after the other, each to the end of its retries."""
    exchange = start(lambda method, params: None)
    exchange.close()
    started_s = time.monotonic()
    with pytest.raises(OutsideError, match="cannot be reached"):
        run(RunOptions())
    assert time.monotonic() - started_s < 30


@pytest.mark.slow
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
            answer() if method == "get_instruments" and params["currency"] in ("BTC", "any") else None
        )
    )
    with pytest.raises(StreamsSetAsideError, match=f"instruments of BTC was set aside.*{sentence}"):
        run(RunOptions())
    assert {stream: set(keys) for stream, keys in loaded(clickhouse_client).items()} == streams_of(tape)
    assert clickhouse_client.query("SELECT DISTINCT currency FROM deribit_raw.instruments").result_rows == [
        ("ETH",)
    ]
