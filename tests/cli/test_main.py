"""Errors of commands: one sentence on standard error, and an exit code by what to do about them."""

from __future__ import annotations

import errno
from collections.abc import Callable

import click
import pytest

from extract.cli import main
from extract.errors import CannotTellError, FinalError, ProofError, RetriableError, UsageError
from tests.support.commands import Done, tape_here

Fail = Callable[[BaseException], Done]


@pytest.fixture
def fail(monkeypatch: pytest.MonkeyPatch) -> Fail:
    """Run a command that raises an error."""

    def run(error: BaseException) -> Done:
        @click.command()
        def command() -> None:
            raise error

        monkeypatch.setattr(main, "tape", command)
        return tape_here()

    return run


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ProofError("Two values differ."), 1),
        (CannotTellError("Two values differ."), 2),
        (UsageError("Two values differ."), 3),
        (RetriableError("Two values differ."), 4),
        (FinalError("Two values differ."), 4),
        (click.UsageError("Two\n\tvalues differ."), 3),
    ],
)
def test_error_is_one_sentence_with_the_exit_code_of_its_class(
    fail: Fail, error: Exception, code: int
) -> None:
    """Standard output stays empty."""
    hint = " Try: tape --help" if isinstance(error, click.UsageError) else ""
    assert fail(error) == Done(code, "", f"Two values differ.{hint}\n")


def test_text_of_an_error_cannot_control_the_terminal(fail: Fail) -> None:
    """An error may quote the exchange or the database."""
    done = fail(FinalError("The exchange answered: \x1b[2J\nAll is well."))
    assert done == Done(4, "", "The exchange answered: \\x1b[2J\\nAll is well.\n")


def test_failing_disk_is_an_external_failure(fail: Fail) -> None:
    """The sentence names the path, and there is no traceback."""
    done = fail(PermissionError(errno.EACCES, "Permission denied", "/readonly/tape"))
    assert done == Done(4, "", "Permission denied: /readonly/tape\n")


def test_full_disk_is_named_with_the_next_step(fail: Fail) -> None:
    """A write has no path in its error."""
    done = fail(OSError(errno.ENOSPC, "No space left on device"))
    assert done == Done(4, "", "No space left on device; free some space, and repeat the command.\n")


@pytest.mark.parametrize("error", [KeyboardInterrupt(), click.Abort()], ids=["Ctrl-C", "declined"])
def test_interrupted_command_exits_with_130(fail: Fail, error: BaseException) -> None:
    """Shells expect this code after SIGINT; a declined confirmation has it, too."""
    done = fail(error)
    assert (done.code, done.output.strip()) == (130, "")


def test_bug_keeps_its_traceback(fail: Fail) -> None:
    """Only errors of known classes become a sentence."""
    bug = ZeroDivisionError()
    with pytest.raises(ZeroDivisionError):
        fail(bug)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["gaps", "--nope"], "No such option '--nope'. Try: tape gaps --help"),
        (["nope"], "No such command 'nope'. Try: tape --help"),
        (
            ["certs", "issue"],
            "Missing argument '{loader|transformer|reader|server}'. Choose from: loader, transformer, reader, server. "
            "Try: tape certs issue --help",
        ),
        (["cost", "baseline", "--until", "May"], "--until 'May' is not a day; write it like 2026-10-31."),
        (["cost", "baseline", "--days", "0"], "Invalid value for '--days': 0 is not in the range 1<=x<="),
        (
            ["cost", "egress", "--threshold", "-1"],
            "--threshold '-1' is not a number of GB; write it like 50 or 0.5.",
        ),
        (["health", "--raw", "soon"], "--raw 'soon' does not name a limit to warn and one to alarm; "),
        (
            ["health", "--disk", "20h:10h"],
            "--disk '20h:10h' does not name a limit to warn and one to alarm; ",
        ),
        (["health", "--push", "1h"], "--push '1h' does not name a limit to warn and one to alarm; "),
    ],
)
def test_malformed_command_line_is_one_sentence(words: list[str], sentence: str) -> None:
    """Exit code 3, and nothing on standard output."""
    done = tape_here(*words)
    assert (done.code, done.out) == (3, "")
    assert done.err.startswith(sentence)
    assert len(done.err.splitlines()) == 1


@pytest.mark.parametrize("words", [[], ["cost"]], ids=["tape", "tape cost"])
def test_group_without_a_command_shows_its_help(words: list[str]) -> None:
    """The help goes to standard error, because it is not a result."""
    done = tape_here(*words)
    assert (done.code, done.out) == (3, "")
    assert "Commands:" in done.err
