"""`tape sandbox`: a sandbox exchange on loopback."""

from __future__ import annotations

import click

from extract.cli.options import NumberRange
from extract.cli.output import echo


@click.command("sandbox")
@click.option(
    "--port", default=8126, type=click.IntRange(0, 65535), help="Port on 127.0.0.1; 0: any free one."
)
@click.option("--seed", default=1, help="Seed of the generated trades.")
@click.option(
    "--trades", default=20_000, type=click.IntRange(1, 100_000_000), help="Number of generated trades."
)
@click.option(
    "--days",
    default=14.0,
    type=NumberRange(0, 3_660, min_open=True),
    help="Days that the generated trades cover.",
)
@click.option(
    "--live-since",
    metavar="TIME",
    help="End of the generated history, after which trading continues as the clock moves: 0m for now.",
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
    port: int,
    seed: int,
    trades: int,
    days: float,
    live_since: str | None,
    tape_file: str | None,
    faults: str | None,
    no_quirks: bool,
) -> None:
    """Run a sandbox of Deribit on loopback.

    It has the endpoints, limits and quirks of the exchange, and trades generated from a seed. Prints `ready URL` once
    it answers, and stops on Ctrl-C or SIGTERM. With --live-since the exchange's time is the time of this machine.

    Example: tape sandbox --trades 100000 --faults rate=0.05
    """
    import signal
    import threading

    from extract.errors import UsageError
    from extract.sandbox.faults import Faults
    from extract.sandbox.live import LiveTape, clock_ms
    from extract.sandbox.server import SandboxExchange
    from extract.sandbox.tape import Tape
    from extract.times import parse_time_ms

    schedule = Faults.parse(faults)
    live = None
    if live_since:
        if tape_file:
            raise UsageError("Recorded trades cannot continue: use either --tape or --live-since.")
        live = LiveTape(parse_time_ms(live_since, "--live-since", clock_ms()), seed, trades, days)
        tape = live.history
    else:
        tape = Tape.load(tape_file) if tape_file else Tape.generate(seed, trades, days)
    stopped = threading.Event()
    for name in (signal.SIGINT, signal.SIGTERM):
        signal.signal(name, lambda *_: stopped.set())
    with SandboxExchange(
        tape,
        port=port,
        quirks=not no_quirks,
        faults=schedule,
        clock=clock_ms if live else None,
        extend=live.until if live else None,
    ) as exchange:
        echo(f"{len(tape.trades):,} trades of {len(tape.instruments):,} instruments; to load them, run")
        echo(f"  export SOURCES__DERIBIT__API_URL={exchange.url}")
        echo(f"  export SOURCES__DERIBIT__HISTORY_URL={exchange.history_url}")
        echo(f"ready {exchange.url}")
        stopped.wait()
