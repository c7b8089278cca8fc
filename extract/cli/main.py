"""The `tape` command line: each command is a module of this folder that parses, makes one library call and prints.

The command `schema-align` is the attribute `schema_align` of the module `schema_align`. Command modules import
libraries within their functions, so that `tape --help` is quick.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import NoReturn

import click

from extract.cli.output import echo, file_error, silence
from extract.errors import OutsideError, TapeError, UsageError

SHARED_MODULES = {
    "__init__",
    "main",
    "options",
    "output",
    "progress",
    "reference",
    "run_summary",
}
"""Modules of this folder that are not commands."""


def command_names() -> list[str]:
    """Names of all commands, sorted."""
    modules = {path.stem for path in Path(__file__).parent.glob("*.py")} - SHARED_MODULES
    return sorted(name.replace("_", "-") for name in modules)


class FolderGroup(click.Group):
    """A group whose commands are the other modules of this folder, imported on demand."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return command_names()

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in command_names():
            return None
        name = cmd_name.replace("-", "_")
        command: click.Command = getattr(importlib.import_module(f"extract.cli.{name}"), name)
        return command


@click.command(
    cls=FolderGroup, context_settings={"help_option_names": ["-h", "--help"], "show_default": True}
)
@click.version_option(package_name="deribit-tape", message="%(version)s")
def tape() -> None:
    """Every Deribit trade, in your ClickHouse, provably gapless.

    Fetch trades with `dlt pipeline run`, build the models with `dbt build --target local`.

    Exit codes: 0 done, 1 the answer is no, 2 cannot tell, 3 a mistake in the command or the configuration, 4 the
    exchange, the database or another external part failed.
    """


def main() -> None:
    """Run `tape` and exit."""
    run_and_exit(tape, "tape")


def run_and_exit(command: click.Command, name: str) -> NoReturn:
    """Run a command line and exit. Errors are one sentence on standard error, with the exit code of their class."""
    code: int
    try:
        code = command.main(prog_name=name, standalone_mode=False) or 0
    except (click.Abort, KeyboardInterrupt):
        code = 130
    except click.exceptions.NoArgsIsHelpError as error:
        code = UsageError.exit_code
        error.show()
    except click.UsageError as error:
        code = UsageError.exit_code
        text = " ".join(error.format_message().split())
        if error.ctx:
            text += f"{'' if text.endswith('.') else '.'} Try: {error.ctx.command_path} --help"
        echo(text, err=True)
    except TapeError as error:
        code = error.exit_code
        echo(str(error), err=True)
    except OSError as error:  # the disk is full, a directory is not writable
        code = OutsideError.exit_code
        echo(file_error(error), err=True)
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        silence(1)
    sys.exit(code)
