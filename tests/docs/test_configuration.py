"""The tables of docs/configuration.md list every variable that the project reads, and no other."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

from extract.clickhouse.roles import ROLES
from extract.deribit.config import DeribitConfig
from extract.paths import ROOT
from extract.process import LEAN_LIBRARIES

PAGE = (ROOT / "docs" / "configuration.md").read_text()
VARIABLE = re.compile(r"(CLICKHOUSE|TAPE|AWS|DBT|SOURCES|SSL)(_[A-Z0-9]+)+")
NOT_VARIABLES = frozenset({"TAPE_PRIVILEGES", "TAPE_ENGINES"})
"""Names of the embedded server's XML templates."""
READ_BY_LIBRARIES = frozenset(
    {"AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_ENDPOINT_URL", "AWS_ACCESS_KEY_ID", "AWS_PROFILE"}
)
BUILT_NAMES = frozenset(
    f"CLICKHOUSE_CLOUD_{name}" for name in ("ORGANIZATION_ID", "API_KEY_ID", "API_KEY_SECRET")
)
"""Names that the code assembles from a prefix and a suffix."""


def documented() -> set[str]:
    """The variables in the first column of the tables."""
    cells = [line.split("|")[1] for line in PAGE.splitlines() if line.startswith("| `")]
    return {name for cell in cells for name in re.findall(r"`([A-Z0-9_]+)`", cell)}


def literals(source: str) -> Iterator[str]:
    """String literals of Python source."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


def read_by_python() -> set[str]:
    names = {
        text
        for path in sorted((ROOT / "extract").rglob("*.py"))
        for text in literals(path.read_text())
        if VARIABLE.fullmatch(text)
    }
    return names - NOT_VARIABLES


def read_by_templates() -> set[str]:
    """Variables of the dbt profile and of the edge's configuration."""
    profile = (ROOT / "profiles" / "profiles.yml").read_text()
    edge = "".join((ROOT / "deploy" / "edge" / name).read_text() for name in ("Caddyfile", "api.caddy"))
    return {*re.findall(r"env_var\('(\w+)'", profile), *re.findall(r"TAPE_EDGE_[A-Z_]+", edge)}


def read_by_make(path: Path = ROOT / "Makefile") -> set[str]:
    """Variables that a user may set for `make`."""
    text = path.read_text()
    used = set(re.findall(r"\$\(([A-Z_]+)\)", text))
    fixed = set(re.findall(r"^([A-Z_]+) *:?= ", text, re.MULTILINE)) | {"CURDIR", "MAKE", "MAKEFILE_LIST"}
    return used - fixed


def test_every_variable_that_the_code_reads_is_documented() -> None:
    """Variables of `extract/`, the dbt profile, the edge and the Makefile."""
    used = read_by_python() | read_by_templates() | read_by_make()
    used |= {role.password_variable for role in ROLES}
    used -= LEAN_LIBRARIES.keys()  # of libraries: the project sets them
    assert {"CLICKHOUSE_MODE", "TAPE_DIR", "CLICKHOUSE_LOADER_PASSWORD", "PYTEST_ARGS"} <= used
    assert used - documented() == set()


def test_every_setting_of_the_source_is_documented_with_its_default() -> None:
    """Each field of DeribitConfig, as dlt reads it from the environment."""
    rows = {
        line.split("`")[1]: line for line in PAGE.splitlines() if line.startswith("| `SOURCES__DERIBIT__")
    }
    own = [each for each in fields(DeribitConfig) if each.name in DeribitConfig.__annotations__]
    assert {f"SOURCES__DERIBIT__{each.name.upper()}" for each in own} == rows.keys()
    for each in own:
        default = getattr(DeribitConfig, each.name)
        text = "all" if default is None else f"{default:g}" if isinstance(default, float) else str(default)
        cell = rows[f"SOURCES__DERIBIT__{each.name.upper()}"].split("|")[2]
        assert cell.strip(" `") == text, each.name


def test_every_documented_variable_is_read() -> None:
    """No variable in the tables is one that nothing reads any more."""
    used = read_by_python() | read_by_templates() | read_by_make() | READ_BY_LIBRARIES | BUILT_NAMES
    used |= {role.password_variable for role in ROLES}
    used -= LEAN_LIBRARIES.keys()  # of libraries: the project sets them
    used |= {f"SOURCES__DERIBIT__{each.name.upper()}" for each in fields(DeribitConfig)}
    set_by_make = {"DBT_PROJECT_DIR", "DBT_PROFILES_DIR", "ARGS", "PYTHON"}
    assert documented() - used - set_by_make == set()
