"""`tape connect` prints settings that the programs can read and that have no password; dashboards query real tables."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import clickhouse_connect
import pytest
import yaml

from extract.cli.connect import PROGRAMS
from extract.clickhouse import connections
from extract.clickhouse.settings import ClickHouseSettings
from extract.paths import ROOT
from harness.dbt_project import Project
from tests.support.commands import tape_here

DASHBOARDS = sorted((ROOT / "deploy/grafana").glob("*.json"))
CLOUD = ClickHouseSettings(
    "cloud", "db.example.com", 8443, "reader", "s3cret-password", secure=True, ca_cert="/certs/ca.pem",
    client_cert="/certs/reader.pem", client_key="/certs/reader.key",
)  # fmt: skip
LOCAL = ClickHouseSettings("local", "127.0.0.1", 8123, "reader", "s3cret-password")


def test_command_has_every_program() -> None:
    assert set(PROGRAMS) == set(connections.PROGRAMS)


@pytest.mark.parametrize("settings", [CLOUD, LOCAL], ids=lambda each: each.mode)
@pytest.mark.parametrize("program", PROGRAMS)
def test_settings_have_no_password(settings: ClickHouseSettings, program: str) -> None:
    """They name the server and the role, and can be shared."""
    text = connections.PROGRAMS[program](settings)
    assert settings.password not in text
    assert settings.host in text
    assert str(settings.port) in text


def test_dbeaver_and_metabase_read_json() -> None:
    sources = json.loads(connections.dbeaver(CLOUD))["connections"]
    assert sources["deribit-tape-cloud"]["configuration"]["url"] == (
        "jdbc:clickhouse://db.example.com:8443/deribit?ssl=true&sslmode=strict&sslrootcert=%2Fcerts%2Fca.pem"
        "&sslcert=%2Fcerts%2Freader.pem&sslkey=%2Fcerts%2Freader.key"
    )
    assert sources["deribit-tape-cloud"]["save-password"] is False
    assert json.loads(connections.metabase(LOCAL))["details"]["ssl"] is False


def test_datagrip_reads_xml() -> None:
    source = ET.fromstring(connections.datagrip(CLOUD)).find(".//data-source")
    assert source is not None
    assert source.findtext("jdbc-url") == connections.jdbc_url(CLOUD)
    assert source.findtext("user-name") == "reader"


def test_grafana_reads_yaml() -> None:
    """With the data source that the dashboards name; the password comes from Grafana's environment."""
    [local] = yaml.safe_load(connections.grafana(LOCAL))["datasources"]
    assert local["secureJsonData"] == {"password": "$CLICKHOUSE_READER_PASSWORD"}
    [cloud] = yaml.safe_load(connections.grafana(CLOUD))["datasources"]
    assert cloud["secureJsonData"]["tlsClientCert"] == "$__file{/certs/reader.pem}"
    assert cloud["jsonData"]["secure"] is True
    for path in DASHBOARDS:
        panels = json.loads(path.read_text())["panels"]
        assert {panel["datasource"]["uid"] for panel in panels} == {local["uid"]}, path.name


def test_dsn_connects(reader_login: ClickHouseSettings) -> None:
    """With the password after the name, as its note says."""
    line = connections.dsn(reader_login).splitlines()[0].split()[1]
    dsn = line.replace("reader@", f"reader:{reader_login.password}@").rpartition("/")[0] + "/default"
    with clickhouse_connect.get_client(dsn=dsn) as client:
        assert client.command("select currentUser()") == "reader"


def test_command_prints_settings_of_the_reader(clickhouse_env: ClickHouseSettings) -> None:
    """On standard output alone, so that it can be written to a file; where it belongs is on standard error."""
    done = tape_here("connect", "metabase")
    assert (done.code, json.loads(done.out)["details"]["user"]) == (0, "reader")
    assert "Metabase" in done.err


def queries(path: Path) -> list[tuple[str, str]]:
    """Queries of a dashboard by title, with Grafana's macros and variables replaced."""
    dashboard: dict[str, Any] = json.loads(path.read_text())
    variables = {each["name"]: each["current"]["value"] for each in dashboard["templating"]["list"]}
    texts = [
        (panel["title"], target["rawSql"]) for panel in dashboard["panels"] for target in panel["targets"]
    ]
    texts += [
        (each["name"], each["query"]) for each in dashboard["templating"]["list"] if each["type"] == "query"
    ]
    for title, sql in texts:
        sql = re.sub(
            r"\$__timeFilter\(((?:[^()]|\([^()]*\))*)\)", r"\1 >= toDateTime(0) and \1 <= now()", sql
        )
        yield title, re.sub(r"\$(\w+)", lambda name: variables[name[1]], sql)  # type: ignore[misc]


@pytest.fixture(scope="module")
def database(dbt: Project) -> Project:
    """Every model, without rows."""
    dbt.empty()
    return dbt


@pytest.mark.parametrize("path", DASHBOARDS, ids=lambda path: path.stem)
def test_queries_of_dashboards_run_as_the_reader(
    database: Project, reader_login: ClickHouseSettings, path: Path
) -> None:
    """Each panel and each variable, against the tables that dbt built."""
    with clickhouse_connect.get_client(
        host=reader_login.host, port=reader_login.port, username="reader", password=reader_login.password
    ) as client:
        for title, sql in queries(path):
            answer = json.loads(client.raw_query(sql, fmt="JSONCompact"))
            assert [column["name"] for column in answer["meta"]], title


def test_duckdb_program_runs(database: Project, reader_login: ClickHouseSettings, tmp_path: Path) -> None:
    """As it is printed."""
    program = tmp_path / "program.py"
    program.write_text(connections.duckdb(reader_login))
    env = {"CLICKHOUSE_READER_PASSWORD": reader_login.password}
    done = subprocess.run([sys.executable, str(program)], env=env, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "instrument_name" in done.stdout
