"""Which runs start workers before anything else."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest

from extract.plugins.dlt_plugin import _workers_for


@pytest.mark.parametrize(
    ("has_run", "since", "plan", "expected"),
    [
        (False, None, False, True),
        (True, None, False, False),
        (True, "2020-01-01", False, True),
        (False, "2020-01-01", True, False),
    ],
    ids=["a first run", "what is new", "back in time", "a plan"],
)
def test_workers_start_at_once_where_there_will_be_pages(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    has_run: bool,
    since: str | None,
    plan: bool,
    expected: bool,
) -> None:
    monkeypatch.setenv("TAPE_DIR", str(tmp_path))
    monkeypatch.setenv("CLICKHOUSE_MODE", "local")
    if has_run:
        (tmp_path / "dlt" / "pipelines").mkdir(parents=True)
    workers = _workers_for(argparse.Namespace(since=since, plan=plan))
    assert (workers is not None) == expected
    if workers:
        assert workers.processes
        workers.close()
