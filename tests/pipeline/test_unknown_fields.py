"""Fields without a column are counted by record over a whole run, and reported at its end."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from clickhouse_connect.driver.client import Client

from extract.cli.output import MOST_NAMED
from extract.cli.run_summary import notes
from extract.pipeline.run import run
from extract.pipeline.summary import RunSummary
from extract.sandbox.server import SandboxExchange
from extract.sandbox.tape import Tape
from extract.source.options import RunOptions


@pytest.mark.slow
def test_unknown_fields_count_each_record_once(
    listed: Callable[[Tape], SandboxExchange], clickhouse_client: Client
) -> None:
    """A record on two overlapping pages counts once; a run that loads nothing reports no field."""
    made = Tape.generate(seed=5, trades=400, days=3)
    extra = {0: {"new_field": 1}, 9: {"new_field": 2, "odd": [3]}}
    trades = [trade | extra.get(n if n == 9 else n % 3, {}) for n, trade in enumerate(made.trades)]
    listed(Tape(trades, made.instruments))
    summary = run(RunOptions())
    count = sum("new_field" in trade for trade in trades)
    [(held,)] = clickhouse_client.query(
        "SELECT countIf(extra LIKE '%new_field%') FROM deribit_raw.trades"
    ).result_rows
    assert summary.unknown_fields["new_field"] == held == count
    assert f"`extra`: new_field ({count:,} records), odd (1 record)." in "\n".join(notes(summary))
    assert not run(RunOptions()).unknown_fields


def test_only_the_commonest_unknown_fields_are_named() -> None:
    """The others are counted, so that a hostile exchange cannot fill the screen."""
    summary = RunSummary()
    summary.unknown_fields.update({f"field_{n}": n for n in range(1, 31)})
    [note] = notes(summary)
    assert note.count("field_") == MOST_NAMED
    assert "field_30 (30 records), " in note
    assert note.endswith("and 20 more.")
