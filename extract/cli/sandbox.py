"""`tape sandbox`: the sandbox exchange by itself."""

from __future__ import annotations

import click


@click.command("sandbox")
@click.option(
    "--port",
    default=8126,
    show_default=True,
    type=click.IntRange(0, 65535),
    help="Port on 127.0.0.1; 0 takes a free one.",
)
@click.option(
    "--seed",
    default=1,
    show_default=True,
    help="Another seed is another tape; the same one is the same everywhere.",
)
@click.option(
    "--trades", default=20_000, show_default=True, type=click.IntRange(1), help="How many trades to make up."
)
@click.option(
    "--days",
    default=14.0,
    show_default=True,
    type=click.FloatRange(0, min_open=True),
    help="Over how many days.",
)
@click.option(
    "--tape",
    "tape_file",
    metavar="FILE",
    help="Replay recorded trades instead: NDJSON of API records, gzipped or not.",
)
@click.option(
    "--faults", metavar="SPEC", help="What goes wrong: '3:429,5:reset', or 'rate=0.1,kinds=429+cut,seed=7'."
)
@click.option(
    "--no-quirks", is_flag=True, help="Sorted pages, whole ranges and a has_more that can be trusted."
)
def sandbox(
    port: int, seed: int, trades: int, days: float, tape_file: str | None, faults: str | None, no_quirks: bool
) -> None:
    """Run a Deribit on loopback: its endpoints, its limits, its quirks, on a tape made from a seed.

    It stops on Ctrl-C. Example: tape sandbox --trades 100000 --faults rate=0.05
    """
    from extract.sandbox.faults import Faults
    from extract.sandbox.server import SandboxExchange
    from extract.sandbox.tape import Tape

    mishaps = Faults.parse(faults)
    tape = Tape.load(tape_file) if tape_file else Tape.generate(seed, trades, days)
    run(
        SandboxExchange(tape, port=port, quirks=not no_quirks, faults=mishaps),
        len(tape.trades),
        len(tape.instruments),
    )


def run(exchange: object, trades: int, instruments: int) -> None:
    """Serve until SIGINT or SIGTERM; the last line printed is `ready URL`, once it answers."""
    import signal
    import threading

    from extract.sandbox.server import SandboxExchange

    assert isinstance(exchange, SandboxExchange)
    over = threading.Event()
    for name in (signal.SIGINT, signal.SIGTERM):
        signal.signal(name, lambda *_: over.set())
    with exchange:
        click.echo(f"{trades:,} trades of {instruments:,} instruments; point the extractor here with")
        click.echo(f"  export SOURCES__DERIBIT__API_URL={exchange.url}")
        click.echo(f"  export SOURCES__DERIBIT__HISTORY_URL={exchange.history_url}")
        click.echo(f"ready {exchange.url}")
        over.wait()
