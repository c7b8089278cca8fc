"""Generated calls of every route, many trades in pages while a load runs, and the linter of the document."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from harness import raw_tables
from harness.dbt_project import Project
from tests.support.api import running_api
from tests.support.commands import BIN

pytestmark = pytest.mark.slow(minutes=3)

CHECKS = (
    "not_a_server_error,status_code_conformance,content_type_conformance,response_headers_conformance,"
    "response_schema_conformance,negative_data_rejection"
)

LATE = 500
"""Trades in a row of every 5,000 that arrive late: as many as a page of the exchange's answer may have."""


def is_late(seq: int) -> bool:
    return (seq - 1) % 5_000 < LATE


def calls(api: httpx.Client) -> int:
    """Requests that the server has answered."""
    text = api.get("/metrics").text
    return sum(
        int(float(count)) for count in re.findall(r"^tape_requests_total\{.*\} (\S+)$", text, re.MULTILINE)
    )


def test_generated_calls_have_documented_answers(api: httpx.Client, tmp_path: Path) -> None:
    """Two thousand calls: no 5xx, and no status, header or body that the document does not have.

    One worker: CPython 3.11 counts the depth of `ast.parse` for all threads together, and two that parse at once can
    end with a SystemError.
    """
    before = calls(api)
    command = [
        *(
            str(BIN / "schemathesis"),
            "run",
            str(api.base_url.join("/openapi.json")),
            "--checks",
            CHECKS,
            "--seed",
            "1",
        ),
        *("--phases", "examples,coverage,fuzzing", "--max-examples", "60", "--generation-deterministic"),
        *("--workers", "1", "--request-timeout", "30"),
    ]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stdout[-6000:]
    assert calls(api) - before >= 2_000


@pytest.mark.skipif(shutil.which("npx") is None, reason="needs npx; on Debian: apt-get install npm")
def test_document_lints_clean(api: httpx.Client, tmp_path: Path) -> None:
    """Redocly's strictest rules."""
    (tmp_path / "openapi.json").write_text(json.dumps(api.get("/openapi.json").json()))
    command = ["npx", "--yes", "@redocly/cli@2", "lint", "--extends=recommended-strict", "openapi.json"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("trades", [200_000, pytest.param(1_000_000, marks=pytest.mark.heavy)])
def test_pages_of_many_trades_are_whole_while_a_load_runs(
    dbt: Project, reader_login: Any, trades: int
) -> None:
    """New, late and restated trades arrive all the time: each trade that was there is read once, and no other twice."""
    name = "BTC-PERPETUAL"
    dbt.empty()
    raw_tables.cover_everything(dbt.client, "future")
    dbt.client.command(_LOAD_FIRST, parameters={"first": 1, "count": trades, "load": "1764000001.5"})
    raw_tables.load(dbt.client, "1764000001.5", [])
    _refresh(dbt)
    stop = threading.Event()
    loader = threading.Thread(target=_keep_loading, args=(dbt, trades, stop.is_set), daemon=True)
    with running_api(reader_login) as api:
        loader.start()
        try:
            seqs = _read_pages(api, name, trades)
        finally:
            stop.set()
            loader.join(60)
    assert len(seqs) == len(set(seqs))
    assert seqs == sorted(seqs)
    assert {seq for seq in range(1, trades + 1) if not is_late(seq)} <= set(seqs)


def _read_pages(api: httpx.Client, name: str, last_seq: int) -> list[int]:
    """Numbers of the trades of all pages, until one is newer than `last_seq`."""
    seqs: list[int] = []
    cursor: dict[str, str] = {}
    while True:
        answer = api.get(f"/v1/instruments/{name}/trades", params={"limit": 10_000, **cursor}).json()
        assert "items" in answer, answer
        seqs += [item["trade_seq"] for item in answer["items"]]
        if answer["next_cursor"] is None or seqs[-1] > last_seq:
            return seqs
        cursor = {"cursor": answer["next_cursor"]}


def _keep_loading(dbt: Project, trades: int, is_stopped: Callable[[], bool]) -> None:
    """Load late trades, restated ones and new ones, package after package."""
    number = 0
    while not is_stopped():
        number += 1
        load_id = f"{1_764_000_100 + number}.5"
        late = 1 + (number * 90_000) % trades
        for first in (late, late + LATE, trades + number * LATE):
            dbt.client.command(_LOAD_ALL, parameters={"first": first, "count": LATE, "load": load_id})
        raw_tables.load(dbt.client, load_id, [])
        _refresh(dbt)


def _refresh(dbt: Project) -> None:
    from extract.clickhouse.refresh import refresh

    refresh(dbt.database)


_LOAD_ALL = """
insert into deribit_raw.trades (
    trade_seq, trade_id, timestamp, instrument_name, price, amount, direction, currency, kind, _dlt_load_id
)
select
    seq, toString(seq), toDateTime64('2025-01-01', 3, 'UTC') + toIntervalSecond(seq), 'BTC-PERPETUAL',
    90000 + seq % 1000, 10, 'buy', 'BTC', 'future', {load:String}
from (select toInt64(number) + {first:Int64} as seq from numbers({count:UInt64}))"""
_LOAD_FIRST = f"{_LOAD_ALL} where (seq - 1) % 5000 >= {LATE}"
"""`count` numbers from `first` on, and those of them that are not late."""
