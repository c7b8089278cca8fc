"""Fixtures: hand-made raw tables, and a user whose pipeline runs in this process against a sandbox exchange."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import pytest

from extract.clickhouse.client import Database, shared_database
from extract.clickhouse.settings import ClickHouseSettings
from extract.pipeline.run import run
from extract.sandbox.server import SandboxExchange
from extract.sandbox.tape import Tape
from extract.source.options import RunOptions
from tests.support.commands import Done, UserShell, environment, tape_here
from tests.support.raw_tables import Raw

Key = tuple[str, int]


@pytest.fixture
def raw(clean_clickhouse: ClickHouseSettings) -> Raw:
    """The tables that every run creates, empty."""
    return Raw(shared_database(clean_clickhouse))


class User:
    """A user with an exchange and a database, who runs commands in this process or in a shell."""

    def __init__(self, exchange: SandboxExchange, database: Database, shell: UserShell) -> None:
        self.exchange = exchange
        self.database = database
        self.client = database.client
        self.shell = shell

    def load(self, **options: object) -> None:
        run(RunOptions(**options))

    def tape(self, *words: str) -> Done:
        """`tape WORDS` in this process."""
        return tape_here(*words)

    def keys(self) -> list[Key]:
        """(instrument_name, trade_seq) of each row of deribit_raw.trades, sorted."""
        sql = "select instrument_name, trade_seq from deribit_raw.trades order by all"
        return [tuple(row) for row in self.client.query(sql).result_rows]

    def inner_keys(self) -> list[Key]:
        """All keys except the last of each instrument, whose loss cannot be detected."""
        keys = self.keys()
        last = dict(keys)
        return [(name, seq) for name, seq in keys if seq < last[name]]

    def lose(self, keys: Iterable[Key]) -> None:
        """Delete rows without changing the pipeline's state."""
        self.client.command(
            "delete from deribit_raw.trades where (instrument_name, trade_seq) in {keys:Array(Tuple(String, Int64))}",
            parameters={"keys": list(keys)},
        )

    def requested_seqs(self, ends_only: bool = False) -> set[Key]:
        """Trades requested by number since the exchange's request log was last cleared.

        With `ends_only`, the first and the last one of each request: one request may span several small holes.
        """
        requested: set[Key] = set()
        for request in self.exchange.requests:
            if "start_seq" in request.params:
                first, last = int(request.params["start_seq"]), int(request.params["end_seq"])
                seqs = (first, last) if ends_only else range(first, last + 1)
                requested |= {(request.params["instrument_name"], seq) for seq in seqs}
        return requested

    def requested_methods(self) -> set[str]:
        return {request.path.rpartition("/")[2] for request in self.exchange.requests}


@pytest.fixture(scope="module")
def new_user(
    clickhouse: ClickHouseSettings,
    drop_databases: Callable[[], None],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Callable[[Tape], User]]:
    """`new_user(tape)`: a user with an empty ClickHouse and directory, and an exchange that has `tape`."""
    running: list[SandboxExchange] = []
    with pytest.MonkeyPatch.context() as env:

        def new(tape: Tape) -> User:
            drop_databases()
            running.append(SandboxExchange(tape).start())
            running[-1].now_ms += 120_000  # all trades of the tape are settled
            shell = UserShell(environment(clickhouse, tmp_path_factory.mktemp("user"))).at(running[-1])
            for name, value in shell.env.items():
                if name.startswith(("CLICKHOUSE_", "TAPE_", "SOURCES__")):
                    env.setenv(name, value)
            return User(running[-1], shared_database(clickhouse), shell)

        yield new
        for exchange in running:
            exchange.stop()


@pytest.fixture(scope="module")
def loaded(new_user: Callable[[Tape], User]) -> User:
    """A user with 3,000 trades loaded, from the exchange's first trade; tests restore what they delete."""
    user = new_user(Tape.generate(seed=1, trades=3000, days=3))
    user.load()
    return user


@pytest.fixture
def user(loaded: User) -> User:
    """`loaded`, with an empty request log."""
    loaded.exchange.requests.clear()
    return loaded
