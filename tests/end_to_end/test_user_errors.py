"""User errors are one sentence and an exit code; nothing is partly loaded, and no traceback is shown."""

from __future__ import annotations

from pathlib import Path

import pytest
from clickhouse_connect.driver.client import Client

from extract.clickhouse.settings import RAW_DATABASE, ClickHouseSettings
from extract.deribit.client import DeribitClient
from extract.errors import OutsideError, TapeError, UsageError
from extract.pipeline.run import run
from extract.sandbox.server import SandboxExchange
from extract.source.options import RunOptions
from tests.support.commands import UserShell


@pytest.fixture
def user(
    clean_clickhouse: ClickHouseSettings,
    clickhouse_env: ClickHouseSettings,
    exchange: SandboxExchange,
    monkeypatch: pytest.MonkeyPatch,
) -> pytest.MonkeyPatch:
    """The environment of a user with an empty ClickHouse and an exchange that answers."""
    monkeypatch.setenv("SOURCES__DERIBIT__API_URL", exchange.url)
    monkeypatch.setenv("SOURCES__DERIBIT__HISTORY_URL", exchange.history_url)
    return monkeypatch


MISTAKES = [
    pytest.param(RunOptions(currencies=["DOGE"]), {}, UsageError, "--currency 'DOGE'", id="unknown currency"),
    pytest.param(RunOptions(kinds=["swap"]), {}, UsageError, "--kind 'swap'", id="unknown kind"),
    pytest.param(RunOptions(since=""), {}, UsageError, "--since '' is not a time", id="empty time"),
    pytest.param(
        RunOptions(),
        {"SOURCES__DERIBIT__HISTORY_URL": "http://xn--a/api"},
        UsageError,
        "history host in [sources.deribit] is not a URL",
        id="no Punycode",
    ),
    pytest.param(
        RunOptions(),
        {"SOURCES__DERIBIT__API_URL": "https://test.deribit.com/api/v2"},
        UsageError,
        "Only one of api_url and history_url",
        id="two networks",
    ),
    pytest.param(
        RunOptions(),
        {"SOURCES__DERIBIT__TIMEOUT_S": "99999999999"},
        UsageError,
        "timeout_s of [sources.deribit] is 1e+11; it must be from 0.001 to 86,400.",
        id="timeout",
    ),
    pytest.param(RunOptions(since="soon"), {}, UsageError, "--since 'soon' is not a time", id="no date"),
    pytest.param(
        RunOptions(until="2026-13-01"), {}, UsageError, "--until '2026-13-01' is not a time", id="month 13"
    ),
    pytest.param(
        RunOptions(since="2026-01-15", until="2026-01-14"),
        {},
        UsageError,
        "is not before --until",
        id="wrong order",
    ),
    pytest.param(RunOptions(since="2030-01-01"), {}, UsageError, "is in the future", id="future"),
    pytest.param(
        RunOptions(),
        {"SOURCES__DERIBIT__API_URL": "http://127.0.0.1:9/api/v2"},
        OutsideError,
        "cannot be reached at http://127.0.0.1:9",
        id="unreachable exchange",
    ),
    pytest.param(
        RunOptions(),
        {"SOURCES__DERIBIT__API_URL": "deribit"},
        UsageError,
        "should read like https://www.deribit.com/api/v2",
        id="no address",
    ),
    pytest.param(
        RunOptions(),
        {"CLICKHOUSE_LOCAL_PASSWORD": "wrong"},
        UsageError,
        "rejects user 'tape'",
        id="wrong password",
    ),
    pytest.param(
        RunOptions(),
        {"CLICKHOUSE_LOCAL_PORT": "9"},
        OutsideError,
        "is not running; start it: make up",
        id="not up",
    ),
    pytest.param(
        RunOptions(),
        {"CLICKHOUSE_LOCAL_PORT": "http"},
        UsageError,
        "CLICKHOUSE_LOCAL_PORT is 'http'",
        id="no port",
    ),
    pytest.param(
        RunOptions(),
        {"CLICKHOUSE_MODE": "cloud"},
        UsageError,
        "CLICKHOUSE_CLOUD_",
        id="cloud without settings",
    ),
    pytest.param(
        RunOptions(), {"CLICKHOUSE_MODE": "moon"}, UsageError, "set it to local or cloud", id="no mode"
    ),
]


