"""The help of every command: it has an example, is quick to show, and docs/cli.md is generated from it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import click
import pytest
from click.testing import CliRunner

from extract.cli import reference
from extract.cli.main import command_names, tape

HEAVY = ("boto3", "clickhouse_connect", "cryptography", "dlt", "httpx", "msgspec", "pyarrow", "rich", "yaml")


@pytest.mark.parametrize("command", command_names())
def test_command_has_help_with_an_example(command: str) -> None:
    """`tape COMMAND --help` describes the command and shows it typed."""
    result = CliRunner().invoke(tape, [command, "--help"])
    assert result.exit_code == 0
    description = result.output.split("\n\n", 1)[1]
    assert "Example: " in description
    assert f"tape {command}" in description


def test_every_subcommand_has_help_with_an_example() -> None:
    """The commands of `tape certs` and `tape cost` are included."""
    sections = [section for section in reference.reference().split("\n## ") if section.startswith("tape ")]
    paths = [section.splitlines()[0] for section in sections[1:]]
    assert {"tape certs check", "tape cost plan"} <= set(paths)
    assert [
        path for path, section in zip(paths, sections[1:], strict=True) if "Example: " not in section
    ] == []


def commands(command: click.Command) -> Iterator[click.Command]:
    if not isinstance(command, click.Group):
        yield command
        return
    with click.Context(command) as context:
        for name in command.list_commands(context):
            yield from commands(command.get_command(context, name))


NUMBERS = [
    pytest.param(each, option, id=f"{each.name} {option.opts[0]}")
    for each in commands(tape)
    for option in each.params
    if isinstance(option.type, (click.IntRange, click.FloatRange))
]


@pytest.mark.parametrize(("command", "option"), NUMBERS)
def test_number_of_an_option_has_limits(command: click.Command, option: click.Parameter) -> None:
    """What no command can use is refused in one sentence, and reaches no timer, allocation or statement."""
    for text in ("-1", "nan", "inf", "1e308", "9" * 20, "9" * 5000, "many", ""):
        context = click.Context(command)
        with pytest.raises(click.BadParameter):
            option.type_cast_value(context, text)


def test_command_reference_is_current() -> None:
    """docs/cli.md is what `make cli-docs` writes. Click caches a command's help option, so the process is new."""
    program = "from extract.cli.reference import reference; print(reference(), end='')"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert reference.PATH.read_text() == done.stdout, "run: make cli-docs"


def test_overview_imports_nothing_heavy() -> None:
    """`tape --help` reads every command module, and no library behind them."""
    program = (
        "import sys; from extract.cli.main import tape; tape.main(['--help'], standalone_mode=False);"
        f"print(sorted({set(HEAVY)} & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
    assert "gaps" in done.stdout
