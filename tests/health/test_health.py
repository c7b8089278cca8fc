"""`tape health`: each line turns when what it tells of turns, and what cannot be read is never ok."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from extract.clickhouse.client import shared_database
from extract.clickhouse.settings import ClickHouseSettings
from extract.health import checks as library
from extract.health.thresholds import Limits, State
from tests.support.certificates import Authority
from tests.support.commands import Done
from tests.support.raw_tables import Raw

NOW = "2025-01-01 10:00:00"
LEDGER = "model String, table_id UUID, load_id String, is_consumed Bool) engine = MergeTree order by model"


@pytest.fixture
def raw(clean_clickhouse: ClickHouseSettings, clickhouse_env: ClickHouseSettings) -> Raw:
    """A future whose first three trades are there, covered until an hour ago, in one finished package."""
    raw = Raw(
        shared_database(clickhouse_env), ("trades", "coverage", "absent_trades", "instruments", "_dlt_loads")
    )
    raw.client.command(
        "insert into deribit_raw.trades (instrument_name, trade_seq, timestamp, currency, kind, _dlt_load_id) "
        "select 'BTC-27JUN25', number + 1, now64(3) - interval 3 hour, 'BTC', 'future', '1' from numbers(3)"
    )
    raw.client.command(
        "insert into deribit_raw.coverage (currency, kind, covered_from, covered_to, _dlt_load_id) "
        "select 'BTC', 'future', '2016-01-01', now64(3) - interval 1 hour, '1'"
    )
    finish(raw, "1", hours_ago=1)
    raw.client.command("create database deribit")
    raw.client.command(f"create table deribit.load_ledger ({LEDGER}")
    raw.client.command("create table deribit.trade_versions (x Int8) engine = MergeTree order by x")
    consume(raw, "1")
    return raw


def finish(raw: Raw, load_id: str, hours_ago: float) -> None:
    raw.client.command(
        f"insert into deribit_raw._dlt_loads (load_id, status, inserted_at) "
        f"select '{load_id}', 0, now64(6) - interval {int(hours_ago * 60)} minute"
    )


def consume(raw: Raw, load_id: str) -> None:
    raw.client.command(
        f"insert into deribit.load_ledger select name, uuid, '{load_id}', true from system.tables "
        "where database = 'deribit' and name = 'trade_versions'"
    )


@pytest.fixture
def health(tape: Callable[..., Done]) -> Callable[..., tuple[int, dict[str, dict[str, Any]]]]:
    """Exit code, and each check by its name."""

    def query_rows(*words: str) -> tuple[int, dict[str, dict[str, Any]]]:
        done = tape("health", "--json", "--disk", "0.2:0.1", *words)
        return done.code, {each["check"]: each for each in json.loads(done.out)}

    return query_rows


Health = Callable[..., tuple[int, dict[str, dict[str, Any]]]]


def test_all_is_well(raw: Raw, health: Health, tape: Callable[..., Done]) -> None:
    """Without a cloud there is neither push nor certificate to tell of."""
    code, found = health()
    assert (code, {name: each["state"] for name, each in found.items()}) == (
        0, {"raw": "ok", "gaps": "ok", "marts": "ok", "disk": "ok"}
    )  # fmt: skip
    assert 3590 < found["raw"]["value"] < 3700
    lines = tape("health", "--disk", "0.2:0.1").out.splitlines()
    assert len(lines) == 5
    assert re.fullmatch(r"ok +raw +covered time of BTC future ends \d+ min ago", lines[1])


@pytest.mark.parametrize(
    ("limits", "state", "code"), [("2h:3h", "ok", 0), ("30m:2h", "warn", 0), ("10m:30m", "alarm", 1)]
)
def test_covered_time_that_ends_long_ago(
    raw: Raw, health: Health, limits: str, state: str, code: int
) -> None:
    got, found = health("--raw", limits)
    assert (got, found["raw"]["state"]) == (code, state)


def test_missing_trades(raw: Raw, health: Health) -> None:
    """What the exchange is known not to have does not count."""
    raw.client.command("delete from deribit_raw.trades where trade_seq = 2")
    code, found = health("--gaps", "1:1")
    assert (code, found["gaps"]["state"], found["gaps"]["value"]) == (1, "alarm", 1)
    assert "tape repair" in found["gaps"]["text"]
    code, found = health()
    assert (code, found["gaps"]["state"]) == (0, "warn")
    raw.insert("absent_trades", instrument_name="BTC-27JUN25", first_seq=2, last_seq=2)
    assert health()[1]["gaps"]["state"] == "ok"


def test_models_that_lag_behind_the_loads(raw: Raw, health: Health) -> None:
    """By the oldest package that waits; a table that was rebuilt has taken in nothing."""
    finish(raw, "2", hours_ago=40)
    code, found = health()
    assert (code, found["marts"]["state"]) == (0, "warn")
    assert "1 load packages wait for trade_versions" in found["marts"]["text"]
    assert 40 * 3600 <= found["marts"]["value"] < 40 * 3600 + 60
    consume(raw, "2")
    assert health()[1]["marts"]["state"] == "ok"
    raw.client.command(
        "create or replace table deribit.trade_versions (x Int8) engine = MergeTree order by x"
    )
    code, found = health("--marts", "10m:39h")
    assert (code, found["marts"]["state"]) == (1, "alarm")


def test_what_was_not_pushed(raw: Raw, health: Health, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the oldest package that came into a month after its proof, or without one."""
    monkeypatch.setenv("CLICKHOUSE_CLOUD_HOST", "127.0.0.1")
    monkeypatch.setenv("CLICKHOUSE_CLOUD_PORT", "9")
    code, found = health()
    assert (code, found["push"]["state"]) == (1, "alarm")
    assert found["push"]["text"] == "there was no push yet; run: tape push"
    raw.make("pushes")
    code, found = health()
    assert (found["push"]["state"], found["push"]["value"] // 60) == ("ok", 60)
    assert health("--push", "10m:30m")[1]["push"]["state"] == "alarm"
    raw.client.command(
        "insert into deribit_raw.pushes select 'cloud', substring(toString(toDate(timestamp)), 1, 7), count(), now64(3) "
        "from deribit_raw.trades group by 2"
    )
    found = health("--push", "10m:30m")[1]
    assert (found["push"]["state"], found["push"]["value"]) == ("ok", 0)


def test_certificates(raw: Raw, health: Health, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first to run out; one that cannot be read is an alarm, and so is a server that shows none."""
    authority = Authority(tmp_path / "ca")
    monkeypatch.setenv("CLICKHOUSE_CLOUD_CA_CERT", str(authority.ca.cert))
    monkeypatch.setenv("CLICKHOUSE_CLOUD_CLIENT_CERT", str(authority.signed("loader", days=90).cert))
    for limits, state in (("0.9:0.5", "ok"), ("30:0.5", "warn"), ("30:7", "alarm")):
        code, found = health("--certificates", limits)
        assert (found["certificates"]["state"], found["certificates"]["value"]) == (state, 1)
        assert "CLICKHOUSE_CLOUD_CA_CERT" in found["certificates"]["text"]
    monkeypatch.setenv("CLICKHOUSE_CLOUD_CLIENT_CERT", str(tmp_path / "none.pem"))
    code, found = health("--certificates", "0.9:0.5")
    assert (code, found["certificates"]["state"], found["certificates"]["value"]) == (1, "alarm", None)
    assert "none.pem" in found["certificates"]["text"]
    monkeypatch.setenv("CLICKHOUSE_CLOUD_CLIENT_CERT", "")
    monkeypatch.setenv("CLICKHOUSE_CLOUD_HOST", "127.0.0.1")
    monkeypatch.setenv("CLICKHOUSE_CLOUD_PORT", "9")
    assert health("--certificates", "0.9:0.5")[1]["certificates"]["state"] == "alarm"


def test_a_full_disk(raw: Raw, health: Health) -> None:
    """The alarm lies below the warning: what counts is what is left."""
    code, found = health("--disk", "101:100")
    assert (code, found["disk"]["state"]) == (1, "alarm")
    assert health("--disk", "101:0")[1]["disk"]["state"] == "warn"


def test_what_cannot_be_read_is_never_ok(
    raw: Raw, health: Health, tape: Callable[..., Done], monkeypatch: pytest.MonkeyPatch
) -> None:
    """No models, no tables, no server; an alarm outweighs it."""
    raw.client.command("drop table deribit.load_ledger")
    code, found = health()
    assert (code, found["marts"]["state"], found["marts"]["value"]) == (2, "unknown", None)
    assert health("--raw", "1m:2m")[0] == 1
    raw.client.command("drop database deribit_raw sync")
    code, found = health()
    assert code == 2
    assert {name for name, each in found.items() if each["state"] == "unknown"} == {"raw", "gaps", "marts"}
    monkeypatch.setenv("CLICKHOUSE_LOCAL_PORT", "9")
    code, found = health()
    assert code == 2
    assert {each["state"] for each in found.values()} == {"unknown"}
    assert all("is not running" in each["text"] for each in found.values())


@pytest.mark.parametrize(
    "words", [("--raw", "5"), ("--gaps", "1h:2h"), ("--disk", "x:y"), ("--kind", "shares")]
)
def test_options_that_say_nothing(tape: Callable[..., Done], words: tuple[str, ...]) -> None:
    done = tape("health", *words)
    assert (done.code, done.out, done.err.count("\n")) == (3, "", 1)
    assert words[0] in done.err


def test_the_worst_decides() -> None:
    def check(state: State) -> library.Check:
        return library.Check("x", state, None, "", "")

    for states, code in (
        ((State.OK, State.WARN), 0), ((State.OK, State.UNKNOWN), 2), ((State.UNKNOWN, State.ALARM), 1)
    ):  # fmt: skip
        assert library.exit_code([check(state) for state in states]) == code
    assert [Limits(30, 7).classify(days) for days in (31, 30, 7, -1)] == [0, 1, 3, 3]
