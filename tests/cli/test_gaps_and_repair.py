"""`tape gaps` and `tape repair` as they are typed: what they print, and how they end."""

from __future__ import annotations

import json

import pytest

from extract.clickhouse.settings import ClickHouseSettings
from tests.support.commands import UserShell
from tests.support.loaded_user import User


def test_from_missing_to_whole(user: User) -> None:
    """Whole, missing, fetched, whole again: each with its exit code and the command to try next."""
    assert user.tape("gaps").out == "Nothing is missing.\n"
    name, seq = user.inner_keys()[7]
    user.lose([(name, seq)])
    told = user.tape("gaps")
    assert told.code == 1
    header, row, sentence = told.out.splitlines()
    assert header.split() == ["instrument", "first", "last", "missing", "where", "reason"]
    assert row.split()[:4] == [name, str(seq), str(seq), "1"]
    assert sentence == "1 trades of 1 instruments are missing; `tape repair` fetches them."
    assert json.loads(user.tape("gaps", "--json").out)[0]["instrument_name"] == name

    told = user.tape("repair")
    assert told.code == 0
    assert told.out.startswith("1 of 1 missing trades fetched")
    assert user.tape("repair").out == "There is nothing to fetch.\n"
    told = user.tape("gaps", "--json")
    assert (told.code, told.out) == (0, "[]\n")


def test_a_failing_exchange_is_no_answer(user: User, monkeypatch: pytest.MonkeyPatch) -> None:
    """Exit 4 and one sentence; `tape gaps` does without the exchange."""
    keys = user.keys()
    lost = user.inner_keys()[7:9]
    user.lose(lost)
    with monkeypatch.context() as patch:
        patch.setenv("SOURCES__DERIBIT__API_URL", "http://127.0.0.1:9/api/v2")
        patch.setattr("extract.retry.time.sleep", lambda seconds: None)
        assert user.tape("gaps").code == 1
        told = user.tape("repair")
    assert told.code == 4
    assert "cannot be reached" in told.err
    assert user.keys() == sorted(set(keys) - set(lost))
    assert user.tape("repair").code == 0


def test_before_the_first_run_the_shell_hears_2(shell: UserShell) -> None:
    """And one sentence with the command to run; of a mistake it hears 3."""
    told = shell.run("tape", "gaps", "--currency", "btc")
    assert told.code == 2
    assert told.out == ""
    assert told.err == (
        "Nothing is loaded yet, so nothing can be proven; run `dlt pipeline run --currency BTC`.\n"
    )


def test_a_mistake_is_said(clickhouse_env: ClickHouseSettings, user: User) -> None:
    told = user.tape("repair", "--kind", "swap")
    assert told.code == 3
    assert "--kind 'swap' is none" in told.err
