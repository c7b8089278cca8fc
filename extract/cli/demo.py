"""`tape demo`: the whole way on loopback, from nothing to candles, with the very commands that a user types."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import click

from extract.errors import OutsideError
from extract.paths import ROOT, tape_dir

SEED = 1
TRADES = 20_000
DAYS = 14.0
SHOWN_CANDLES = 5


@click.command()
def demo() -> None:
    """Start ClickHouse and a sandbox exchange, fetch its trades, build the models, show what came of it.

    It can be run again: nothing is added twice. Example: tape demo
    """
    from extract.clickhouse.embedded import server
    from extract.clickhouse.settings import clickhouse_settings
    from extract.sandbox.server import SandboxExchange
    from extract.sandbox.tape import Tape

    began = time.monotonic()
    settings = clickhouse_settings("local")
    outcome = server.up(settings, tape_dir())
    _step(f"ClickHouse {outcome.version} answers at {settings.url}")
    tape = Tape.generate(SEED, TRADES, DAYS)
    with SandboxExchange(tape) as exchange:
        _step(f"A sandbox exchange with {len(tape.trades):,} trades answers at {exchange.url}")
        os.environ |= {
            "CLICKHOUSE_MODE": "local",
            "SOURCES__DERIBIT__API_URL": exchange.url,
            "SOURCES__DERIBIT__HISTORY_URL": exchange.history_url,
        }
        _step("dlt pipeline run")
        _command("dlt", "pipeline", "run")
    _step("dbt build --target local")
    _command("dbt", "--quiet", "build", "--target", "local")
    _show(settings)
    click.echo(f"\nDone in {time.monotonic() - began:.0f} s. What to try next:")
    click.echo(_NEXT.format(url=settings.url))


_NEXT = """\
  {url}/play    query it in the browser: user tape, its password stands in the README
  make demo                     again: nothing is added twice
  .venv/bin/tape sandbox        leave a sandbox running and fetch from it with `dlt pipeline run`
  make down                     stop ClickHouse; the data stays in .tape/"""

_OVERVIEW = """
select currency, kind, count() as trades, uniqExact(instrument_name) as instruments,
       min(timestamp) as first_at, max(timestamp) as last_at
from deribit.trades group by currency, kind order by currency, kind"""

_CANDLES = """
select bucket_at, open, high, low, close, volume, trade_count
from deribit.ohlcv_1m
where instrument_name = {name:String} order by bucket_at desc limit {limit:UInt8}"""


def _step(text: str) -> None:
    click.echo(click.style("==> ", fg="green") + text)


def _command(*words: str) -> None:
    """Runs one of our own command lines from the root; its failure is the demo's."""
    env = os.environ | {
        "DBT_PROJECT_DIR": str(ROOT / "dbt_project"),
        "DBT_PROFILES_DIR": str(ROOT / "profiles"),
    }
    done = subprocess.run(
        [os.path.join(os.path.dirname(sys.executable), words[0]), *words[1:]], cwd=ROOT, env=env
    )
    if done.returncode:
        raise OutsideError(
            f"`{' '.join(words)}` ended with exit code {done.returncode}; its message is above."
        )


def _show(settings: object) -> None:
    from rich.console import Console
    from rich.table import Table

    from extract.clickhouse.client import shared_client
    from extract.clickhouse.settings import ClickHouseSettings

    assert isinstance(settings, ClickHouseSettings)
    client = shared_client(settings)
    console = Console(width=None if sys.stdout.isatty() else 120)
    overview = Table("currency", "kind", "trades", "instruments", "from", "to", box=None, pad_edge=False)
    for column in overview.columns[2:4]:
        column.justify = "right"
    for currency, kind, trades, instruments, first_at, last_at in client.query(_OVERVIEW).result_rows:
        overview.add_row(
            currency, kind, f"{trades:,}", f"{instruments:,}", f"{first_at:%F %T}", f"{last_at:%F %T}"
        )
    console.print()
    console.print(overview)
    name = "BTC-PERPETUAL"
    candles = Table("bucket_at", "open", "high", "low", "close", "volume", "trades", box=None, pad_edge=False)
    for column in candles.columns[1:]:
        column.justify = "right"
    rows = client.query(_CANDLES, parameters={"name": name, "limit": SHOWN_CANDLES}).result_rows
    for bucket_at, *prices, volume, trades in rows:
        candles.add_row(
            f"{bucket_at:%F %H:%M}", *(f"{price:,.2f}" for price in prices), f"{volume:.4f}", f"{trades:,}"
        )
    console.print(f"\nThe latest candles of {name}, one minute each, volume in BTC:\n")
    console.print(candles)
