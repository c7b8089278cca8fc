"""Exports that are repeated, interrupted, damaged, or written to a bucket."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import boto3
import pyarrow.parquet as pq
import pytest

from extract.clickhouse.settings import ClickHouseSettings
from extract.errors import CannotTellError, UsageError
from extract.export.manifest import ExportedFile, decode_manifest
from extract.export.parts import Filter
from extract.export.seqs import RUN_COLUMNS, read_content, write_rows
from harness import raw_tables
from tests.support.commands import tape_here
from tests.support.exports import export_to, month_of, prove, read
from tests.support.market import LATE_LOAD, Market, key_of

pytestmark = pytest.mark.slow


@pytest.fixture
def trades_only(market: Market, tmp_path: Path) -> Path:
    """A new export of the trades as Parquet."""
    export_to(market, tmp_path / "lake", tables=("trades",))
    return tmp_path / "lake"


# What an export does again


def stamps(folder: Path) -> dict[str, tuple[int, int]]:
    """Inode and time of each data file: a file that is written again has another inode."""
    return {
        str(path.relative_to(folder)): (path.stat().st_ino, path.stat().st_mtime_ns)
        for path in folder.rglob("data.*")
    }


@pytest.mark.parametrize("is_limited", [False, True], ids=["compare everything", "changed since"])
def test_only_changed_files_are_written_again(market: Market, trades_only: Path, is_limited: bool) -> None:
    """A late trade of December changes one file of trades, its runs and the gaps; a repetition changes none."""
    before = stamps(trades_only)
    assert export_to(market, trades_only, tables=("trades",)).written == 0
    assert stamps(trades_only) == before
    late = dict(market.missing, amount=market.missing["amount"] + 10 * is_limited)
    load_id = f"{LATE_LOAD[:-2]}.{5 + is_limited}"
    market.load(load_id, [late])
    since = round(float(load_id) * 1e6) if is_limited else None
    report = export_to(market, trades_only, tables=("trades",), changed_since_us=since)
    assert report.written == 1
    assert key_of(late) in read(trades_only, "trades", "instrument_name, trade_seq")
    changed = {path for path, stamp in stamps(trades_only).items() if before.get(path) != stamp}
    month = f"month={month_of(late)}"
    assert changed - {"trade_gaps/data.parquet"} == {
        f"{table}/kind=future/underlying=BTC/{month}/data.parquet" for table in ("trades", "trade_seqs")
    }
    assert prove(trades_only).is_proven


def test_package_that_is_loaded_meanwhile_is_not_named(market: Market, tmp_path: Path) -> None:
    """It changed a month that was written already, which the next export by the manifest's newest package writes."""
    restated = dict(market.trades[0], amount=market.trades[0]["amount"] + 30)
    load_id = "1769000003.7"
    loaded: list[str] = []

    def load_once(path: str) -> None:
        if "month=2026-01" in path and not loaded:
            loaded.append(load_id)
            market.load(load_id, [restated])

    report = export_to(market, tmp_path / "lake", tables=("trades",), before_publish=load_once)
    assert loaded
    newest = report.manifest.load_packages.newest
    assert float(newest) < float(load_id)
    since_us = round(float(newest) * 1e6)
    report = export_to(market, tmp_path / "lake", tables=("trades",), changed_since_us=since_us)
    assert report.manifest.load_packages.newest == load_id
    amounts = read(tmp_path / "lake", "trades", "instrument_name, trade_seq, amount")
    assert (*key_of(restated), restated["amount"]) in [(*key[:2], float(key[2])) for key in amounts]


