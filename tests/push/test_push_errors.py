"""Errors of a push: one sentence, with the next thing to try."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from dlt.common.versioned_state import compress_state, decompress_state

from extract.clickhouse.client import shared_database
from extract.clickhouse.lease import Lease
from extract.clickhouse.settings import clickhouse_settings
from extract.pipeline.session import run_lock
from extract.sandbox.server import SandboxExchange
from extract.sandbox.tape import Tape
from tests.push.conftest import Both

Listed = Callable[[Tape], SandboxExchange]


@pytest.fixture
def loaded(both: Both, listed: Listed) -> Both:
    listed(Tape.generate(seed=6, trades=300, days=2))
    both.run("local", currencies=("BTC",))
    return both


def error_of(both: Both, code: int, *words: str) -> str:
    done = both.tape("push", *words)
    assert (done.code, done.out) == (code, ""), done.output
    assert done.err.count("\n") == 1
    return done.err.strip()


def test_unconfigured_cloud_is_a_usage_error(both: Both, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CLICKHOUSE_CLOUD_HOST")
    assert error_of(both, 3).startswith("CLICKHOUSE_CLOUD_HOST is not set")


def test_empty_local_cannot_be_pushed(both: Both) -> None:
    assert error_of(both, 2) == "local has nothing that could be pushed yet; run: dlt pipeline run"


def test_unreachable_cloud_is_an_outside_error(both: Both, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLICKHOUSE_CLOUD_PORT", "9")
    monkeypatch.setenv("CLICKHOUSE_CLOUD_WAKE_S", "0")
    assert "is not running; check CLICKHOUSE_CLOUD_HOST and CLICKHOUSE_CLOUD_PORT" in error_of(both, 4)


def test_second_push_on_this_machine_is_rejected(both: Both) -> None:
    with run_lock():
        assert "wait for it or stop it" in error_of(both, 3)


@pytest.mark.slow
def test_push_waits_for_the_lease_of_another_machine(loaded: Both) -> None:
    """Two writers would move the same cursor; verifying needs no lease."""
    loaded.tape("push")
    with Lease(shared_database(clickhouse_settings("cloud")), "another machine"):
        sentence = error_of(loaded, 3)
        assert loaded.tape("push", "--verify").code == 0
    assert sentence.startswith("Another run is in progress on this database (another machine)")
    assert loaded.tape("push").code == 0


@pytest.mark.slow
def test_push_resumes_after_a_full_disk(loaded: Both) -> None:
    """What was copied stays, and the next push resumes once there is space."""
    loaded.tape("push")
    loaded.cloud.command("truncate table deribit_raw.trades")
    setting = "min_free_disk_bytes_to_perform_insert"
    loaded.cloud.command(f"alter table deribit_raw.trades modify setting {setting} = 1000000000000000")
    sentence = error_of(loaded, 4)
    assert "space" in sentence
    assert sentence.endswith("What was pushed stays; `tape push` resumes from there.")
    loaded.cloud.command(f"alter table deribit_raw.trades reset setting {setting}")
    assert loaded.tape("push").code == 0
    assert loaded.same("trades")


def test_trades_of_another_exchange_are_rejected(loaded: Both) -> None:
    """Cloud has trades of the live exchange, or of a push that was killed before its first package was complete."""
    loaded.cloud.command("create database deribit_raw")
    for table in ("trades", "_dlt_loads"):
        columns = loaded.local.command(f"show create table deribit_raw.{table} format TSVRaw")
        loaded.cloud.command(columns)
    loaded.cloud.command(
        "insert into deribit_raw.trades (instrument_name, _dlt_load_id) values ('BTC-PERPETUAL', '1')"
    )
    assert "cloud holds trades of a push or run that was never finished" in error_of(loaded, 3)
    loaded.cloud.command("truncate table deribit_raw.trades")
    loaded.tape("push")
    text = loaded.cloud.command(
        "select state from deribit_raw._dlt_pipeline_state order by _dlt_load_id desc limit 1"
    )
    real = decompress_state(text)
    real["sources"]["deribit"]["exchange"] = "www.deribit.com"
    loaded.cloud.command(
        f"alter table deribit_raw._dlt_pipeline_state update state = '{compress_state(real)}' where 1",
        settings={"mutations_sync": 2},
    )
    sentence = error_of(loaded, 3)
    assert sentence.startswith(
        "cloud holds trades of www.deribit.com, which must not be mixed with those of a sandbox on loopback in local"
    )


def test_tables_with_different_columns_are_a_proof_error(loaded: Both) -> None:
    loaded.tape("push")
    loaded.cloud.command("alter table deribit_raw.trades modify column price Float32")
    for words in ((), ("--verify",)):
        assert error_of(loaded, 1, *words) == (
            "deribit_raw.trades does not have the same column price in local and cloud; "
            "list the differences with: tape schema-align"
        )