@pytest.mark.parametrize(("options", "env", "error", "message"), MISTAKES)
def test_user_error_is_one_sentence_and_loads_nothing(
    options: RunOptions,
    env: dict[str, str],
    error: type[TapeError],
    message: str,
    user: pytest.MonkeyPatch,
    clickhouse_client: Client,
) -> None:
    """The sentence names the cause, and no database is created."""
    for name in ("CLICKHOUSE_CLOUD_HOST", "CLICKHOUSE_CLOUD_PASSWORD"):
        user.delenv(name, raising=False)
    for name, value in env.items():
        user.setenv(name, value)
    with pytest.raises(error) as raised:
        run(options)
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)
    assert "wrong" not in str(raised.value), "no password in a message"
    assert clickhouse_client.query("show databases").result_rows.count((RAW_DATABASE,)) == 0


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("RUNTIME__LOG_LEVEL", "LOUD"),
        ("RUNTIME__LOG_LEVEL", ""),
        ("RUNTIME__REQUEST_TIMEOUT", "soon"),
    ],
)
@pytest.mark.parametrize("words", [["dlt", "pipeline", "run"], ["tape", "follow"]], ids=" ".join)
def test_settings_that_dlt_cannot_read_are_one_sentence(
    shell: UserShell, exchange: SandboxExchange, words: list[str], name: str, value: str
) -> None:
    """dlt reads them before the command begins, so that the command cannot report the error."""
    done = shell.at(exchange).run(*words, **{name: value})
    assert done.code == UsageError.exit_code
    assert done.err.startswith("dlt's settings")
    assert done.output.count("\n") == 1


def test_command_line_prints_the_sentence_only(shell: UserShell, exchange: SandboxExchange) -> None:
    """One line on standard error, exit code 3, no traceback."""
    done = shell.at(exchange).run("dlt", "pipeline", "run", "--currency", "DOGE")
    assert (done.code, done.out) == (3, "")
    assert done.err.startswith("--currency 'DOGE' does not exist; the exchange has BTC")
    assert len(done.err.splitlines()) == 1


@pytest.mark.parametrize("option", ["--currency", "--kind"])
def test_empty_name_is_no_selection_of_everything(
    shell: UserShell, exchange: SandboxExchange, option: str
) -> None:
    """As where a variable of the shell is not set."""
    for command in (["dlt", "pipeline", "run"], ["tape", "gaps"]):
        done = shell.at(exchange).run(*command, option, "")
        assert (done.code, done.err) == (3, f"{option} is empty; give a name, or leave {option} out.\n")


def test_directory_that_cannot_be_used_is_one_sentence(
    shell: UserShell, exchange: SandboxExchange, tmp_path: Path
) -> None:
    """It has the name of a file."""
    (tmp_path / "file").touch()
    done = shell.at(exchange).run("dlt", "pipeline", "run", TAPE_DIR=str(tmp_path / "file"))
    assert (done.code, done.err) == (4, f"File exists: {tmp_path / 'file'}\n")


def test_trades_of_two_exchanges_are_not_mixed(user: pytest.MonkeyPatch, clickhouse_client: Client) -> None:
    """Trades of another exchange are refused until the user drops those of the sandbox."""
    run(RunOptions(currencies=["BTC"], kinds=["spot"]))
    rows = clickhouse_client.command(f"select count() from {RAW_DATABASE}.trades")
    user.setattr("extract.deribit.client._exchange_name", lambda url: "history.deribit.com")
    user.setattr(DeribitClient, "is_sandbox", True)  # its clock is not that of this computer
    with pytest.raises(UsageError, match=r"holds trades of a sandbox on loopback.*tape reset"):
        run(RunOptions(currencies=["BTC"], kinds=["spot"]))
    assert clickhouse_client.command(f"select count() from {RAW_DATABASE}.trades") == rows


@pytest.mark.slow
def test_reset_restores_the_state_before_the_first_run(shell: UserShell, exchange: SandboxExchange) -> None:
    """`tape reset` drops everything loaded, and the next run loads it again."""
    at_exchange = shell.at(exchange)
    words = ("dlt", "pipeline", "run", "--currency", "BTC", "--kind", "spot")
    first = at_exchange.ok(*words).out
    at_exchange.ok("tape", "reset", "--yes")
    again = at_exchange.ok(*words).out
    assert first.split(" new trades")[0] == again.split(" new trades")[0]
    assert "\n0 new" not in first
