"""`tape verify` writes to the model `candle_checks`, and agrees with the candles that dbt builds."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

from extract.sandbox.tape import Tape
from tests.support.loaded_user import User

if TYPE_CHECKING:
    from harness.dbt_project import Project

pytestmark = pytest.mark.slow
SELECTION = ("--select", "+ohlcv_1m", "+ohlcv_1d", "+trades", "candle_checks", "retention_drops")


def test_candles_of_the_models_agree_with_the_exchange(
    dbt: Project, new_user: Callable[[Tape], User]
) -> None:
    """Options, futures and combos of every level; a rebuild of the model retains what was recorded."""
    user = new_user(Tape.generate(seed=8, trades=1500, days=2))
    user.load(currencies=("BTC",))
    dbt.client.command("create database if not exists deribit")  # dbt's connections name it
    dbt.run(*SELECTION)
    done = user.tape("verify", "--json", "--sample", "200")
    assert done.code == 0, done.output
    report = json.loads(done.out)
    assert report["equal"] > 100
    assert report["agrees_with"] == "whole"
    dbt.run("--full-refresh", "--select", "candle_checks")
    dbt.must("test", "--select", "candle_checks")
    [[charts]] = user.client.query(
        "select countIf(classification = 'compared') from deribit.candle_checks"
    ).result_rows
    assert charts == report["charts"]
