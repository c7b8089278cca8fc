"""The whole project on a replicated cluster of one's own: two nodes, databases with the engine `Replicated`."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import clickhouse_connect
import pytest

from extract.clickhouse.settings import LOCAL_USER, ClickHouseSettings
from extract.paths import ROOT
from extract.sandbox.server import SandboxExchange
from extract.sandbox.tape import Tape
from tests.support.commands import UserShell, environment
from tests.support.waiting import wait_until

CLUSTER = Path(os.environ.get("DERIBIT_TAPE_SHARED", ROOT.parent / "shared")) / "cluster"
DATABASES = ("deribit_raw", "deribit", "deribit_runs")
REPLICATED = {"TAPE_REPLICATED": "1"}
CONTENT = """
    select (select count() from deribit.trades), (select sum(sipHash64(tuple(*))) from deribit.trades),
        (select sum(sipHash64(tuple(*))) from deribit.ohlcv_1m), (select sum(sipHash64(tuple(*))) from deribit.ohlcv_1mo)"""

pytestmark = [
    pytest.mark.slow(minutes=2),
    pytest.mark.skipif(not (CLUSTER / "cluster.py").exists(), reason=f"needs the cluster in {CLUSTER}"),
    pytest.mark.skipif(not shutil.which("java"), reason="needs java"),
]


_RUN_CLUSTER = """
import json, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from cluster import CLOUD, Cluster
with Cluster(Path(sys.argv[2]), nodes=2, profile=CLOUD, jars_in=Path(sys.argv[1]) / "jars") as cluster:
    print(json.dumps([http for http, _, _ in cluster.ports.values()]), flush=True)
    for line in sys.stdin:
        name, node = line.split()
        {"kill": cluster.kill, "start": cluster.start}[name](int(node) + 1)
        print("done", flush=True)
