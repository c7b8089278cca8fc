"""Limits of each role on the embedded server: no statement lifts them, and a heavy query is stopped."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from extract.clickhouse import roles
from extract.clickhouse.embedded.config import IDLE_THREADS
from tests.support.attacker import Target, target_server
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.clickhouse, pytest.mark.usefixtures("unharmed")]


@pytest.mark.parametrize("user", ["loader", "transformer", "reader"])
def test_limits_cannot_be_lifted(target: Target, user: str) -> None:
    """Neither removed by 0 nor raised: in a statement, in the URL, or by another profile or role."""
    attacker = target.attacker(user)
    role = next(role for role in roles.ROLES if role.name == user)
    for name, value in role.limits.items():
        for wanted in (0, value * 1000):
            if (name, wanted) == ("readonly", 0) and user != "reader":
                continue
            assert "Code: " in attacker.query(f"SELECT 1 SETTINGS {name} = {wanted}"), name
            assert "Code: " in attacker.query("SELECT 1", **{name: str(wanted)}), name
    assert "Code: " in attacker.query("SELECT 1 SETTINGS max_threads = 512")
    for profile in ("default", "bootstrap", *(f"tape_{other.name}" for other in roles.ROLES)):
        session = {"session_id": f"{user}-{profile}"}
        attacker.query(f"SET profile = '{profile}'", **session)
        lifted = attacker.query(
            f"SELECT 1 SETTINGS max_execution_time = {role.limits['max_execution_time'] + 1}", **session
        )
        assert "Code: " in lifted, profile
        assert "Code: " in attacker.query("SELECT 1", profile=profile, max_execution_time="0")


def test_reader_query_is_stopped_in_time(target: Target) -> None:
    began = time.monotonic()
    answer = target.attacker("reader").query(
        "SELECT sum(sipHash64(number)) FROM numbers(19000000000) SETTINGS max_execution_time = 1"
    )
    assert "TIMEOUT_EXCEEDED" in answer or "TOO_SLOW" in answer
    assert time.monotonic() - began < 20


@pytest.mark.slow
def test_reader_memory_rows_queries_and_quota_are_limited(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a server with small limits: a large aggregation fails, many queries at once and many an hour are refused."""
    small = {"max_memory_usage": 2**27, "max_rows_to_read": 10**8, "max_concurrent_queries_for_user": 3}
    monkeypatch.setattr(
        roles,
        "ROLES",
        [replace(role, limits={**role.limits, **small}, queries_per_hour=60) for role in roles.ROLES],
    )
    with target_server(tmp_path) as target:
        reader = target.attacker("reader")
        assert "MEMORY_LIMIT_EXCEEDED" in reader.query(
            "SELECT length(groupArray(number)) FROM numbers(90000000)"
        )
        assert "TOO_MANY_ROWS" in reader.query("SELECT count(number) FROM numbers(1000000000)")
        with ThreadPoolExecutor(12) as pool:
            answers = list(pool.map(lambda _: target.attacker("reader").query("SELECT sleep(1)"), range(12)))
        assert any("TOO_MANY_SIMULTANEOUS_QUERIES" in answer for answer in answers)
        answers = [reader.query("SELECT x FROM deribit_raw.t") for _ in range(60)]
        assert "QUOTA_EXCEEDED" in answers[-1]
        assert target.attacker("tape").query("SELECT 1") == "1"


@pytest.mark.slow
def test_threads_of_a_burst_of_queries_end(target: Target) -> None:
    """Idle threads above IDLE_THREADS end; each has files open, so they must not accumulate."""
    user = target.attacker("tape")
    slow = "SELECT count() FROM numbers_mt(64) WHERE sleepEachRow(0.05) = 0 SETTINGS max_threads = 16, max_block_size = 1"
    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(lambda _: target.attacker("tape").query(slow), range(8))) == {"64"}

    def idle() -> int:
        counts = user.query(
            "SELECT sumIf(value, metric = 'GlobalThread') - sumIf(value, metric = 'GlobalThreadActive') "
            "FROM system.metrics"
        )
        return int(counts)

    wait_until(lambda: 0 < idle() <= IDLE_THREADS)
