"""Command lines of the project, run as a user runs them."""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path

import pytest

from extract.cli.main import main
from extract.clickhouse.settings import ClickHouseSettings
from extract.paths import ROOT
from extract.sandbox.server import SandboxExchange

BIN = Path(sys.executable).parent
TIMEOUT_S = 600


@dataclass(frozen=True)
class Done:
    """Exit code and output of a command that has ended."""

    code: int
    out: str
    err: str

    @property
    def output(self) -> str:
        return self.out + self.err


@dataclass(frozen=True)
class UserShell:
    """Environment of a user whose local ClickHouse is the server of the tests and whose directories belong to the test."""

    env: dict[str, str]

    def run(self, *words: str, cwd: Path = ROOT, **env: str) -> Done:
        """Run `words[0]` of the virtual environment; never raises for its exit code."""
        all_env = self.env | env
        with parsed_project(words, all_env) if words[0] == "dbt" else nullcontext():
            done = subprocess.run(
                [str(BIN / words[0]), *words[1:]],
                cwd=cwd,
                env=all_env,
                capture_output=True,
                text=True,
                timeout=TIMEOUT_S,
            )
        return Done(done.returncode, done.stdout, done.stderr)

    def ok(self, *words: str, cwd: Path = ROOT, **env: str) -> Done:
        """Run a command that has to succeed."""
        done = self.run(*words, cwd=cwd, **env)
        assert done.code == 0, f"{' '.join(words)} ended with {done.code}:\n{done.output}"
        return done

    def at(self, exchange: SandboxExchange) -> UserShell:
        """The same environment, with the addresses of a sandbox exchange."""
        urls = {
            "SOURCES__DERIBIT__API_URL": exchange.url,
            "SOURCES__DERIBIT__HISTORY_URL": exchange.history_url,
        }
        return UserShell(self.env | urls)


@contextmanager
def parsed_project(words: Sequence[str], env: Mapping[str, str]) -> Iterator[None]:
    """Give a dbt command what an earlier one of the same connection has parsed, as in a user's second command.

    Parsing the whole project takes longer than most commands. dbt parses again whatever has changed.
    """
    target = words[words.index("--target") + 1] if "--target" in words else "default"
    names = (
        "CLICKHOUSE_MODE",
        "CLICKHOUSE_LOCAL_PORT",
        "CLICKHOUSE_CLOUD_PORT",
        "TAPE_SCHEMA",
        "TAPE_RAW_SCHEMA",
    )
    key = "-".join([target, *(env.get(name, "") for name in names)])
    shared = Path(os.environ["TAPE_DIR"]) / "parsed" / key
    own = Path(env["DBT_TARGET_PATH"]) / "partial_parse.msgpack" if "DBT_TARGET_PATH" in env else None
    if own and shared.exists():
        own.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(shared, own)
    yield
    if own and own.exists():
        shared.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(own, shared)


def tape_here(*words: str) -> Done:
    """Run `tape WORDS` in this process."""
    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
        patch.setattr(sys, "argv", ["tape", *words])
        with pytest.raises(SystemExit) as ended:
            main()
    return Done(int(ended.value.code or 0), out.getvalue(), err.getvalue())


@pytest.fixture
def shell(clean_clickhouse: ClickHouseSettings, tmp_path: Path) -> UserShell:
    """A new user: nothing in ClickHouse, nothing on disk, and no exchange until `at` names one."""
    return UserShell(environment(clean_clickhouse, tmp_path))


@pytest.fixture(scope="module")
def module_shell(
    clickhouse: ClickHouseSettings,
    drop_databases: Callable[[], None],
    tmp_path_factory: pytest.TempPathFactory,
) -> UserShell:
    """A `shell` that the tests of one module share."""
    drop_databases()
    return UserShell(environment(clickhouse, tmp_path_factory.mktemp("user")))


def environment(clickhouse: ClickHouseSettings, home: Path) -> dict[str, str]:
    """Environment variables of a command: few of this process's own, and the directories of the test."""
    inherited = {name: os.environ[name] for name in ("PATH", "HOME", "LANG", "TMPDIR") if name in os.environ}
    nowhere = "http://127.0.0.1:9/api/v2"
    return inherited | {
        "CLICKHOUSE_MODE": "local",
        "CLICKHOUSE_LOCAL_HOST": clickhouse.host,
        "CLICKHOUSE_LOCAL_PORT": str(clickhouse.port),
        "CLICKHOUSE_LOCAL_USER": clickhouse.user,
        "CLICKHOUSE_LOCAL_PASSWORD": clickhouse.password,
        "TAPE_DIR": str(home / "tape"),
        "DBT_TARGET_PATH": str(home / "target"),
        "DBT_LOG_PATH": str(home / "logs"),
        "SOURCES__DERIBIT__API_URL": nowhere,
        "SOURCES__DERIBIT__HISTORY_URL": nowhere,
        "SOURCES__DERIBIT__REQUESTS_PER_SECOND": "1000",
        "PYTHONPYCACHEPREFIX": os.environ.get("PYTHONPYCACHEPREFIX", ""),
    }
