"""The source in pipelines of other people: any name, dataset and destination, nothing twice, dlt's own conventions."""

from __future__ import annotations

import inspect
import json
import os
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import dlt
import httpx
import pytest

from extract.deribit.client import DeribitClient
from extract.deribit.config import DeribitConfig
from extract.errors import UsageError
from extract.pipeline.errors import unwrap_dlt_errors
from extract.sandbox.server import SandboxExchange
from extract.sandbox.tape import Tape
from extract.source import deribit
from tests.support.altered_exchange import AlteredExchange
from tests.support.commands import BIN
from tests.support.small_windows import keys_of

# dlt's destination duckdb logs by a deprecated method.
pytestmark = pytest.mark.filterwarnings("ignore:The 'warn' method is deprecated:DeprecationWarning")
TABLES = ["absent_trades", "coverage", "instruments", "rejected_trades", "trades"]
SERIES_TABLES = [
    "book_summaries",
    "delivery_prices",
    "funding_rates",
    "rejected_records",
    "series_coverage",
    "series_gaps",
    "settlements",
    "volatility_index",
]
"""Tables that tests/source/test_series.py loads."""


@pytest.fixture(scope="module")
def tape() -> Tape:
    return Tape.generate(seed=4, trades=500, days=2)


@pytest.fixture
def exchange(tape: Tape, monkeypatch: pytest.MonkeyPatch) -> Iterator[SandboxExchange]:
    """An exchange that shows the first half of the tape, and to which the environment points."""
    middle_ms = int(tape.trades[len(tape.trades) // 2]["timestamp"])
    with SandboxExchange(tape, clock=middle_ms) as running:
        monkeypatch.setenv("SOURCES__DERIBIT__API_URL", running.url)
        monkeypatch.setenv("SOURCES__DERIBIT__HISTORY_URL", running.history_url)
        monkeypatch.setenv("SOURCES__DERIBIT__REQUESTS_PER_SECOND", "1000")
        yield running


@pytest.fixture(params=["duckdb", "filesystem"])
def pipeline(request: pytest.FixtureRequest, tmp_path: Path) -> dlt.Pipeline:
    """A pipeline with a name and a dataset of its own, and with a state that is restored from the destination."""
    destinations = {
        "duckdb": lambda: dlt.destinations.duckdb(str(tmp_path / "mine.duckdb")),
        "filesystem": lambda: dlt.destinations.filesystem(str(tmp_path / "files")),
    }
    return dlt.pipeline(
        f"my_{request.param}",
        destination=destinations[request.param](),
        dataset_name="market",
        pipelines_dir=str(tmp_path / "pipelines"),
    )


def run(pipeline: dlt.Pipeline, source: Any) -> Counter[str]:
    """Rows by table of one run."""
    info = pipeline.run(source, loader_file_format="parquet")
    if not info.loads_ids:
        return Counter()
    counts = pipeline.last_trace.last_normalize_info.row_counts
    return +Counter({name: rows for name, rows in counts.items() if not name.startswith("_dlt")})


def keys_in(pipeline: dlt.Pipeline) -> list[tuple[str, int]]:
    rows = pipeline.dataset().trades.select("instrument_name", "trade_seq").fetchall()
    return sorted((name, seq) for name, seq in rows)


def test_second_run_loads_only_new_trades(
    pipeline: dlt.Pipeline, exchange: SandboxExchange, tape: Tape
) -> None:
    """An unchanged exchange gives no row and no load package; each trade is loaded once."""
    assert run(pipeline, deribit(currencies=["BTC"]))["trades"] > 0
    before = len(keys_in(pipeline))
    assert run(pipeline, deribit(currencies=["BTC"])) == Counter()
    exchange.now_ms = int(tape.trades[-1]["timestamp"]) + 120_000
    assert run(pipeline, deribit(currencies=["BTC"]))["trades"] == len(keys_of(tape)) - before
    assert keys_in(pipeline) == keys_of(tape)
    load_ids = pipeline.dataset().trades.select("_dlt_load_id").fetchall()
    assert {load_id for (load_id,) in load_ids} == set(pipeline.list_completed_load_packages())


@pytest.mark.parametrize(
    "as_type", [str, date.fromisoformat, datetime.fromisoformat], ids=lambda each: each.__name__
)
def test_times_may_be_dates(
    duckdb: dlt.Pipeline, exchange: SandboxExchange, tape: Tape, as_type: Callable[[str], Any]
) -> None:
    """As in a program, or as TOML has them; a datetime without a time zone is UTC."""
    day = datetime.fromtimestamp(exchange.now_ms / 1000, UTC).date()
    run(duckdb, deribit(["BTC"], start=as_type(day.isoformat()), end=as_type(f"{day + timedelta(days=1)}")))
    start_ms = datetime(day.year, day.month, day.day, tzinfo=UTC).timestamp() * 1000
    trades = [each for each in tape.trades if start_ms <= each["timestamp"] <= exchange.now_ms]
    keys = {(each["instrument_name"], each["trade_seq"]) for each in trades}
    assert set(keys_in(duckdb)) == keys & set(keys_of(tape))
    assert keys_in(duckdb)


@pytest.mark.parametrize("odd", ["record", "kind"])
def test_loop_ends_while_the_exchange_repeats_an_odd_answer(
    duckdb: dlt.Pipeline, exchange: SandboxExchange, odd: str
) -> None:
    """Also where each run is a process of its own: the record, and the time of the stream, are recorded once."""

    def alter(method: str, params: dict[str, str], is_history: bool) -> Any:
        if method != "get_last_trades_by_currency_and_time":
            return None
        if odd == "record":
            return lambda result: result | {"trades": [*result["trades"], {"odd": 1}]}
        refused = {"error": {"code": 11050, "message": "bad_request"}}
        return httpx.Response(400, text=json.dumps(refused)) if params["kind"] == "option" else None

    config = DeribitConfig(api_url=exchange.url, history_url=exchange.history_url)
    runs = 0
    for _ in range(6):
        with DeribitClient(config, transport=AlteredExchange(alter)) as client:
            source = deribit(["BTC"], ["future", "option"], series="none", client=client)
            if not duckdb.run(source, loader_file_format="parquet").loads_ids:
                break
        runs += 1
        duckdb.drop()  # the next run restores the state from the destination
        exchange.now_ms += 2_000
    assert runs <= 2
    reasons = duckdb.dataset().rejected_trades.select("reason").fetchall()
    assert 1 <= len(reasons) <= 2


def test_state_is_restored_from_the_destination(
    pipeline: dlt.Pipeline, exchange: SandboxExchange, tape: Tape
) -> None:
    """On another machine nothing is loaded twice."""
    run(pipeline, deribit(currencies=["BTC"]))
    pipeline.drop()
    exchange.now_ms = int(tape.trades[-1]["timestamp"]) + 120_000
    run(pipeline, deribit(currencies=["BTC"]))
    assert keys_in(pipeline) == keys_of(tape)


@pytest.mark.slow
def test_each_run_loads_one_window(pipeline: dlt.Pipeline, exchange: SandboxExchange, tape: Tape) -> None:
    """A backfill is a loop over `pipeline.run`."""
    exchange.now_ms = int(tape.trades[-1]["timestamp"]) + 120_000
    windows = 0
    while run(pipeline, deribit(currencies=["BTC"], page_size=20, window_trades=60)):
        windows += 1
    assert windows > 1
    assert keys_in(pipeline) == keys_of(tape)


@pytest.fixture
def duckdb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dlt.Pipeline:
    monkeypatch.setenv("DLT_LOCAL_DIR", str(tmp_path))  # where dlt's commands look for mine.duckdb
    return dlt.pipeline(
        "mine",
        destination=dlt.destinations.duckdb(str(tmp_path / "mine.duckdb")),
        pipelines_dir=str(tmp_path / "pipelines"),
    )


@pytest.mark.slow
@pytest.mark.parametrize("name", TABLES)
def test_each_resource_can_be_loaded_alone(
    duckdb: dlt.Pipeline, exchange: SandboxExchange, name: str
) -> None:
    """Without the trades no time becomes covered, so that a later run loads them."""
    counts = run(duckdb, deribit(currencies=["BTC"]).with_resources(name))
    assert set(counts) <= {name, "rejected_trades"}
    assert bool(counts) == (name in ("trades", "instruments"))
    everything = run(duckdb, deribit(currencies=["BTC"]))
    assert ("trades" in everything) == (name != "trades")


def test_limited_source_ends(duckdb: dlt.Pipeline, exchange: SandboxExchange) -> None:
    assert run(duckdb, deribit(currencies=["BTC"]).add_limit(1))["trades"] > 0
    assert run(duckdb, deribit(currencies=["BTC"])) == Counter()


def test_arguments_are_injected_from_the_configuration(
    duckdb: dlt.Pipeline, exchange: SandboxExchange, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOURCES__DERIBIT__CURRENCIES", '["ETH"]')
    monkeypatch.setenv("SOURCES__DERIBIT__KINDS", '["future"]')
    monkeypatch.setenv("SOURCES__DERIBIT__START", "2016-01-01")
    run(duckdb, deribit())
    streams = duckdb.dataset().trades.select("currency", "kind").fetchall()
    assert set(streams) == {("ETH", "future")}


def test_trades_before_the_start_are_not_requested(
    duckdb: dlt.Pipeline, exchange: SandboxExchange, tape: Tape
) -> None:
    """The time between `start` and `end`, with a client of the caller."""
    config = DeribitConfig(api_url=exchange.url, history_url=exchange.history_url)
    with DeribitClient(config) as client:
        source = deribit(["BTC"], ["future"], start="12h", end="6h", client=client)
        run(duckdb, source)
        assert not client.is_cancelled
    times = [at.timestamp() * 1000 for (at,) in duckdb.dataset().trades.select("timestamp").fetchall()]
    hour_ms = 3_600_000
    assert times
    assert exchange.now_ms - 12 * hour_ms <= min(times) <= max(times) <= exchange.now_ms - 6 * hour_ms


def test_unknown_currency_is_one_sentence(duckdb: dlt.Pipeline, exchange: SandboxExchange) -> None:
    with pytest.raises(UsageError, match="'XYZ' does not exist"), unwrap_dlt_errors():
        run(duckdb, deribit(currencies=["XYZ"]))


def test_refusal_of_a_time_names_the_argument(duckdb: dlt.Pipeline, exchange: SandboxExchange) -> None:
    for times, message in (
        ({"start": "yesterday"}, "^start 'yesterday' is not a time"),
        ({"start": "1d", "end": "2d"}, "^start 1d is not before end 2d"),
    ):
        with pytest.raises(UsageError, match=message), unwrap_dlt_errors():
            run(duckdb, deribit(currencies=["BTC"], **times))


@pytest.mark.slow
def test_commands_of_dlt_work_on_the_pipeline(
    duckdb: dlt.Pipeline, exchange: SandboxExchange, tmp_path: Path
) -> None:
    """The state is restored from the database; dropping the trades drops theirs, so that the next run loads them again."""
    first = run(duckdb, deribit(currencies=["BTC"]))
    pipelines_dir = str(tmp_path / "pipelines")
    for command in (["info"], ["trace"], ["sync"], ["drop", "trades"]):
        done = subprocess.run(
            [BIN / "dlt", "-y", "pipeline", "--pipelines-dir", pipelines_dir, "mine", *command],
            cwd=tmp_path,
            env={**os.environ, "RUNTIME__DLTHUB_TELEMETRY": "false"},
            capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
    again = dlt.attach("mine", pipelines_dir=pipelines_dir)
    assert run(again, deribit(currencies=["BTC"])) == {
        name: first[name] for name in ("trades", "coverage")
    }, "what else is loaded is known from the state"


def test_source_follows_the_conventions_of_dlt() -> None:
    """Each argument is documented; the resources are those that the documentation names."""
    source = deribit(currencies=["BTC"])
    assert (source.name, source.section) == ("deribit", "deribit")
    assert sorted(source.resources) == sorted(source.selected_resources) == sorted(TABLES + SERIES_TABLES)
    documentation = inspect.getdoc(deribit) or ""
    arguments = inspect.signature(deribit).parameters
    assert [name for name in arguments if f"{name}: " not in documentation] == []
    assert [name for name in TABLES + SERIES_TABLES if f"`{name}`" not in documentation] == []
    assert "Args:" in documentation
    assert "Returns:" in documentation
