"""A load and a dbt build into the cloud target through the edge: same data, one port, few connections, no secrets."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from extract.clickhouse.client import open_client
from extract.clickhouse.settings import ClickHouseSettings
from extract.paths import ROOT
from extract.sandbox.server import SandboxExchange
from extract.sandbox.tape import Tape
from tests.support.clickhouse import drop_project_databases
from tests.support.commands import Done, UserShell, environment
from tests.support.edge import SERVER_PASSWORD, Edge, needs_caddy
from tests.support.proxy import proxy_to

pytestmark = [needs_caddy, pytest.mark.slow]  # builds every model through the edge

PASSWORD = "canary-of-the-cloud-user"
# Records the address of each socket of Python, in each process of a command.
WATCHER = """
import os, sys
def watch(event, arguments):
    if event in ("socket.connect", "socket.bind") and isinstance(arguments[1], tuple):
        with open(os.environ["WATCHED"], "a") as file:
            file.write(f"{event} {arguments[1][0]} {arguments[1][1]}\\n")
sys.addaudithook(watch)
"""


@dataclass
class Cloud:
    """Result of one load and one build."""

    edge: Edge
    exchange: SandboxExchange
    shell: UserShell
    home: Path
    tape: Tape
    port: int
    done: dict[str, Done]
    connections: dict[str, int]
    command_lines: set[str]


@pytest.fixture(scope="module")
def cloud(
    edge: Edge,
    clickhouse: ClickHouseSettings,
    drop_databases: Callable[[], None],
    small_tape: Tape,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Cloud]:
    """The two commands of `CLICKHOUSE_MODE=cloud make run`, through a proxy that counts connections."""
    drop_databases()
    _drop_cloud(edge)
    home = tmp_path_factory.mktemp("cloud-user")
    (home / "sitecustomize.py").write_text(WATCHER)
    with (
        SandboxExchange(small_tape) as exchange,
        proxy_to(edge.port) as proxy,
        recorded_command_lines() as command_lines,
    ):
        env = environment(clickhouse, home) | edge.env()
        env |= {"CLICKHOUSE_CLOUD_PORT": str(proxy.port), "CLICKHOUSE_CLOUD_PASSWORD": PASSWORD}
        env |= {"PYTHONPATH": str(home), "WATCHED": str(home / "watched")}
        shell = UserShell(env).at(exchange)
        result = Cloud(edge, exchange, shell, home, small_tape, proxy.port, {}, {}, command_lines)
        for name, words in (
            ("dlt", ("dlt", "pipeline", "run")),
            ("dbt", ("dbt", "build", "--target", "cloud")),
        ):
            before = proxy.connections
            where = ROOT / "dbt_project" if name == "dbt" else ROOT
            result.done[name] = shell.ok(*words, cwd=where, CLICKHOUSE_MODE="cloud")
            result.connections[name] = proxy.connections - before
        (home / "watched").rename(home / "watched-cloud")
        yield result
    _drop_cloud(edge)


def _drop_cloud(edge: Edge) -> None:
    with open_client(edge.clickhouse) as client:
        drop_project_databases(client)


@contextlib.contextmanager
def recorded_command_lines() -> Iterator[set[str]]:
    """Every command line of a process on this machine during the block."""
    seen: set[str] = set()
    stop = threading.Event()

    def read() -> None:
        while not stop.is_set():
            for path in Path("/proc").glob("[0-9]*/cmdline"):
                with contextlib.suppress(OSError):
                    seen.add(path.read_bytes().replace(b"\0", b" ").decode(errors="replace"))
            time.sleep(0.1)

    thread = threading.Thread(target=read)
    thread.start()
    yield seen
    stop.set()
    thread.join()


def test_every_trade_is_loaded_and_built(cloud: Cloud) -> None:
    """deribit.trades behind the edge has each trade of the tape once."""
    wanted = sorted((t["instrument_name"], t["trade_seq"]) for t in cloud.tape.trades)
    with open_client(cloud.edge.clickhouse) as client:
        rows = client.query("select instrument_name, trade_seq from deribit.trades").result_rows
        candles = client.command("select count() from deribit.ohlcv_1m")
    assert sorted(rows) == wanted
    assert candles > 0


@pytest.mark.heavy
@pytest.mark.slow
def test_both_targets_are_aligned(cloud: Cloud) -> None:
    """After the same run into local, `tape schema-align` reports no difference."""
    local = {"TAPE_DIR": str(cloud.home / "local-tape"), "CLICKHOUSE_MODE": "local"}
    cloud.shell.ok("dlt", "pipeline", "run", **local)
    cloud.shell.ok("dbt", "run", "--target", "local", cwd=ROOT / "dbt_project", **local)
    done = cloud.shell.run("tape", "schema-align")
    assert (done.code, done.out) == (
        0, "local and cloud are aligned: with the models' contracts and with each other.\n"
    ), done.output  # fmt: skip


def test_only_one_https_port_is_used(cloud: Cloud) -> None:
    """dlt and dbt connect to the edge and to the exchange only, and listen on no port."""
    watched = (cloud.home / "watched-cloud").read_text().splitlines()
    connected = {tuple(line.split()[1:]) for line in watched if line.startswith("socket.connect ")}
    exchange_port = cloud.exchange.url.rpartition(":")[2].partition("/")[0]
    assert {port for _, port in connected} == {str(cloud.port), exchange_port}
    assert {host for host, _ in connected} == {"127.0.0.1"}
    bound = {line.split()[2] for line in watched if line.startswith("socket.bind ")}
    assert bound <= {"0"}


def test_connections_are_reused(cloud: Cloud) -> None:
    """Hundreds of requests share a few connections: one per thread, and a few of dbt."""
    assert 0 < cloud.connections["dlt"] <= 25
    assert 0 < cloud.connections["dbt"] <= 25


def test_no_secret_is_shown_or_stored(cloud: Cloud) -> None:
    """Neither password nor key is in an output, in a file of commands, edge or ClickHouse, or in a process list."""
    key = Path(cloud.shell.env["CLICKHOUSE_CLOUD_CLIENT_KEY"]).read_text().splitlines()[1]
    secrets = [PASSWORD, SERVER_PASSWORD, key, cloud.shell.env["CLICKHOUSE_LOCAL_PASSWORD"]]
    texts = {f"screen of {name}": done.output for name, done in cloud.done.items()}
    texts |= {f"process {number}": line for number, line in enumerate(cloud.command_lines)}
    written = [path for path in (*cloud.home.rglob("*"), *cloud.edge.home.rglob("*")) if path.is_file()]
    keys = {path for path in written if path.suffix == ".key"}
    names = {path.name for path in written}
    assert {
        "manifest.json",
        "run_results.json",
        "dbt.log",
        "caddy.log",
        "autosave.json",
        "state.json",
    } <= names
    assert any("dlt pipeline run" in line for line in cloud.command_lines)
    assert any("caddy run" in line for line in cloud.command_lines)
    for secret in secrets:
        assert not [name for name, text in texts.items() if secret in text]
        assert not [path for path in written if path not in keys and secret.encode() in path.read_bytes()]
    assert os.environ.get("CLICKHOUSE_CLOUD_PASSWORD") is None
