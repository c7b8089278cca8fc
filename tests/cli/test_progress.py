"""Progress displays: plain lines without a terminal, bars on one, text of the exchange never taken as markup."""

from __future__ import annotations

import io
import time

import pytest
from rich.console import Console

from extract.cli import progress
from extract.cli.progress import RunProgress, WorkProgress
from extract.deribit.client import RequestStats
from extract.deribit.streams import Stream
from extract.listener import Listener

DAY_MS = 86_400_000
SINCE_MS = 1_700_000_000_000


@pytest.fixture
def console(monkeypatch: pytest.MonkeyPatch) -> Console:
    """No terminal; every plain line is due."""
    monkeypatch.setattr(progress, "PLAIN_EVERY_S", 0.0)
    return Console(file=io.StringIO(), width=100)


def terminal() -> Console:
    return Console(file=io.StringIO(), force_terminal=True, width=100, color_system=None)


def text_of(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_work_is_shown_as_plain_lines_without_a_terminal(console: Console) -> None:
    """Counts, rate and time left, in the unit of the work."""
    with WorkProgress(console) as listener:
        work: Listener = listener
        work.start(2_000, "trades")
        time.sleep(0.01)
        work.advance(1_000)
        work.advance(1_000)
    first, last = text_of(console).splitlines()
    assert first.startswith("1,000 of 2,000 trades, ")
    assert first.endswith(" s left")
    assert "/s, " in first
    assert last.startswith("2,000 of 2,000 trades, ")
    assert last.endswith(", almost done")


def test_work_that_starts_anew_is_counted_from_zero(console: Console) -> None:
    """A second `start` replaces the first."""
    with WorkProgress(console) as work:
        work.start(10, "trades")
        work.advance(10)
        work.start(5, "instruments")
        work.advance(1)
    assert text_of(console).splitlines()[-1].startswith("1 of 5 instruments, ")


def test_bars_are_drawn_on_a_terminal_and_removed_at_the_end() -> None:
    """Only other output remains."""
    console = terminal()
    with WorkProgress(console) as work:
        work.start(10, "trades")
        work.advance(5)
        time.sleep(0.3)  # bars are drawn ten times a second
        assert "5 of 10" in text_of(console)
    assert text_of(console).endswith("\x1b[2K")


@pytest.mark.parametrize("make_console", [terminal, None], ids=["terminal", "plain"])
def test_stream_names_are_not_markup(
    make_console: object, console: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A currency that looks like a style, closes one, or holds an escape sequence is shown as text."""
    console = terminal() if make_console else console
    streams = [Stream("[red]BTC", "option"), Stream("[/]", "spot"), Stream("\x1b[31mE\n", ":bomb:")]
    with RunProgress(console) as run:
        run.start(streams, SINCE_MS, SINCE_MS + DAY_MS)
        for stream in streams:
            run.update(stream, 10, SINCE_MS + DAY_MS // 2, RequestStats(3, 1, 100))
        if make_console:
            time.sleep(0.3)
    text = text_of(console)
    assert "3 streams ([red]BTC, [/], \\x1b[31mE\\n) since 2023-11-14T22:13:20Z until " in text
    assert "30 trades, " in text
    assert "3 requests, 1 retries, " in text
    assert "\x1b[31m" not in text
    if make_console:
        assert "[red]BTC option" in text
        assert ":bomb:" in text


def test_run_estimates_the_time_left_from_covered_time(console: Console) -> None:
    """A run without --since starts where the first slice of each stream ended."""
    btc, eth = Stream("BTC", "option"), Stream("ETH", "option")
    with RunProgress(console) as run:
        run.start([btc, eth], None, SINCE_MS + DAY_MS)
        assert "from where the last run ended" in text_of(console)
        run.update(btc, 1, SINCE_MS, RequestStats())
        assert text_of(console).endswith("time left unknown\n")
        run.update(eth, 1, SINCE_MS, RequestStats())
        run.update(btc, 1, SINCE_MS + DAY_MS // 2, RequestStats())
        assert text_of(console).splitlines()[-1].endswith(" s left")
        run.update(btc, 1, SINCE_MS + 2 * DAY_MS, RequestStats())
        run.update(eth, 1, SINCE_MS + DAY_MS, RequestStats())
    assert text_of(console).splitlines()[-1].endswith("almost done")
