"""The whole project on a replicated cluster of one's own: two nodes, databases with the engine `Replicated`."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import clickhouse_connect
import pytest
from clickhouse_connect.driver.exceptions import ClickHouseError
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from bench.soak import BIN, Command
from extract.clickhouse.client import Database
from extract.clickhouse.refresh import refresh
from extract.clickhouse.settings import LOCAL_USER, QUORUM_SETTINGS, ClickHouseSettings
from extract.errors import TapeError
from extract.paths import ROOT
from extract.sandbox.faults import Faults
from extract.sandbox.server import SandboxExchange
from extract.sandbox.tape import Tape
from harness import raw_tables
from harness.dbt_project import Models
from tests.support.candle_truth import Trade, assert_true
from tests.support.commands import UserShell, environment
from tests.support.packages import PACKAGES, STEPS, InterruptedDatabase, KilledError
from tests.support.waiting import wait_until

CLUSTER = Path(os.environ.get("DERIBIT_TAPE_SHARED", ROOT.parent / "shared")) / "cluster"
DATABASES = ("deribit_raw", "deribit", "deribit_runs")
REPLICATED = {"TAPE_REPLICATED": "1"}
LIVE_S = 90
KILLS = 6
REPLICA_EXAMPLES = 4
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

    @contextlib.contextmanager
    def models(self, node: int) -> Iterator[Models]:
        """Models on a node, by a client whose inserts wait for both nodes, as those of the project do."""
        settings = self.settings(node)
        with clickhouse_connect.get_client(
            host=settings.host,
            port=settings.port,
            username=settings.user,
            password=settings.password,
            settings=dict(QUORUM_SETTINGS),
        ) as client:
            yield Models(client)

    def wait_until_together(self) -> None:
        """Wait until each node knows that both are there."""
        sql = "select min(active_replicas) from system.replicas"
        wait_until(lambda: all(self.query(node, sql) == [(2,)] for node in range(2)), timeout_s=60)

    def truncate(self) -> None:
        """Remove all rows."""
        sql = f"select database, name from system.tables where database in {DATABASES} and engine like 'Replicated%'"
        for database, name in self.query(0, sql):
            self.query(0, f"truncate table {database}.{name} sync")

    def sync(self) -> None:
        """Wait until each node has every part."""
        for node in range(len(self.ports)):
            sql = f"select database, name from system.tables where database in {DATABASES} and engine like 'Replicated%'"
            for database, name in self.query(node, sql):
                self.query(node, f"system sync replica {database}.{name}")


@pytest.fixture
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
        first.ok("dbt", "run", "--target", "local", cwd=ROOT / "dbt_project")
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


@pytest.mark.slow(minutes=5)
def test_replicas_that_are_killed_again_and_again_lose_nothing(nodes: Nodes, tmp_path: Path) -> None:
    """Each node is killed in turn while `tape follow` loads live trades, a share of all requests fails, and both are read.

    No reader ever sees a trade twice, and in the end both nodes have each trade once.
    """
    begin_ms = int(time.time() * 1000)
    tape = Tape.generate(
        seed=7,
        trades=4_000,
        days=2 * LIVE_S / 86_400,
        end_ms=begin_ms + LIVE_S * 1000,
    )
    started_s: list[float] = []

    def now_ms() -> int:
        return begin_ms + int((time.monotonic() - started_s[0]) * 1000 if started_s else 0)

    with (
        SandboxExchange(tape, faults="rate=0.03,seed=7,slow=0.2", clock=now_ms) as exchange,
        contextlib.ExitStack() as stack,
    ):
        shell = UserShell(environment(nodes.settings(0), tmp_path / "tape") | REPLICATED).at(exchange)
        shell.ok("tape", "init")
        shell.ok("dlt", "pipeline", "run")
        shell.ok("dbt", "run", "--target", "local", cwd=ROOT / "dbt_project")
        started_s.append(time.monotonic())
        follow = Command(
            "follow", [str(BIN / "tape"), "follow", "--every", "2s"], shell.env, tmp_path / "follow.log", 1.0
        )
        stack.callback(follow.stop)
        is_over = threading.Event()
        pool = stack.enter_context(ThreadPoolExecutor())
        reads = [pool.submit(_count_until, is_over, nodes, node) for node in range(2)]
        stack.callback(is_over.set)
        for node in itertools.islice(itertools.cycle((1, 0)), KILLS):
            time.sleep(LIVE_S / KILLS / 2)
            nodes.command("kill", node)
            time.sleep(LIVE_S / KILLS / 2)
            nodes.command("start", node)
        follow.stop()
        is_over.set()
        assert all(read.result() > 0 for read in reads)
        exchange.faults = Faults()
        exchange.now_ms = tape.trades[-1]["timestamp"] + 120_000
        shell.ok("dlt", "pipeline", "run")
        assert "Nothing is missing" in shell.ok("tape", "gaps").out
        nodes.sync()
        for node in range(2):
            for table in ("deribit_raw.trades", "deribit.trades"):
                loaded = Counter(nodes.query(node, f"select instrument_name, trade_seq from {table}"))
                assert loaded == Counter(
                    (trade["instrument_name"], trade["trade_seq"]) for trade in tape.trades
                )
        assert nodes.query(0, CONTENT) == nodes.query(1, CONTENT)


EVENTS = ("client", "this node", "other node", "refresh", "nothing")
"""What happens while the models are refreshed by a package, or that they are not: what is killed."""
PLACES = st.lists(st.tuples(st.integers(0, STEPS - 1), st.integers(0, 1)), min_size=4, max_size=4)
"""For each package: the statement before which something is killed, and the node that is refreshed."""


@pytest.mark.heavy
@pytest.mark.slow(minutes=4)
def test_models_of_replicas_depend_on_packages_only(nodes: Nodes, small_tape: Tape, tmp_path: Path) -> None:
    """Generated packages restate each other's trades, by either node; loaders and nodes are killed in mid-refresh.

    After a last refresh each node has every trade and candle, to the last digit of an independent computation.
    """
    with SandboxExchange(small_tape) as exchange:
        shell = UserShell(environment(nodes.settings(0), tmp_path) | REPLICATED).at(exchange)
        shell.ok("tape", "init")
        shell.ok("dlt", "pipeline", "run")
        shell.ok("dbt", "run", "--target", "local", cwd=ROOT / "dbt_project")
    events = itertools.cycle(EVENTS)
    happened: Counter[str] = Counter()

    @settings(
        max_examples=REPLICA_EXAMPLES,
        deadline=None,
        database=None,
        phases=[Phase.generate],  # a smaller example would begin with the nodes that this one has left
        suppress_health_check=list(HealthCheck),
    )
    @given(PACKAGES, st.permutations(range(4)), PLACES)
    def check(packages: list[list[Trade]], order: list[int], places: list[tuple[int, int]]) -> None:
        nodes.truncate()
        loads = {f"{1764000000 + n}.123456": rows for n, rows in enumerate(packages)}
        in_order = [load_id for _, load_id in sorted(zip(order, loads, strict=False))]
        for load_id, (step, node) in zip(in_order, places, strict=False):
            with nodes.models(node) as models:
                raw_tables.load(models.client, load_id, loads[load_id])
            event = next(events)
            _refresh_on_replica(nodes, load_id, event, step, node)
            happened[event] += 1
        with nodes.models(1) as models:
            refresh(Database(models.client, nodes.settings(1)))
        nodes.sync()
        # A node that has just started may still fetch parts.
        wait_until(lambda: nodes.query(0, CONTENT) == nodes.query(1, CONTENT), timeout_s=60)
        for node in range(2):
            with nodes.models(node) as models:
                assert_true(models, loads)

    check()
    assert happened.keys() == set(EVENTS)


def _refresh_on_replica(nodes: Nodes, load_id: str, event: str, step: int, node: int) -> None:
    """Refresh the models by a package on one node while `event` happens."""
    if event == "nothing":
        return
    with nodes.models(node) as models:
        if event == "refresh":
            refresh(Database(models.client, nodes.settings(node)), [load_id])
            return
        victim = node if event == "this node" else 1 - node

        def kill_node() -> None:
            nodes.command("kill", victim)
            if victim != node:
                nodes.wait_until_alone(node)

        interrupt = {} if event == "client" else {"interrupt": kill_node}
        # A step that inserts no row succeeds without the other node.
        with contextlib.suppress(KilledError, TapeError):
            refresh(InterruptedDatabase(models.client, nodes.settings(node), step, **interrupt), [load_id])
    if event != "client":
        nodes.command("start", victim)
        nodes.wait_until_together()


def _count_until(is_over: threading.Event, nodes: Nodes, node: int) -> int:
    """Count trades of a node until the end, and return how often; those that are there twice are an error."""
    reads = 0
    while not is_over.wait(0.5):
        try:
            [(rows, different)] = nodes.query(
                node, "select count(), uniqExact(instrument_name, trade_seq) from deribit.trades"
            )
        except (ClickHouseError, OSError):  # it is being killed, or starts
            continue
        assert rows == different
        reads += 1
    return reads


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
