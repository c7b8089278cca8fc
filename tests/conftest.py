"""Fixtures live by topic in tests/fixtures/; real parts are started once and shared."""

pytest_plugins = [
    "tests.fixtures.clickhouse",
    "tests.fixtures.sandbox",
    "tests.fixtures.commands",
    "tests.fixtures.edge",
]
