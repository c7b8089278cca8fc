"""`tape health`: each check reflects the state that it measures, and a value that cannot be read is never ok."""

from __future__ import annotations

import json
import re
import shutil
import ssl
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from extract.clickhouse.client import shared_database
from extract.clickhouse.settings import ClickHouseSettings
from extract.health.checks import Check, exit_code
from extract.health.thresholds import Limits, State
from tests.support.certificates import Authority
from tests.support.commands import Done
from tests.support.proxy import proxy_to
from tests.support.raw_tables import Raw

DISKS = ("--disk", "0.2:0.1", "--disk-days", "0.2:0.1")
"""Limits that the machine of the tests meets."""


@pytest.fixture
def raw(clean_clickhouse: ClickHouseSettings, clickhouse_env: ClickHouseSettings) -> Raw:
    """A future whose first three trades are loaded in one finished package, covered until an hour ago."""
    raw = Raw(
        shared_database(clickhouse_env),
        ("trades", "coverage", "absent_trades", "instruments"),
        is_finished=False,
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
    raw.client.command(
        "create table deribit.consumed_loads (load_id String) engine = MergeTree order by load_id"
    )
    consume(raw, "1")
    return raw


def finish(raw: Raw, load_id: str, hours_ago: float) -> None:
    raw.client.command(
        f"insert into deribit_raw._dlt_loads (load_id, status, inserted_at) "
        f"select '{load_id}', 0, now64(6) - interval {int(hours_ago * 60)} minute"
    )


def consume(raw: Raw, load_id: str) -> None:
    raw.client.command(f"insert into deribit.consumed_loads values ('{load_id}')")


@pytest.fixture
def health(tape: Callable[..., Done]) -> Callable[..., tuple[int, dict[str, dict[str, Any]]]]:
    """Exit code, and each check by its name."""

    def run(*words: str) -> tuple[int, dict[str, dict[str, Any]]]:
        done = tape("health", "--json", *DISKS, *words)
        return done.code, {each["check"]: each for each in json.loads(done.out)}

    return run


ALWAYS = ("raw", "gaps", "marts", "rejected", "fields", "streams", "schema", "runs", "disk", "disk-days")
"""Checks of a database in which one run has loaded trades, and whose models are hand-made."""

Health = Callable[..., tuple[int, dict[str, dict[str, Any]]]]


def test_fresh_and_complete_database_is_ok(raw: Raw, health: Health, tape: Callable[..., Done]) -> None:
    """Without a cloud target there are no checks of push and certificates."""
    code, checks = health()
    assert (code, {name: each["state"] for name, each in checks.items()}) == (
        0, dict.fromkeys(ALWAYS, "ok")
    )  # fmt: skip
    assert 3590 < checks["raw"]["value"] < 3700
    lines = tape("health", *DISKS).out.splitlines()
    assert len(lines) == 1 + len(ALWAYS)
    assert re.fullmatch(r"ok +raw +covered time of BTC future ends \d+ min ago", lines[1])


@pytest.mark.parametrize(
    ("limits", "state", "code"), [("2h:3h", "ok", 0), ("30m:2h", "warn", 0), ("10m:30m", "alarm", 1)]
)
def test_raw_lag_is_classified(raw: Raw, health: Health, limits: str, state: str, code: int) -> None:
    got, checks = health("--raw", limits)
    assert (got, checks["raw"]["state"]) == (code, state)


def test_raw_lag_ends_with_the_next_run(raw: Raw, health: Health) -> None:
    """Which covers time until now."""
    limits = ("--raw", "10m:30m")
    assert health(*limits)[1]["raw"]["state"] == "alarm"
    raw.client.command(
        "insert into deribit_raw.coverage (currency, kind, covered_from, covered_to, _dlt_load_id) "
        "select 'BTC', 'future', now64(3) - interval 1 hour, now64(3), '1'"
    )
    assert health(*limits)[1]["raw"]["state"] == "ok"


def test_stalest_stream_in_scope_is_reported(raw: Raw, health: Health) -> None:
    """Of a fresh future and an option that is behind and lacks a trade, `--kind future` ignores the option."""
    raw.client.command(
        "insert into deribit_raw.trades (instrument_name, trade_seq, timestamp, currency, kind, _dlt_load_id) "
        "select 'BTC-27JUN25-90000-C', number * 2 + 1, now64(3) - interval 50 hour, 'BTC', 'option', '1' from numbers(2)"
    )
    raw.client.command(
        "insert into deribit_raw.coverage (currency, kind, covered_from, covered_to, _dlt_load_id) "
        "select 'BTC', 'option', '2016-01-01', now64(3) - interval 40 hour, '1'"
    )
    _, checks = health()
    assert 40 * 3600 <= checks["raw"]["value"] < 40 * 3600 + 60
    assert checks["raw"]["text"] == "covered time of BTC option ends 40 h ago"
    assert checks["gaps"]["value"] == 1
    _, checks = health("--kind", "future")
    assert 3590 < checks["raw"]["value"] < 3700
    assert checks["gaps"]["value"] == 0
    code, checks = health("--kind", "spot")
    assert (code, checks["raw"]["state"], checks["gaps"]["state"]) == (2, "unknown", "unknown")


@pytest.mark.slow
def test_missing_trades_are_counted(raw: Raw, health: Health) -> None:
    """Trades that the exchange is known not to have do not count."""
    raw.client.command("delete from deribit_raw.trades where trade_seq = 2")
    code, checks = health("--gaps", "1:1")
    assert (code, checks["gaps"]["state"], checks["gaps"]["value"]) == (1, "alarm", 1)
    assert "tape repair" in checks["gaps"]["text"]
    code, checks = health()
    assert (code, checks["gaps"]["state"]) == (0, "warn")
    raw.insert("absent_trades", instrument_name="BTC-27JUN25", first_seq=2, last_seq=2)
    gaps = health()[1]["gaps"]
    assert gaps["state"] == "ok"
    assert "apart from 1 absent trades that are requested again" in gaps["text"]


def test_unproven_time_and_contradictory_trades_alarm(raw: Raw, health: Health) -> None:
    """Although no number is missing."""
    raw.make("rejected_trades")
    record = {"instrument_name": "BTC-27JUN25", "trade_seq": 2, "trade_id": "77"}
    raw.insert("rejected_trades", reason="another trade has this trade_seq", raw=json.dumps(record))
    code, checks = health()
    assert (code, checks["gaps"]["state"], checks["gaps"]["value"]) == (1, "alarm", 0)
    assert "nothing else is missing. 1 trades of BTC-27JUN25 are rejected" in checks["gaps"]["text"]
    span = {"unproven_from_ms": 4_000_000_000_000, "unproven_to_ms": 4_000_000_000_001}
    raw.insert("rejected_trades", reason="unreadable", raw=json.dumps(span))
    assert "BTC future was set aside" in health()[1]["gaps"]["text"]
    raw.client.command("truncate table deribit_raw.rejected_trades")
    assert health()[1]["gaps"]["state"] == "ok"


def test_model_lag_is_the_age_of_the_oldest_pending_package(raw: Raw, health: Health) -> None:
    """Of two pending packages the older one counts, whatever the limits."""
    finish(raw, "2", hours_ago=40)
    finish(raw, "3", hours_ago=30)
    code, checks = health()
    assert (code, checks["marts"]["state"]) == (0, "warn")
    assert checks["marts"]["text"].startswith("2 load packages wait for the models, since 40 h")
    assert 40 * 3600 <= checks["marts"]["value"] < 40 * 3600 + 60
    code, checks = health("--marts", "10m:39h")
    assert (code, checks["marts"]["state"]) == (1, "alarm")
    consume(raw, "2")
    assert health()[1]["marts"]["text"].startswith("1 load package waits for the models, since 30 h")
    consume(raw, "3")
    assert health()[1]["marts"]["state"] == "ok"


def test_unfinished_package_is_not_pending(raw: Raw, health: Health) -> None:
    """The models do not consume it."""
    raw.client.command(
        "insert into deribit_raw._dlt_loads (load_id, status, inserted_at) select '2', 1, now64(6) - interval 60 hour"
    )
    marts = health()[1]["marts"]
    assert (marts["state"], marts["value"]) == ("ok", 0)


def test_push_lag_is_the_age_of_the_oldest_unverified_trades(
    raw: Raw, health: Health, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The lag counts from the oldest package loaded into a month after its verification, or into a month without one."""
    monkeypatch.setenv("CLICKHOUSE_CLOUD_HOST", "127.0.0.1")
    monkeypatch.setenv("CLICKHOUSE_CLOUD_PORT", "9")
    code, checks = health()
    assert (code, checks["push"]["state"]) == (1, "alarm")
    assert checks["push"]["text"] == "there was no push yet; run: tape push"
    raw.make("pushes")
    code, checks = health()
    assert (checks["push"]["state"], checks["push"]["value"] // 60) == ("ok", 60)
    assert health("--push", "10m:30m")[1]["push"]["state"] == "alarm"
    raw.client.command(
        "insert into deribit_raw.pushes select 'cloud', substring(toString(toDate(timestamp)), 1, 7), count(), now64(3) "
        "from deribit_raw.trades group by 2"
    )
    checks = health("--push", "10m:30m")[1]
    assert (checks["push"]["state"], checks["push"]["value"]) == ("ok", 0)


def test_push_lag_is_that_of_the_stalest_month(
    raw: Raw, health: Health, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two months were never verified: the one that was loaded earlier determines the lag."""
    monkeypatch.setenv("CLICKHOUSE_CLOUD_HOST", "127.0.0.1")
    monkeypatch.setenv("CLICKHOUSE_CLOUD_PORT", "9")
    raw.make("pushes")
    finish(raw, "2", hours_ago=40)
    raw.client.command(
        "insert into deribit_raw.trades (instrument_name, trade_seq, timestamp, currency, kind, _dlt_load_id) "
        "select 'BTC-27JUN25', 1, now64(3) - interval 90 day, 'BTC', 'future', '2'"
    )
    push = health()[1]["push"]
    assert 40 * 3600 <= push["value"] < 40 * 3600 + 60
    assert push["text"].startswith("2 months are not verified on cloud, since 40 h: ")


def test_certificate_that_expires_first_is_reported(
    raw: Raw, health: Health, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that cannot be read is an alarm, and so is a server that presents no certificate."""
    authority = Authority(tmp_path / "ca")
    monkeypatch.setenv("CLICKHOUSE_CLOUD_CA_CERT", str(authority.ca.cert))
    monkeypatch.setenv("CLICKHOUSE_CLOUD_CLIENT_CERT", str(authority.signed("loader", days=90).cert))
    for limits, state in (("0.9:0.5", "ok"), ("30:0.5", "warn"), ("30:7", "alarm")):
        code, checks = health("--certificates", limits)
        assert (checks["certificates"]["state"], checks["certificates"]["value"]) == (state, 1)
        assert "CLICKHOUSE_CLOUD_CA_CERT" in checks["certificates"]["text"]
    monkeypatch.setenv("CLICKHOUSE_CLOUD_CLIENT_CERT", str(tmp_path / "none.pem"))
    code, checks = health("--certificates", "0.9:0.5")
    assert (code, checks["certificates"]["state"], checks["certificates"]["value"]) == (1, "alarm", None)
    assert "none.pem" in checks["certificates"]["text"]
    monkeypatch.setenv("CLICKHOUSE_CLOUD_CLIENT_CERT", str(authority.signed("loader", days=90).cert))
    assert health("--certificates", "0.9:0.5")[1]["certificates"]["state"] == "ok"
    monkeypatch.setenv("CLICKHOUSE_CLOUD_CLIENT_CERT", "")
    monkeypatch.setenv("CLICKHOUSE_CLOUD_HOST", "127.0.0.1")
    monkeypatch.setenv("CLICKHOUSE_CLOUD_PORT", "9")
    assert health("--certificates", "0.9:0.5")[1]["certificates"]["state"] == "alarm"


def test_rejected_certificate_precedes_one_that_expires_earlier(
    raw: Raw, health: Health, clickhouse: ClickHouseSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The trusted authority has one day left; the server presents a certificate of another one, valid for 90 days."""
    trusted, other = Authority(tmp_path / "trusted"), Authority(tmp_path / "other", "/CN=other CA")
    presented = other.signed("server", days=90)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(presented.cert, presented.key)
    monkeypatch.setenv("CLICKHOUSE_CLOUD_CA_CERT", str(trusted.ca.cert))
    monkeypatch.setenv("CLICKHOUSE_CLOUD_HOST", "127.0.0.1")
    with proxy_to(clickhouse.port, context) as server:
        monkeypatch.setenv("CLICKHOUSE_CLOUD_PORT", str(server.port))
        certificates = health("--certificates", "0.9:0.5")[1]["certificates"]
    assert (certificates["state"], certificates["value"]) == ("alarm", 89)
    assert certificates["text"].startswith("server, over the wire: Clients that trust ")


@pytest.mark.parametrize(("free", "place"), [(1, "on the disk of /"), (1000, "on ClickHouse's disk default")])
def test_fullest_disk_is_reported(
    raw: Raw, health: Health, monkeypatch: pytest.MonkeyPatch, free: int, place: str
) -> None:
    """The disk of TAPE_DIR is nearly full, or empty, unlike that of the server."""
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(total=1000, free=free))
    disk = health()[1]["disk"]
    assert place in disk["text"]
    assert (disk["value"] == 0.1) is (free == 1)
    assert disk["state"] == ("alarm" if free == 1 else "ok")


def test_free_disk_space_is_classified(raw: Raw, health: Health) -> None:
    """Less is worse: the alarm limit is below the warning limit."""
    code, checks = health("--disk", "101:100")
    assert (code, checks["disk"]["state"]) == (1, "alarm")
    assert health("--disk", "101:0")[1]["disk"]["state"] == "warn"


def test_check_that_cannot_be_made_is_unknown(
    raw: Raw, health: Health, tape: Callable[..., Done], monkeypatch: pytest.MonkeyPatch
) -> None:
    """No models, no tables, no server; the exit code of an alarm takes precedence."""
    raw.client.command("drop table deribit.consumed_loads")
    code, checks = health()
    assert (code, checks["marts"]["state"], checks["marts"]["value"]) == (2, "unknown", None)
    assert health("--raw", "1m:2m")[0] == 1
    raw.client.command("drop database deribit_raw sync")
    code, checks = health()
    assert code == 2
    assert {name for name, each in checks.items() if each["state"] == "unknown"} == {"raw", "gaps", "marts"}
    monkeypatch.setenv("CLICKHOUSE_LOCAL_PORT", "9")
    code, checks = health()
    assert code == 2
    assert {each["state"] for each in checks.values()} == {"unknown"}
    assert all("is not running" in each["text"] for each in checks.values())


@pytest.mark.parametrize(
    "words", [("--raw", "5"), ("--gaps", "1h:2h"), ("--disk", "x:y"), ("--kind", "shares")]
)
def test_malformed_option_is_a_usage_error(tape: Callable[..., Done], words: tuple[str, ...]) -> None:
    done = tape("health", *words)
    assert (done.code, done.out, done.err.count("\n")) == (3, "", 1)
    assert words[0] in done.err


def test_exit_code_is_that_of_the_worst_check() -> None:
    def check(state: State) -> Check:
        return Check("x", state, None, "", "")

    for states, code in (
        ((State.OK, State.WARN), 0), ((State.OK, State.UNKNOWN), 2), ((State.UNKNOWN, State.ALARM), 1)
    ):  # fmt: skip
        assert exit_code([check(state) for state in states]) == code
    assert [Limits(30, 7).classify(days) for days in (31, 30, 7, -1)] == [0, 1, 3, 3]
