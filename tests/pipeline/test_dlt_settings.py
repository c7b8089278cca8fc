"""Settings of dlt for other pipelines, in the environment or in .dlt/, lose no trades of this one."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from typing import cast

import dlt
import pytest
from clickhouse_connect.driver.client import Client

from extract.clickhouse.destination import tape_clickhouse
from extract.clickhouse.settings import clickhouse_settings
from extract.errors import OutsideError, UsageError
from extract.pipeline.run import run
from extract.pipeline.session import open_session, run_lock
from extract.pipeline.stop import StopSignal, stop_on_sigterm
from extract.sandbox.server import SandboxExchange
from extract.sandbox.tape import Tape
from extract.source.options import RunOptions
from extract.source.source import empty_tables
from tests.support.small_windows import keys_in, keys_of

Listed = Callable[[Tape], SandboxExchange]
BTC = RunOptions(currencies=("BTC",))
REFUSED = (
    ("REFRESH", "drop_sources"),
    ("PIPELINES__DERIBIT_TRADES__REFRESH", "drop_data"),
    ("DEV_MODE", "true"),
    ("RESTORE_FROM_DESTINATION", "false"),
    ("DATASET_NAME_LAYOUT", "test_%s"),
    ("STAGING_TYPE", "filesystem"),
    ("PROGRESS", "quick"),
    ("REFRESH", "true"),
)
"""The last two are no values that dlt knows."""

UNUSABLE = {
    "LOAD__WORKERS": ("0", "-1", "abc", "9999999"),
    "DERIBIT_TRADES__LOAD__WORKERS": ("0",),
    "NORMALIZE__WORKERS": ("0", "x", "5000"),
    "NORMALIZE__START_METHOD": ("beam",),
    "LOAD__RUN_SLEEP": ("-1", "nan", "x"),
    "LOAD__RAISE_ON_MAX_RETRIES": ("x",),
    "LOAD__DELETE_COMPLETED_JOBS": ("maybe",),
    "LOAD__PARALLELISM_STRATEGY": ("foo",),
    "EXTRACT__WORKERS": ("abc",),
    "EXTRACT__FUTURES_POLL_INTERVAL": ("x",),
    "DATA_WRITER__BUFFER_MAX_ITEMS": ("many",),
    "SOURCES__DERIBIT__DATA_WRITER__FILE_MAX_ITEMS": ("many",),
    "SCHEMA__JSON_NORMALIZER": ("x",),
    "SCHEMA__NAMING": ("foo",),
    "DESTINATION__REPLACE_STRATEGY": ("foo",),
    "ENABLE_RUNTIME_TRACE": ("maybe",),
}
"""Values of settings that dlt reads in any step, and with which it cannot work."""


@pytest.fixture
def half_loaded(listed: Listed) -> tuple[SandboxExchange, Tape]:
    """The first half of a tape is loaded, and the exchange has the rest by now."""
    tape = Tape.generate(seed=3, trades=300, days=1)
    exchange = listed(tape)
    end_ms, exchange.now_ms = exchange.now_ms, tape.trades[150]["timestamp"]
    run(BTC)
    exchange.now_ms = end_ms
    return exchange, tape


def test_package_whose_trades_are_refused_is_not_finished(
    half_loaded: tuple[SandboxExchange, Tape], clickhouse_client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where dlt has to finish packages whose jobs have failed: time without its trades would be covered."""
    monkeypatch.setenv("LOAD__RAISE_ON_FAILED_JOBS", "false")
    loads = "select load_id from deribit_raw._dlt_loads order by load_id"
    finished = clickhouse_client.query(loads).result_rows
    clickhouse_client.command("alter table deribit_raw.trades add constraint refused check price < 0")
    with pytest.raises(OutsideError, match=r"Rows of trades could not be loaded: .*refused"):
        run(BTC)
    assert clickhouse_client.query(loads).result_rows == finished
    clickhouse_client.command("alter table deribit_raw.trades drop constraint refused")
    run(BTC)
    assert keys_in(clickhouse_client) == keys_of(half_loaded[1])


def test_tables_have_the_engine_of_the_project(
    small_windows: None, clickhouse_client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A ReplacingMergeTree without a sort key keeps one row: coverage and absent trades would be lost by merges."""
    monkeypatch.setenv("DESTINATION__TABLE_ENGINE_TYPE", "replacing_merge_tree")
    with run_lock(), open_session(clickhouse_settings()) as session:
        session.run(empty_tables())
    engines = "select distinct engine from system.tables where database = 'deribit_raw'"
    assert clickhouse_client.query(engines).result_rows == [("MergeTree",)]


def test_settings_that_would_lose_trades_are_refused(
    half_loaded: tuple[SandboxExchange, Tape], clickhouse_client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is dropped or loaded elsewhere, and without the setting the next run loads the rest."""
    loaded = keys_in(clickhouse_client)
    databases = clickhouse_client.query("show databases").result_rows
    for name, value in REFUSED:
        with monkeypatch.context() as env:
            env.setenv(name, value)
            with pytest.raises(UsageError, match=name.rpartition("__")[2].lower()):
                run(BTC)
        assert keys_in(clickhouse_client) == loaded
        assert clickhouse_client.query("show databases").result_rows == databases
    run(BTC)
    assert keys_in(clickhouse_client) == keys_of(half_loaded[1])


def test_values_that_dlt_cannot_use_are_refused_by_name(
    half_loaded: tuple[SandboxExchange, Tape], clickhouse_client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A mistake in the configuration is no failure of the exchange or the database, whatever step reads it."""
    cases = [(name, value) for name, values in UNUSABLE.items() for value in values]
    for name, value in cases:
        with monkeypatch.context() as env:
            env.setenv(name, value)
            with pytest.raises(UsageError) as raised:
                run(BTC)
        assert name.rpartition("__")[2].lower() in str(raised.value).lower(), (
            f"{name}={value}: {raised.value}"
        )
        assert len(str(raised.value)) < 200
    run(BTC)
    assert keys_in(clickhouse_client) == keys_of(half_loaded[1])


@pytest.mark.parametrize("intercepts", ["true", "false"])
def test_signal_while_a_package_is_loaded_stops_the_run(
    small_windows: None, monkeypatch: pytest.MonkeyPatch, intercepts: str
) -> None:
    """dlt's own handlers, which it installs by default, would keep it from the run, and `tape follow` would not end."""
    monkeypatch.setenv("RUNTIME__INTERCEPT_SIGNALS", intercepts)

    @dlt.resource(name="rows")
    def rows() -> Iterator[dict[str, int]]:
        yield {"a": 1}

    stop = StopSignal()
    with run_lock(), open_session(clickhouse_settings()) as session, stop_on_sigterm(stop):
        destination = cast(tape_clickhouse, session.pipeline.destination)
        destination.before_complete = lambda load_id: signal.raise_signal(signal.SIGTERM)
        session.run(dlt.source(lambda: rows, name="deribit")())
    assert stop.reason == "on SIGTERM"
