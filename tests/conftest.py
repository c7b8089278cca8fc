"""Fixtures, markers and the Hypothesis profile of all tests. Fixtures are defined by topic in tests/support/."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, settings

pytest_plugins = [
    "tests.support.clickhouse",
    "tests.support.sandbox",
    "tests.support.commands",
    "tests.support.edge",
    "tests.support.moto",
    "tests.support.dbt_fixtures",
    "tests.support.market",
    "tests.support.attacker",
    "tests.support.embedded_server",
    "tests.support.loaded_user",
    "tests.support.small_windows",
    "tests.support.certs_command",
    "tests.support.api",
]

MARKERS_BY_FIXTURE = {
    "clickhouse": ("clickhouse", "own_dir", "server", "built", "market"),
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
        # Their history takes hundreds of requests; tests of series switch them on.
        env.setenv("SOURCES__DERIBIT__SERIES", "none")
        yield


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    selected = config.getoption("-m")
    for item in items:
        fixtures = set(getattr(item, "fixturenames", ()))
        for marker, names in MARKERS_BY_FIXTURE.items():
            if fixtures & set(names):
                item.add_marker(marker)
        for marker in ("heavy", "slow"):
            if item.get_closest_marker(marker) and "slow" not in selected and "heavy" not in selected:
                item.add_marker(pytest.mark.skip(reason=f"{marker}; run it with `make test-{marker}`"))
                break
    if "slow" in selected:
        _put_longest_files_first(items)


def _put_longest_files_first(items: list[pytest.Item]) -> None:
    """Sort by the `minutes` of the tests of a file, so that the workers finish at about the same time."""
    minutes: Counter[Path] = Counter()
    for item in items:
        marker = item.get_closest_marker("slow")
        minutes[item.path] += marker.kwargs.get("minutes", 0.2) if marker else 0
    items.sort(key=lambda item: -minutes[item.path])


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print what was skipped, and the command that would run it."""
    reasons: dict[str, int] = {}
    for report in terminalreporter.stats.get("skipped", []):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        reasons[reason] = reasons.get(reason, 0) + 1
    for reason, count in sorted(reasons.items()):
        terminalreporter.write_line(f"not run: {count} tests: {reason.removeprefix('Skipped: ')}")
