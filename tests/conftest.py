"""Fixtures live by topic in tests/support/; real parts are started once and shared."""

import pytest

pytest_plugins = [
    "tests.support.clickhouse",
    "tests.support.sandbox",
    "tests.support.commands",
    "tests.support.edge",
    "tests.support.moto",
    "tests.support.dbt_fixtures",
    "tests.support.embedded_server",
    "tests.support.loaded_user",
    "tests.support.small_windows",
]


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "slow: takes minutes; run with -m slow")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if "slow" not in config.getoption("-m"):
        for item in items:
            if item.get_closest_marker("slow"):
                item.add_marker(pytest.mark.skip(reason="run with -m slow"))