def test_export_that_is_killed_is_resumed(
    market: Market, clickhouse_env: ClickHouseSettings, tmp_path: Path
) -> None:
    """Killed before any of its files appears: not proven then, whole after the next one, which keeps finished files."""
    folder = tmp_path / "lake"
    finished: dict[str, tuple[int, int]] = {}
    for kill_at in (3, 8):
        program = KILLED.format(folder=str(folder), kill_at=kill_at)
        assert subprocess.run([sys.executable, "-c", program], env=os.environ).returncode == -signal.SIGKILL
        with pytest.raises(CannotTellError, match="not finished"):
            prove(folder)
        before, finished = finished, {path: stamps(folder)[path] for path in recorded(folder)}
        assert before.items() < finished.items()
    report = export_to(market, folder, tables=("trades",))
    assert report.unchanged * 2 == len(finished) > 4
    assert finished.items() <= stamps(folder).items()
    assert prove(folder).is_proven
    assert set(read(folder, "trades", "instrument_name, trade_seq")) == market.keys
    assert not (folder / "_unfinished").exists()


def recorded(folder: Path) -> set[str]:
    """Paths of the files that an interrupted export has recorded as finished."""
    records = set((folder / "_unfinished").glob("*.json")) - {folder / "_unfinished/manifest.json"}
    return {file["path"] for record in records for file in json.loads(record.read_text())}


KILLED = """
import os, signal
from extract.clickhouse.client import shared_database
from extract.clickhouse.settings import clickhouse_settings
from extract.export.export import ExportOptions, export
from extract.export.store import open_store
published = []
def kill_at(path):
    published.append(path)
    if len(published) == {kill_at}:
        os.kill(os.getpid(), signal.SIGKILL)
with open_store("{folder}", is_new=True) as store:
    export(shared_database(clickhouse_settings()), store, ExportOptions(tables=("trades",)), before_publish=kill_at)
"""


# What is refused


