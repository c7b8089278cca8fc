"""A run stopped early ends at a window boundary, reports that there is more to do, and the next one resumes."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence

import pytest
from clickhouse_connect.driver.client import Client

from extract.cli.progress import RunProgress
from extract.clickhouse.settings import ClickHouseSettings
from extract.deribit.client import RequestStats
from extract.deribit.streams import Stream
from extract.pipeline.run import run
from extract.pipeline.stop import StopSignal, stop_on_sigterm
from extract.pipeline.summary import RunSummary
from extract.sandbox.server import SandboxExchange
from extract.sandbox.tape import Tape
from extract.source.options import RunOptions
from tests.support.commands import BIN, ROOT, UserShell
from tests.support.proxy import proxy_to
from tests.support.small_windows import SMALL, keys_in, keys_of

Listed = Callable[[Tape], SandboxExchange]
SLOW = "rate=1,kinds=slow,slow=0.2,on=get_last_trades"


class StopAfterSlices(RunProgress):
    """Requests a stop after `slices` slices."""

    def __init__(self, slices: int) -> None:
        super().__init__()
        self.stop = StopSignal()
        self._left = slices

    def update(self, stream: Stream, rows: int, end_ms: int, stats: RequestStats) -> None:
        self._left -= 1
        if not self._left:
            self.stop.request("by the test")
        super().update(stream, rows, end_ms, stats)


def stopped_after(slices: int) -> RunSummary:
    progress = StopAfterSlices(slices)
    return run(RunOptions(currencies=("BTC",)), progress, progress.stop)


@pytest.mark.slow
def test_stopped_runs_add_up_to_one_long_run(
    listed: Listed, clickhouse_client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each run loads its partial window, and no trade is loaded twice."""
    monkeypatch.setenv("SOURCES__DERIBIT__WINDOW_TRADES", "1000000")
    tape = Tape.generate(seed=8, trades=2_500, days=3)
    listed(tape)
    loaded, summaries = 0, [stopped_after(6)]
    while not summaries[-1].is_complete:
        before, loaded = loaded, len(keys_in(clickhouse_client))
        assert loaded > before, "a stopped run still makes progress"
        assert summaries[-1].stopped == "by the test"
        summaries.append(stopped_after(6))
    assert len(summaries) > 3
    assert keys_in(clickhouse_client) == keys_of(tape)
    assert sum(each.total + each.repaired for each in summaries) == len(keys_of(tape))


class StopAtTheEnd(RunProgress):
    """Requests a stop when the last slice of the only stream has arrived."""

    def __init__(self) -> None:
        super().__init__()
        self.stop = StopSignal()
        self._until_ms = 0

    def start(self, streams: Sequence[Stream], since_ms: int | None, until_ms: int) -> None:
        self._until_ms = until_ms
        super().start(streams, since_ms, until_ms)

    def update(self, stream: Stream, rows: int, end_ms: int, stats: RequestStats) -> None:
        if end_ms >= self._until_ms:
            self.stop.request("by the test")
        super().update(stream, rows, end_ms, stats)


def test_run_that_completes_in_the_window_of_its_stop_is_complete(listed: Listed) -> None:
    """There is nothing more to do, so the summary does not ask for another run."""
    listed(Tape.generate(seed=8, trades=200, days=1))
    progress = StopAtTheEnd()
    summary = run(RunOptions(currencies=("BTC",), kinds=("future",)), progress, progress.stop)
    assert progress.stop.is_requested
    assert summary.is_complete


def test_handler_of_sigterm_is_restored_after_the_run() -> None:
    """A program that calls `run` keeps its own handler."""
    stop = StopSignal()
    handler = lambda number, frame: None  # noqa: E731
    of_sigint = signal.getsignal(signal.SIGINT)
    before = signal.signal(signal.SIGTERM, handler)
    try:
        with stop_on_sigterm(stop):
            signal.raise_signal(signal.SIGTERM)
            assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL, "a second one ends the process"
            assert signal.getsignal(signal.SIGINT) is signal.SIG_DFL, (
                "as does this one, which nothing can swallow"
            )
        assert signal.getsignal(signal.SIGTERM) is handler
        assert signal.getsignal(signal.SIGINT) is of_sigint
    finally:
        signal.signal(signal.SIGTERM, before)
    assert stop.reason == "on SIGTERM"


def test_stop_is_requested_by_the_clock_or_explicitly() -> None:
    """The clock is injected, and the reason distinguishes the two."""
    now_s = 100.0
    stop = StopSignal(90, clock=lambda: now_s)
    assert not stop.is_requested
    now_s = 190.0
    assert stop.reason == "after 1.5 minutes"
    stop = StopSignal()
    stop.request("on SIGTERM")
    assert stop.reason == "on SIGTERM"


@pytest.mark.slow
def test_max_minutes_stops_the_run_with_exit_code_0(
    shell: UserShell, start_exchange: Callable[..., SandboxExchange]
) -> None:
    """Two seconds are not enough on a slow exchange, and the output reports that there is more to do."""
    slow = shell.at(start_exchange(Tape.generate(seed=8, trades=3_000, days=3), faults=SLOW))
    done = slow.ok("dlt", "pipeline", "run", "--currency", "BTC", "--max-minutes", "0.03", **SMALL)
    assert "Stopped after 0.03 minutes with more to do; the same command resumes there." in done.out


