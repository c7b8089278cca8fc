"""Fixtures live by topic in tests/fixtures/; real parts are started once and shared."""

import pytest

pytest_plugins = [
    "tests.fixtures.clickhouse",
    "tests.fixtures.sandbox",
    "tests.fixtures.commands",
    "tests.fixtures.edge",
    "tests.fixtures.moto",
]


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "slow: takes minutes; run with -m slow")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if "slow" not in config.getoption("-m"):
        for item in items:
            if item.get_closest_marker("slow"):
                item.add_marker(pytest.mark.skip(reason="run with -m slow"))
