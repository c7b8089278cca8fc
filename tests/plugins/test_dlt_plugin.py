"""`dlt pipeline run` starts page workers early only where it will need them."""

from __future__ import annotations

import pytest

from extract.plugins.dlt_plugin import expects_many_pages


@pytest.mark.parametrize(
    ("has_run", "since", "plan", "expected"),
    [
        (False, None, False, True),
        (True, None, False, False),
        (True, "2020-01-01", False, True),
        (False, "2020-01-01", True, False),
    ],
    ids=["first run", "increment", "back in time", "estimate only"],
)
def test_many_pages_are_expected_of_first_runs_and_backfills(
    has_run: bool, since: str | None, plan: bool, expected: bool
) -> None:
    """Workers start while the process imports, so the decision needs no request."""
    assert expects_many_pages(plan=plan, since=since, has_run=has_run) is expected
