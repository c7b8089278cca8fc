"""Odd records and names of an exchange are data: they are rejected or stored, and the run continues."""

from __future__ import annotations

import json
from typing import Any

import pytest
from clickhouse_connect.driver.client import Client

from extract.clickhouse.client import shared_database
from extract.clickhouse.settings import clickhouse_settings
from extract.coverage.gaps import find_gaps
from extract.coverage.repair import repair_gaps
from extract.coverage.status import fetch_status
from extract.pipeline.run import run
from extract.sandbox.tape import Tape
from extract.source.options import RunOptions
from tests.support.hostile_exchange import (
    Start,
    for_victim,
    nested,
)


@pytest.mark.slow
def test_nested_record_is_rejected_and_the_stream_continues(
    start: Start, clickhouse_client: Client, tape: Tape
) -> None:
    """200,000 levels: the record is stored as it was sent."""
    start(for_victim(lambda: ({}, nested(200_000))))
    run(RunOptions())
    assert clickhouse_client.query(
        "SELECT max(length(raw)) > 400000 FROM deribit_raw.rejected_trades"
    ).result_rows == [(True,)]


@pytest.mark.slow
def test_instrument_without_a_name_is_rejected_once(start: Start, clickhouse_client: Client) -> None:
    """With its currency and kind, the reason, and its text; deep values reject only their record."""
    deep = '{"instrument_name": "DEEP", "kind": "future", "odd": ' + "[" * 200_000 + "]" * 200_000 + "}"
    good = '{"instrument_name": "GOOD", "kind": "future", "base_currency": "BTC"}'
    records = f'[{{"kind": "future", "strike": 5}}, {deep}, {good}]'
    body = f'{{"result": {records}}}'.encode()
    start(
        lambda method, params: (
            ({}, [body])
            if method == "get_instruments" and params == {"currency": "any", "expired": "false"}
            else None
        )
    )
    run(RunOptions(currencies=("BTC",)))
    run(RunOptions(currencies=("BTC",)))
    assert clickhouse_client.query(
        "SELECT currency, kind, reason, length(raw) FROM deribit_raw.rejected_trades ORDER BY length(raw)"
    ).result_rows == [
        ("BTC", "future", "not an instrument: it has no name", 31),
        ("BTC", "future", "not an instrument: nested deeper than 64 levels", len(deep)),
    ]
    assert clickhouse_client.query(
        "SELECT count() FROM deribit_raw.instruments WHERE instrument_name = 'GOOD'"
    ).result_rows == [(1,)]


@pytest.mark.slow
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
        first, last = int(params.get("start_timestamp", 0)), int(params.get("end_timestamp", 10**13))
        is_victim = params.get("currency") == "BTC" and params.get("kind") in ("option", "any")
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
