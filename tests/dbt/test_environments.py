"""Schemas from TAPE_SCHEMA and TAPE_RAW_SCHEMA, the targets dev and ci, and dbt before the first load."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import clickhouse_connect
import pytest

from extract.clickhouse.embedded import config
from extract.clickhouse.embedded.server import embedded_server
from extract.clickhouse.settings import ClickHouseSettings
from extract.paths import ROOT
from extract.sandbox.server import SandboxExchange
from extract.sandbox.tape import Tape
from extract.source.tables import RAW_TABLES
from harness.dbt_project import Project
from harness.raw_tables import create_raw_table, load
from tests.dbt.test_model_truth import trade
from tests.support.commands import UserShell, environment

OWN = {"TAPE_SCHEMA": "mine", "TAPE_RAW_SCHEMA": "mine_raw"}


def python(code: str, **env: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code], env=os.environ | env, capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


def test_statements_use_the_configured_databases() -> None:
    """Statements of the .sql files, and the grants of the roles, name the databases of the environment."""
    code = (
        "from extract.clickhouse.statements import with_configured_databases as own\n"
        "from extract.clickhouse.roles import ROLES\n"
        "print(own(\"deribit.trades deribit_raw.trades deribit_runs.leases database = 'deribit' deribit_trades\"))\n"
        "print(*(grant for role in ROLES for grant in role.grants if 'deribit' in grant))"
    )
    assert python(code, **OWN) == (
        "mine.trades mine_raw.trades mine_raw_runs.leases database = 'mine' deribit_trades"
    )


def test_name_that_is_no_identifier_is_a_users_mistake(tmp_path: Path) -> None:
    """It is reported in one sentence, and no statement is sent."""
    done = UserShell(dict(os.environ)).run("tape", "gaps", TAPE_RAW_SCHEMA="x; drop", TAPE_DIR=str(tmp_path))
    assert done.code == 3
    assert done.err == "TAPE_RAW_SCHEMA is 'x; drop'; set it to a name of letters, digits and underscores.\n"


def test_before_the_first_load_dbt_names_the_next_command(fresh_dbt: Project) -> None:
    """One sentence instead of an error for each model."""
    fresh_dbt.client.command("DROP DATABASE deribit_raw SYNC")
    result = fresh_dbt.invoke("build")
    assert not result.success
    assert fresh_dbt.rows("SELECT count() AS n FROM system.tables WHERE database = 'deribit'") == [{"n": 0}]
    message = str(result.exception)
    assert "Nothing is loaded yet: there is no table deribit_raw.trades." in message
    assert "tape init --target local" in message


def test_missing_raw_table_is_named_before_anything_is_built(fresh_dbt: Project) -> None:
    """If the selected models are made from it. One that a loaded database may lack is read as empty."""
    fresh_dbt.client.command("DROP TABLE deribit_raw.coverage SYNC")
    fresh_dbt.client.command("DROP TABLE deribit_raw._dlt_loads SYNC")
    message = str(fresh_dbt.invoke("build").exception)
    assert "There is no table deribit_raw._dlt_loads, deribit_raw.coverage, from which" in message
    assert "tape init --target local" in message
    assert fresh_dbt.rows("SELECT count() AS n FROM system.tables WHERE database = 'deribit'") == [{"n": 0}]
    create_raw_table(fresh_dbt.client, "_dlt_loads")
    fresh_dbt.run("--select", "+stg_deribit__trades", "+funding_1h")
    assert "deribit_raw.coverage" in str(fresh_dbt.invoke("run", "--select", "covered_spans").exception)


def test_one_schema_for_raw_tables_and_models_is_refused(
    fresh_dbt: Project, clickhouse: ClickHouseSettings, tmp_path: Path
) -> None:
    """The view `trades` would replace the raw trades."""
    load(fresh_dbt.client, "1764000001.5", [trade()])
    done = UserShell(environment(clickhouse, tmp_path)).run(
        *("dbt", "run", "--target", "local", "--select", "+trades"),
        *("--target-path", str(tmp_path), "--log-path", str(tmp_path)),
        cwd=ROOT / "dbt_project",
        TAPE_SCHEMA="deribit_raw",
    )
    assert done.code != 0
    assert "would replace the raw table deribit_raw." in done.out
    assert fresh_dbt.rows("SELECT count() AS n FROM deribit_raw.trades") == [{"n": 1}]


def test_sources_declare_whether_they_may_be_missing(dbt: Project) -> None:
    declared = {
        source.name: source.config.meta.get("is_optional", False)
        for source in dbt.runner.manifest.sources.values()
    }
    assert declared.pop("_dlt_loads") is False
    assert declared == {name: RAW_TABLES[name].is_optional for name in declared}


@pytest.mark.slow
def test_target_ci_has_a_schema_of_its_own(tmp_path: Path) -> None:
    """It writes next to the models of local, and reads the same raw tables; `dev` differs in the name only."""
    done = UserShell(dict(os.environ)).run(
        *("dbt", "--quiet", "ls", "--target", "ci", "--output", "json", "--output-keys", "schema"),
        *("--resource-type", "model", "--resource-type", "source"),
        *("--target-path", str(tmp_path), "--log-path", str(tmp_path)),
        cwd=ROOT / "dbt_project",
        **OWN,
    )
    schemas = {json.loads(line)["schema"] for line in done.out.splitlines() if line.startswith("{")}
    assert schemas == {"mine_ci", "mine_raw"}


@pytest.mark.slow(minutes=2)
def test_other_schemas_do_not_touch_the_default_ones(
    clickhouse: ClickHouseSettings, drop_databases: Callable[[], None], small_tape: Tape, tmp_path: Path
) -> None:
    """A load, a build and every check in schemas of the user's choice."""
    drop_databases()
    with SandboxExchange(small_tape) as exchange:
        shell = UserShell(environment(clickhouse, tmp_path) | OWN).at(exchange)
        shell.ok("dlt", "pipeline", "run")
        shell.ok("dbt", "build", "--target", "local", cwd=ROOT / "dbt_project")
        assert json.loads(shell.ok("tape", "gaps", "--json").out or "[]") == []
        assert sum(row["trades"] for row in json.loads(shell.ok("tape", "status", "--json").out)) == len(
            small_tape.trades
        )
        shell.run("tape", "health")
        shell.ok("tape", "retention", "--plan")
        again = shell.ok("dlt", "pipeline", "run").out
        assert again.startswith("0 new trades")
    with clickhouse_connect.get_client(
        host=clickhouse.host, port=clickhouse.port, username=clickhouse.user, password=clickhouse.password
    ) as client:
        rows = client.query(
            "SELECT name FROM system.databases WHERE name LIKE 'deribit%' OR name LIKE 'mine%'"
        )
        assert {name for (name,) in rows.result_rows} == {"mine", "mine_raw", "mine_raw_runs"}
        for name in ("mine", "mine_raw", "mine_raw_runs"):
            client.command(f"DROP DATABASE {name} SYNC")


