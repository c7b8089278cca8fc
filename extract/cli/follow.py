"""`tape follow`: load new trades continuously."""

from __future__ import annotations

import click

from extract.cli.options import parsed, scope_options
from extract.cli.output import echo


def _seconds(text: str, option: str) -> float:
    from extract.errors import UsageError
    from extract.times import parse_duration

    seconds = parse_duration(text, option)
    if not 1 <= seconds <= 3600:
        raise UsageError(f"{option} {text} is not a valid interval; give one from 1s to 1h.")
    return seconds


@click.command()
@click.option(
    "--every",
    "every_s",
    metavar="INTERVAL",
    default="10s",
    callback=parsed(_seconds),
    help="Time between two requests for new trades.",
)
@scope_options
def follow(every_s: float, currencies: tuple[str, ...], kinds: tuple[str, ...]) -> int:
    """Load new trades every few seconds, until SIGTERM.

    It continues from the stored state, like `dlt pipeline run`, but in one process that holds its connections: a turn
    without new trades takes a tenth of a second. A line is printed for each turn that loaded something or failed; a failed
    one is repeated. On SIGTERM it loads what it has fetched and ends within 35 seconds.

    Exit code: 0 ended by SIGTERM, 3 another run is active or an option is wrong.

    Example: tape follow --every 10s --currency BTC
    """
    from extract.cli.run_summary import print_turn
    from extract.pipeline.follow import follow as follow_new_trades
    from extract.pipeline.stop import StopSignal, stop_on_sigterm
    from extract.process import configure_process
    from extract.source.options import RunOptions

    configure_process()
    stop = StopSignal()
    with stop_on_sigterm(stop):
        options = RunOptions(currencies=currencies, kinds=kinds)
        follow_new_trades(options, every_s, print_turn, stop)
    echo(f"Stopped {stop.reason}.")
    return 0
