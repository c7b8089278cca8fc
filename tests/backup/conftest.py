"""A user who has loaded most of a tape of several months, and what their raw tables hold, as text."""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from extract.clickhouse.client import Database
from extract.paths import tape_dir
from extract.sandbox.instrument_names import parse
from extract.sandbox.tape import Tape
from extract.times import iso
from tests.support.clickhouse import drop_project_databases
from tests.support.commands import Done
from tests.support.loaded_user import User

TAPE = Tape.of(
    trade
    for trade in Tape.generate(seed=8, trades=1500, days=100).trades
    if parse(trade["instrument_name"]).currency == "BTC"
)
DAY_MS = 86_400_000
END_MS = max(trade["timestamp"] for trade in TAPE.trades)
KEYS = sorted((trade["instrument_name"], trade["trade_seq"]) for trade in TAPE.trades)


def days_before_end(days: float) -> str:
    """A time as `--until` takes it."""
    return iso(END_MS - int(days * DAY_MS))


def raw_content(database: Database) -> dict[str, str]:
    """All rows of each raw table, sorted, as ClickHouse's text."""
    tables = database.column("select name from system.tables where database = 'deribit_raw' order by name")
    return {
        name: database.client.raw_query(
            f"select * from deribit_raw.`{name}` order by all", fmt="TSV"
        ).decode()
        for name in tables
    }


@dataclass
class Backups:
    """A user, a folder for their backups, and a key. `content`: the raw tables when the module began."""

    user: User
    folder: Path
    key: Path
    content: dict[str, str]

    def back_up(self, *words: str, place: str | None = None) -> Done:
        return self.user.tape(
            "backup", "--to", place or str(self.folder), "--key-file", str(self.key), *words
        )

    def restore(self, *words: str, place: str | None = None) -> Done:
        return self.user.tape(
            "restore", "--from", place or str(self.folder), "--key-file", str(self.key), *words
        )

    def lose_everything(self) -> None:
        """Delete the databases, and all files of TAPE_DIR."""
        drop_project_databases(self.user.client)
        shutil.rmtree(tape_dir(), ignore_errors=True)

    def files(self) -> dict[str, bytes]:
        """Content of every file of the backups, by path."""
        return {
            path.relative_to(self.folder).as_posix(): path.read_bytes()
            for path in sorted(self.folder.rglob("*"))
            if path.is_file()
        }

    def file(self, prefix: str) -> Path:
        """The only file whose path begins so."""
        [path] = [path for path in self.files() if path.startswith(prefix)]
        return self.folder / path


def write_key(path: Path) -> Path:
    path.write_text(secrets.token_hex(32) + "\n")
    return path


@pytest.fixture(scope="module")
def loaded_backups(
    new_user: Callable[[Tape], User], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Backups]:
    """Trades up to ten days before the end of the tape, in several load packages and months."""
    home = tmp_path_factory.mktemp("backups")
    with pytest.MonkeyPatch.context() as env:
        env.setenv("SOURCES__DERIBIT__WINDOW_TRADES", "300")
        user = new_user(TAPE)
        user.load(until=days_before_end(10))
        yield Backups(user, home / "folder", write_key(home / "backup.key"), raw_content(user.database))
