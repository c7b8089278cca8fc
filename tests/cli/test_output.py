"""Output of commands: aligned tables, no control characters, exact JSON, and pipes that close early."""

from __future__ import annotations

import json
import os
import subprocess
from dataclasses import dataclass
from datetime import date
from decimal import Decimal

import pytest

from extract.cli import output
from extract.cli.output import echo, format_table, percent, print_json, print_table
from extract.errors import printable
from tests.support.commands import BIN

ATTACKS = {
    "clear the screen": "\x1b[2J\x1b[H",
    "set the window title": "\x1b]0;owned\x07",
    "hide a link": "\x1b]8;;http://evil.example\x1b\\text\x1b]8;;\x1b\\",
    "forge a row": "x\nBTC-PERPETUAL  1  1",
    "overwrite the line": "x\rall is well",
    "reverse the text": "\u202egnp.exe",
    "isolate the text": "\u2066abc\u2069",
    "separate lines": "a\u2028b\u2029c\x85d",
    "C1 control": "\x9b2J",
    "half a surrogate": "\udc80",
    "invisible": "a\u200bb\ufeff",
}


@pytest.mark.parametrize("text", ATTACKS.values(), ids=ATTACKS.keys())
def test_control_characters_are_escaped_in_tables_and_sentences(
    text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Data can neither move the cursor nor add a line; it is shown as an escape sequence."""
    print_table(["name", "n"], [[text, 1], ["b", 2]])
    echo(f"Alarm: {text}", err=True)
    out, err = capsys.readouterr()
    assert len(out.splitlines()) == 3
    assert len(err.splitlines()) == 1
    assert all(char.isprintable() for line in (*out.splitlines(), *err.splitlines()) for char in line)
    assert "\\" in out


def test_ordinary_text_is_not_changed() -> None:
    """Other alphabets and punctuation included."""
    for text in ("BTC-27DEC24-100000-C", "Größe ≥ 5 — „ja“", "日本", "[red]", "a\\nb", ""):
        assert printable(text) == text


def test_tables_are_aligned_and_never_cut() -> None:
    """Numbers are right-aligned with thousands separators; lines have no trailing spaces."""
    lines = list(format_table(["name", "n", "reason"], [["a" * 200, 1234, ""], ["b", None, "x"]]))
    assert lines == [f"{'name':200}      n  reason", f"{'a' * 200}  1,234", f"{'b':200}      -  x"]


@dataclass
class Figures:
    day: date
    usd: Decimal
    by_cloud: dict[str, Decimal | None]


def test_json_has_decimals_as_text_without_exponent(capsys: pytest.CaptureFixture[str]) -> None:
    """Dataclasses, dates and decimals at any depth; control characters are escaped as JSON does it."""
    print_json({"a": [Figures(date(2026, 10, 31), Decimal("1E-9"), {"\x1b": Decimal("1E+3"), "b": None})]})
    text = capsys.readouterr().out
    assert json.loads(text) == {
        "a": [{"day": "2026-10-31", "usd": "0.000000001", "by_cloud": {"\x1b": "1000", "b": None}}]
    }
    assert "\x1b" not in text


def test_percent_is_rounded_down() -> None:
    """100 % is shown only if nothing is missing."""
    shares = (1.0, 0.99999999, 0.5, 0.0)
    assert [percent(share) for share in shares] == ["100 %", "99.999 %", "50.000 %", "0.000 %"]


def test_first_cell_is_coloured(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """On a terminal its text determines the colour; other data has no effect."""
    monkeypatch.setattr(output.click, "echo", lambda text, err: print(text))
    print_table(["state", "detail"], [["alarm", "alarm"], ["odd", ""]], {"alarm": "red"})
    assert capsys.readouterr().out.splitlines() == ["state  detail", "\x1b[31malarm\x1b[0m  alarm", "odd"]


def run_into_closed_pipe(program: str) -> tuple[int, str]:
    """Exit code and standard error of `program` whose standard output nobody reads."""
    read_end, write_end = os.pipe()
    os.close(read_end)
    buffered = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    try:
        done = subprocess.run(
            [str(BIN / "python"), "-c", program],
            env=buffered,
            stdout=write_end,
            stderr=subprocess.PIPE,
            text=True,
            timeout=60,
        )
    finally:
        os.close(write_end)
    return done.returncode, done.stderr


@pytest.mark.process
def test_closed_pipe_ends_output_but_not_the_command() -> None:
    """`tape gaps | head -1` prints no traceback, and has the exit code of the complete command."""
    program = (
        "import click, sys; from extract.cli import main; from extract.cli.output import print_table\n"
        "@click.command()\n"
        "def many():\n"
        "    print_table(['n'], [[n] for n in range(100_000)])\n"
        "    return 1\n"
        "main.tape = many; sys.argv = ['tape']; main.main()"
    )
    assert run_into_closed_pipe(program) == (1, "")


@pytest.mark.process
def test_closed_pipe_of_help_prints_no_traceback() -> None:
    """Help is printed by click itself."""
    program = "import sys; from extract.cli.main import main; sys.argv = ['tape', '--help']; main()"
    _, err = run_into_closed_pipe(program)
    assert err == ""


@pytest.mark.process
def test_flush_into_a_closed_pipe_does_not_change_the_exit_code() -> None:
    """A short output is in the buffer until the command ends."""
    program = (
        "import click, sys; from extract.cli import main\n"
        "@click.command()\n"
        "def few():\n"
        "    sys.stdout.write('1')\n"
        "    return 2\n"
        "main.tape = few; sys.argv = ['tape']; main.main()"
    )
    assert run_into_closed_pipe(program) == (2, "")


def test_closed_standard_error_does_not_discard_the_result() -> None:
    """`tape gaps --json 2> >(true)`: progress has no reader, the result has one."""
    program = "from extract.cli.output import echo; echo('progress', err=True); echo('result')"
    read_end, write_end = os.pipe()
    os.close(read_end)
    try:
        done = subprocess.run(
            [str(BIN / "python"), "-c", program],
            stdout=subprocess.PIPE,
            stderr=write_end,
            text=True,
            timeout=60,
        )
    finally:
        os.close(write_end)
    assert (done.returncode, done.stdout) == (0, "result\n")
