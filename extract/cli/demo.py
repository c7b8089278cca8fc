"""`tape demo`: the whole pipeline on loopback, from an empty database to candles, by the commands of a user."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import click

from extract.background import BackgroundCommand, stop_all
from extract.cli.output import echo, print_step, print_table
from extract.errors import OutsideError, UsageError
from extract.paths import ROOT, tape_dir

if TYPE_CHECKING:
    from extract.clickhouse.client import Database

INSTRUMENT = "BTC-PERPETUAL"
SHOWN_CANDLES = 5
FOLLOW_EVERY = "10s"
PAGE_PORT = 8124
HEAD_START_MS = 3 * 3_600_000
"""The exchange has been live for this long, so that there is a volatility smile of a whole hour at once."""
LONGEST_ABSENCE_S = 2 * 86_400
"""Trades of at most this time are generated and loaded to catch up with the clock."""

_DBT = {"DBT_PROJECT_DIR": str(ROOT / "dbt_project"), "DBT_PROFILES_DIR": str(ROOT / "profiles")}


@click.command()
def demo() -> None:
    """Run the whole pipeline against a sandbox exchange, and leave it running.

    Starts ClickHouse and the sandbox, fetches its trades, builds the models and shows the result. The sandbox then
    continues to trade, `tape follow` loads what it trades, and `tape serve` shows it, until `tape down`. It can be run
    again: nothing is added twice.

    Example: tape demo
    """
    from extract.clickhouse.client import shared_database
    from extract.clickhouse.embedded import server
    from extract.clickhouse.settings import clickhouse_settings

    began_s = time.monotonic()
    stop_all(tape_dir())  # of an earlier demo
    outcome = server.up(clickhouse_settings("local"), tape_dir())
    settings = clickhouse_settings("local")  # with the password that the first start generates
    print_step(f"ClickHouse {outcome.version} answers at {settings.url}")
    database = shared_database(settings)
    end_ms = _history_end_ms(database)
    try:
        env = os.environ | _DBT | {"CLICKHOUSE_MODE": "local"} | _start_sandbox(end_ms)
        # dbt keeps what it has parsed, so that the build begins at once. Its errors are those of the build.
        with _running("dbt", "--quiet", "parse", "--target", "local", env=env, output=subprocess.DEVNULL):
            print_step("dlt pipeline run")
            _run("dlt", "pipeline", "run", env=env)
        print_step("dbt build --target local")
        _run("dbt", "--quiet", "build", "--target", "local", env=env)
        _print_history(database, end_ms)
        page = _start_page(env)
    except BaseException:  # Ctrl-C too
        stop_all(tape_dir())
        raise
    echo()
    echo(f"Done in {time.monotonic() - began_s:.0f} s. The sandbox continues to trade: watch it at {page}")
    echo("What to try next:")
    for line in _NEXT:
        echo(line.format(url=settings.url))


_NEXT = (
    "  {url}/play    query it in the browser: user tape, password: cat .tape/password",
    "  make demo                     again: nothing is added twice",
    "  make down                     stop everything; the data stays in .tape/",
)


def _history_end_ms(database: Database) -> int:
    """End of the generated history: of the earlier demo that loaded it, else HEAD_START_MS ago.

    Raises UsageError if the database has trades that no demo loaded, or of a demo that ended too long ago.
    """
    from extract.sandbox.live import END_FILE, MINUTE_MS, clock_ms

    path = tape_dir() / END_FILE
    if path.exists():
        end_ms = int(path.read_text())
        if clock_ms() - end_ms > LONGEST_ABSENCE_S * 1000:
            raise UsageError(
                "The trades of the demo in this database are more than two days old: drop them with `tape reset --yes`, "
                "then run `make demo` again."
            )
        return end_ms
    if database.value(_sql(_ANY_TRADES)):
        raise UsageError(
            "The local database has trades of another exchange than the demo's: drop them with `tape reset --yes`, or set "
            "TAPE_DIR and CLICKHOUSE_LOCAL_PORT to start a second database."
        )
    end_ms = (clock_ms() - HEAD_START_MS) // MINUTE_MS * MINUTE_MS
    path.write_text(str(end_ms))
    return end_ms


def _start_sandbox(end_ms: int) -> dict[str, str]:
    """Start the exchange; return the environment variables with its addresses."""
    from extract.times import iso

    sandbox = BackgroundCommand(tape_dir(), "sandbox")
    sandbox.start("--port", "0", "--live-since", iso(end_ms), env=os.environ)
    url = sandbox.ready_url()
    lines = [line.strip().removeprefix("export ") for line in sandbox.output().splitlines()]
    addresses = dict(line.split("=", 1) for line in lines if line.startswith("SOURCES__"))
    print_step(f"A sandbox exchange answers at {url}")
    return addresses


def _start_page(env: dict[str, str]) -> str:
    """Start `tape follow` and `tape serve`; return the address of the page."""
    from extract.clickhouse.embedded.probe import free_port, port_is_free

    BackgroundCommand(tape_dir(), "follow").start("--every", FOLLOW_EVERY, env=env)
    port = PAGE_PORT if port_is_free(PAGE_PORT) else free_port()
    serve = BackgroundCommand(tape_dir(), "serve")
    serve.start("--port", str(port), env=env)
    return serve.ready_url()


def _print_history(database: Database, end_ms: int) -> None:
    """Print what the history has: the same figures on every machine, whatever was traded since."""
    end = {"end_ms": end_ms}
    echo()
    rows = [
        (*names, trades, instruments, f"{first_at:%F %T}", f"{last_at:%F %T}")
        for *names, trades, instruments, first_at, last_at in database.rows(_sql(_OVERVIEW), end)
    ]
    print_table(("currency", "kind", "trades", "instruments", "from", "to"), rows)
    echo()
    echo(f"The latest candles of {INSTRUMENT}, one minute each, volume in BTC:")
    echo()
    options = {"name": INSTRUMENT, "limit": SHOWN_CANDLES}
    rows = [
        (f"{bucket_at:%F %H:%M}", *(f"{price:,.2f}" for price in prices), f"{volume:.4f}", trades)
        for bucket_at, *prices, volume, trades in database.rows(_sql(_CANDLES), end | options)
    ]
    print_table(("bucket_at", "open", "high", "low", "close", "volume", "trades"), rows)


def _sql(sql: str) -> str:
    """`sql` on the configured databases."""
    from extract.clickhouse.statements import with_configured_databases

    return with_configured_databases(sql)


_ANY_TRADES = """
select sum(total_rows) from system.tables where (database, name) = ('deribit_raw', 'trades')"""

_OVERVIEW = """
select currency, kind, count() as trades, uniqExact(instrument_name) as instruments,
       min(timestamp) as first_at, max(timestamp) as last_at
from deribit.trades where timestamp < fromUnixTimestamp64Milli({end_ms:Int64}, 'UTC')
group by currency, kind order by currency, kind"""

_CANDLES = """
select bucket_at, open, high, low, close, volume, trade_count
from deribit.ohlcv_1m
where instrument_name = {name:String} and bucket_at < fromUnixTimestamp64Milli({end_ms:Int64}, 'UTC')
order by bucket_at desc limit {limit:UInt8}"""


def _run(*words: str, env: dict[str, str]) -> None:
    """Run one of the project's commands in the checkout. Raises OutsideError where it fails."""
    with _running(*words, env=env) as process:
        code = process.wait()
    if code:
        raise OutsideError(f"`{' '.join(words)}` failed with exit code {code}; its message is above.")


@contextmanager
def _running(
    *words: str, env: dict[str, str], output: int | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a command of the project at the same time as the block, and wait for it; a block that fails stops it."""
    program = os.path.join(os.path.dirname(sys.executable), words[0])
    with subprocess.Popen([program, *words[1:]], cwd=ROOT, env=env, stdout=output, stderr=output) as process:
        try:
            yield process
        except BaseException:  # Ctrl-C too
            process.terminate()
            raise