"""


@dataclass(frozen=True)
class Nodes:
    """Two replicas, by the HTTP port of each; `process` runs them."""

    ports: list[int]
    process: subprocess.Popen[str]

    def command(self, name: str, node: int) -> None:
        """`kill` or `start` a node."""
        assert self.process.stdin
        assert self.process.stdout
        self.process.stdin.write(f"{name} {node}\n")
        self.process.stdin.flush()
        assert self.process.stdout.readline() == "done\n"

    def settings(self, node: int) -> ClickHouseSettings:
        return ClickHouseSettings("local", "127.0.0.1", self.ports[node], LOCAL_USER, "tape-development")

    def query(self, node: int, sql: str) -> list[tuple[Any, ...]]:
        settings = self.settings(node)
        with clickhouse_connect.get_client(
            host=settings.host, port=settings.port, username=settings.user, password=settings.password
        ) as client:
            return [tuple(row) for row in client.query(sql).result_rows]

    def wait_until_alone(self, node: int) -> None:
        """Wait until a node knows that the other one is gone."""
        sql = "select max(active_replicas) from system.replicas"
        wait_until(lambda: self.query(node, sql) == [(1,)], timeout_s=60)

    def sync(self) -> None:
        """Wait until each node has every part."""
        for node in range(len(self.ports)):
            sql = f"select database, name from system.tables where database in {DATABASES} and engine like 'Replicated%'"
            for database, name in self.query(node, sql):
                self.query(node, f"system sync replica {database}.{name}")


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nodes]:
    """Two nodes that accept tables with replicated engines only, and whose databases an admin has created."""
    # In a separate process, because that code does not close its files.
    process = subprocess.Popen(
        [sys.executable, "-c", _RUN_CLUSTER, str(CLUSTER), str(tmp_path_factory.mktemp("cluster"))],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        assert process.stdout
        if not (line := process.stdout.readline()):
            pytest.skip("the cluster does not start here: another engine, another processor, or no packages")
        running = Nodes(json.loads(line), process)
        for node in range(2):
            for name in DATABASES:
                path = f"'/clickhouse/databases/{name}', '{{shard}}', '{{replica}}'"
                running.query(node, f"create database {name} engine = Replicated({path})")
        yield running


def test_every_table_is_on_both_nodes(nodes: Nodes, small_tape: Tape, tmp_path: Path) -> None:
    """`tape init`, a run and a build by one node; the other one has the same rows and finds nothing to load.

    Then a node is killed: no run succeeds without it, because a trade that only one node has could be lost, readers of
    the other one notice nothing, and the first run after its return loads what is new, once.
    """
    with SandboxExchange(small_tape) as exchange:
        end_ms, exchange.now_ms = exchange.now_ms, small_tape.trades[len(small_tape.trades) // 2]["timestamp"]
        first, second = (
            UserShell(environment(nodes.settings(node), tmp_path / str(node)) | REPLICATED).at(exchange)
            for node in range(2)
        )
        first.ok("tape", "init")
        first.ok("dlt", "pipeline", "run")
        first.ok("dbt", "build", "--target", "local", cwd=ROOT / "dbt_project")
        nodes.sync()
        [content] = nodes.query(0, CONTENT)
        assert 0 < content[0] < len(small_tape.trades)
        assert nodes.query(1, CONTENT) == [content]
        engines = nodes.query(
            1,
            f"select distinct engine from system.tables where database in {DATABASES} and engine like '%MergeTree'",
        )
        assert {engine for (engine,) in engines} <= {
            f"Replicated{kind}MergeTree" for kind in ("", "Replacing", "Aggregating")
        }
        assert second.ok("dlt", "pipeline", "run").out.startswith("0 new trades")
        second.ok("dbt", "test", "--target", "local", cwd=ROOT / "dbt_project")
        assert "Nothing is missing" in second.ok("tape", "gaps").out

        exchange.now_ms = end_ms
        nodes.command("kill", 1)
        nodes.wait_until_alone(0)
        killed = first.run("dlt", "pipeline", "run")
        assert killed.code == 4, killed.output
        assert nodes.query(0, CONTENT) == [content]
        nodes.command("start", 1)
        first.ok("dlt", "pipeline", "run")
        nodes.sync()
        loaded = "select count(), uniqExact(instrument_name, trade_seq) from deribit_raw.trades"
        for node in range(2):
            assert nodes.query(node, loaded) == [(len(small_tape.trades),) * 2]
        assert nodes.query(0, CONTENT) == nodes.query(1, CONTENT)
        assert nodes.query(0, CONTENT)[0][0] == len(small_tape.trades)
        assert "Nothing is missing" in second.ok("tape", "gaps").out


def test_lease_admits_one_run_across_replicas(nodes: Nodes) -> None:
    """Of two runs that begin together on two replicas, at most one gets the lease."""
    code = """
import sys
from extract.clickhouse.client import open_database
from extract.clickhouse.lease import AnotherRunError, Lease
from extract.clickhouse.settings import clickhouse_settings
database = open_database(clickhouse_settings())
for attempt in range(20):
    print("ready", flush=True)
    sys.stdin.readline()
    try:
        with Lease(database, f"holder {sys.argv[1]}"):
            print("held", flush=True)
            sys.stdin.readline()
    except AnotherRunError:
        print("refused", flush=True)
        sys.stdin.readline()
"""
    runs = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(node)],
            env=os.environ | environment(nodes.settings(node), Path("/nonexistent")) | REPLICATED,
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for node in range(2)
    ]

    def read(run: subprocess.Popen[str]) -> str:
        assert run.stdout
        return run.stdout.readline().strip()

    def proceed(run: subprocess.Popen[str]) -> None:
        assert run.stdin
        run.stdin.write("\n")
        run.stdin.flush()

    with contextlib.ExitStack() as stack:
        pool = stack.enter_context(ThreadPoolExecutor())
        for run in runs:
            stack.callback(run.__exit__, None, None, None)
            stack.callback(run.kill)
        for _ in range(20):
            assert [*pool.map(read, runs)] == ["ready"] * 2
            [*pool.map(proceed, runs)]
            assert [*pool.map(read, runs)].count("held") <= 1
            [*pool.map(proceed, runs)]
        assert [run.wait(30) for run in runs] == [0, 0]