@pytest.mark.parametrize("minutes", ["0", "-1", "nan", "inf", "1e308", "soon", ""])
def test_invalid_max_minutes_is_a_usage_error(shell: UserShell, minutes: str) -> None:
    """One sentence, exit code 3."""
    done = shell.run("dlt", "pipeline", "run", f"--max-minutes={minutes}")
    assert done.code == 3
    assert done.err == (
        f"--max-minutes {minutes} is not a valid limit; give up to 527,040 minutes, for example 50.\n"
    )


@pytest.fixture
def started_run(shell: UserShell, start_exchange: Callable[..., SandboxExchange]) -> Callable[..., Started]:
    """Start `dlt pipeline run` against a slow exchange and return once it fetches trades."""
    return lambda tape, **env: Started(shell, start_exchange(tape, faults=SLOW), env)


class Started:
    """A run from the command line, and the `shell` to run it again."""

    def __init__(self, shell: UserShell, exchange: SandboxExchange, env: dict[str, str]) -> None:
        self.shell = shell.at(exchange)
        self.exchange = exchange
        self.process = subprocess.Popen(
            [str(BIN / "dlt"), "pipeline", "run", "--currency", "BTC"],
            cwd=ROOT,
            env=self.shell.env | SMALL | env,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        deadline_s = time.monotonic() + 60
        while sum("get_last_trades" in each.path for each in exchange.requests) < 8:
            assert time.monotonic() < deadline_s, "no trades were requested"
            assert self.process.poll() is None, self.process.communicate()[1]
            time.sleep(0.02)

    def end_faults(self) -> None:
        """Let the exchange answer at full speed from now on."""
        self.exchange.faults = type(self.exchange.faults)()


@pytest.mark.slow
def test_sigterm_finishes_the_window_with_exit_code_0(
    started_run: Callable[..., Started], clickhouse_client: Client
) -> None:
    """The fetched trades are loaded, and the next run resumes, as after a Spot interruption."""
    tape = Tape.generate(seed=8, trades=20_000, days=3)
    started = started_run(tape)
    started.process.send_signal(signal.SIGTERM)
    started.end_faults()
    out, err = started.process.communicate(timeout=60)
    assert started.process.returncode == 0, err
    assert "Stopped on SIGTERM with more to do" in out
    assert "a second SIGTERM ends the run at once" in err
    loaded = len(keys_in(clickhouse_client))
    assert 0 < loaded < len(keys_of(tape))
    started.shell.ok("dlt", "pipeline", "run", "--currency", "BTC")
    assert keys_in(clickhouse_client) == keys_of(tape)


@pytest.mark.slow
@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT])
def test_second_signal_ends_the_run_at_once(
    started_run: Callable[..., Started], clickhouse_client: Client, second: signal.Signals
) -> None:
    """The run does not wait for its window, and no trade is lost or duplicated."""
    tape = Tape.generate(seed=8, trades=3_000, days=3)
    started = started_run(tape)
    started.process.send_signal(signal.SIGTERM)
    assert started.process.stderr is not None
    while "second SIGTERM" not in started.process.stderr.readline():
        pass
    started.process.send_signal(second)  # the exchange is still slow: the window is far from its end
    started.process.communicate(timeout=20)
    assert started.process.returncode != 0
    started.end_faults()
    started.shell.ok("dlt", "pipeline", "run", "--currency", "BTC")
    assert keys_in(clickhouse_client) == keys_of(tape)


@pytest.mark.slow
def test_run_ends_soon_after_sigterm_while_clickhouse_does_not_answer(
    started_run: Callable[..., Started], clickhouse: ClickHouseSettings, clickhouse_client: Client
) -> None:
    """An insert without an answer, and all later requests; the next run loads each trade once."""
    tape = Tape.generate(seed=8, trades=3_000, days=3)
    with proxy_to(clickhouse.port) as proxy:
        proxy.hang_at = b"`trades`"
        started = started_run(tape, CLICKHOUSE_LOCAL_PORT=str(proxy.port))
        started.end_faults()
        assert proxy.hangs.wait(60)
        stopped_s = time.monotonic()
        started.process.send_signal(signal.SIGTERM)
        _, err = started.process.communicate(timeout=60)
    assert time.monotonic() - stopped_s < 35
    assert started.process.returncode == 4
    assert "The run did not finish in the time that SIGTERM leaves" in err
    started.shell.ok("dlt", "pipeline", "run", "--currency", "BTC")
    assert keys_in(clickhouse_client) == keys_of(tape)


HANGING = """
import threading, time
from extract.pipeline.stop import StopSignal, stop_on_sigterm
with stop_on_sigterm(StopSignal(), end_s=0.5):
    print("running", flush=True)
    threading.Thread(target=time.sleep, args=(60,)).start()
    {wait}
"""


@pytest.mark.parametrize(
    "wait", ["time.sleep(60)", "threading.Lock().acquire(); threading.Event().wait()", "while True: pass"]
)
def test_process_that_still_waits_after_sigterm_is_ended(wait: str) -> None:
    """Whatever it waits for: one sentence and the exit code of an external failure."""
    process = subprocess.Popen(
        [sys.executable, "-c", HANGING.format(wait=wait)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    process.stdout.readline()
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=20)
    assert process.returncode == 4
    assert err.splitlines()[-1].startswith("The run did not finish in the time that SIGTERM leaves")
