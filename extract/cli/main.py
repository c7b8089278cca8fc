"""The `tape` command line: each command parses, makes one library call and prints.

Commands live beside what they show and are imported when they are called, so that `tape --help` is quick.
"""

from __future__ import annotations

import importlib
import sys

import click

from extract.errors import TapeError, UsageError

COMMANDS = {
    "up": "extract.cli.up",
    "down": "extract.cli.up",
    "init": "extract.cli.init",
    "sandbox": "extract.cli.sandbox",
    "demo": "extract.cli.demo",
    "gaps": "extract.cli.gaps",
    "repair": "extract.cli.gaps",
    "status": "extract.cli.status",
    "schema-align": "extract.cli.schema_align",
    "push": "extract.cli.push",
    "grants": "extract.cli.grants",
    "health": "extract.cli.health",
    "retention": "extract.cli.retention",
    "certs": "extract.cli.certs",
    "cost": "extract.cli.cost",
    "measure-volume": "extract.cli.measure_volume",
    "poc-backfill": "extract.cli.poc_backfill",
    "reset": "extract.cli.reset",
}


class LazyGroup(click.Group):
    """A group whose commands are attributes of modules that are imported on demand."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in COMMANDS:
            return None
        return getattr(importlib.import_module(COMMANDS[name]), name.replace("-", "_"))


@click.command(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="deribit-tape", message="%(version)s")
def tape() -> None:
    """Every Deribit trade, in your ClickHouse, provably gapless.

    Trades are fetched with `dlt pipeline run` and built with `dbt build --target local`.
    """


def main() -> None:
    """Runs `tape`. Exit codes: 0 done, 1 the answer is no, 2 cannot tell, 3 the user's mistake, 4 a part outside failed."""
    try:
        sys.exit(tape.main(standalone_mode=False) or 0)
    except click.Abort:
        sys.exit(130)
    except click.ClickException as error:
        error.show()
        sys.exit(UsageError.exit_code)
    except TapeError as error:
        click.echo(str(error), err=True)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
