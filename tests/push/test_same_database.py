"""After a push and a build through the edge, cloud equals local, and each drift on cloud is reported."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
from clickhouse_connect.driver.client import Client
from dbt.cli.main import dbtRunner

from extract.paths import ROOT
from extract.sandbox.server import SandboxExchange
from extract.sandbox.tape import Tape
from harness.dbt_project import failures, forget_databases
from tests.dbt.test_schema_drift import DRIFTS, plant
from tests.push.conftest import Both
from tests.push.test_resume_after_push import TAPE, day

CONSUMED = "select load_id from deribit.consumed_loads final order by load_id"
MODELS = ("trades", "ohlcv_1m", "ohlcv_1d", "instruments", "trade_gaps")


@pytest.fixture
def build(both: Both, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """`dbt build --target TARGET` in this process."""
    monkeypatch.setenv("SSL_CERT_FILE", "")  # set by the project's dbt plugin; restored after the test
    runner = dbtRunner()

    def build(target: str) -> None:
        paths = ["--project-dir", ROOT / "dbt_project", "--profiles-dir", ROOT / "profiles"]
        paths += ["--target-path", tmp_path / target, "--log-path", tmp_path / target]
        forget_databases()
        done = runner.invoke(["build", "--target", target, "--log-level", "none", *map(str, paths)])
        assert done.success, failures(done) or done.exception

    return build


@pytest.mark.heavy
@pytest.mark.slow
def test_pushed_database_is_aligned_and_each_kind_of_drift_reported(
    both: Both, listed: Callable[[Tape], SandboxExchange], build: Callable[[str], None]
) -> None:
    """Every model consumes each pushed package once, before and after a second push."""
    listed(TAPE)
    both.run("local", until=day(6))
    assert both.tape("push").code == 0
    build("cloud")
    both.run("local")
    assert both.tape("push").code == 0
    build("cloud")
    both.local.command("create database deribit")  # dbt creates it only in its first connection
    build("local")
    assert both.cloud.query(CONSUMED).result_rows == both.local.query(CONSUMED).result_rows
    for model in MODELS:
        assert _rows(both.local, model) == _rows(both.cloud, model)
    format_table = both.tape("schema-align")
    assert (format_table.code, format_table.out) == (
        0,
        "local and cloud are aligned: with the models' contracts and with each other.\n",
    )

    for table in DRIFTS:
        plant(SimpleNamespace(client=both.cloud), table)  # type: ignore[arg-type]
    both.cloud.command("alter table deribit_raw.trades modify column price Float32")
    both.cloud.command("create table deribit.forgotten (x UInt8) engine = MergeTree order by x")
    done = both.tape("schema-align", "--json")
    assert done.code == 1
    drifts = {(each["table"], each["thing"]): each for each in json.loads(done.out)}
    assert {table for table, _ in drifts} == {f"deribit.{table}" for table in (*DRIFTS, "forgotten")} | {
        "deribit_raw.trades"
    }
    for table, kinds in DRIFTS.items():
        for _, _, facts in kinds:
            for name, _, actual in facts:
                named = [
                    each
                    for (of, property), each in drifts.items()
                    if of == f"deribit.{table}" and property.startswith(name)
                ]
                assert named, (table, name)
                assert actual in (named[0]["cloud"] or "none")


def _rows(client: Client, model: str) -> str:
    return client.command(f"select * from deribit.{model} order by all format TSV")
