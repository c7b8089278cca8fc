"""Fixtures, markers and the Hypothesis profile of all tests. Fixtures are defined by topic in tests/support/."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, Phase, settings

pytest_plugins = [
    "tests.support.clickhouse",
    "tests.support.sandbox",
    "tests.support.commands",
    "tests.support.edge",
    "tests.support.moto",
    "tests.support.dbt_fixtures",
    "tests.support.attacker",
    "tests.support.embedded_server",
    "tests.support.loaded_user",
    "tests.support.small_windows",
    "tests.support.certs_command",
]

MARKERS_BY_FIXTURE = {
    "clickhouse": ("clickhouse", "own_dir", "server", "built"),
    "edge": ("edge",),
    "moto": ("moto",),
    "browser": ("browser",),
    "process": ("shell", "module_shell", "machine"),
}
"""Markers by the fixtures that imply them, so that `-m "not clickhouse"` selects the fast tests."""

# A failing property would otherwise shrink for minutes, which looks like a hang.
settings.register_profile(
    "bounded", deadline=None, suppress_health_check=[HealthCheck.too_slow], print_blob=True
)
settings.register_profile(
    "no-shrink", settings.get_profile("bounded"), phases=[Phase.explicit, Phase.reuse, Phase.generate]
)
settings.register_profile("fast", settings.get_profile("no-shrink"), max_examples=10)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "no-shrink"))


@pytest.fixture(scope="session", autouse=True)
def tape_dir(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """No test reads or writes the checkout's own .tape."""
    with pytest.MonkeyPatch.context() as env:
        env.setenv("TAPE_DIR", str(tmp_path_factory.mktemp("tape")))
        yield


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    for item in items:
        fixtures = set(getattr(item, "fixturenames", ()))
        for marker, names in MARKERS_BY_FIXTURE.items():
            if fixtures & set(names):
                item.add_marker(marker)
        if "slow" not in config.getoption("-m") and item.get_closest_marker("slow"):
            item.add_marker(pytest.mark.skip(reason="slow; run it with `make test-slow`"))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print what was skipped, and the command that would run it."""
    reasons: dict[str, int] = {}
    for report in terminalreporter.stats.get("skipped", []):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        reasons[reason] = reasons.get(reason, 0) + 1
    for reason, count in sorted(reasons.items()):
        terminalreporter.write_line(f"not run: {count} tests: {reason.removeprefix('Skipped: ')}")
