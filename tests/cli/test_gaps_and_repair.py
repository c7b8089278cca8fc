"""`tape gaps` and `tape repair`: output and exit codes."""

from __future__ import annotations

import json

import pytest

from extract.clickhouse.settings import ClickHouseSettings
from tests.support.commands import UserShell
from tests.support.loaded_user import User


def test_gap_is_listed_and_repaired(user: User) -> None:
    """Complete, missing, fetched, complete again: each with its exit code and the command to run next."""
    assert user.tape("gaps").out == "Nothing is missing.\n"
    name, seq = user.inner_keys()[7]
    user.lose([(name, seq)])
    done = user.tape("gaps")
    assert done.code == 1
    header, row, sentence = done.out.splitlines()
    assert header.split() == ["instrument", "first", "last", "missing", "where", "reason"]
    assert row.split()[:4] == [name, str(seq), str(seq), "1"]
    assert sentence == "1 trades of 1 instruments are missing; `tape repair` fetches them."
    assert json.loads(user.tape("gaps", "--json").out)[0]["instrument_name"] == name

    done = user.tape("repair")
    assert done.code == 0
    assert done.out.startswith("1 of 1 missing trades fetched")
    assert user.tape("repair").out == "There is nothing to fetch.\n"
    done = user.tape("gaps", "--json")
    assert (done.code, done.out) == (0, "[]\n")


@pytest.mark.slow
def test_unreachable_exchange_fails_repair_but_not_gaps(user: User, monkeypatch: pytest.MonkeyPatch) -> None:
    """Exit code 4 and one sentence; nothing is recorded as absent, so the next repair succeeds."""
    keys = user.keys()
    lost = user.inner_keys()[7:9]
    user.lose(lost)
    with monkeypatch.context() as patch:
        patch.setenv("SOURCES__DERIBIT__API_URL", "http://127.0.0.1:9/api/v2")
        patch.setattr("extract.retry.time.sleep", lambda seconds: None)
        assert user.tape("gaps").code == 1
        done = user.tape("repair")
    assert done.code == 4
    assert "cannot be reached" in done.err
    assert user.keys() == sorted(set(keys) - set(lost))
    assert user.tape("repair").code == 0


def test_gaps_before_the_first_run_cannot_tell(shell: UserShell) -> None:
    """Exit code 2, and one sentence with the command to run."""
    done = shell.run("tape", "gaps", "--currency", "btc")
    assert done.code == 2
    assert done.out == ""
    assert done.err == (
        "Nothing is loaded yet, so completeness cannot be checked; run `dlt pipeline run --currency BTC`.\n"
    )


def test_unknown_kind_is_a_usage_error(clickhouse_env: ClickHouseSettings, user: User) -> None:
    """Exit code 3, and the sentence names the option."""
    done = user.tape("repair", "--kind", "swap")
    assert done.code == 3
    assert "--kind 'swap' does not exist" in done.err