def damage(path: Path) -> None:
    """Flip one bit in the middle of a file."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("table", ["trades", "trade_seqs", "trade_gaps"])
def test_flipped_bit_is_refused_by_name(trades_only: Path, table: str) -> None:
    path = sorted((trades_only / table).rglob("data.*"))[0]
    damage(path)
    problems = prove(trades_only).problems
    assert [problem.path for problem in problems] == [str(path.relative_to(trades_only))]
    done = tape_here("export", "--verify", str(trades_only))
    assert done.code == 1
    assert str(path.relative_to(trades_only)) in done.out


def test_missing_and_foreign_files_are_refused_by_name(trades_only: Path) -> None:
    gone = sorted((trades_only / "trades").rglob("data.*"))[2]
    gone.unlink()
    (trades_only / "trades/foreign.parquet").write_bytes(b"PAR1")
    assert {problem.path for problem in prove(trades_only).problems} == {
        str(gone.relative_to(trades_only)),
        "trades/foreign.parquet",
    }


def test_changed_manifest_is_refused(trades_only: Path) -> None:
    path = trades_only / "manifest.json"
    path.write_text(path.read_text().replace('"rows": 1', '"rows": 2', 1))
    done = tape_here("export", "--verify", str(trades_only))
    assert done.code == 1
    assert "manifest.json was changed" in done.err


def test_trade_that_is_lost_without_a_name_is_refused(trades_only: Path, market: Market) -> None:
    """Even if the file, its runs and the manifest agree with each other."""
    path = "kind=future/underlying=BTC/month=2026-01/data.parquet"
    data, runs = trades_only / "trades" / path, trades_only / "trade_seqs" / path
    table = pq.read_table(data, partitioning=None)
    name, seq = next(
        key_of(trade)
        for trade in reversed(market.trades)
        if trade["instrument_name"] == "BTC-PERPETUAL"
        and (trade["instrument_name"], trade["trade_seq"] + 1) in market.keys
        and (trade["instrument_name"], trade["trade_seq"] - 1) in market.keys
        and month_of(trade) == "2026-01"
    )
    rows = table.to_pylist()
    pq.write_table(
        table.filter([(row["instrument_name"], row["trade_seq"]) != (name, seq) for row in rows]), data
    )
    write_rows(runs, read_content(data, is_parquet=True, has_seqs=True).runs, RUN_COLUMNS)
    manifest = decode_manifest((trades_only / "manifest.json").read_bytes(), "manifest")
    (trades_only / "manifest.json").write_bytes(
        replace(manifest, files=[_described_again(file, trades_only) for file in manifest.files]).encode()
    )
    problems = [str(problem) for problem in prove(trades_only).problems if problem.path != "manifest.json"]
    assert len(problems) == 1
    assert f"trade_seq {seq:,} to {seq:,} of {name} are missing" in problems[0]


def _described_again(file: ExportedFile, folder: Path) -> ExportedFile:
    path = folder / file.path
    content = path.read_bytes()
    return replace(
        file,
        rows=pq.ParquetFile(path).metadata.num_rows,
        bytes=len(content),
        sha256=hashlib.sha256(content).hexdigest(),
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tables": ("trades", "candles_1d")}, "other options"),
        ({"tables": ("trades",), "format": "csv"}, "other options"),
        ({"tables": ("tradse",)}, "does not exist"),
        ({"tables": ("candles_1h",), "format": "tardis"}, "format of trades"),
        ({"tables": ("raw",), "filters": Filter(kinds=("option",))}, "as a whole"),
        ({"filters": Filter(("BTC", "XYZ"))}, "--currency 'XYZ' is not loaded; loaded are BTC, ETH"),
        ({"filters": Filter(kinds=("options",))}, "--kind 'options' does not exist; the exchange has future"),
    ],
)
def test_options_that_do_not_fit_are_refused(
    market: Market, trades_only: Path, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        export_to(market, trades_only, **options)
    assert prove(trades_only).is_proven


def test_folder_with_other_files_is_refused(market: Market, tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("mine")
    with pytest.raises(UsageError, match=r"thesis\.tex"):
        export_to(market, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]
    with pytest.raises(UsageError, match="no export yet"):
        export_to(market, tmp_path / "new", changed_since_us=1)


def test_finished_package_that_the_models_lack_is_not_ignored(market: Market, tmp_path: Path) -> None:
    """Its trades would be missing from an export that names it."""
    load_id = "1769000009.5"
    raw_tables.load(market.dbt.client, load_id, [])
    try:
        with pytest.raises(CannotTellError, match="1 load package waits"):
            export_to(market, tmp_path / "lake")
    finally:
        market.dbt.client.command(f"delete from deribit_raw._dlt_loads where load_id = '{load_id}'")


# S3


@pytest.fixture
def bucket(moto_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    for name, value in {
        "AWS_ENDPOINT_URL": moto_url, "AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_DEFAULT_REGION": "us-west-2", "AWS_EC2_METADATA_DISABLED": "true",
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    client = boto3.client("s3")
    client.create_bucket(Bucket="lake", CreateBucketConfiguration={"LocationConstraint": "us-west-2"})
    yield "lake"
    for each in client.list_objects_v2(Bucket="lake").get("Contents", []):
        client.delete_object(Bucket="lake", Key=each["Key"])
    client.delete_bucket(Bucket="lake")


def test_export_to_a_bucket(market: Market, bucket: str, tmp_path: Path) -> None:
    """The same bytes as in a folder; a changed, a missing and a foreign object are refused by name."""
    place, options = f"s3://{bucket}/tape/one", {"tables": ("trades", "funding_1h")}
    export_to(market, place, **options)
    export_to(market, tmp_path, **options)
    assert prove(place).is_proven
    client = boto3.client("s3")
    keys = [each["Key"] for each in client.list_objects_v2(Bucket=bucket)["Contents"]]
    data = [key for key in keys if "/trades/" in key]
    for key in data:
        content = client.get_object(Bucket=bucket, Key=key)["Body"].read()
        assert content == (tmp_path / key.removeprefix("tape/one/")).read_bytes()
    assert not [key for key in keys if "_unfinished" in key]
    assert export_to(market, place, **options).written == 0
    client.put_object(Bucket=bucket, Key=data[0], Body=b"PAR1")
    client.delete_object(Bucket=bucket, Key=data[1])
    client.put_object(Bucket=bucket, Key="tape/one/foreign", Body=b"")
    paths = {key.removeprefix("tape/one/") for key in data[:2]} | {"foreign"}
    assert {problem.path for problem in prove(place).problems} == paths
    with pytest.raises(UsageError, match="no bucket"):
        export_to(market, "s3://nowhere/tape")
