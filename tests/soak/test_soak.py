"""Everything at once for some minutes: loads, reads, backups, kills and faults."""

from __future__ import annotations

import os

import pytest

from bench.soak import soak

MINUTES = float(os.environ.get("SOAK_MINUTES") or 10)


@pytest.mark.slow(minutes=12)
@pytest.mark.process
def test_nothing_is_lost_or_doubled_and_nothing_grows(capsys: pytest.CaptureFixture[str]) -> None:
    """`SOAK_MINUTES` is its length, 10 by default; the checks afterwards take about two minutes more."""
    report = soak(MINUTES)
    with capsys.disabled():
        report.show()
    assert report.failures == []
    kills = {name for name in report.counts if name.startswith("kill of")}
    assert len(kills) == 5
