"""`tape sandbox`: a sandbox exchange on loopback."""

from __future__ import annotations

import click

from extract.cli.output import echo


@click.command("sandbox")
@click.option(
    "--port", default=8126, type=click.IntRange(0, 65535), help="Port on 127.0.0.1; 0: any free one."
)
@click.option("--seed", default=1, help="Seed of the generated trades.")
@click.option("--trades", default=20_000, type=click.IntRange(1), help="Number of generated trades.")
@click.option(
    "--days",
    default=14.0,
    type=click.FloatRange(0, min_open=True),
    help="Days that the generated trades cover.",
)
@click.option(
    "--tape",
    "tape_file",
    metavar="FILE",
    help="Replay recorded trades instead: NDJSON of API records, gzipped or not.",
)
@click.option(
    "--faults", metavar="SPEC", help="Faults to inject: '3:429,5:reset', or 'rate=0.1,kinds=429+cut,seed=7'."
)
@click.option("--no-quirks", is_flag=True, help="Sorted pages, complete ranges and a correct has_more.")
def sandbox(
    port: int, seed: int, trades: int, days: float, tape_file: str | None, faults: str | None, no_quirks: bool
) -> None:
    """Run a sandbox of Deribit on loopback.

    It has the endpoints, limits and quirks of the exchange, and trades generated from a seed. Prints `ready URL` once
    it answers, and stops on Ctrl-C or SIGTERM.

    Example: tape sandbox --trades 100000 --faults rate=0.05
    """
    import signal
    import threading

    from extract.sandbox.faults import Faults
    from extract.sandbox.server import SandboxExchange
    from extract.sandbox.tape import Tape

    schedule = Faults.parse(faults)
    tape = Tape.load(tape_file) if tape_file else Tape.generate(seed, trades, days)
    stopped = threading.Event()
    for name in (signal.SIGINT, signal.SIGTERM):
        signal.signal(name, lambda *_: stopped.set())
    with SandboxExchange(tape, port=port, quirks=not no_quirks, faults=schedule) as exchange:
        echo(f"{len(tape.trades):,} trades of {len(tape.instruments):,} instruments; to load them, run")
        echo(f"  export SOURCES__DERIBIT__API_URL={exchange.url}")
        echo(f"  export SOURCES__DERIBIT__HISTORY_URL={exchange.history_url}")
        echo(f"ready {exchange.url}")
        stopped.wait()