@pytest.mark.slow(minutes=2)
def test_profile_with_hostile_settings_changes_nothing(
    small_tape: Tape, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A load and a build by a user whose profile changes the meaning of joins, nulls, types and inserts."""
    from tests.dbt.test_views import READER_SETTINGS

    hostile = {
        **READER_SETTINGS,
        "async_insert": 1,
        "wait_for_async_insert": 0,
        "limit": 7,
        "additional_table_filters": "{'deribit_raw.trades': 'trade_seq > 1', 'deribit.trade_versions': '0'}",
        "session_timezone": "Asia/Tokyo",
    }
    profile = "".join(f"<{name}>{value}</{name}>" for name, value in hostile.items())
    users_xml = config.users_xml

    def with_hostile_profile(*arguments: Any) -> str:
        text = users_xml(*arguments).replace("<profiles>", f"<profiles><hostile>{profile}</hostile>", 1)
        return text.replace(
            "<profile>default</profile>\n            <quota>", "<profile>hostile</profile><quota>"
        )

    monkeypatch.setattr(config, "users_xml", with_hostile_profile)
    with embedded_server(tmp_path / "server") as settings, SandboxExchange(small_tape) as exchange:
        with clickhouse_connect.get_client(
            host=settings.host, port=settings.port, username=settings.user, password=settings.password
        ) as client:
            assert client.query("SELECT getSetting('join_use_nulls')").result_rows == [(True,)]
        shell = UserShell(environment(settings, tmp_path / "user")).at(exchange)
        shell.ok("dlt", "pipeline", "run")
        shell.ok("dbt", "build", "--target", "local", "--selector", "ci", cwd=ROOT / "dbt_project")
        status = json.loads(shell.ok("tape", "status", "--json").out)
        assert sum(row["trades"] for row in status) == len(small_tape.trades)
        assert sum(row["missing"] for row in status) == 0
