"""`tape demo`: the whole pipeline on loopback, from an empty database to candles, by the commands of a user."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import click

from extract.cli.output import echo, print_step, print_table
from extract.errors import OutsideError
from extract.paths import ROOT, tape_dir

INSTRUMENT = "BTC-PERPETUAL"
SHOWN_CANDLES = 5


@click.command()
def demo() -> None:
    """Run the whole pipeline against a sandbox exchange.

    Starts ClickHouse and the sandbox, fetches its trades, builds the models and shows the result. It can be run again:
    nothing is added twice.

    Example: tape demo
    """
    from extract.clickhouse.client import shared_database
    from extract.clickhouse.embedded import server
    from extract.clickhouse.settings import clickhouse_settings
    from extract.sandbox.server import SandboxExchange
    from extract.sandbox.tape import Tape

    began_s = time.monotonic()
    settings = clickhouse_settings("local")
    outcome = server.up(settings, tape_dir())
    settings = clickhouse_settings("local")  # with the password that the first start generates
    print_step(f"ClickHouse {outcome.version} answers at {settings.url}")
    tape = Tape.generate()
    with SandboxExchange(tape) as exchange:
        print_step(f"A sandbox exchange with {len(tape.trades):,} trades answers at {exchange.url}")
        os.environ |= {
            "CLICKHOUSE_MODE": "local",
            "SOURCES__DERIBIT__API_URL": exchange.url,
            "SOURCES__DERIBIT__HISTORY_URL": exchange.history_url,
        }
        print_step("dlt pipeline run")
        _run("dlt", "pipeline", "run")
    print_step("dbt build --target local")
    _run("dbt", "--quiet", "build", "--target", "local")
    database = shared_database(settings)
    echo()
    rows = [
        (*names, trades, instruments, f"{first_at:%F %T}", f"{last_at:%F %T}")
        for *names, trades, instruments, first_at, last_at in database.rows(_OVERVIEW)
    ]
    print_table(("currency", "kind", "trades", "instruments", "from", "to"), rows)
    echo()
    echo(f"The latest candles of {INSTRUMENT}, one minute each, volume in BTC:")
    echo()
    candles = database.rows(_CANDLES, {"name": INSTRUMENT, "limit": SHOWN_CANDLES})
    rows = [
        (f"{bucket_at:%F %H:%M}", *(f"{price:,.2f}" for price in prices), f"{volume:.4f}", trades)
        for bucket_at, *prices, volume, trades in candles
    ]
    print_table(("bucket_at", "open", "high", "low", "close", "volume", "trades"), rows)
    echo()
    echo(f"Done in {time.monotonic() - began_s:.0f} s. What to try next:")
    for line in _NEXT:
        echo(line.format(url=settings.url))


_NEXT = (
    "  {url}/play    query it in the browser: user tape, password: cat .tape/password",
    "  make demo                     again: nothing is added twice",
    "  .venv/bin/tape sandbox        leave a sandbox running and fetch from it with `dlt pipeline run`",
    "  make down                     stop ClickHouse; the data stays in .tape/",
)

_OVERVIEW = """
select currency, kind, count() as trades, uniqExact(instrument_name) as instruments,
       min(timestamp) as first_at, max(timestamp) as last_at
from deribit.trades group by currency, kind order by currency, kind"""

_CANDLES = """
select bucket_at, open, high, low, close, volume, trade_count
from deribit.ohlcv_1m
where instrument_name = {name:String} order by bucket_at desc limit {limit:UInt8}"""


def _run(*words: str) -> None:
    """Run one of the project's commands in the checkout. Raises OutsideError where it fails."""
    env = os.environ | {
        "DBT_PROJECT_DIR": str(ROOT / "dbt_project"),
        "DBT_PROFILES_DIR": str(ROOT / "profiles"),
    }
    program = os.path.join(os.path.dirname(sys.executable), words[0])
    code = subprocess.run([program, *words[1:]], cwd=ROOT, env=env).returncode
    if code:
        raise OutsideError(f"`{' '.join(words)}` failed with exit code {code}; its message is above.")
