"""Raw tables made by hand, and a user whose pipeline runs in this process against a sandbox exchange."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import pytest
from clickhouse_connect.driver.client import Client

from extract.clickhouse.client import shared_client
from extract.clickhouse.settings import ClickHouseSettings
from extract.pipeline.options import RunOptions
from extract.pipeline.run import run
from extract.sandbox.server import SandboxExchange
from extract.sandbox.tape import Tape
from tests.support.commands import Done, UserShell, environment, tape_here
from tests.support.raw_tables import Raw

Key = tuple[str, int]


@pytest.fixture
def raw(clean_clickhouse: ClickHouseSettings) -> Raw:
    """No trades, nothing covered; the tables that every run makes."""
    return Raw(shared_client(clean_clickhouse))


class User:
    """A user with an exchange, commands in this process and, where a test wants it, in another."""

    def __init__(self, exchange: SandboxExchange, client: Client, shell: UserShell) -> None:
        self.exchange = exchange
        self.client = client
        self.shell = shell

    def load(self, **options: object) -> None:
        run(RunOptions(**options))

    def tape(self, *words: str) -> Done:
        """`tape WORDS` in this process."""
        return tape_here(*words)

    def keys(self) -> list[Key]:
        """Of all rows in deribit_raw.trades, one for each row."""
        sql = "select instrument_name, trade_seq from deribit_raw.trades order by all"
        return [tuple(row) for row in self.client.query(sql).result_rows]

    def inner_keys(self) -> list[Key]:
        """All but the last of each instrument: whoever loses that one cannot tell."""
        keys = self.keys()
        last = dict(keys)
        return [(name, seq) for name, seq in keys if seq < last[name]]

    def lose(self, keys: Iterable[Key]) -> None:
        """Deletes rows behind the pipeline's back."""
        self.client.command(
            "delete from deribit_raw.trades where (instrument_name, trade_seq) in {keys:Array(Tuple(String, Int64))}",
            parameters={"keys": list(keys)},
        )

    def asked_seqs(self, ends_only: bool = False) -> set[Key]:
        """Every trade that was asked for by number since the exchange's record was last cleared.

        With `ends_only` the first and the last of each question: small holes near each other are asked for in one.
        """
        asked: set[Key] = set()
        for request in self.exchange.requests:
            if "start_seq" in request.params:
                first, last = int(request.params["start_seq"]), int(request.params["end_seq"])
                seqs = (first, last) if ends_only else range(first, last + 1)
                asked |= {(request.params["instrument_name"], seq) for seq in seqs}
        return asked

    def methods(self) -> set[str]:
        return {request.path.rpartition("/")[2] for request in self.exchange.requests}


@pytest.fixture(scope="module")
def new_user(
    clickhouse: ClickHouseSettings,
    drop_databases: Callable[[], None],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Callable[[Tape], User]]:
    """`new_user(tape)`: nothing in ClickHouse, nothing on disk, an exchange that has `tape`."""
    running: list[SandboxExchange] = []
    with pytest.MonkeyPatch.context() as env:

        def new(tape: Tape) -> User:
            drop_databases()
            running.append(SandboxExchange(tape).start())
            running[-1].now_ms += 120_000  # all of the tape is settled
            shell = UserShell(environment(clickhouse, tmp_path_factory.mktemp("user"))).at(running[-1])
            for name, value in shell.env.items():
                if name.startswith(("CLICKHOUSE_", "TAPE_", "SOURCES__")):
                    env.setenv(name, value)
            return User(running[-1], shared_client(clickhouse), shell)

        yield new
        for exchange in running:
            exchange.stop()


@pytest.fixture(scope="module")
def loaded(new_user: Callable[[Tape], User]) -> User:
    """3,000 trades, all loaded from the exchange's beginning on; tests leave them whole."""
    user = new_user(Tape.generate(seed=1, trades=3000, days=3))
    user.load()
    return user


@pytest.fixture
def user(loaded: User) -> User:
    """`loaded`, with no request remembered."""
    loaded.exchange.requests.clear()
    return loaded
